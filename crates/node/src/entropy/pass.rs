//! One comparison with another node, from roots to keys.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use dynkv_merkle::{Comparison, Difference, Reply, RootsReply};
use dynkv_net::Class;
use dynkv_proto::{Digest, Frame, Message, TreeCompare, TreePosition, TreeRoots};
use dynkv_ring::{NodeId, PartitionId};

use super::{
    CALL_TIMEOUT, CompareError, SETTLE,
    answer::unsettling,
    states::{self, Look, Moved},
};
use crate::{
    background::{Turn, Work},
    chain,
    planted::{self, Bug},
    shared::Shared,
    trees::index::Index,
};

/// Differences with which a batch is full.
const BATCH: usize = 1024;

/// States that `peer` has nothing of which a pass pushes. The rest it is to pull by itself: that takes a message for a hundred, not one for each, and only the
/// one that lacks them sees what its own clients suffer.
const PUSHES_MAX: usize = 1024;

/// Compares this node with `peer`, and makes both equal where they differ.
pub(super) async fn mend(node: &Arc<Shared>, peer: NodeId) -> Result<(), CompareError> {
    node.entropy.compared(peer, &node.env);
    let (view, rests) = (node.cluster.view(), chain::rests(node));
    let only = |partition| rests || !chain::learn::is_being_read(node, &view, PartitionId(partition), peer);
    mend_some(node, peer, &only, Look::Second, PUSHES_MAX, &|_| {}).await.map(drop)
}

/// Takes over what `peer` holds of some partitions. Says of which that was done.
pub(crate) async fn learn(
    node: &Arc<Shared>,
    peer: NodeId,
    partitions: &BTreeSet<u32>,
) -> Result<Vec<u32>, CompareError> {
    let only = |partition| partitions.contains(&partition);
    // Nothing is on its way to who is not a member yet.
    let Compared { mut equal, differing } = mend_some(node, peer, &only, Look::Batch, 0, &|_| {}).await?;
    equal.extend(differing);
    Ok(equal)
}

/// Takes over everything that `peer` holds of a partition when it is asked. Says whether that is here now, if not on disk yet; `false`: something could
/// not be had.
pub(crate) async fn read_all(node: &Arc<Shared>, peer: NodeId, partition: u32) -> Result<bool, CompareError> {
    let pass = Pass { node, peer, exact: Some((partition, Exchange::Read)), found: Vec::new() };
    match pass.exchange(partition, Exchange::Read).await? {
        None => Ok(true),
        Some(moved) => Ok(moved.failed == 0 && moved.left_out == 0),
    }
}

/// Gives everything that this node holds of a partition to `peer`. Says whether `peer` holds all of that now, on disk; `false`: something was not taken, or could not be compared.
pub(crate) async fn give_all(node: &Arc<Shared>, peer: NodeId, partition: u32) -> Result<bool, CompareError> {
    let pass = || Pass { node, peer, exact: Some((partition, Exchange::Give)), found: Vec::new() };
    let Some(given) = pass().exchange(partition, Exchange::Give).await? else { return Ok(true) };
    // Its answer comes when what it had taken before is on disk.
    pass().roots(&ALL).await?;
    Ok(given.failed == 0 && given.left_out == 0)
}

/// What becomes of differences in an exact comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// They are read from the other node, and clients wait for it.
    Read,
    /// The other node gets what it lacks, when there is time.
    Give,
}

/// Which partitions are wanted.
pub(super) type Only<'a> = dyn Fn(u32) -> bool + Sync + 'a;

const ALL: fn(u32) -> bool = |_| true;

/// What a pass tells while it goes on.
pub(super) enum News {
    /// So many entries differ.
    Found(u64),
    Moved(Moved),
}

/// The same for some partitions only, telling how it goes, with as many pushes of what `peer` has nothing of. What is found last is looked at again as `last` says. Says which
/// partitions were compared, and which of those had differed.
pub(super) async fn mend_some(
    node: &Arc<Shared>,
    peer: NodeId,
    only: &Only<'_>,
    last: Look,
    mut pushes: usize,
    tell: &(dyn Fn(News) + Sync),
) -> Result<Compared, CompareError> {
    let mut pass = Pass { node, peer, exact: None, found: Vec::new() };
    let RootsFound { differing, equal, .. } = pass.roots(only).await?;
    let together = differing.len();
    let mut compared = Compared { equal, differing: Vec::new() };
    for (partition, depth) in differing {
        let mut descent = pass.descend(partition, depth, together);
        let mut before = pass.found.len();
        while descent.step(&mut pass).await? {
            tell(News::Found((pass.found.len() - before) as u64));
            if pass.found.len() >= BATCH {
                // Too many to be on their way.
                let found = std::mem::take(&mut pass.found);
                let moved = states::mend(node, peer, found, Look::Batch, &mut pushes).await?;
                tell(News::Moved(moved));
                if pushes == 0 && moved.pulled == 0 {
                    // The other one asks sooner then.
                    node.entropy.compared_at_length(peer, &node.env);
                    return Ok(compared);
                }
            }
            before = pass.found.len();
        }
        if !descent.broken_off {
            compared.differing.push(partition);
        }
    }
    if !pass.found.is_empty() {
        if last == Look::Second {
            tokio::time::sleep(SETTLE).await;
        }
        tell(News::Moved(states::mend(node, peer, pass.found, last, &mut pushes).await?));
    }
    Ok(compared)
}

