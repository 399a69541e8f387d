//! Becoming a member: what a node reads before, and what it must have read when it may be counted on.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dynkv_proto::{Holder, TransferState};
use dynkv_ring::{NodeId, PartitionId};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use thiserror::Error;
use tokio::time::Instant;

use super::{Members, has_its_disk, is_up, progress::receives, target::target};
use crate::{
    cluster::View,
    entropy::{self, CompareError},
    planted::{self, Bug},
    shared::Shared,
    storage::StorageError,
};

/// How long reading may take while the partition is sealed.
const READ_MAX: Duration = Duration::from_secs(8);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How often to look for members that have come up.
const PERIOD: Duration = Duration::from_secs(1);

/// Partitions read from a member before the next ones are looked for.
const AT_ONCE: usize = 2;

/// Which partitions this node has read from which members: all that it lacked then.
#[derive(Default)]
pub(crate) struct Learned(Mutex<BTreeMap<u32, BTreeSet<NodeId>>>);

impl Learned {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, BTreeSet<NodeId>>> {
        // Single insertions and removals.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node has read `partitions` from `peer`.
    fn read(&self, peer: NodeId, partitions: impl IntoIterator<Item = u32>) {
        let mut learned = self.lock();
        for partition in partitions {
            learned.entry(partition).or_default().insert(peer);
        }
    }

    fn is_read(&self, peer: &NodeId, partition: u32) -> bool {
        self.lock().get(&partition).is_some_and(|read| read.contains(peer))
    }

