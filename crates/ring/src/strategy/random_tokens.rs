//! Strategy 1 of the paper: random tokens, and partitions between them.

use md5::{Digest, Md5};

use crate::{Member, NodeId, Position};

/// Tokens at random positions: a key belongs to the next token clockwise (sections 4.2 and 6.2, strategy 1).
///
/// The partitions are the gaps between the tokens: of every size, and every node that comes or goes cuts or
/// joins some, which is why the paper gave this up. The positions are the MD5 of seed, node and number: as good
/// as random, and reproducible.
///
/// # Examples
///
/// ```
/// use dynkv_ring::strategy::{RandomTokens, efficiency};
/// use dynkv_ring::{Member, Position};
///
/// let nodes: Vec<Member> = (0..30).map(|n| Member::new(format!("n{n}").parse().unwrap())).collect();
/// let few = RandomTokens::new(3, &nodes, 1, 0);
/// let many = RandomTokens::new(3, &nodes, 500, 0);
/// assert!(efficiency(few.loads()) < efficiency(many.loads()));
/// assert_eq!(many.homes(Position::of("carts", b"alice")).len(), 3);
/// ```
#[derive(Debug, Clone)]
pub struct RandomTokens {
    replicas: usize,
    nodes: Vec<NodeId>,
    /// Positions with the index of the node, ascending.
    tokens: Vec<(Position, u32)>,
}

impl RandomTokens {
    /// Gives every node `tokens_per_weight` times its weight tokens, or one if that is 0. Another `seed` draws
    /// other positions.
    #[must_use]
    pub fn new(replicas: u8, nodes: &[Member], tokens_per_weight: u32, seed: u64) -> Self {
        let mut tokens = Vec::new();
        for (index, node) in (0u32..).zip(nodes) {
            for number in 0..tokens_per_weight.saturating_mul(node.weight).max(1) {
                tokens.push((token(seed, node.id, number), index));
            }
        }
        tokens.sort_unstable();
        let nodes: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        Self { replicas: usize::from(replicas).min(nodes.len()), nodes, tokens }
    }

    /// The number of tokens: what every node must know.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// The homes of a position: the next distinct nodes clockwise.
    #[must_use]
    pub fn homes(&self, position: Position) -> Vec<NodeId> {
        let homes = self.walk(position, self.replicas);
        homes.into_iter().map(|node| self.nodes[node as usize]).collect()
    }

    /// By node, in the order given: the share of all positions it is a home of. They add up to the number of
    /// replicas.
    #[must_use]
    pub fn loads(&self) -> Vec<f64> {
        let mut loads = vec![0.0; self.nodes.len()];
        let last = self.tokens.last().map_or(0, |(position, _)| position.0);
        let mut previous = last;
        for (position, _) in &self.tokens {
            // The first gap goes around the end of the circle; a single token has the whole of it.
            let gap = if self.tokens.len() == 1 { u128::MAX } else { position.0.wrapping_sub(previous) };
            for node in self.walk(*position, self.replicas) {
                loads[node as usize] += gap as f64 / u128::MAX as f64;
            }
            previous = position.0;
        }
        loads
    }

    /// The first `count` distinct nodes clockwise.
    pub(crate) fn walk(&self, position: Position, count: usize) -> Vec<u32> {
        let begin = self.tokens.partition_point(|(token, _)| *token < position);
        let mut walk = Vec::with_capacity(count);
        for (_, node) in self.tokens[begin..].iter().chain(&self.tokens[..begin]) {
            if walk.len() == count {
                break;
            }
            if !walk.contains(node) {
                walk.push(*node);
            }
        }
        walk
    }

    pub(crate) fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    pub(crate) fn replicas(&self) -> usize {
        self.replicas
    }
}

fn token(seed: u64, node: NodeId, number: u32) -> Position {
    let digest = Md5::new()
        .chain_update(seed.to_be_bytes())
        .chain_update(number.to_be_bytes())
        .chain_update(node.as_str())
        .finalize();
    Position(u128::from_be_bytes(digest.into()))
}
