//! What a node says about itself.

use std::fmt;

use crate::Versioned;

/// One run of a node: from a start of its process to the end.
///
/// The boot counter is to be stored, one higher, before the node takes part; so the later run is the greater one. A run
/// whose counter was lost with its disk finds itself below an earlier one, and [outbids](crate::Gossip::outbid) it. The
/// nonce is a random number, drawn at each start, and stays with the run: it tells two processes apart that come from
/// copies of one disk and count alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "(u64, u64)", into = "(u64, u64)")
)]
pub struct Incarnation {
    /// How many times the node has been started, or a greater number.
    pub boot: u64,
    /// A random number of this run; not 0.
    pub nonce: u64,
}

impl Incarnation {
    /// Whether no run says so itself, but others say it of the node: see [`Gossip::introduce`](crate::Gossip::introduce).
    #[must_use]
    pub fn is_hearsay(self) -> bool {
        self.nonce == 0
    }
}

impl From<(u64, u64)> for Incarnation {
    fn from((boot, nonce): (u64, u64)) -> Self {
        Self { boot, nonce }
    }
}

impl From<Incarnation> for (u64, u64) {
    fn from(of: Incarnation) -> Self {
        (of.boot, of.nonce)
    }
}

/// `boot/nonce`, the nonce in hexadecimal.
impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.boot, self.nonce)
    }
}

/// Which state of a node it is: the greatest one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The run that said so.
    pub incarnation: Incarnation,
    /// Counted by that run, from 1.
    pub version: u64,
    /// Another run of the same id, that was heard of by this one and is to stop: see
    /// [`Effect::Conflict`](crate::Effect::Conflict).
    pub rejects: Option<Incarnation>,
}

/// What a node says about itself: addresses, load, whatever the caller encodes, and which state it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeState {
    /// Which state it is.
    pub stamp: Stamp,
    /// What the node said.
    pub bytes: Vec<u8>,
}

impl NodeState {
    /// The longest state that any message can have, in bytes: 64 KiB.
    pub const BYTES_MAX: usize = 64 * 1024;
}

impl Versioned for NodeState {
    type Version = Stamp;

    fn version(&self) -> Stamp {
        self.stamp
    }

    fn merge(&mut self, other: Self) {
        if other.stamp > self.stamp {
            *self = other;
        }
    }

    fn size_bytes(&self) -> usize {
        size_of::<Stamp>() + self.bytes.len()
    }
}
