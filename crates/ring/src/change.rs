//! What an operator can change, and the history's entries.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::member::{check_domains, check_weight};
use crate::{DecodeError, InvalidMember, Member, NodeId, PartitionCount, codec};

/// How a cluster begins: the choices that never change, and the first members.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Founding {
    /// The cluster's name, 1 to 64 bytes.
    pub cluster: String,
    /// The number of partitions, fixed for ever.
    pub partitions: PartitionCount,
    /// The number of replicas of each partition, 1 to 16 (the paper's N).
    pub replicas: u8,
    /// The first members, 1 to 4,096, each id once.
    pub members: Vec<Member>,
}

impl Founding {
    /// The longest name of a cluster, in bytes.
    pub const MAX_CLUSTER_LEN: usize = 64;
    /// The greatest number of replicas.
    pub const MAX_REPLICAS: u8 = 16;
    /// The greatest number of founding members; more can join later.
    pub const MAX_MEMBERS: usize = 4096;
}

/// One change of the membership. What it does, and when it has no effect, is told by
/// [`Membership::fold`](crate::Membership::fold).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Change {
    /// The cluster is founded. Only the first founding counts.
    Found(Founding),
    /// A new node takes its share of the tokens.
    Join(Member),
    /// A node gives up its tokens and is drained; it stays a member until it has [`Left`](Self::Left).
    Leave(NodeId),
    /// A leaving node holds nothing any more and is gone.
    Left(NodeId),
    /// A dead node is removed: it is gone at once.
    Remove(NodeId),
    /// A new node takes exactly the tokens of another one, which is gone.
    Replace {
        /// The node that goes.
        old: NodeId,
        /// The node that comes.
        new: Member,
    },
    /// A node gets another weight.
    Weight {
        /// The node.
        node: NodeId,
        /// Its new weight, 1 to 100.
        weight: u32,
    },
    /// A node is, or is known to be, somewhere else. Moves no token.
    Place {
        /// The node.
        node: NodeId,
        /// Its zone.
        zone: String,
        /// Its host.
        host: String,
    },
    /// The disk a node now stores on.
    Disk {
        /// The node.
        node: NodeId,
        /// The disk's id.
        disk: u64,
    },
    /// What the ring keeps in order and does not interpret: changes of the application, and changes that only
    /// a newer version of this crate understands.
    Other {
        /// What it is. Applications use [`Change::FIRST_OTHER_KIND`] and above; the kinds below are this
        /// crate's.
        kind: u16,
        /// Opaque bytes, at most [`Change::MAX_OTHER_LEN`].
        payload: Vec<u8>,
    },
}

impl Change {
    /// The first kind of [`Change::Other`] that is free for applications. The kinds below belong to this crate
    /// and its later versions.
    pub const FIRST_OTHER_KIND: u16 = 256;
    /// The longest payload of a [`Change::Other`], in bytes.
    pub const MAX_OTHER_LEN: usize = 64 * 1024;

    /// The node the change is about, if it is about one (of a replacement, the one that goes).
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Found(_) | Self::Other { .. } => None,
            Self::Join(member) => Some(member.id),
            Self::Leave(node) | Self::Left(node) | Self::Remove(node) => Some(*node),
            Self::Replace { old, .. } => Some(*old),
            Self::Weight { node, .. } | Self::Place { node, .. } | Self::Disk { node, .. } => Some(*node),
        }
    }

    /// Checks every limit.
    ///
    /// # Errors
    ///
    /// If a number, a length or a kind is out of its range, or a founding names a node twice.
    pub fn validate(&self) -> Result<(), InvalidChange> {
        match self {
            Self::Found(founding) => validate_founding(founding),
            Self::Join(member) | Self::Replace { new: member, .. } => Ok(member.validate()?),
            Self::Leave(_) | Self::Left(_) | Self::Remove(_) | Self::Disk { .. } => Ok(()),
            Self::Weight { node, weight } => Ok(check_weight(*node, *weight)?),
            Self::Place { node, zone, host } => Ok(check_domains(*node, zone, host)?),
            Self::Other { kind, .. } if *kind < Self::FIRST_OTHER_KIND => {
                Err(InvalidChange::ReservedKind { kind: *kind })
            }
            Self::Other { payload, .. } if payload.len() > Self::MAX_OTHER_LEN => {
                Err(InvalidChange::Payload { len: payload.len() })
            }
            Self::Other { .. } => Ok(()),
        }
    }
}

