//! Members, sets of them, and configurations.

use std::fmt;

/// Most nodes of a world.
pub(super) const NODES_MAX: u8 = 8;

/// A node with a disk. Another disk makes another member of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(u8);

impl Member {
    /// The member that `node` is with its `disk`; disks are counted from 0.
    pub fn new(node: u8, disk: u8) -> Self {
        assert!(node < NODES_MAX && disk < 4, "a set of members has 32 places");
        Self(disk * NODES_MAX + node)
    }

    /// The node.
    pub fn node(self) -> u8 {
        self.0 % NODES_MAX
    }

    /// Its disk.
    pub fn disk(self) -> u8 {
        self.0 / NODES_MAX
    }
}

impl fmt::Display for Member {
    /// `n2`, with another disk than the first `n2'`.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "n{}{}", self.node(), "'".repeat(self.disk().into()))
    }
}

/// A set of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Members(u32);

impl Members {
    /// How many.
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `member` is one of them.
    pub fn contains(self, member: Member) -> bool {
        self.0 >> member.0 & 1 == 1
    }

    /// Adds a member.
    pub fn insert(&mut self, member: Member) {
        self.0 |= 1 << member.0;
    }

    /// Those who are not in `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Those who are in `others`, too.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Both.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = Member> {
        (0..32).filter(move |bit| self.0 >> bit & 1 == 1).map(Member)
    }
}

impl FromIterator<Member> for Members {
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Self {
        let mut set = Self::default();
        members.into_iter().for_each(|member| set.insert(member));
        set
    }
}

impl fmt::Display for Members {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|member| member.to_string()).collect();
        write!(to, "{{{}}}", names.join(" "))
    }
}

/// Who serves the partition in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Config {
    /// Counted from 0, the founding.
    pub epoch: u8,
    /// The members.
    pub members: Members,
}

impl Config {
    /// The least number that is more than half of the members.
    pub fn majority(self) -> u8 {
        self.members.len() / 2 + 1
    }
}

impl fmt::Display for Config {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "epoch {} {}", self.epoch, self.members)
    }
}