    pub(super) fn forget(&self, partition: u32) {
        self.lock().remove(&partition);
    }
}

/// Reads what this node needs to become a member of partitions that the ring wants here, until the node stops: in bulk, from several members at once, as background work. What has been
/// read stays, so nothing is read twice after an interruption.
///
/// *Two partitions at a time* from each member, in the same order from all: this node is made a member of those while it reads the next ones. What clients write between the first reading of a
/// partition and the change of its members is read again, so the fewer are under way, the less that is, and the slower reading may be: clients wait less for it then.
pub(crate) async fn run(node: Arc<Shared>) {
    let mut passes = FuturesUnordered::new();
    let mut under_way = BTreeSet::new();
    // Where to go on after partitions that could not be read.
    let mut after = BTreeMap::<NodeId, u32>::new();
    let mut changed = node.chain.subscribe();
    loop {
        for (peer, unread) in unread(&node) {
            if under_way.insert(peer) {
                let partitions = some_of(&unread, after.get(&peer).copied());
                let node = &node;
                passes.push(async move {
                    match entropy::learn(node, peer, &partitions).await {
                        Ok(learned) => {
                            let all = learned.len() == partitions.len();
                            node.learned.read(peer, learned);
                            if all {
                                node.transfers.succeeded(TransferState::Receiving, peer);
                                return (peer, None);
                            }
                            let building = format!("{peer} or this node is building its trees, or settles");
                            node.transfers.failed(TransferState::Receiving, peer, building);
                        }
                        Err(error) => {
                            tracing::debug!(%peer, %error, "a member was not read to the end");
                            node.transfers.failed(TransferState::Receiving, peer, error);
                        }
                    }
                    // It may be building its trees.
                    tokio::time::sleep(PERIOD).await;
                    (peer, partitions.last().copied())
                });
            }
        }
        tokio::select! {
            biased;
            Some((peer, failed)) = passes.next() => {
                under_way.remove(&peer);
                match failed {
                    Some(last) => after.insert(peer, last),
                    None => after.remove(&peer),
                };
            }
            () = changed.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// The other members that have anything: not those whose disk was lost.
pub(super) fn sources<'a>(
    node: &Shared,
    view: &'a View,
    members: &'a Members,
) -> impl Iterator<Item = NodeId> + use<'a> {
    let me = node.cluster.me.id;
    members
        .holders
        .iter()
        .filter(move |holder| holder.node != me && has_its_disk(view, holder))
        .map(|holder| holder.node)
}

/// Whether all that `peer` held of a partition was read from it.
pub(super) fn is_read(node: &Shared, partition: PartitionId, peer: &NodeId) -> bool {
    node.learned.is_read(peer, partition.0)
}

/// What is to be read next from members that are up. Each partition is read from one of them first, from another one for each: what the others have more is little then, and
/// nothing is read from two at once.
fn unread(node: &Shared) -> BTreeMap<NodeId, BTreeSet<u32>> {
    let view = node.cluster.view();
    let mut unread = BTreeMap::<NodeId, BTreeSet<u32>>::new();
    if node.cluster.serving(&view).is_err() || super::rests(node) {
        return unread;
    }
    let me = node.cluster.me.id;
    let learned = node.learned.lock();
    let nothing = BTreeSet::new();
    for partition in view.membership.partitions().ids().filter(|partition| node.chain.holds(partition.0)) {
        let members = node.chain.members(partition);
        let target = target(&view, partition);
        let Some(mine) = target.iter().find(|holder| holder.node == me) else { continue };
        if members.holders.contains(mine) {
            continue;
        }
        let read = learned.get(&partition.0).unwrap_or(&nothing);
        let up: Vec<NodeId> =
            sources(node, &view, &members).filter(|home| node.peers.is_reachable(*home)).collect();
        let next = match up.iter().any(|home| read.contains(home)) {
            true => &up[..],
            false => up.get(partition.0 as usize % up.len().max(1)).map(slice::from_ref).unwrap_or_default(),
        };
        for home in next.iter().filter(|home| !read.contains(home)) {
            unread.entry(*home).or_default().insert(partition.0);
        }
    }
    unread
}

/// The next few of `unread`: the first, or those that follow on `after`.
fn some_of(unread: &BTreeSet<u32>, after: Option<u32>) -> BTreeSet<u32> {
    let from = after.map_or(0, |after| after.saturating_add(1));
    unread.range(from..).chain(unread.range(..from)).take(AT_ONCE).copied().collect()
}

/// Whether what one of the two nodes lacks of a partition is being read, by the one that is to become a member: ordinary comparisons leave that alone until it is done.
pub(crate) fn is_being_read(node: &Shared, view: &View, partition: PartitionId, peer: NodeId) -> bool {
    receives(node, view, partition, peer)
        || receives(node, view, partition, node.cluster.me.id) && !is_read(node, partition, &peer)
}

/// Whether `peer` reads what can wait: it is to become a member of a partition where no replica is missing.
pub(crate) fn can_wait(node: &Shared, partition: PartitionId, peer: NodeId) -> bool {
    let view = node.cluster.view();
    let (members, target) = (node.chain.members(partition), target(&view, partition));
    let is_here = |holder: &Holder| has_its_disk(&view, holder) && is_up(node, &holder.node);
    is_complete(&members.holders, target.len(), is_here) && receives(node, &view, partition, peer)
}

/// Whether no replica is missing of as many as there should be.
fn is_complete(members: &[Holder], wanted: usize, is_here: impl Fn(&Holder) -> bool) -> bool {
    members.len() >= wanted && members.iter().all(is_here)
}

/// Those of `partitions` of which this node holds about everything: it has read every member that is up, and one at least, if the disk of one is left.
pub(crate) fn ready(node: &Shared, partitions: &[u32]) -> Vec<u32> {
    let view = node.cluster.view();
    if node.cluster.serving(&view).is_err() {
        return Vec::new();
    }
    let learned = node.learned.lock();
    let nothing = BTreeSet::new();
    let is_ready = |partition: &u32| {
        let with = learned.get(partition).unwrap_or(&nothing);
        let members = node.chain.members(PartitionId(*partition));
        let others: Vec<NodeId> = sources(node, &view, &members).collect();
        let is_read = |home: &NodeId| with.contains(home) || !node.peers.is_reachable(*home);
        // Where no disk of a member is left there is nothing to read.
        others.iter().all(is_read) && (!with.is_empty() || others.is_empty())
    };
    partitions.iter().copied().filter(is_ready).collect()
}

/// Begins to hold what the ring wants this node to hold.
pub(super) async fn begin(node: &Arc<Shared>) {
    let view = node.cluster.view();
    if node.cluster.serving(&view).is_err() {
        return;
    }
    let me = node.cluster.me.id;
    for partition in view.membership.partitions().ids() {
        if view.membership.ring().homes(partition).contains(&me)
            && !node.chain.holds(partition.0)
            && let Err(error) = node.chain.begin_to_hold(partition.0).await
        {
            tracing::warn!(%error, "this node does not begin to hold a partition");
            return;
        }
    }
}

/// Why a member-to-be may not be counted on.
#[derive(Debug, Error)]
pub(crate) enum JoinError {
    #[error("this node is not admitted")]
    NotAdmitted,
    #[error("it could not read what node {0} holds in time")]
    Unread(NodeId),
    #[error("the epoch is over")]
    Late,
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Reads everything that `sources` hold of a partition, who are sealed at `epoch`, and notes that nothing is to be dropped.
///
/// The order matters: what was read before that note may have been dropped again. So the note comes first, and counts only once all is read.
pub(crate) async fn join(
    node: &Arc<Shared>,
    partition: u32,
    epoch: u64,
    sources: Vec<NodeId>,
) -> Result<(), JoinError> {
    if !node.cluster.is_admitted() {
        return Err(JoinError::NotAdmitted);
    }
    let noted = async || match node.chain.join(partition, epoch).await {
        Ok(true) => Err(JoinError::Late),
        Ok(false) => Ok(()),
        Err(error) => Err(JoinError::Storage(error)),
    };
    noted().await?;
    if !planted::is(Bug::JoinedWithoutReading) {
        let read = join_all(sources.iter().map(|source| read(node, *source, partition))).await;
        for outcome in read {
            outcome?;
        }
    }
    // What was read is on disk when this is.
    noted().await
}

async fn read(node: &Arc<Shared>, source: NodeId, partition: u32) -> Result<(), JoinError> {
    let until = Instant::now() + READ_MAX;
    loop {
        match entropy::read_all(node, source, partition).await {
            Ok(true) => return Ok(()),
            _ if planted::is(Bug::TransferTakenForDone) => return Ok(()),
            Ok(false) => {}
            Err(error) if Instant::now() >= until => return Err(error.into()),
            Err(error) => tracing::debug!(%source, partition, %error, "a member-to-be tries again"),
        }
        if Instant::now() >= until {
            return Err(JoinError::Unread(source));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Forgets what was learned of partitions that the ring does not want here any more.
pub(super) fn review(node: &Shared) {
    let view = node.cluster.view();
    let me = node.cluster.me.id;
    let learned: Vec<u32> = node.learned.lock().keys().copied().collect();
    for partition in learned {
        let id = PartitionId(partition);
        if !target(&view, id).iter().any(|holder| holder.node == me) {
            node.learned.forget(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(unread: impl IntoIterator<Item = u32>, after: Option<u32>) -> Vec<u32> {
        some_of(&unread.into_iter().collect(), after).into_iter().collect()
    }

    #[test]
    fn reading_can_wait_where_no_replica_is_missing() {
        let member = |name: &str| Holder { node: name.parse().expect("a name"), disk: Holder::FIRST_DISK };
        let members = ["n1", "n2", "n3"].map(member);
        assert!(is_complete(&members, 3, |_| true));
        assert!(is_complete(&members, 2, |_| true));
        assert!(!is_complete(&members[..2], 3, |_| true), "there are to be more");
        assert!(
            !is_complete(&members, 3, |holder| *holder != member("n2")),
            "one is down, or has lost its disk"
        );
    }

    #[test]
    fn a_few_partitions_are_read_at_a_time_and_others_after_those_that_could_not_be() {
        assert_eq!(next(3..11, None), [3, 4]);
        assert_eq!(next(10..50, Some(11)), [12, 13]);
        assert_eq!(next(10..50, Some(48)), [10, 49]);
        assert_eq!(next(10..50, Some(u32::MAX)), [10, 11]);
        assert_eq!(next([3], Some(3)), [3]);
        assert!(next([], Some(3)).is_empty());
    }
}
