//! Starting, founding and stopping a node.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dynkv_net::{BindError, Endpoint, Identity, Options};
use dynkv_proto::{Failure, Feature, FeatureSet, NodeInfo};
use dynkv_ring::{Change, Founding, History, Member, Membership, NodeId, PartitionId};
use thiserror::Error;
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    background::{self, Background},
    chain::{self, Learned, Transfers},
    cluster::{self, Cluster, LoadError, NotServing},
    data_dir::{DataDir, DataDirError},
    entropy::{self, CompareError, Entropy, KeyDifference},
    env::Env,
    gossip::{self, Gossiper},
    hints::{self, Hints},
    join::{self, JoinError},
    metrics::Metrics,
    news::Listener,
    peers::Peers,
    propose,
    replica::Replica,
    server::{self, Server},
    settle::{self, Paused, admission, marks::MarksBook},
    shared::{REQUESTS_MAX, Shared},
    storage::{FjallOptions, FjallStorage, Storage, StorageError, write_durably},
    trees::{self, Trees},
};

/// How long a stopping node waits for requests under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Bytes of hints that a node keeps at most unless it is told otherwise.
pub const HINT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it keeps its data; made when it is not there.
    pub data_dir: PathBuf,
    /// Where it listens (UDP); port 0 takes any free one.
    pub listen: SocketAddr,
    /// `host:port` under which others reach it; the address it listens on when absent.
    pub advertise: Option<String>,
    /// `host:port` of some other nodes of the cluster.
    pub seeds: Vec<String>,
    /// Its certificate, which names the cluster and the node.
    pub identity: Identity,
    /// Memory for cached blocks of the store, in bytes.
    pub cache_bytes: u64,
    /// Bytes of hints it keeps for other nodes at most; beyond that others are asked to keep them.
    pub hint_bytes_max: u64,
    /// Features of the protocol that it owns up to. Fewer than it knows are for tests and rehearsals of upgrades: to the others it is a node of a
    /// version that lacks the rest.
    pub features: FeatureSet,
}

impl NodeConfig {
    /// A configuration with the defaults for everything that has one.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr, identity: Identity) -> NodeConfig {
        NodeConfig {
            data_dir: data_dir.into(),
            listen,
            advertise: None,
            seeds: Vec::new(),
            identity,
            cache_bytes: FjallOptions::default().cache_bytes,
            hint_bytes_max: HINT_BYTES_MAX,
            features: FeatureSet::known(),
        }
    }
}

/// Why a node does not start. Nothing of its data was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The certificate is a client's.
    #[error("the certificate is of {name}, which is no node: issue one with `dyn cert node`")]
    NotANode {
        /// Whose it is.
        name: String,
    },
    /// It would tell others an address that means "any".
    #[error(
        "listening on {listen} does not say where others reach this node: name the address with --advertise HOST:PORT"
    )]
    NoAddress {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// The data directory is not this node's to use.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store does not open.
    #[error(
        "the store in {path} cannot be opened: {error}. Its data is still on the other replicas: to rebuild this one from them, move the directory away"
    )]
    Store {
        /// The store's directory.
        path: PathBuf,
        /// Why.
        error: StorageError,
    },
    /// What the store says of the cluster cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A running node.
///
/// [`shutdown`](Node::shutdown) stops it in order. One that is merely dropped takes no more requests and ends its
/// connections; requests under way still run into their deadline, and hold its data directory until then.
///
/// ```no_run
/// use dynkv_net::Identity;
/// use dynkv_node::{Node, NodeConfig};
///
/// # async fn example(ca: String, certificate: String, key: String) -> Result<(), Box<dyn std::error::Error>> {
/// let identity = Identity::from_pem(&ca, &certificate, &key)?;
/// let mut config = NodeConfig::new("/var/lib/dynkv", "10.0.0.1:7400".parse()?, identity);
/// config.seeds.push("10.0.0.2:7400".into());
/// let node = Node::start(config).await?;
/// node.serving().await?;
/// tokio::signal::ctrl_c().await?;
/// node.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct Node {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    tasks: Tasks,
}

/// Tasks that end with the node, also with one that is dropped: it would go on serving unseen, or speak in the name of the
/// one that is started after it.
struct Tasks {
    gossip: Arc<Gossiper>,
    handles: [JoinHandle<()>; 18],
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.gossip.stop();
        self.handles.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("info", self.info()).finish_non_exhaustive()
    }
}

