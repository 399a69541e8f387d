//! A node as the ring knows it.

use crate::NodeId;

/// A node with its weight and its failure domains.
///
/// # Examples
///
/// ```
/// use dynkv_ring::Member;
///
/// let node = Member::new("node-1".parse()?).with_weight(2).with_zone("eu-a").with_host("rack7-3");
/// assert_eq!(node.validate(), Ok(()));
/// assert!(Member::new("node-1".parse()?).with_weight(0).validate().is_err());
/// # Ok::<(), dynkv_ring::InvalidNodeId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Member {
    /// The node's name, unique for ever: a name that went never comes back.
    pub id: NodeId,
    /// Its share of tokens relative to the other members, 1 to 100.
    pub weight: u32,
    /// What fails together beyond a machine (a data centre, a power feed): at most 64 bytes. All members
    /// without a zone share the zone `default`.
    pub zone: String,
    /// The machine: at most 64 bytes. A member without a host is a machine of its own.
    pub host: String,
}

impl Member {
    /// The greatest weight.
    pub const MAX_WEIGHT: u32 = 100;
    /// The longest name of a zone or a host, in bytes.
    pub const MAX_DOMAIN_LEN: usize = 64;
    /// The zone of members that name none.
    pub const DEFAULT_ZONE: &'static str = "default";

    /// A member of weight 1 in the default zone, on a host of its own.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self { id, weight: 1, zone: String::new(), host: String::new() }
    }

    /// The same member with another weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same member in another zone.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// The same member on another host.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The zone, `default` if none is named.
    #[must_use]
    pub fn zone_name(&self) -> &str {
        if self.zone.is_empty() { Self::DEFAULT_ZONE } else { &self.zone }
    }

    /// Whether both run on one machine.
    #[must_use]
    pub fn shares_host_with(&self, other: &Self) -> bool {
        self.id == other.id || (!self.host.is_empty() && self.host == other.host)
    }

    /// Checks weight and lengths.
    ///
    /// # Errors
    ///
    /// If the weight is not 1 to 100 or a domain's name is longer than 64 bytes.
    pub fn validate(&self) -> Result<(), InvalidMember> {
        check_weight(self.id, self.weight)?;
        check_domains(self.id, &self.zone, &self.host)
    }
}

pub(crate) fn check_weight(node: NodeId, weight: u32) -> Result<(), InvalidMember> {
    if (1..=Member::MAX_WEIGHT).contains(&weight) {
        Ok(())
    } else {
        Err(InvalidMember::Weight { node, weight })
    }
}

pub(crate) fn check_domains(node: NodeId, zone: &str, host: &str) -> Result<(), InvalidMember> {
    if zone.len() > Member::MAX_DOMAIN_LEN {
        return Err(InvalidMember::Zone { node, len: zone.len() });
    }
    if host.len() > Member::MAX_DOMAIN_LEN {
        return Err(InvalidMember::Host { node, len: host.len() });
    }
    Ok(())
}

/// Why a [`Member`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMember {
    /// The weight is out of range.
    #[error("node {node} has weight {weight}; use 1 to 100")]
    Weight {
        /// The node.
        node: NodeId,
        /// The weight.
        weight: u32,
    },
    /// The zone's name is too long.
    #[error("node {node} has a zone name of {len} bytes; use at most 64")]
    Zone {
        /// The node.
        node: NodeId,
        /// The name's length in bytes.
        len: usize,
    },
    /// The host's name is too long.
    #[error("node {node} has a host name of {len} bytes; use at most 64")]
    Host {
        /// The node.
        node: NodeId,
        /// The name's length in bytes.
        len: usize,
    },
}
