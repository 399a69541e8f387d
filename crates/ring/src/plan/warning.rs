//! What deserves a second look in a plan.

use crate::{Departure, Membership, NodeId, PartitionId, RingDiff};

use super::{due, total_weight};

/// Something to think about before changes are made. [`Display`](std::fmt::Display) says it to people.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// There are fewer nodes than replicas: each node keeps everything.
    #[error("there are fewer nodes ({nodes}) than replicas ({replicas}): each node keeps everything")]
    FewNodes {
        /// The nodes on the ring.
        nodes: usize,
        /// The replicas of each partition.
        replicas: u8,
    },
    /// There are fewer zones than replicas.
    #[error(
        "there are fewer zones ({zones}) than replicas ({replicas}): the loss of one takes more than one replica of a partition"
    )]
    FewZones {
        /// The zones.
        zones: usize,
        /// The replicas of each partition.
        replicas: u8,
    },
    /// Some partitions lie in fewer zones than is possible.
    #[error("{partitions} partitions lie in fewer than {possible} zones, the least in {least}")]
    UnevenZones {
        /// How many partitions.
        partitions: u32,
        /// As many as replicas, or as there are zones.
        possible: usize,
        /// The least zones of a partition.
        least: usize,
    },
    /// Some partitions have two replicas on one host.
    #[error("{partitions} partitions have two replicas on one host, the first of them {first}")]
    SharedHost {
        /// How many partitions.
        partitions: u32,
        /// The first of them.
        first: PartitionId,
    },
    /// Partitions are too few to share them by weight: some nodes are more than a tenth away from their due.
    #[error(
        "{node} gets {tokens} tokens where {due:.1} are due, for there are few partitions for so many nodes (off by more than a tenth: {nodes})"
    )]
    Rounding {
        /// How many nodes.
        nodes: usize,
        /// The one that is furthest off.
        node: NodeId,
        /// Its tokens.
        tokens: u32,
        /// Its due.
        due: f64,
    },
    /// Most homes of some partitions are gone at once: what only they have acknowledged is lost.
    #[error(
        "{partitions} partitions, the first of them {first}, lose most of their homes at once: writes that only those have are lost"
    )]
    MajorityGone {
        /// How many partitions.
        partitions: u32,
        /// The first of them.
        first: PartitionId,
    },
}

/// How far off its due a node may be, as a part of it, before it is worth a word.
const OFF_MAX: f64 = 0.1;

pub(super) fn all(before: &Membership, after: &Membership, diff: &RingDiff) -> Vec<Warning> {
    let ring = after.ring();
    let extent = ring.extent();
    let replicas = after.replicas();
    let mut warnings = Vec::new();
    if extent.nodes < usize::from(replicas) {
        warnings.push(Warning::FewNodes { nodes: extent.nodes, replicas });
    }
    if extent.zones < usize::from(replicas) {
        warnings.push(Warning::FewZones { zones: extent.zones, replicas });
    }
    let possible = extent.zones.min(usize::from(replicas)).min(extent.nodes);
    let (mut uneven, mut least) = (0, possible);
    let (mut shared, mut shared_first) = (0, None);
    for partition in ring.partitions().ids() {
        let spread = ring.spread_of(partition);
        if spread.zones < possible {
            uneven += 1;
            least = least.min(spread.zones);
        }
        if spread.hosts < spread.nodes {
            shared += 1;
            shared_first = shared_first.or(Some(partition));
        }
    }
    if uneven > 0 {
        warnings.push(Warning::UnevenZones { partitions: uneven, possible, least });
    }
    if let Some(first) = shared_first {
        warnings.push(Warning::SharedHost { partitions: shared, first });
    }
    warnings.extend(rounding(after));
    warnings.extend(majority_gone(before, after, diff));
    warnings
}

fn rounding(after: &Membership) -> Option<Warning> {
    let weights = total_weight(after);
    let off = after.ring().shares().map(|(member, load)| {
        let due = due(after, &member.id, weights);
        ((f64::from(load.tokens) - due).abs() / due, member.id, load.tokens, due)
    });
    let off: Vec<_> = off.filter(|(off, ..)| *off > OFF_MAX).collect();
    let (_, node, tokens, due) = *off.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Warning::Rounding { nodes: off.len(), node, tokens, due })
}

fn majority_gone(before: &Membership, after: &Membership, diff: &RingDiff) -> Option<Warning> {
    let is_gone = |node: &&NodeId| {
        let at_once = matches!(after.departure(node), Some(Departure::Removed | Departure::Replaced(_)));
        at_once && before.departure(node).is_none()
    };
    let most_gone = |homes: &[NodeId]| homes.iter().filter(is_gone).count() * 2 > homes.len();
    let mut gone = diff.changes().iter().filter(|change| most_gone(&change.before));
    let first = gone.next()?.partition;
    Some(Warning::MajorityGone { partitions: 1 + gone.count() as u32, first })
}
