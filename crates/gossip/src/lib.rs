//! Gossip
mod config;
mod detector;
mod digest;
mod gossip;
mod map;
mod message;
mod payload;
mod peers;
mod reconcile;
#[cfg(feature = "serde")]
mod serde_impls;
mod set;
mod state;
mod versioned;

pub use config::{Config, Counters};
pub use detector::{DetectorConfig, PhiAccrual};
pub use digest::Digest;
pub use gossip::{Gossip, SetStateError};
pub use map::{Limits, MapFull, VersionedMap};
pub use message::{Effect, Heartbeat, Message};
pub use payload::{Payload, Reply};
pub use reconcile::{Branch, Leaf, MapMessage, Prefix};
pub use set::{GrowSet, Only};
pub use state::{Incarnation, NodeState, Stamp};
pub use versioned::{Element, Latest, Versioned};
