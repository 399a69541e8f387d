//! Strategy 3 of the paper: Q equal partitions, tokens in proportion to weight.
//!
//! # The algorithm
//!
//! A node's *due* is `Q * weight / total weight`. Counts are kept within one token of it: every node owns its
//! due rounded down or up. When a change breaks that for some nodes, the tokens owned beyond the rounded-up
//! dues (`excess`) must move and those missing to the rounded-down dues (`deficit`) must arrive, so at least
//! `max(excess, deficit)` tokens move; exactly so many do:
//!
//! - *pull*, when the deficit is greater (a join): each node that lacks tokens takes them, one at a time, from
//!   nodes above their due;
//! - *push*, otherwise (a leave): each node with too many hands them, one at a time, to nodes below theirs.
//!
//! Which token moves is free, and that choice keeps the circle diverse. The homes of a partition are its owner
//! and the next nodes clockwise, so two tokens within `replicas - 1` steps should not have the same node, host
//! or zone: then every walk ends after `replicas` steps, and a node is home of `replicas` times its tokens, no
//! more and no less. Each candidate costs the conflicts it would make minus those it would resolve; the
//! cheapest moves; ties go by a hash of node and partition, which spreads a node's tokens, and so its
//! neighbours, over the circle. Everything is integer arithmetic on the membership alone: no randomness, the
//! same result everywhere. So the algorithm is part of the format: nodes of two versions that place tokens
//! differently would disagree about the ring. A test pins its results.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::domains::Domains;
use crate::member::check_weight;
use crate::{InvalidMember, Member, NodeId, PartitionCount, PartitionId, Ring};

/// No owner yet.
const NOBODY: u32 = u32::MAX;

/// Tokens placed by strategy 3, changed one membership change at a time.
///
/// [`Membership`](crate::Membership) uses it to fold a history. Use it directly for a ring without one.
///
/// # Examples
///
/// ```
/// use dynkv_ring::strategy::EqualTokens;
/// use dynkv_ring::{Member, PartitionCount};
///
/// let members = ["a", "b", "c"].map(|id| Member::new(id.parse().unwrap()));
/// let mut tokens = EqualTokens::found(PartitionCount::new(64)?, 3, members)?;
/// let moved = tokens.join(Member::new("d".parse()?))?;
/// assert_eq!(moved, 16);
/// let ring = tokens.ring();
/// assert_eq!(ring.token_count(&"d".parse()?), 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct EqualTokens {
    partitions: PartitionCount,
    replicas: u8,
    /// Ordered by id; `owners` has indices into it.
    nodes: Vec<Node>,
    owners: Vec<u32>,
    domains: Domains,
}

#[derive(Debug, Clone)]
struct Node {
    member: Member,
    zone: u32,
    host: u32,
    tokens: u32,
    /// 0 while the node is being drained.
    weight: u32,
}

/// How many tokens away a neighbour with the same node, host or zone is in the way.
#[derive(Debug, Clone, Copy)]
struct Reach {
    node: usize,
    host: usize,
    zone: usize,
}

impl EqualTokens {
    /// A circle without nodes. 0 replicas count as 1.
    #[must_use]
    pub fn new(partitions: PartitionCount, replicas: u8) -> Self {
        let owners = vec![NOBODY; partitions.get() as usize];
        Self { partitions, replicas, nodes: Vec::new(), owners, domains: Domains::default() }
    }

