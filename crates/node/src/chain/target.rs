//! Where a partition should be, and what has to be asked before it may be elsewhere.

use dynkv_proto::{BucketProperties, Holder};
use dynkv_ring::{NodeId, PartitionId};

use crate::{
    cluster::View,
    planted::{self, Bug},
};

/// Who is to hold a partition: the ring's homes, each with the disk it has now.
pub(crate) fn target(view: &View, partition: PartitionId) -> Vec<Holder> {
    view.membership.ring().homes(partition).iter().filter_map(|node| holder(view, node)).collect()
}

/// A member of the cluster as a holder.
pub(super) fn holder(view: &View, node: &NodeId) -> Option<Holder> {
    let state = view.membership.member(node)?;
    // One whose disk is not named yet has its first one.
    let disk = state.disk.filter(|_| state.disk != state.first_disk).unwrap_or(Holder::FIRST_DISK);
    Some(Holder { node: *node, disk })
}

/// Who is to follow `members` next: those of `target` that hold what they need, and members in place of the others, so that there are as many as the target has.
pub(super) fn next(members: &[Holder], target: &[Holder], is_ready: impl Fn(&Holder) -> bool) -> Vec<Holder> {
    let mut next: Vec<Holder> =
        target.iter().filter(|holder| members.contains(holder) || is_ready(holder)).cloned().collect();
    // Two disks of one node are never members together.
    let stay = members.iter().filter(|holder| !next.iter().any(|other| other.node == holder.node));
    let missing = target.len().saturating_sub(next.len());
    let stay: Vec<Holder> = stay.take(missing).cloned().collect();
    next.extend(stay);
    next
}

/// For which quorums the cluster promises fresh reads: r' and w', and how many members there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    members: usize,
    r: usize,
    w: usize,
}

impl Freshness {
    /// The smallest of the buckets that have r + w > n.
    pub(super) fn of(view: &View, members: usize) -> Freshness {
        let n = usize::from(view.membership.replicas());
        let quorums = |properties: &BucketProperties| {
            let (r, w) = (usize::from(properties.r), usize::from(properties.w));
            (r + w > n).then_some((r, w))
        };
        let named = view.buckets.iter().filter_map(|(_, properties)| quorums(properties));
        let all = named.chain(quorums(view.buckets.get("")));
        let (r, w) = all.fold((n, n), |(r, w), (other_r, other_w)| (r.min(other_r), w.min(other_w)));
        Freshness { members, r: r.clamp(1, members.max(1)), w: w.clamp(1, members.max(1)) }
    }

    pub(super) fn is_majority(&self, sealed: usize) -> bool {
        sealed > self.members / 2
    }

    /// Whether `sealed` members, and `gone` others that serve nobody any more, are enough to choose who follows: no quorum is left at this epoch, and
    /// somebody among the sealed has whatever was acknowledged.
    pub(super) fn may_choose(&self, sealed: usize, gone: usize) -> bool {
        let Freshness { members, r, w } = *self;
        let less = usize::from(planted::is(Bug::SealsOneFewer));
        let stopped = members + 1 - r.min(w);
        let stopped = match () {
            () if planted::is(Bug::SealsForWritesOnly) => members + 1 - w,
            () if planted::is(Bug::SealsForReadsOnly) => members + 1 - r,
            () => stopped,
        };
        // Of those that hold what was acknowledged, one must be among the sealed.
        let w = if planted::is(Bug::SealsForReadsOnly) { r } else { w };
        self.is_majority(sealed) && sealed + w + less > members && sealed + gone + less >= stopped
    }
}
