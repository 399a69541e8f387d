//! What all parts of a running node share.

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::{
    background::Background,
    chain::{Chain, Learned, Transfers},
    cluster::Cluster,
    data_dir::DataDir,
    entropy::Entropy,
    env::Env,
    gossip::Gossiper,
    metrics::Metrics,
    peers::Peers,
    replica::Replica,
    settle::Paused,
};

/// Client requests coordinated or forwarded at once; more are refused, before their deadline has run.
pub(crate) const REQUESTS_MAX: usize = 4096;

/// A node's parts. Each guards itself; none is locked across another.
pub(crate) struct Shared {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) learned: Learned,
    pub(crate) transfers: Transfers,
    pub(crate) gossip: Arc<Gossiper>,
    pub(crate) peers: Peers,
    pub(crate) replica: Arc<Replica>,
    pub(crate) background: Background,
    pub(crate) entropy: Entropy,
    pub(crate) settling_paused: Paused,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) env: Arc<Env>,
    /// One permit per client request under way.
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) started: tokio::time::Instant,
    /// Last, so that the lock is released after the store is closed. Taken out when the node stops in order.
    pub(crate) data_dir: Mutex<Option<DataDir>>,
}