/// Partitions that were compared.
pub(super) struct Compared {
    /// Whose roots were equal.
    pub(super) equal: Vec<u32>,
    /// Whose roots were not; what differed is mended.
    pub(super) differing: Vec<u32>,
}

/// A key on which two nodes differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDifference {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: Bytes,
    /// Digest of the state here; `None`: there is none.
    pub here: Option<Digest>,
    /// Digest of the state there.
    pub there: Option<Digest>,
}

/// Compares this node with `peer` and says on which keys they differ, at least `limit` of them if there are so many. Changes
/// nothing. Writes that are on their way count.
pub(crate) async fn find(
    node: &Arc<Shared>,
    peer: NodeId,
    limit: usize,
) -> Result<Vec<KeyDifference>, CompareError> {
    let mut pass = Pass { node, peer, exact: None, found: Vec::new() };
    let differing = pass.roots(&ALL).await?.differing;
    let together = differing.len();
    'partitions: for (partition, depth) in differing {
        let mut descent = pass.descend(partition, depth, together);
        while descent.step(&mut pass).await? {
            if pass.found.len() >= limit {
                break 'partitions;
            }
        }
    }
    let mut named = states::name(node, peer, &pass.found).await?;
    named.sort();
    Ok(named)
}

/// A comparison with another node.
pub(super) struct Pass<'a> {
    pub(super) node: &'a Arc<Shared>,
    pub(super) peer: NodeId,
    /// Compares this partition only, exactly.
    pub(super) exact: Option<(u32, Exchange)>,
    /// What differs, as far as it is known and not dealt with yet.
    pub(super) found: Vec<Difference>,
}

/// What the roots say.
pub(super) struct RootsFound {
    /// The partitions that differ, in random order, with the depths of the other's trees.
    pub(super) differing: Vec<(u32, u8)>,
    /// Those that do not.
    pub(super) equal: Vec<u32>,
    /// Shared ones of which one of the two has no tree yet.
    pub(super) skipped: Vec<u32>,
}

/// The comparison of one partition.
pub(super) struct Descent {
    partition: u32,
    comparison: Option<Comparison>,
    /// Whether the tree went away meanwhile.
    broken_off: bool,
}