    /// A circle divided among the first members at once: the zones take turns, within a zone the hosts, each
    /// node in proportion to its weight (largest remainder). The order within a zone differs from round to round,
    /// so that everybody has many neighbours.
    ///
    /// # Errors
    ///
    /// If a member is invalid or listed twice.
    pub fn found(
        partitions: PartitionCount,
        replicas: u8,
        members: impl IntoIterator<Item = Member>,
    ) -> Result<Self, PlacementError> {
        let mut placement = Self::new(partitions, replicas);
        for member in members {
            placement.add(member)?;
        }
        let candidates: Vec<super::founding::Candidate> = placement
            .nodes
            .iter()
            .map(|n| super::founding::Candidate { zone: n.zone, host: n.host, weight: n.weight })
            .collect();
        if !candidates.is_empty() {
            placement.owners = super::founding::deal(partitions.get(), &candidates, u32::from(replicas));
            for &owner in &placement.owners {
                placement.nodes[owner as usize].tokens += 1;
            }
            placement.untangle();
        }
        Ok(placement)
    }

    /// A node joins and takes its share. Returns the number of tokens that moved.
    ///
    /// # Errors
    ///
    /// If the member is invalid or already there; nothing has changed then.
    pub fn join(&mut self, member: Member) -> Result<u32, PlacementError> {
        let index = self.add(member)?;
        if self.nodes.len() == 1 {
            self.owners.fill(0);
            self.nodes[index].tokens = self.partitions.get();
            return Ok(self.partitions.get());
        }
        Ok(self.rebalance())
    }

    /// A node leaves; its tokens go to the others. Returns the number of tokens that moved.
    ///
    /// # Errors
    ///
    /// If the node is not there or is the last one; nothing has changed then.
    pub fn leave(&mut self, node: &NodeId) -> Result<u32, PlacementError> {
        let index = self.index(node)?;
        if self.nodes.len() == 1 {
            return Err(PlacementError::LastNode { node: *node });
        }
        self.domains.release(self.nodes[index].zone, self.nodes[index].host);
        self.nodes[index].weight = 0;
        let moved = self.rebalance();
        self.nodes.remove(index);
        self.renumber(|owner| if owner as usize > index { owner - 1 } else { owner });
        Ok(moved)
    }

    /// A node takes another one's place: exactly its tokens, and more or fewer only as its weight differs.
    /// Returns the number of tokens that moved.
    ///
    /// # Errors
    ///
    /// If the old node is not there, or the new one is invalid or there already; nothing has changed then.
    pub fn replace(&mut self, old: &NodeId, new: Member) -> Result<u32, PlacementError> {
        let index = self.index(old)?;
        let new_index = self.add(new)?;
        let index = if new_index <= index { index + 1 } else { index };
        let moved = self.nodes[index].tokens;
        self.nodes[new_index].tokens = moved;
        self.domains.release(self.nodes[index].zone, self.nodes[index].host);
        self.nodes.remove(index);
        let target = if new_index > index { new_index - 1 } else { new_index } as u32;
        self.renumber(|owner| match owner as usize {
            o if o == index => target,
            o if o > index => owner - 1,
            _ => owner,
        });
        Ok(moved + self.rebalance())
    }

    /// A node gets another weight, 1 to 100. Returns the number of tokens that moved.
    ///
    /// # Errors
    ///
    /// If the node is not there or the weight is out of range; nothing has changed then.
    pub fn reweigh(&mut self, node: &NodeId, weight: u32) -> Result<u32, PlacementError> {
        let index = self.index(node)?;
        check_weight(*node, weight)?;
        self.nodes[index].member.weight = weight;
        self.nodes[index].weight = weight;
        Ok(self.rebalance())
    }

    /// A node is somewhere else. No token moves: only the homes that follow from the tokens may change.
    ///
    /// # Errors
    ///
    /// If the node is not there or a name is too long; nothing has changed then.
    pub fn relocate(&mut self, node: &NodeId, zone: &str, host: &str) -> Result<(), PlacementError> {
        let index = self.index(node)?;
        crate::member::check_domains(*node, zone, host)?;
        let slot = &mut self.nodes[index];
        self.domains.release(slot.zone, slot.host);
        zone.clone_into(&mut slot.member.zone);
        host.clone_into(&mut slot.member.host);
        (slot.zone, slot.host) = self.domains.enter(&slot.member);
        Ok(())
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// The owner of a partition; nobody's if there are no nodes or there is no such partition.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> Option<&Member> {
        let owner = *self.owners.get(partition.0 as usize)?;
        self.nodes.get(owner as usize).map(|node| &node.member)
    }

