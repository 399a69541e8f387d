//! What a gossiping node goes by, and what it counts.

use std::time::Duration;

use crate::DetectorConfig;

/// How a [`Gossip`](crate::Gossip) behaves. Nodes need not agree about it, except about limits: a node with
/// lower ones never has what the others have.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use dynkv_gossip::Config;
///
/// let mut config = Config::default();
/// config.interval = Duration::from_millis(500);
/// config.detector.threshold = 10.0;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The time between rounds, give or take a tenth, so that nodes do not fall into step. Default: 1 s.
    pub interval: Duration,
    /// One round in so many, on average, has a second exchange, with a seed or with a suspected node, so that
    /// islands find each other. 0 counts as 1. Default: 10.
    pub seed_every: u32,
    /// The greatest number of nodes whose states are kept. Default: 10,000.
    pub nodes_max: usize,
    /// The greatest length of a node's state, in bytes; at most
    /// [`NodeState::BYTES_MAX`](crate::NodeState::BYTES_MAX). Default: 4 KiB.
    pub state_bytes_max: usize,
    /// The greatest number of bytes of states in a message. Default: 64 KiB.
    pub message_bytes_max: usize,
    /// The greatest number of heartbeats in a message, at most
    /// [`Message::HEARTBEATS_MAX`](crate::Message::HEARTBEATS_MAX). The two messages of an idle exchange have twice
    /// as many, which is what an idle node sends: below 1 KiB a second with ids of up to 24 characters; with longer
    /// ones, take less. Default: 16.
    pub heartbeats_max: usize,
    /// The greatest number of messages in an exchange, opening included; what is missing still is left to the
    /// next one. Less than 16 counts as 16, for that many may be needed to find one difference. Default: 64.
    pub steps_max: u16,
    /// For the failure detectors.
    pub detector: DetectorConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            seed_every: 10,
            nodes_max: 10_000,
            state_bytes_max: 4 * 1024,
            message_bytes_max: 64 * 1024,
            heartbeats_max: 16,
            steps_max: 64,
            detector: DetectorConfig::default(),
        }
    }
}

/// What a [`Gossip`](crate::Gossip) has done and refused since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Rounds begun.
    pub rounds: u64,
    /// Messages to be sent that were returned.
    pub messages_sent: u64,
    /// Messages taken in.
    pub messages_received: u64,
    /// Messages ignored, because they are from removed nodes.
    pub messages_ignored: u64,
    /// States refused: too long, of removed nodes, or more nodes than [`Config::nodes_max`].
    pub states_refused: u64,
    /// Heartbeats ignored: of nodes that are not known, or too many in a message.
    pub heartbeats_ignored: u64,
}
