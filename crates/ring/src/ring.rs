//! The ring: who owns a partition, who is home to it, and who comes next.

use crate::homes::choose_homes;
use crate::{Member, NodeId, PartitionCount, PartitionId};

/// Partitions, their owners and their preference lists (sections 4.3 and 6.2 of the Dynamo paper).
///
/// A ring is a value: it never changes, a change of the membership makes another one. Get one from
/// [`Membership::ring`](crate::Membership::ring), or from
/// [`EqualTokens::ring`](crate::strategy::EqualTokens::ring) without a history.
///
/// The *walk* of a partition visits the owner of its token, then those of the following tokens clockwise, each
/// node once; nodes too light to own a token come last. The *homes* are the first `n` nodes of the walk that
/// lie in distinct zones, then on distinct hosts, as long as there are such; among several, the zone and the
/// host used least so far, then the nearest. A node without tokens is home only where there are fewer than `n`
/// nodes with tokens. The rest of the walk are the *fallbacks*.
///
/// # Examples
///
/// ```
/// use dynkv_ring::strategy::EqualTokens;
/// use dynkv_ring::{Member, PartitionCount, Position};
///
/// let members = [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b"), ("n5", "c")];
/// let members = members.map(|(id, zone)| Member::new(id.parse().unwrap()).with_zone(zone));
/// let ring = EqualTokens::found(PartitionCount::new(256)?, 3, members)?.ring();
///
/// let partition = Position::of("carts", b"alice").partition(ring.partitions());
/// let list: Vec<_> = ring.preference(partition).collect();
/// assert_eq!(list.len(), 5);
/// assert_eq!(list[0].id, ring.owner(partition).unwrap().id);
/// let zones: std::collections::BTreeSet<_> = list[..3].iter().map(|node| &node.zone).collect();
/// assert_eq!(zones.len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    partitions: PartitionCount,
    replicas: u8,
    /// Ordered by id. All `u32` below are indices into it.
    members: Vec<Member>,
    /// By partition; empty if there are no members.
    owners: Vec<u32>,
    /// By partition: how many tokens back the same owner's previous token is. A token is its owner's first on a
    /// walk exactly if it is nearer to the beginning than that, so a walk needs no set of those it has seen.
    gaps: Vec<u32>,
    /// By partition, `home_count` each.
    homes: Vec<u32>,
    home_ids: Vec<NodeId>,
    home_count: usize,
    /// Members without tokens.
    spare: Vec<u32>,
    /// By member: tokens owned, partitions at home.
    loads: Vec<Load>,
}

/// What a node of a [`Ring`] carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Load {
    /// The tokens it owns: partitions it is first home of.
    pub tokens: u32,
    /// The partitions it is a home of, its own included.
    pub replicas: u32,
}

impl Ring {
    /// A ring without members. 0 replicas count as 1.
    #[must_use]
    pub fn empty(partitions: PartitionCount, replicas: u8) -> Self {
        Self::assemble(partitions, replicas, Vec::new(), Vec::new())
    }

    pub(crate) fn assemble(
        partitions: PartitionCount,
        replicas: u8,
        members: Vec<Member>,
        owners: Vec<u32>,
    ) -> Self {
        let replicas = replicas.max(1);
        let mut loads = vec![Load::default(); members.len()];
        for &owner in &owners {
            loads[owner as usize].tokens += 1;
        }
        let spare = (0..members.len() as u32).filter(|&m| loads[m as usize].tokens == 0).collect();
        let home_count = members.len().min(usize::from(replicas));
        let gaps = gaps(&owners, members.len());
        let mut ring = Self {
            partitions,
            replicas,
            members,
            owners,
            gaps,
            homes: Vec::new(),
            home_ids: Vec::new(),
            home_count,
            spare,
            loads,
        };
        ring.homes = choose_homes(&ring);
        ring.home_ids = ring.homes.iter().map(|&home| ring.members[home as usize].id).collect();
        for index in 0..ring.homes.len() {
            ring.loads[ring.homes[index] as usize].replicas += 1;
        }
        ring
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// The number of replicas wanted. With fewer members there are fewer homes.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// The members, ordered by id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.index(node).map(|index| &self.members[index])
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The owner of a partition's token, its first home. `None` if the ring is empty or there is no such
    /// partition.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> Option<&Member> {
        self.owners.get(partition.0 as usize).map(|&owner| &self.members[owner as usize])
    }

    /// The homes of a partition, its owner first: as many as there are replicas, or members if they are fewer.
    /// None if there is no such partition.
    #[must_use]
    pub fn homes(&self, partition: PartitionId) -> &[NodeId] {
        let begin = (partition.0 as usize).saturating_mul(self.home_count);
        self.home_ids.get(begin..begin.saturating_add(self.home_count)).unwrap_or_default()
    }

