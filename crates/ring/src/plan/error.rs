//! What is no plan.

use crate::{
    Change, HistoryFull, IgnoredReason, IncomparableRings, InvalidChange, Membership, NodeId, PartitionId,
};

/// Why changes are refused before they are made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no change to plan.
    #[error("nothing is to be changed; name at least one change")]
    Nothing,
    /// A change is outside the limits.
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    /// A change about a node would have no effect.
    #[error("node {node}: {reason}")]
    Node {
        /// The node.
        node: NodeId,
        /// Why it would have none.
        reason: IgnoredReason,
    },
    /// A change about no node in particular would have no effect.
    #[error("{reason}")]
    NoEffect {
        /// Why it would have none.
        reason: IgnoredReason,
    },
    /// Fewer nodes than replicas would be left, and fewer than there are.
    #[error(
        "{nodes} nodes would be left for {replicas} replicas of each partition, where there are {before} now; let others join first"
    )]
    TooFewNodes {
        /// The nodes on the ring before.
        before: usize,
        /// The nodes on the ring after.
        nodes: usize,
        /// The replicas of each partition.
        replicas: u8,
    },
    /// A partition would lie in fewer zones than there are, and in fewer than now.
    #[error(
        "partition {partition} would lie in {zones} zones where {needed} are possible and {before} are now the least; raise the weights of the nodes in small zones"
    )]
    TooFewZones {
        /// The first such partition.
        partition: PartitionId,
        /// Its distinct zones.
        zones: usize,
        /// As many as replicas, or as there are zones.
        needed: usize,
        /// The least that a partition has before.
        before: usize,
    },
    /// There would be more nodes than tokens.
    #[error("{nodes} nodes cannot share {partitions} partitions; at most one node for each")]
    MoreNodesThanPartitions {
        /// The nodes on the ring after.
        nodes: usize,
        /// The partitions.
        partitions: u32,
    },
    /// All homes of some partitions would be gone, and their data with them.
    #[error(
        "{partitions} partitions, the first of them {first}, would have nobody to be copied from: all of their homes are removed; bring one of these nodes back first"
    )]
    NoSource {
        /// How many partitions.
        partitions: u32,
        /// The first of them.
        first: PartitionId,
    },
    /// The changes found another cluster.
    #[error(transparent)]
    Incomparable(IncomparableRings),
    /// The history has no room for the changes.
    #[error(transparent)]
    Full(#[from] HistoryFull),
}

impl PlanError {
    pub(super) fn without_effect(change: &Change, reason: IgnoredReason) -> Self {
        // Of a replacement it is the new node that may be a member already, or gone.
        let node = match (change, reason) {
            (Change::Replace { new, .. }, IgnoredReason::AlreadyMember) => Some(new.id),
            _ => change.node(),
        };
        node.map_or(Self::NoEffect { reason }, |node| Self::Node { node, reason })
    }
}

/// Whether every partition has homes enough, and diverse enough.
pub(super) fn check(before: &Membership, after: &Membership) -> Result<(), PlanError> {
    let (had, has) = (before.ring(), after.ring());
    let replicas = usize::from(after.replicas());
    let (nodes, partitions) = (has.members().len(), has.partitions().get());
    if nodes < replicas && nodes < had.members().len() {
        let before = had.members().len();
        return Err(PlanError::TooFewNodes { before, nodes, replicas: after.replicas() });
    }
    if nodes > partitions as usize && nodes > had.members().len() {
        return Err(PlanError::MoreNodesThanPartitions { nodes, partitions });
    }
    let needed = replicas.min(has.extent().zones);
    let before = had.spread().zones;
    for partition in has.partitions().ids() {
        let zones = has.spread_of(partition).zones;
        // What is so already must not be in the way of what mends it.
        if zones < needed && zones < before {
            return Err(PlanError::TooFewZones { partition, zones, needed, before });
        }
    }
    Ok(())
}