fn validate_founding(founding: &Founding) -> Result<(), InvalidChange> {
    let Founding { cluster, partitions: _, replicas, members } = founding;
    if cluster.is_empty() || cluster.len() > Founding::MAX_CLUSTER_LEN {
        return Err(InvalidChange::Cluster { len: cluster.len() });
    }
    if !(1..=Founding::MAX_REPLICAS).contains(replicas) {
        return Err(InvalidChange::Replicas { replicas: *replicas });
    }
    if members.is_empty() || members.len() > Founding::MAX_MEMBERS {
        return Err(InvalidChange::Members { count: members.len() });
    }
    let mut seen = BTreeSet::new();
    for member in members {
        member.validate()?;
        if !seen.insert(member.id) {
            return Err(InvalidChange::DuplicateMember { node: member.id });
        }
    }
    Ok(())
}

/// Why a [`Change`] cannot enter a history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidChange {
    /// A member is invalid.
    #[error(transparent)]
    Member(#[from] InvalidMember),
    /// The cluster's name is empty or too long.
    #[error("a cluster name of {len} bytes is not possible; use 1 to 64")]
    Cluster {
        /// The name's length in bytes.
        len: usize,
    },
    /// The number of replicas is out of range.
    #[error("{replicas} replicas are not possible; use 1 to 16")]
    Replicas {
        /// The number.
        replicas: u8,
    },
    /// A founding has no members, or too many.
    #[error("a cluster cannot be founded with {count} members; use 1 to 4096 and let others join later")]
    Members {
        /// Their number.
        count: usize,
    },
    /// A founding names a node twice.
    #[error("node {node} is listed twice among the founding members; list each node once")]
    DuplicateMember {
        /// The node.
        node: NodeId,
    },
    /// The kind of a [`Change::Other`] belongs to this crate.
    #[error("kind {kind} is reserved for the ring; use 256 or above")]
    ReservedKind {
        /// The kind.
        kind: u16,
    },
    /// The payload of a [`Change::Other`] is too long.
    #[error("a payload of {len} bytes is too long; use at most 65536")]
    Payload {
        /// Its length in bytes.
        len: usize,
    },
}

/// A change with the time it was made and the node that recorded it: the element of a
/// [`History`](crate::History).
///
/// Entries are ordered by time, then issuer, then the bytes of the change, so two different entries are never
/// equal in order. The time is opaque here. What matters is that it is *causal*: whoever has seen an entry
/// gives a later time to the next one (a hybrid logical clock above
/// [`History::latest_time`](crate::History::latest_time) does).
///
/// # Examples
///
/// ```
/// use dynkv_ring::{Change, Entry, Member};
///
/// let issuer = "node-1".parse()?;
/// let entry = Entry::new(7, issuer, Change::Join(Member::new("node-2".parse()?)))?;
/// assert_eq!(Entry::from_bytes(&entry.to_bytes())?, entry);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "UncheckedEntry")
)]
pub struct Entry {
    time: u64,
    issuer: NodeId,
    change: Change,
}

impl Entry {
    /// Checks the change and stamps it.
    ///
    /// # Errors
    ///
    /// What [`Change::validate`] says.
    pub fn new(time: u64, issuer: NodeId, change: Change) -> Result<Self, InvalidChange> {
        change.validate()?;
        Ok(Self { time, issuer, change })
    }

    /// For the decoder, which checks by itself and admits kinds of newer versions.
    pub(crate) fn decoded(time: u64, issuer: NodeId, change: Change) -> Self {
        Self { time, issuer, change }
    }

    /// The causal time.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The node that recorded the change.
    #[must_use]
    pub fn issuer(&self) -> NodeId {
        self.issuer
    }

    /// The change.
    #[must_use]
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// The canonical bytes; the layout is drawn in the documentation of [`History`](crate::History).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::entry_to_bytes(self)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// If the bytes are not exactly one canonical entry within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::entry_from_bytes(bytes)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.issuer).cmp(&(other.time, other.issuer)).then_with(|| {
            if self.change == other.change {
                return Ordering::Equal;
            }
            codec::change_to_bytes(&self.change).cmp(&codec::change_to_bytes(&other.change))
        })
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct UncheckedEntry {
    time: u64,
    issuer: NodeId,
    change: Change,
}

#[cfg(feature = "serde")]
impl TryFrom<UncheckedEntry> for Entry {
    type Error = InvalidChange;

    fn try_from(entry: UncheckedEntry) -> Result<Self, InvalidChange> {
        let UncheckedEntry { time, issuer, change } = entry;
        // A newer version's change is kept, as the canonical bytes keep it.
        if !codec::is_foreign(&change) {
            change.validate()?;
        }
        Ok(Self::decoded(time, issuer, change))
    }
}