impl Pass<'_> {
    /// Compares the roots of all shared partitions, and says what they say of those in `only`.
    pub(super) async fn roots(&self, only: &Only<'_>) -> Result<RootsFound, CompareError> {
        let Pass { node, peer, exact, .. } = self;
        node.metrics.comparisons.inc();
        let view = node.cluster.view();
        let shares = node.entropy.shares(&view, &node.chain, &node.cluster.me.id);
        let shared = match exact {
            Some((partition, _)) => std::slice::from_ref(partition),
            None => shares.get(peer).map(Vec::as_slice).unwrap_or_default(),
        };
        let trees = &node.replica.trees;
        let mut without = trees.without_tree(shared);
        let roots = || match exact {
            Some(_) => trees.roots_of(shared),
            None => trees.roots_of(&unsettling(node, shared)),
        };
        let unusable = |error: dynkv_merkle::RootsError| CompareError::answer(*peer, error);
        let asked = roots().map_err(unusable)?.request(node.env.random());
        let request = TreeRoots { view: view.digest, exact: exact.map(|(partition, _)| partition) };
        let body = self.call(&request, asked.to_bytes()).await?;
        let reply = RootsReply::from_bytes(&body).map_err(|error| CompareError::answer(*peer, error))?;
        // As they are now: what came in meanwhile is not missed any more.
        let found = roots().and_then(|roots| roots.compare(&asked, &reply)).map_err(unusable)?;
        let mut differing: Vec<_> =
            found.differing.into_iter().map(|(span, depth)| (span.index(), depth)).collect();
        if differing.is_empty() && found.only_here.is_empty() && found.only_there.is_empty() {
            node.metrics.comparisons_equal.inc();
        }
        // Several nodes that mend one of them begin at different ends.
        for at in (1..differing.len()).rev() {
            differing.swap(at, node.env.random_below(at + 1));
        }
        let wanted = |partition: &u32| only(*partition);
        differing.retain(|(partition, _)| wanted(partition));
        without.extend(found.only_here.iter().chain(&found.only_there).map(|span| span.index()));
        let differs: BTreeSet<u32> = differing.iter().map(|(partition, _)| *partition).collect();
        let alike =
            shared.iter().copied().filter(|partition| wanted(partition) && !differs.contains(partition));
        let (skipped, equal) = alike.partition(|partition| without.contains(partition));
        Ok(RootsFound { differing, equal, skipped })
    }

    /// Compares the one partition and mends what differs, in one direction. `None`: nothing differs.
    async fn exchange(mut self, partition: u32, what: Exchange) -> Result<Option<Moved>, CompareError> {
        let Pass { node, peer, .. } = self;
        let broken_off = || CompareError::Peer {
            peer,
            reason: format!("partition {partition} has no tree there or here now"),
        };
        let RootsFound { differing, equal, .. } = self.roots(&ALL).await?;
        if equal.contains(&partition) {
            return Ok(None);
        }
        let Some((_, depth)) = differing.into_iter().find(|(of, _)| *of == partition) else {
            return Err(broken_off());
        };
        let mut descent = self.descend(partition, depth, 1);
        let mut moved = Moved::default();
        loop {
            let more = descent.step(&mut self).await?;
            if !more || self.found.len() >= BATCH {
                let found = std::mem::take(&mut self.found);
                moved += match what {
                    Exchange::Read => states::mend(node, peer, found, Look::AtOnce, &mut 0).await?,
                    Exchange::Give => states::give(node, peer, found).await?,
                };
            }
            if !more {
                break;
            }
        }
        if descent.broken_off { Err(broken_off()) } else { Ok(Some(moved)) }
    }

    /// Asks the other node, as background work unless clients wait for it; returns the body of its reply.
    async fn call<R: dynkv_proto::Request>(&self, request: &R, body: Vec<u8>) -> Result<Bytes, CompareError>
    where
        R::Reply: Message,
    {
        let _turn = match self.exact {
            Some((_, Exchange::Read)) => None,
            Some((_, Exchange::Give)) | None => Some(turn(self.node, Work::AntiEntropy).await?),
        };
        ask(self.node, self.peer, request, body.into()).await.map(|(_, body)| body)
    }

    pub(super) fn descend(&self, partition: u32, depth: u8, together: usize) -> Descent {
        let tree = self.node.replica.trees.ready(partition);
        let comparison = tree.map(|tree| Comparison::new(&tree, depth, self.node.env.random(), together));
        Descent { partition, broken_off: comparison.is_none(), comparison }
    }
}

impl Descent {
    /// One request and its answer. Says whether there may be more.
    pub(super) async fn step(&mut self, pass: &mut Pass<'_>) -> Result<bool, CompareError> {
        let Pass { node, peer, exact, .. } = *pass;
        let trees = &node.replica.trees;
        let Some(comparison) = &mut self.comparison else { return Ok(false) };
        let Some(tree) = trees.ready(self.partition) else {
            self.broken_off = true;
            return Ok(false);
        };
        let request = comparison
            .next_request(&tree, &Index(&*trees.storage))
            .map_err(|error| crate::storage::StorageError::Failed { reason: error.to_string() })?;
        // Not kept over the call: writes would copy the tree.
        drop(tree);
        let Some(request) = request else { return Ok(false) };
        let body = pass.call(&TreeCompare { exact: exact.is_some() }, request.to_bytes()).await?;
        let reply = Reply::from_bytes(&body).map_err(|error| CompareError::answer(peer, error))?;
        let Some(tree) = trees.ready(self.partition) else {
            self.broken_off = true;
            return Ok(false);
        };
        let before = pass.found.len();
        let handled = comparison.handle(&tree, &reply, &mut pass.found);
        handled.map_err(|error| CompareError::answer(peer, error))?;
        if planted::is(Bug::ComparisonSkipsSubtree) {
            let bits = u32::from(tree.span().bits());
            pass.found.retain(|difference| (difference.position << bits) >> 124 != 15);
        }
        node.metrics.entries_differing.inc_by((pass.found.len() - before) as u64);
        Ok(true)
    }
}

/// Waits for a turn.
pub(super) async fn turn(node: &Shared, work: Work) -> Result<Turn, CompareError> {
    node.background.turn(work).await.ok_or(CompareError::Busy)
}

/// Asks `peer`; the caller has a [`turn`].
pub(super) async fn ask<R: dynkv_proto::Request>(
    node: &Arc<Shared>,
    peer: NodeId,
    request: &R,
    body: Bytes,
) -> Result<(R::Reply, Bytes), CompareError>
where
    R::Reply: Message,
{
    let frame = Frame::new(request, body);
    node.metrics.tree_message_sent(frame.wire_len());
    let answer = node.peers.request::<R::Reply>(peer, Class::Background, frame, CALL_TIMEOUT).await;
    answer.map_err(|error| CompareError::of_peer(peer, error))
}

/// A difference's place.
pub(super) fn place(difference: &Difference) -> TreePosition {
    TreePosition(difference.position)
}