    /// The ring of these tokens, with preference lists.
    #[must_use]
    pub fn ring(&self) -> Ring {
        let members = self.nodes.iter().map(|node| node.member.clone()).collect();
        let owners = if self.nodes.is_empty() { Vec::new() } else { self.owners.clone() };
        Ring::assemble(self.partitions, self.replicas, members, owners)
    }

    fn index(&self, node: &NodeId) -> Result<usize, PlacementError> {
        self.nodes
            .binary_search_by(|slot| slot.member.id.cmp(node))
            .map_err(|_| PlacementError::UnknownNode { node: *node })
    }

    fn add(&mut self, member: Member) -> Result<usize, PlacementError> {
        member.validate()?;
        let Err(index) = self.nodes.binary_search_by(|slot| slot.member.id.cmp(&member.id)) else {
            return Err(PlacementError::DuplicateNode { node: member.id });
        };
        let (zone, host) = self.domains.enter(&member);
        let weight = member.weight;
        self.nodes.insert(index, Node { member, zone, host, tokens: 0, weight });
        self.renumber(|owner| if owner as usize >= index { owner + 1 } else { owner });
        Ok(index)
    }

    fn renumber(&mut self, new_index: impl Fn(u32) -> u32) {
        for owner in &mut self.owners {
            if *owner != NOBODY {
                *owner = new_index(*owner);
            }
        }
    }

    fn reach(&self) -> Reach {
        let replicas = usize::from(self.replicas);
        let nodes = self.nodes.iter().filter(|node| node.weight > 0).count();
        // Never as far as the token itself, around the whole circle.
        let steps = |domains: usize| domains.min(replicas).min(self.owners.len()).saturating_sub(1);
        Reach { node: steps(nodes), host: steps(self.domains.hosts()), zone: steps(self.domains.zones()) }
    }

    /// What is in the way if `node` owns `partition`.
    fn conflicts(&self, reach: Reach, partition: usize, node: u32) -> i32 {
        let (len, candidate) = (self.owners.len(), &self.nodes[node as usize]);
        let mut conflicts = 0;
        for step in 1..=reach.node {
            for neighbour in [(partition + step) % len, (partition + len - step) % len] {
                let owner = self.owners[neighbour];
                if owner == NOBODY {
                    continue;
                }
                let other = &self.nodes[owner as usize];
                conflicts += 4 * i32::from(owner == node);
                conflicts += 2 * i32::from(step <= reach.host && other.host == candidate.host);
                conflicts += i32::from(step <= reach.zone && other.zone == candidate.zone);
            }
        }
        conflicts
    }

    /// What moving a token to `node` costs; negative if it resolves more than it makes.
    fn cost(&self, reach: Reach, partition: usize, node: u32) -> i32 {
        self.conflicts(reach, partition, node) - self.conflicts(reach, partition, self.owners[partition])
    }

    fn give(&mut self, partition: usize, node: u32) {
        self.nodes[self.owners[partition] as usize].tokens -= 1;
        self.nodes[node as usize].tokens += 1;
        self.owners[partition] = node;
    }

    fn rebalance(&mut self) -> u32 {
        let dues = Dues::of(&self.nodes, self.partitions);
        let excess: u32 = self.nodes.iter().map(|node| dues.excess(node)).sum();
        let deficit: u32 = self.nodes.iter().map(|node| dues.deficit(node)).sum();
        let reach = self.reach();
        if deficit > excess {
            let mut takers: Vec<u32> =
                (0..self.nodes.len() as u32).filter(|&n| dues.deficit(&self.nodes[n as usize]) > 0).collect();
            takers.sort_by_key(|&n| dues.over(&self.nodes[n as usize]));
            let mut optional = deficit - excess;
            for taker in takers {
                self.pull(reach, &dues, taker, &mut optional);
            }
        } else {
            let mut givers: Vec<u32> =
                (0..self.nodes.len() as u32).filter(|&n| dues.excess(&self.nodes[n as usize]) > 0).collect();
            givers.sort_by_key(|&n| Reverse(dues.over(&self.nodes[n as usize])));
            let mut optional = excess - deficit;
            for giver in givers {
                self.push(reach, &dues, giver, &mut optional);
            }
        }
        excess.max(deficit)
    }

