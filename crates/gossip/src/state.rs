//! What a node says about itself.

use std::cmp::Ordering;
use std::fmt;

use crate::Versioned;

/// One run of a node: from a start of its process to the end.
///
/// The boot counter is to be stored durably, one higher, before the node takes part; so the later run is the greater
/// one. The nonce is a random number, drawn at each start: it tells two processes apart that come from copies of one
/// disk and count alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "(u64, u64)", into = "(u64, u64)")
)]
pub struct Incarnation {
    /// How many times the node has been started.
    pub boot: u64,
    /// A random number of this run.
    pub nonce: u64,
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

/// Which state of a node it is.
///
/// Ordered by incarnation; within one by both other parts, so of two stamps neither may be the greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The run that said so.
    pub incarnation: Incarnation,
    /// Counted by that run, from 1.
    pub version: u64,
    /// The greatest other run of the same id that found itself alive beside this one, see
    /// [`Effect::Conflict`](crate::Effect::Conflict).
    pub contested_by: Option<Incarnation>,
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let by_incarnation = self.incarnation.cmp(&other.incarnation);
        if by_incarnation.is_ne() {
            return Some(by_incarnation);
        }
        let by_version = self.version.cmp(&other.version);
        let by_contest = self.contested_by.cmp(&other.contested_by);
        match (by_version, by_contest) {
            (order, Ordering::Equal) | (Ordering::Equal, order) => Some(order),
            (one, two) => (one == two).then_some(one),
        }
    }
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
        match self.stamp.incarnation.cmp(&other.stamp.incarnation) {
            Ordering::Greater => {}
            Ordering::Less => *self = other,
            Ordering::Equal => {
                let contested_by = self.stamp.contested_by.max(other.stamp.contested_by);
                if other.stamp.version > self.stamp.version {
                    *self = other;
                }
                self.stamp.contested_by = contested_by;
            }
        }
    }

    fn size_bytes(&self) -> usize {
        size_of::<Stamp>() + self.bytes.len()
    }
}