/// The parts from which a node is put together: the real ones, or those of a simulation.
pub struct Parts {
    /// Its socket, with its identity.
    pub endpoint: Endpoint,
    /// Its store.
    pub storage: Arc<dyn Storage>,
    /// Wall clock and randomness.
    pub env: Env,
    /// What others are told about it.
    pub info: NodeInfo,
    /// `host:port` of some other nodes.
    pub seeds: Vec<String>,
    /// Bytes of hints it keeps for other nodes at most.
    pub hint_bytes_max: u64,
    /// Whether it compares itself with other replicas. Without that, a simulation sees what everything else leaves behind.
    pub anti_entropy: bool,
    /// Features of the protocol that it owns up to: see [`NodeConfig::features`].
    pub features: FeatureSet,
}

fn open_store(data_dir: &DataDir, options: &FjallOptions) -> Result<FjallStorage, StartError> {
    let path = data_dir.store();
    FjallStorage::open(&path, options).map_err(|error| StartError::Store { path, error })
}

impl Node {
    /// Opens the data directory and the store, and listens. Uses the current tokio runtime, which must live as long as
    /// the node; a current-thread runtime of its own is best.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
        let name = config.identity.name();
        let Some(&id) = name.node_id() else { return Err(StartError::NotANode { name: name.to_string() }) };
        if config.advertise.is_none() && config.listen.ip().is_unspecified() {
            return Err(StartError::NoAddress { listen: config.listen });
        }
        let env = Env::system();
        let mut data_dir = DataDir::open(&config.data_dir, name.cluster(), id, env.random())?;
        let endpoint = Endpoint::bind(config.listen, config.identity.clone(), Options::default())?;
        let options = FjallOptions { cache_bytes: config.cache_bytes, ..FjallOptions::of_node(&id) };
        // Opening may replay a journal; nothing else runs on this runtime yet that it could hold up.
        let mut storage = open_store(&data_dir, &options)?;
        if admission::is_old(&storage).map_err(LoadError::from)? {
            let carried = cluster::carried_over(&storage).map_err(LoadError::from)?;
            storage.close();
            drop(storage);
            let aside = data_dir.set_aside(env.random())?;
            tracing::warn!(store = %aside.display(), "the store is an old copy and was set aside; the others will fill an empty one");
            storage = open_store(&data_dir, &options)?;
            write_durably(&storage, carried).await.map_err(LoadError::from)?;
        }
        let info = NodeInfo {
            id,
            address: config.advertise.unwrap_or_else(|| endpoint.local_addr().to_string()),
            boot: data_dir.boot,
            disk: data_dir.disk,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let parts = Parts {
            endpoint,
            storage: Arc::new(storage),
            env,
            info,
            seeds: config.seeds,
            hint_bytes_max: config.hint_bytes_max,
            anti_entropy: true,
            features: config.features,
        };
        Ok(Node::assemble_in(Some(data_dir), parts)?)
    }

    /// Puts a node together from its parts and lets it serve.
    ///
    /// # Errors
    /// [`LoadError`] when the store's notes on the cluster cannot be read, or say that the disk is an old copy.
    pub fn assemble(parts: Parts) -> Result<Node, LoadError> {
        Node::assemble_in(None, parts)
    }

