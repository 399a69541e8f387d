//! Strategy 2 of the paper: random tokens, equal partitions.

use super::RandomTokens;
use crate::{Member, NodeId, PartitionCount, PartitionId, Position};

/// Random tokens over equal partitions (section 6.2, strategy 2): a partition belongs to the first distinct
/// nodes clockwise from its end.
///
/// This separates how data is partitioned from where it is placed: partitions can be handed over as files. But
/// the tokens are still random, so the load is no better than with [`RandomTokens`]; the paper used it only
/// on the way to strategy 3.
///
/// # Examples
///
/// ```
/// use dynkv_ring::strategy::RandomPartitions;
/// use dynkv_ring::{Member, PartitionCount, PartitionId};
///
/// let nodes: Vec<Member> = (0..30).map(|n| Member::new(format!("n{n}").parse().unwrap())).collect();
/// let placed = RandomPartitions::new(PartitionCount::new(1024)?, 3, &nodes, 10, 0);
/// assert_eq!(placed.homes(PartitionId(17)).len(), 3);
/// assert!((placed.loads().iter().sum::<f64>() - 3.0).abs() < 1e-9);
/// # Ok::<(), dynkv_ring::InvalidPartitionCount>(())
/// ```
#[derive(Debug, Clone)]
pub struct RandomPartitions {
    partitions: PartitionCount,
    tokens: RandomTokens,
    /// By partition.
    homes: Vec<Vec<u32>>,
}

impl RandomPartitions {
    /// Gives every node `tokens_per_weight` times its weight tokens, or one if that is 0, and every partition
    /// its homes. Another `seed` draws other positions.
    #[must_use]
    pub fn new(
        partitions: PartitionCount,
        replicas: u8,
        nodes: &[Member],
        tokens_per_weight: u32,
        seed: u64,
    ) -> Self {
        let tokens = RandomTokens::new(replicas, nodes, tokens_per_weight, seed);
        let homes = |id: PartitionId| tokens.walk(*id.positions(partitions).end(), tokens.replicas());
        let homes = partitions.ids().map(homes).collect();
        Self { partitions, tokens, homes }
    }

    /// The number of tokens: what every node must know besides the number of partitions.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.token_count()
    }

    /// The homes of a partition; none if there is no such partition.
    #[must_use]
    pub fn homes(&self, partition: PartitionId) -> Vec<NodeId> {
        let homes = self.homes.get(partition.0 as usize).map_or(&[][..], Vec::as_slice);
        homes.iter().map(|node| self.tokens.nodes()[*node as usize]).collect()
    }

    /// The homes of a position: those of its partition.
    #[must_use]
    pub fn homes_at(&self, position: Position) -> Vec<NodeId> {
        self.homes(position.partition(self.partitions))
    }

    /// By node, in the order given: the share of all partitions it is a home of. They add up to the number of
    /// replicas.
    #[must_use]
    pub fn loads(&self) -> Vec<f64> {
        let mut loads = vec![0.0; self.tokens.nodes().len()];
        for node in self.homes.iter().flatten() {
            loads[*node as usize] += 1.0 / f64::from(self.partitions.get());
        }
        loads
    }
}