    /// `taker` takes what it lacks. Who has too much always gives; who is merely above its due gives while
    /// `optional` tokens are left.
    fn pull(&mut self, reach: Reach, dues: &Dues, taker: u32, optional: &mut u32) {
        let gives =
            |node: &Node, optional: u32| dues.excess(node) > 0 || (optional > 0 && dues.over(node) > 0);
        // Of equal cost, from those most over their due.
        let over: Vec<i64> = self.nodes.iter().map(|node| dues.over(node)).collect();
        let taker_id = self.nodes[taker as usize].member.id;
        let candidate = |this: &Self, partition: usize| {
            let over = over[this.owners[partition] as usize];
            let spread = spread(taker_id, partition);
            Reverse((this.cost(reach, partition, taker), Reverse(over), spread, partition))
        };
        let mut heap: BinaryHeap<_> = (0..self.owners.len())
            .filter(|&p| self.owners[p] != taker && gives(&self.nodes[self.owners[p] as usize], *optional))
            .map(|p| candidate(self, p))
            .collect();
        while dues.deficit(&self.nodes[taker as usize]) > 0 {
            // There is always one: as long as someone is below its due, someone is above.
            let Some(Reverse((cost, _, _, partition))) = heap.pop() else { return };
            let owner = self.owners[partition];
            let giver = &self.nodes[owner as usize];
            // Who cannot give now will not be able to later; a stale cost has been replaced by a fresh one.
            if owner == taker || !gives(giver, *optional) || cost != self.cost(reach, partition, taker) {
                continue;
            }
            if dues.excess(giver) == 0 {
                *optional -= 1;
            }
            self.give(partition, taker);
            for neighbour in around(partition, reach.node, self.owners.len()) {
                if self.owners[neighbour] != taker {
                    heap.push(candidate(self, neighbour));
                }
            }
        }
    }

    /// `giver` hands on what it has too much. Who lacks tokens always takes; who is merely below its due takes
    /// while `optional` tokens are left.
    fn push(&mut self, reach: Reach, dues: &Dues, giver: u32, optional: &mut u32) {
        let mut heap: BinaryHeap<_> = (0..self.owners.len())
            .filter(|&p| self.owners[p] == giver)
            .filter_map(|p| self.best_taker(reach, dues, p, *optional).map(|(cost, _)| Reverse((cost, p))))
            .collect();
        while dues.excess(&self.nodes[giver as usize]) > 0 {
            let Some(Reverse((cost, partition))) = heap.pop() else { return };
            if self.owners[partition] != giver {
                continue;
            }
            let Some((best, taker)) = self.best_taker(reach, dues, partition, *optional) else { return };
            if best > cost {
                heap.push(Reverse((best, partition)));
                continue;
            }
            if dues.deficit(&self.nodes[taker as usize]) == 0 {
                *optional -= 1;
            }
            self.give(partition, taker);
            for neighbour in around(partition, reach.node, self.owners.len()) {
                if self.owners[neighbour] == giver
                    && let Some((cost, _)) = self.best_taker(reach, dues, neighbour, *optional)
                {
                    heap.push(Reverse((cost, neighbour)));
                }
            }
        }
    }

