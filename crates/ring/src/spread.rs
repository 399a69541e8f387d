//! How many different nodes, zones and hosts keep a partition.

use std::collections::BTreeSet;

use crate::{Member, NodeId, PartitionId, Ring};

/// Distinct nodes, zones and hosts among the homes of a partition; of a ring, the least that any partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Spread {
    /// Different nodes.
    pub nodes: usize,
    /// Different zones.
    pub zones: usize,
    /// Different hosts.
    pub hosts: usize,
}

impl Spread {
    fn of<'a>(members: impl Iterator<Item = &'a Member>) -> Self {
        let (mut nodes, mut zones, mut hosts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for member in members {
            nodes.insert(member.id);
            zones.insert(member.zone_name());
            // A member without a host is a machine of its own.
            hosts.insert((member.host.as_str(), member.host.is_empty().then_some(member.id)));
        }
        Self { nodes: nodes.len(), zones: zones.len(), hosts: hosts.len() }
    }

    fn least(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.min(other.nodes),
            zones: self.zones.min(other.zones),
            hosts: self.hosts.min(other.hosts),
        }
    }
}

impl Ring {
    /// The distinct nodes, zones and hosts that keep a partition; none if there is no such partition.
    ///
    /// # Examples
    ///
    /// ```
    /// use dynkv_ring::strategy::EqualTokens;
    /// use dynkv_ring::{Member, PartitionCount, PartitionId};
    ///
    /// let members = [("a", "x"), ("b", "x"), ("c", "y")];
    /// let members = members.map(|(id, zone)| Member::new(id.parse().unwrap()).with_zone(zone));
    /// let ring = EqualTokens::found(PartitionCount::new(8)?, 3, members)?.ring();
    /// let spread = ring.spread_of(PartitionId(5));
    /// assert_eq!((spread.nodes, spread.zones, spread.hosts), (3, 2, 3));
    /// assert_eq!(ring.spread(), spread);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn spread_of(&self, partition: PartitionId) -> Spread {
        Spread::of(self.homes(partition).iter().filter_map(|home: &NodeId| self.member(home)))
    }

    /// The least number of distinct nodes, zones and hosts that any partition has.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let each = self.partitions().ids().map(|partition| self.spread_of(partition));
        each.reduce(Spread::least).unwrap_or_default()
    }

    /// The distinct nodes, zones and hosts of all members.
    #[must_use]
    pub fn extent(&self) -> Spread {
        Spread::of(self.members().iter())
    }
}
