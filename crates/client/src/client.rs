//! The client itself: connecting, and the beginnings of all requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::Endpoint;
use dynkv_proto::{Feature, NodeInfo};
use dynkv_ring::{Change, Founding, NodeId, Plan};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::inner::Inner;
use crate::pool::Pool;
use crate::{
    Apply, ClusterFile, ClusterView, ConnectError, Delete, Diff, DrainHints, Error, Get, Held, Hints,
    LimitTransfers, List, Metrics, Options, Propose, Put, Repair, RepairStatus, SeedFailure, Status,
    StopRepair, StopVerify, Transfers, Trees, Verify, VerifyStatus,
};

/// A connection to a cluster. Cloning is cheap and shares everything.
///
/// The client sends each request to a node that keeps the key, prefers the one that answers fastest, and goes on to
/// another where that is safe. It learns of joining and leaving nodes by itself.
///
/// It belongs to the tokio runtime in which it was made, which keeps its connections; requests may be made from any. On a
/// current-thread runtime a request costs about half the CPU.
///
/// See [the crate page](crate) for an example.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Connects to the cluster that `file` describes: returns when one of its seeds has answered. The cluster need not be
    /// founded yet; reads and writes are refused with [`NotServing`](dynkv_proto::FailureCode::NotServing) until it is.
    ///
    /// # Errors
    /// [`ConnectError`] says for each seed why it did not answer, or what is wrong with the file.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn connect(file: &ClusterFile) -> Result<Client, ConnectError> {
        Client::with_options(file, Options::default()).await
    }

    /// [`connect`](Client::connect) with other options.
    ///
    /// # Errors
    /// As [`connect`](Client::connect).
    ///
    /// # Panics
    /// As [`connect`](Client::connect).
    pub async fn with_options(file: &ClusterFile, options: Options) -> Result<Client, ConnectError> {
        let identity = file.identity()?;
        let endpoint = Endpoint::client(identity, options.net.clone())?;
        Client::with_endpoint(endpoint, file.seeds.clone(), options).await
    }

    /// Connects through an endpoint of the caller's, for example over a simulated network. The endpoint's identity names
    /// the cluster; [`Options::net`] is not used.
    ///
    /// # Errors
    /// [`ConnectError::NoSeeds`] or [`ConnectError::Unreachable`].
    ///
    /// # Panics
    /// As [`connect`](Client::connect).
    pub async fn with_endpoint(
        endpoint: Endpoint,
        seeds: Vec<String>,
        options: Options,
    ) -> Result<Client, ConnectError> {
        let cluster = endpoint.identity().name().cluster().to_owned();
        if seeds.is_empty() {
            return Err(ConnectError::NoSeeds { cluster });
        }
        let limit = options.timeout;
        let pool = Pool::new(endpoint, Handle::current());
        let inner = Inner::new(pool, cluster, seeds, options);
        // All at once: a dead seed must not hold up the others.
        let mut asked = JoinSet::new();
        for (index, seed) in inner.seeds.iter().cloned().enumerate() {
            let inner = inner.clone();
            asked.spawn(async move { (index, inner.ask_seed(&seed, limit).await) });
        }
        let mut reasons = vec![String::from("it was not asked"); inner.seeds.len()];
        while let Some(joined) = asked.join_next().await {
            match joined {
                Ok((_, Ok(()))) => {
                    inner.start_refreshing();
                    return Ok(Client { inner });
                }
                Ok((index, Err(reason))) => reasons[index] = reason,
                // A task neither panics nor is it aborted before the set is dropped.
                Err(error) => tracing::error!(%error, "asking a seed failed"),
            }
        }
        let seeds = inner.seeds.iter().zip(reasons);
        let seeds = seeds.map(|(seed, reason)| SeedFailure { seed: seed.clone(), reason }).collect();
        Err(ConnectError::Unreachable { cluster: inner.cluster.clone(), seeds })
    }

    /// Reads a key.
    pub fn get(&self, bucket: impl Into<String>, key: impl Into<Bytes>) -> Get {
        Get::new(self.inner.clone(), bucket.into(), key.into())
    }

    /// Writes a value. Without a [context](Put::context) it stands beside what is there, as a sibling.
    pub fn put(&self, bucket: impl Into<String>, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        Put::new(self.inner.clone(), bucket.into(), key.into(), value.into())
    }

    /// Deletes what a [context](Delete::context) covers. Without one it deletes nothing that is there: the tombstone stands
    /// beside it.
    pub fn delete(&self, bucket: impl Into<String>, key: impl Into<Bytes>) -> Delete {
        Delete::new(self.inner.clone(), bucket.into(), key.into())
    }

    /// Lists the keys of a bucket, page by page.
    pub fn list(&self, bucket: impl Into<String>) -> List {
        List::new(self.inner.clone(), bucket.into())
    }

    /// The cluster as this client knows it, without asking anybody.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.view()
    }

    /// Asks a node for its view, and returns ours with what is new in it.
    ///
    /// # Errors
    /// [`Error`] when no node answers.
    pub async fn refresh(&self) -> Result<Arc<ClusterView>, Error> {
        self.inner.refresh(None, Instant::now() + self.inner.options.timeout).await?;
        Ok(self.view())
    }

    /// Asks a node how it is.
    pub fn status(&self, node: NodeId) -> Status {
        Status::of(self.inner.clone(), node)
    }

    /// Asks whichever node is at `address` (`host:port`) how it is: for nodes that no view knows yet.
    pub fn status_at(&self, address: impl Into<String>) -> Status {
        Status::at(self.inner.clone(), address.into())
    }

    /// Asks a node for its metrics, as OpenMetrics text.
    pub fn metrics(&self, node: NodeId) -> Metrics {
        Metrics::of(self.inner.clone(), node)
    }

    /// Asks a node for the hints that it keeps: what it owes to homes that were out of reach.
    pub fn hints(&self, node: NodeId) -> Hints {
        Hints::of(self.inner.clone(), node)
    }

    /// Has a node deliver its hints now, with a new attempt to connect where none had succeeded. Nodes do so by themselves
    /// once a target is back. Takes an administrator's certificate.
    pub fn drain_hints(&self, node: NodeId) -> DrainHints {
        DrainHints::of(self.inner.clone(), node)
    }

    /// Asks a node for its Merkle trees: one for each partition that it is a home of.
    pub fn trees(&self, node: NodeId) -> Trees {
        Trees::of(self.inner.clone(), node)
    }

    /// Has `node` compare itself with `peer`, and say where they differ. Nothing is changed.
    pub fn diff(&self, node: NodeId, peer: NodeId) -> Diff {
        Diff::of(self.inner.clone(), node, peer)
    }

    /// Asks one node what it holds of a key, in its record and in hints. No other node is asked, and nothing is repaired.
    pub fn held(&self, node: NodeId, bucket: impl Into<String>, key: impl Into<Bytes>) -> Held {
        Held::of(self.inner.clone(), node, bucket.into(), key.into())
    }

    /// Has a node compare itself with the other homes of its partitions now, and mend what differs. Nodes do so by themselves all
    /// the time. Takes an administrator's certificate.
    pub fn repair(&self, node: NodeId) -> Repair {
        Repair::of(self.inner.clone(), node)
    }

    /// Asks how a node's repair stands: the one under way, or the latest since its start.
    pub fn repair_status(&self, node: NodeId) -> RepairStatus {
        RepairStatus::of(self.inner.clone(), node)
    }

    /// Ends a node's repair. Takes an administrator's certificate.
    pub fn stop_repair(&self, node: NodeId) -> StopRepair {
        StopRepair::of(self.inner.clone(), node)
    }

    /// Has a node read and verify all that it stores. Nodes do so slowly by themselves. Takes an administrator's certificate.
    pub fn verify(&self, node: NodeId) -> Verify {
        Verify::of(self.inner.clone(), node)
    }

    /// Asks how a node's verification stands: the one under way, or the latest since its start.
    pub fn verify_status(&self, node: NodeId) -> VerifyStatus {
        VerifyStatus::of(self.inner.clone(), node)
    }

    /// Ends a node's verification. Takes an administrator's certificate.
    pub fn stop_verify(&self, node: NodeId) -> StopVerify {
        StopVerify::of(self.inner.clone(), node)
    }

    /// Asks a node which partitions it receives and gives up, and how that goes.
    pub fn transfers(&self, node: NodeId) -> Transfers {
        Transfers::of(self.inner.clone(), node)
    }

    /// Limits the bytes that a node receives in a second when data moves, until it is restarted; `None`: no limit. Takes an administrator's
    /// certificate.
    pub fn limit_transfers(&self, node: NodeId, bytes: Option<u64>) -> LimitTransfers {
        LimitTransfers::of(self.inner.clone(), node, bytes)
    }

    /// Founds the cluster, with these features of the protocol switched on: such as all members know, since one that lacks a feature does not serve. `nodes` says
    /// where the members are. Goes to a founding member ([`Propose::at`]). Takes an administrator's certificate.
    pub fn found(
        &self,
        founding: Founding,
        features: impl IntoIterator<Item = Feature>,
        nodes: Vec<NodeInfo>,
    ) -> Propose {
        let more = features.into_iter().map(Feature::to_change).collect();
        Propose::new(self.inner.clone(), Change::Found(founding), nodes).with(more)
    }

    /// Switches on a feature of the protocol, for ever. Refused unless every member has announced that it knows it, also those that are down. Takes an
    /// administrator's certificate.
    pub fn enable(&self, feature: Feature) -> Propose {
        self.propose(feature.to_change(), Vec::new())
    }

    /// Proposes a change of the membership history: a founding, which says with `nodes` where the members are, or properties
    /// of a bucket ([`BucketChange::to_change`](dynkv_proto::BucketChange::to_change)), for which `nodes` is empty. Takes an
    /// administrator's certificate.
    pub fn propose(&self, change: Change, nodes: Vec<NodeInfo>) -> Propose {
        Propose::new(self.inner.clone(), change, nodes)
    }

    /// Makes the changes of a plan, if the history is still the one it was made of; `nodes` says where those that join are. Takes
    /// an administrator's certificate.
    pub fn apply(&self, plan: &Plan, nodes: Vec<NodeInfo>) -> Apply {
        Apply::new(self.inner.clone(), plan, nodes)
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Closes all connections and tells the nodes, for this client and its clones. Requests under way fail. A client that is
    /// merely dropped lets the nodes find out by themselves.
    pub async fn close(&self) {
        self.inner.pool.endpoint().close().await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { cluster, seeds, .. } = &*self.inner;
        f.debug_struct("Client").field("cluster", cluster).field("seeds", seeds).finish_non_exhaustive()
    }
}

/// When a request that was told `timeout` must be answered.
pub(crate) fn deadline(inner: &Inner, timeout: Option<Duration>) -> Instant {
    let now = Instant::now();
    let timeout = timeout.unwrap_or(inner.options.timeout);
    // A day stands for "for ever", which an Instant cannot express.
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(24 * 60 * 60))
}