    fn best_taker(&self, reach: Reach, dues: &Dues, partition: usize, optional: u32) -> Option<(i32, u32)> {
        (0..self.nodes.len() as u32)
            .filter(|&n| {
                let node = &self.nodes[n as usize];
                dues.deficit(node) > 0 || (optional > 0 && dues.over(node) < 0)
            })
            .map(|n| {
                let node = &self.nodes[n as usize];
                // Of equal cost, to those most under their due.
                (self.cost(reach, partition, n), dues.over(node), spread(node.member.id, partition), n)
            })
            .min()
            .map(|(cost, _, _, node)| (cost, node))
    }

    /// Swaps tokens of a new circle where one node has two within reach, and where the end meets the beginning,
    /// which the dealing did not look at. Nothing is stored yet, so swaps cost nothing. Elsewhere zones are left
    /// as they were dealt: where they must conflict, their nodes take turns at it.
    fn untangle(&mut self) {
        /// How far away the partner of a swap may be: bounds the work at Q times this.
        const FAR: usize = 64;
        let (reach, len) = (self.reach(), self.owners.len());
        for partition in 0..len {
            let at_seam = partition < reach.node || partition + reach.node >= len;
            for step in 1..len.min(FAR) {
                let owner = self.owners[partition];
                let tangled = if at_seam {
                    self.conflicts(reach, partition, owner) > 0
                } else {
                    around(partition, reach.node, len).any(|neighbour| self.owners[neighbour] == owner)
                };
                if !tangled {
                    break;
                }
                let partner = (partition + step) % len;
                let before = self.swap_conflicts(reach, partition, partner);
                self.owners.swap(partition, partner);
                if self.swap_conflicts(reach, partition, partner) >= before {
                    self.owners.swap(partition, partner);
                }
            }
        }
    }

    fn swap_conflicts(&self, reach: Reach, one: usize, other: usize) -> i32 {
        self.conflicts(reach, one, self.owners[one]) + self.conflicts(reach, other, self.owners[other])
    }
}

/// What each node should own, scaled by the total weight so that everything is an integer.
struct Dues {
    partitions: i64,
    total_weight: i64,
}

impl Dues {
    fn of(nodes: &[Node], partitions: PartitionCount) -> Self {
        let total_weight = nodes.iter().map(|node| i64::from(node.weight)).sum();
        Self { partitions: i64::from(partitions.get()), total_weight }
    }

    /// Tokens beyond the due, times the total weight.
    fn over(&self, node: &Node) -> i64 {
        i64::from(node.tokens) * self.total_weight - self.partitions * i64::from(node.weight)
    }

    /// Tokens beyond the due rounded up.
    fn excess(&self, node: &Node) -> u32 {
        let due = self.partitions * i64::from(node.weight);
        let most = (due + self.total_weight - 1) / self.total_weight;
        u32::try_from(i64::from(node.tokens) - most).unwrap_or(0)
    }

    /// Tokens missing to the due rounded down.
    fn deficit(&self, node: &Node) -> u32 {
        let least = self.partitions * i64::from(node.weight) / self.total_weight;
        u32::try_from(least - i64::from(node.tokens)).unwrap_or(0)
    }
}

fn around(partition: usize, reach: usize, len: usize) -> impl Iterator<Item = usize> {
    (1..=reach).flat_map(move |step| [(partition + step) % len, (partition + len - step) % len])
}

/// A fixed arbitrary order of partitions for each node (FNV-1a with a finishing mix): equal on every machine.
fn spread(node: NodeId, partition: usize) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in node.as_str().bytes().chain((partition as u64).to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Why a placement refuses a change. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The member is invalid.
    #[error(transparent)]
    Member(#[from] InvalidMember),
    /// The node is there already.
    #[error("node {node} is already on the ring; choose another id")]
    DuplicateNode {
        /// The node.
        node: NodeId,
    },
    /// The node is not there.
    #[error("node {node} is not on the ring; check the id")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The node is the last one: somebody must own the tokens.
    #[error("node {node} is the last one on the ring; let another one join first")]
    LastNode {
        /// The node.
        node: NodeId,
    },
}
