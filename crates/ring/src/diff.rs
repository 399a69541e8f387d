//! What moves where from one ring to the next.

use std::collections::BTreeMap;

use crate::{NodeId, PartitionCount, PartitionId, Ring};

/// The difference of two rings: what an operator sees before a change is applied.
///
/// # Examples
///
/// ```
/// use dynkv_ring::strategy::EqualTokens;
/// use dynkv_ring::{Member, PartitionCount};
///
/// let members = ["a", "b", "c", "d"].map(|id| Member::new(id.parse().unwrap()));
/// let mut tokens = EqualTokens::found(PartitionCount::new(64)?, 3, members)?;
/// let before = tokens.ring();
/// tokens.join(Member::new("e".parse()?))?;
///
/// let diff = before.diff(&tokens.ring())?;
/// assert_eq!(diff.token_moves(), 12);
/// for transfer in diff.transfers() {
///     assert!(!transfer.sources.contains(&transfer.to));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RingDiff {
    changes: Vec<PartitionChange>,
}

/// A partition whose owner or homes differ between two rings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PartitionChange {
    /// The partition.
    pub partition: PartitionId,
    /// Its homes before, the owner first: who can hand it over.
    pub before: Vec<NodeId>,
    /// Its homes after, the owner first.
    pub after: Vec<NodeId>,
}

/// A new home of a partition, and where it can get the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer<'a> {
    /// The partition.
    pub partition: PartitionId,
    /// The node that becomes a home.
    pub to: NodeId,
    /// The homes before, the owner first; none if the partition had no home.
    pub sources: &'a [NodeId],
}

impl PartitionChange {
    /// Whether the token itself moves.
    #[must_use]
    pub fn moves_token(&self) -> bool {
        self.before.first() != self.after.first()
    }

    /// The nodes that become homes, nearest first.
    pub fn added(&self) -> impl Iterator<Item = NodeId> {
        self.after.iter().filter(|node| !self.before.contains(node)).copied()
    }

    /// The nodes that stop being homes.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> {
        self.before.iter().filter(|node| !self.after.contains(node)).copied()
    }
}

impl RingDiff {
    /// Whether all owners and homes are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The partitions that differ, in order.
    #[must_use]
    pub fn changes(&self) -> &[PartitionChange] {
        &self.changes
    }

    /// How many tokens have another owner.
    #[must_use]
    pub fn token_moves(&self) -> usize {
        self.changes.iter().filter(|change| change.moves_token()).count()
    }

    /// Every home added, by partition: each is one copy of a partition to be made.
    pub fn transfers(&self) -> impl Iterator<Item = Transfer<'_>> {
        self.changes.iter().flat_map(|change| {
            let PartitionChange { partition, before, .. } = change;
            change.added().map(|to| Transfer { partition: *partition, to, sources: before })
        })
    }

    /// How many partitions each node becomes a home of, and how many it stops being a home of.
    #[must_use]
    pub fn by_node(&self) -> BTreeMap<NodeId, Traffic> {
        let mut by_node: BTreeMap<NodeId, Traffic> = BTreeMap::new();
        for change in &self.changes {
            for node in change.added() {
                by_node.entry(node).or_default().incoming += 1;
            }
            for node in change.removed() {
                by_node.entry(node).or_default().outgoing += 1;
            }
        }
        by_node
    }
}

/// What a change of the ring means for one node, in partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Traffic {
    /// Partitions it becomes a home of.
    pub incoming: u32,
    /// Partitions it stops being a home of.
    pub outgoing: u32,
}

impl Ring {
    /// What moves from this ring to `next`. To and from an empty ring everything does.
    ///
    /// # Errors
    ///
    /// If both have members and the numbers of their partitions differ: they are rings of two clusters.
    pub fn diff(&self, next: &Self) -> Result<RingDiff, IncomparableRings> {
        let (before, after) = (self.partitions(), next.partitions());
        if before != after && !self.is_empty() && !next.is_empty() {
            return Err(IncomparableRings { before, after });
        }
        let changes =
            before.max(after).ids().filter(|&partition| self.homes(partition) != next.homes(partition)).map(
                |partition| PartitionChange {
                    partition,
                    before: self.homes(partition).to_vec(),
                    after: next.homes(partition).to_vec(),
                },
            );
        Ok(RingDiff { changes: changes.collect() })
    }
}

/// Two rings cannot be compared: their partitions are not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ring of {before} partitions cannot become one of {after}; compare rings of one cluster")]
#[non_exhaustive]
pub struct IncomparableRings {
    /// The partitions of the one.
    pub before: PartitionCount,
    /// The partitions of the other.
    pub after: PartitionCount,
}