    /// The preference list of a partition: its homes, then the fallbacks in the order of the walk; every member
    /// once. Does not allocate. Empty if there is no such partition.
    #[must_use]
    pub fn preference(&self, partition: PartitionId) -> Preference<'_> {
        Preference {
            ring: self,
            homes: self.home_indices(partition.0 as usize),
            partition,
            next: 0,
            walked: 0,
        }
    }

    /// The tokens of a node in order: the partitions it is the first home of.
    pub fn tokens(&self, node: &NodeId) -> impl Iterator<Item = PartitionId> + '_ {
        let index = self.index(node).map(|index| index as u32);
        self.partitions
            .ids()
            .zip(&self.owners)
            .filter(move |(_, owner)| Some(**owner) == index)
            .map(|(id, _)| id)
    }

    /// The number of tokens of a node; 0 if it is not a member.
    #[must_use]
    pub fn token_count(&self, node: &NodeId) -> u32 {
        self.load(node).tokens
    }

    /// What a node carries; nothing if it is not a member.
    #[must_use]
    pub fn load(&self, node: &NodeId) -> Load {
        self.index(node).map_or_else(Load::default, |index| self.loads[index])
    }

    /// The share of the circle a node owns, 0 to 1.
    #[must_use]
    pub fn share(&self, node: &NodeId) -> f64 {
        f64::from(self.token_count(node)) / f64::from(self.partitions.get())
    }

    /// Every member with what it carries, ordered by id.
    pub fn shares(&self) -> impl ExactSizeIterator<Item = (&Member, Load)> {
        self.members.iter().zip(self.loads.iter().copied())
    }

    /// How many homes each partition has.
    pub(crate) fn home_count(&self) -> usize {
        self.home_count
    }

    /// How many tokens there are: none if there are no members.
    pub(crate) fn token_total(&self) -> usize {
        self.owners.len()
    }

    fn index(&self, node: &NodeId) -> Option<usize> {
        self.members.binary_search_by(|member| member.id.cmp(node)).ok()
    }

    fn home_indices(&self, partition: usize) -> &[u32] {
        let begin = partition.saturating_mul(self.home_count);
        self.homes.get(begin..begin.saturating_add(self.home_count)).unwrap_or_default()
    }

    /// The owner of the token `steps` clockwise of `partition`, if that is its first token on this walk.
    pub(crate) fn first_visit(&self, partition: usize, steps: usize) -> Option<u32> {
        let len = self.owners.len();
        let token = if partition + steps < len { partition + steps } else { partition + steps - len };
        (self.gaps[token] as usize > steps).then(|| self.owners[token])
    }

    /// The members without tokens, beginning elsewhere for each partition so that none is always the first.
    pub(crate) fn spare_at(&self, partition: usize, nth: usize) -> Option<u32> {
        let len = self.spare.len();
        (nth < len).then(|| self.spare[(partition + nth) % len])
    }
}

/// The members in the order of a preference list; see [`Ring::preference`].
#[derive(Debug, Clone)]
pub struct Preference<'a> {
    ring: &'a Ring,
    homes: &'a [u32],
    partition: PartitionId,
    /// Members handed out.
    next: usize,
    /// Steps of the walk done, tokens first, then members without.
    walked: usize,
}

impl<'a> Iterator for Preference<'a> {
    type Item = &'a Member;

    fn next(&mut self) -> Option<&'a Member> {
        let ring = self.ring;
        if self.homes.is_empty() || self.next == ring.members.len() {
            return None;
        }
        let partition = self.partition.0 as usize;
        let index = if let Some(&home) = self.homes.get(self.next) {
            home
        } else {
            loop {
                let tokens = ring.owners.len();
                let visited = if self.walked < tokens {
                    ring.first_visit(partition, self.walked)
                } else {
                    Some(ring.spare_at(partition, self.walked - tokens)?)
                };
                self.walked += 1;
                if let Some(node) = visited.filter(|node| !self.homes.contains(node)) {
                    break node;
                }
            }
        };
        self.next += 1;
        Some(&ring.members[index as usize])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = if self.homes.is_empty() { 0 } else { self.ring.members.len() - self.next };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Preference<'_> {}
impl std::iter::FusedIterator for Preference<'_> {}

fn gaps(owners: &[u32], members: usize) -> Vec<u32> {
    let len = owners.len() as u32;
    let mut last: Vec<Option<u32>> = vec![None; members];
    for (token, &owner) in (0..len).zip(owners) {
        last[owner as usize] = Some(token);
    }
    // Now `last` is each one's last token before the beginning of the circle.
    let mut gaps = Vec::with_capacity(owners.len());
    for (token, &owner) in (0..len).zip(owners) {
        let previous = last[owner as usize].replace(token).unwrap_or(token);
        gaps.push(if previous < token { token - previous } else { token + len - previous });
    }
    gaps
}