    fn assemble_in(data_dir: Option<DataDir>, parts: Parts) -> Result<Node, LoadError> {
        let Parts { endpoint, storage, env, info, seeds, hint_bytes_max, anti_entropy, features } = parts;
        let env = Arc::new(env);
        let metrics = Arc::new(Metrics::new());
        let name = endpoint.identity().name().cluster().to_owned();
        let cluster = Arc::new(Cluster::load(storage.clone(), name, info, features)?);
        let chain = cluster.chain.clone();
        let gossip = Arc::new(Gossiper::new(cluster.clone(), env.clone(), metrics.clone()));
        let hints = Arc::new(Hints::load(storage.clone(), metrics.clone(), hint_bytes_max)?);
        let marks = Arc::new(MarksBook::load(storage.clone())?);
        let trees = Arc::new(Trees::load(storage.clone(), metrics.clone())?);
        trees.follow(&chain, &cluster.view());
        let shared = Arc::new(Shared {
            peers: Peers::new(endpoint.clone(), cluster.clone(), gossip.clone(), metrics.clone()),
            replica: Replica::new(storage, hints, trees, marks, chain.clone(), env.clone(), metrics.clone()),
            background: Background::new(metrics.clone()),
            entropy: Entropy::default(),
            chain,
            learned: Learned::default(),
            transfers: Transfers::default(),
            settling_paused: Paused::default(),
            cluster,
            gossip,
            metrics,
            env,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            started: Instant::now(),
            data_dir: Mutex::new(data_dir),
        });
        let serve = {
            let (endpoint, server) = (endpoint.clone(), Arc::new(Server(shared.clone())));
            tokio::spawn(async move { endpoint.serve(server).await })
        };
        let handles = [
            serve,
            tokio::spawn(gossip::run_rounds(shared.clone())),
            tokio::spawn(gossip::ask_seeds(shared.clone(), seeds)),
            tokio::spawn(gossip::keep_up(shared.clone())),
            tokio::spawn(gossip::take_over(shared.clone())),
            tokio::spawn(hints::deliver(shared.clone())),
            tokio::spawn(background::control(shared.clone())),
            tokio::spawn(trees::keep_up(shared.clone())),
            tokio::spawn(entropy::run(shared.clone(), anti_entropy)),
            tokio::spawn(entropy::heal::run(shared.clone())),
            tokio::spawn(entropy::repairs::run(shared.clone())),
            tokio::spawn(admission::run(shared.clone())),
            tokio::spawn(settle::run(shared.clone())),
            tokio::spawn(chain::run(shared.clone())),
            tokio::spawn(chain::hand_over::run(shared.clone())),
            tokio::spawn(chain::learn::run(shared.clone())),
            tokio::spawn(chain::leave::run(shared.clone())),
            tokio::spawn(chain::progress::run(shared.clone())),
        ];
        let tasks = Tasks { gossip: shared.gossip.clone(), handles };
        Ok(Node { shared, endpoint, tasks })
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.shared.cluster.me.id
    }

    /// What others are told about it.
    pub fn info(&self) -> &NodeInfo {
        &self.shared.cluster.me
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// What it counts, as OpenMetrics text: what `dyn metrics` shows.
    pub fn metrics(&self) -> String {
        server::metrics(&self.shared)
    }

    /// Founds the cluster with `founding`, and with all features of the protocol that this node knows: members that lack one will not serve. `nodes` says
    /// where the members are.
    ///
    /// # Errors
    /// The [`Failure`] says why; a cluster is founded once.
    pub async fn found(&self, founding: Founding, nodes: Vec<NodeInfo>) -> Result<(), Failure> {
        let knows = &self.shared.cluster.knows;
        let features = Feature::ALL.into_iter().filter(|feature| knows.contains(*feature));
        let changes = std::iter::once(Change::Found(founding)).chain(features.map(Feature::to_change));
        propose::propose(&self.shared, changes.collect(), nodes, None).await.map(drop)
    }

    /// Whether another node is up, in this one's opinion: a connection to it stands, and the failure detector does not suspect
    /// it.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.peers.is_up(node)
    }

    /// Changes whenever some other node has come up.
    pub fn watch_up(&self) -> Listener {
        self.shared.peers.watch_up()
    }

    /// Whether the cluster this node belongs to has been founded, as far as it knows.
    pub fn is_founded(&self) -> bool {
        self.shared.cluster.view().membership.founded()
    }

    /// Has the node join the cluster as `member`, whose id counts for nothing, if it is no member: once the cluster is founded and a member can
    /// be reached, it is proposed to that one, which checks it as it checks an operator's plan. Waits until the node is a member. Returns
    /// whether it was none before.
    ///
    /// # Errors
    /// [`JoinError`]; the cluster is as it was then.
    pub async fn join(&self, member: Member) -> Result<bool, JoinError> {
        join::join(&self.shared, member).await
    }

