//! One comparison with another node, from roots to keys.

use std::sync::Arc;

use bytes::Bytes;
use dynkv_merkle::{Comparison, Difference, Reply, RootsReply};
use dynkv_net::Class;
use dynkv_proto::{Digest, Frame, Message, TreeCompare, TreePosition, TreeRoots};
use dynkv_ring::NodeId;

use super::{CALL_TIMEOUT, CompareError, SETTLE, answer::unsettling, states};
use crate::{background::Work, shared::Shared, trees::index::Index};

/// Differences with which a batch is full.
const BATCH: usize = 1024;

/// Compares this node with `peer`, and makes both equal where they differ.
pub(super) async fn mend(node: &Arc<Shared>, peer: NodeId) -> Result<(), CompareError> {
    let mut pass = Pass { node, peer, found: Vec::new() };
    let differing = pass.roots().await?;
    let together = differing.len();
    for (partition, depth) in differing {
        let mut descent = pass.descend(partition, depth, together);
        while descent.step(&mut pass).await? {
            if pass.found.len() >= BATCH {
                // Too many to be on their way.
                states::mend(node, peer, std::mem::take(&mut pass.found), false).await?;
            }
        }
    }
    if !pass.found.is_empty() {
        tokio::time::sleep(SETTLE).await;
        states::mend(node, peer, pass.found, true).await?;
    }
    Ok(())
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
    let mut pass = Pass { node, peer, found: Vec::new() };
    let differing = pass.roots().await?;
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

struct Pass<'a> {
    node: &'a Arc<Shared>,
    peer: NodeId,
    found: Vec<Difference>,
}

/// The comparison of one partition.
struct Descent {
    partition: u32,
    comparison: Option<Comparison>,
}

impl Pass<'_> {
    /// The partitions that differ, in random order, with the depths of the other's trees.
    async fn roots(&self) -> Result<Vec<(u32, u8)>, CompareError> {
        let Pass { node, peer, .. } = self;
        node.metrics.comparisons.inc();
        node.entropy.compared(*peer, &node.env);
        let view = node.cluster.view();
        let shares = node.entropy.shares(&view, &node.cluster.me.id);
        let shared = shares.get(peer).map(Vec::as_slice).unwrap_or_default();
        let roots = || node.replica.trees.roots_of(&unsettling(node, shared));
        let unusable = |error: dynkv_merkle::RootsError| CompareError::answer(*peer, error);
        let asked = roots().map_err(unusable)?.request(node.env.random());
        let body = call(node, *peer, &TreeRoots { view: view.digest }, asked.to_bytes()).await?;
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
        Ok(differing)
    }

    fn descend(&self, partition: u32, depth: u8, together: usize) -> Descent {
        let tree = self.node.replica.trees.ready(partition);
        let comparison = tree.map(|tree| Comparison::new(&tree, depth, self.node.env.random(), together));
        Descent { partition, comparison }
    }
}

impl Descent {
    /// One request and its answer. Says whether there may be more.
    async fn step(&mut self, pass: &mut Pass<'_>) -> Result<bool, CompareError> {
        let Pass { node, peer, found } = pass;
        let trees = &node.replica.trees;
        let Some(comparison) = &mut self.comparison else { return Ok(false) };
        let Some(tree) = trees.ready(self.partition) else { return Ok(false) };
        let request = comparison
            .next_request(&tree, &Index(&*trees.storage))
            .map_err(|error| crate::storage::StorageError::Failed { reason: error.to_string() })?;
        // Not kept over the call: writes would copy the tree.
        drop(tree);
        let Some(request) = request else { return Ok(false) };
        let body = call(node, *peer, &TreeCompare { reserved: 0 }, request.to_bytes()).await?;
        let reply = Reply::from_bytes(&body).map_err(|error| CompareError::answer(*peer, error))?;
        let Some(tree) = trees.ready(self.partition) else { return Ok(false) };
        let before = found.len();
        comparison.handle(&tree, &reply, found).map_err(|error| CompareError::answer(*peer, error))?;
        node.metrics.entries_differing.inc_by((found.len() - before) as u64);
        Ok(true)
    }
}

/// Asks `peer`, as background work; returns the body of its reply.
async fn call<R: dynkv_proto::Request>(
    node: &Arc<Shared>,
    peer: NodeId,
    request: &R,
    body: Vec<u8>,
) -> Result<Bytes, CompareError>
where
    R::Reply: Message,
{
    ask(node, peer, request, body.into()).await.map(|(_, body)| body)
}

/// Asks `peer`, as background work.
pub(super) async fn ask<R: dynkv_proto::Request>(
    node: &Arc<Shared>,
    peer: NodeId,
    request: &R,
    body: Bytes,
) -> Result<(R::Reply, Bytes), CompareError>
where
    R::Reply: Message,
{
    let Some(_turn) = node.background.turn(Work::AntiEntropy).await else { return Err(CompareError::Busy) };
    let frame = Frame::new(request, body);
    node.metrics.tree_message_sent(frame.wire_len());
    let answer = node.peers.request::<R::Reply>(peer, Class::Background, frame, CALL_TIMEOUT).await;
    answer.map_err(|error| CompareError::of_peer(peer, error))
}

/// A difference's place.
pub(super) fn place(difference: &Difference) -> TreePosition {
    TreePosition(difference.position)
}