    /// Waits until the node serves requests: until the cluster is founded, the node is a member, its disk is admitted, and the connections to the
    /// other members have been tried.
    ///
    /// # Errors
    /// [`NotServing::Gone`] when it was a member and is none any more, [`NotServing::Duplicate`] when another process
    /// has its place, [`NotServing::OldDisk`] when it is to be started again, which sets its disk aside, [`NotServing::Feature`] when its version is too
    /// old for the cluster.
    pub async fn serving(&self) -> Result<(), NotServing> {
        let mut changed = self.shared.cluster.subscribe();
        loop {
            match self.shared.cluster.serving(&self.shared.cluster.view()) {
                Ok(()) => break,
                Err(
                    NotServing::NotFounded { .. }
                    | NotServing::NotMember { .. }
                    | NotServing::Admitting { .. },
                ) => {}
                Err(refused) => return Err(refused),
            }
            changed.changed().await;
        }
        let view = self.shared.cluster.view();
        for state in view.membership.members().filter(|state| state.member.id != self.id()) {
            self.shared.peers.ensure_connected(state.member.id).await;
        }
        Ok(())
    }

    /// Why the node does not serve requests now, if it does not.
    pub fn not_serving(&self) -> Option<NotServing> {
        let cluster = &self.shared.cluster;
        cluster.serving(&cluster.view()).err()
    }

    /// Waits until the node is a member no more, because it has left or was removed, and the members that it reaches know that: perhaps for
    /// ever. Nothing is left for it to do then.
    pub async fn gone(&self) -> NotServing {
        let mut changed = self.shared.cluster.subscribe();
        loop {
            if let Some(gone @ NotServing::Gone { .. }) = self.not_serving() {
                chain::leave::until_known(&self.shared).await;
                return gone;
            }
            changed.changed().await;
        }
    }

    /// Waits until the node serves nothing any more, because another process has its place, because its disk is an old
    /// copy, or because its version is too old for the cluster: perhaps for ever. It goes on saying so until it is stopped.
    pub async fn refused(&self) -> NotServing {
        let mut changed = self.shared.cluster.subscribe();
        loop {
            if let Some(reason) = self.shared.cluster.refused() {
                return reason.clone();
            }
            changed.changed().await;
        }
    }

    /// The changes of members and buckets that it knows. They are on its disk.
    pub fn history(&self) -> History {
        self.shared.cluster.view().history.clone()
    }

    /// What its history says of the members of the cluster.
    pub fn membership(&self) -> Membership {
        self.shared.cluster.view().membership.clone()
    }

    /// A partition that is not where it should be, as far as this node knows: not served by the ring's homes, or held here for nothing. A node that is no
    /// member knows of none.
    pub fn misplaced(&self) -> Option<PartitionId> {
        chain::misplaced(&self.shared)
    }

    /// The root of the Merkle tree over each partition that this node is a home of; `None` while the tree is being built.
    /// Nodes that hold the same have the same roots.
    pub fn tree_roots(&self) -> Vec<(PartitionId, Option<u128>)> {
        self.shared.replica.trees.roots()
    }

    /// Has the node compare itself at once with everybody that it shares partitions with, and mend what differs. It does
    /// so every few seconds by itself.
    pub fn compare_now(&self) {
        self.shared.entropy.compare_now();
    }

    /// Compares the node with `peer` and names keys on which they differ: all of them, or `limit` and perhaps some more. Writes
    /// that are on their way count. Nothing is changed.
    ///
    /// # Errors
    /// [`CompareError`]; partitions whose tree is being built on one of the two are left out.
    pub async fn compare_with(&self, peer: NodeId, limit: usize) -> Result<Vec<KeyDifference>, CompareError> {
        entropy::find(&self.shared, peer, limit).await
    }

    /// Stops: takes no more requests, waits a bounded time for those under way, and closes the store, with everything in it
    /// on disk. Another node may use the port and the data directory when this returns.
    pub async fn shutdown(self) {
        let Node { shared, endpoint, tasks } = self;
        shared.gossip.stop();
        // From here on new requests are refused as overloaded; those under way end or run into their deadline.
        let idle = timeout(DRAIN, shared.requests.acquire_many(REQUESTS_MAX as u32)).await;
        if idle.is_err() {
            tracing::warn!("requests were still under way when the node stopped");
        }
        // Tasks under way would keep them until their calls' deadlines.
        shared.peers.close();
        endpoint.close().await;
        drop(tasks);
        shared.replica.trees.save().await;
        // Blocks for a last fsync; nothing else is left to run on this runtime.
        shared.replica.storage.close();
        drop(shared.data_dir.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
