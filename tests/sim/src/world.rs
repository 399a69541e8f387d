//! Hosts: clocks, disks, addresses, and the nodes and clients on them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use dynkv_client::Client;
use dynkv_net::{
    Endpoint, Identity, Options, PeerName, Role,
    certs::{CertificateAuthority, Validity},
    socket::TokioRuntime,
};
use dynkv_node::{Env, Node, Parts};
use dynkv_proto::NodeInfo;
use dynkv_ring::{Founding, Member, NodeId, PartitionCount};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    disk::{Disk, Snapshot},
    network::Network,
};

const CLUSTER: &str = "sim";

/// The wall clock of a host without skew when the simulation begins, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// One machine that runs a node.
pub struct Host {
    /// The node's id.
    pub id: NodeId,
    /// Where it lives.
    pub address: SocketAddr,
    /// Its disk.
    pub disk: Disk,
    /// An old copy of its disk, once one was made.
    pub backup: Option<Snapshot>,
    identity: Identity,
    node: Option<Node>,
    boot: u64,
    skew_ms: Arc<AtomicI64>,
}

/// What happened, line by line, in simulated time.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    start: Instant,
}

impl Log {
    /// Notes `line` at the current time.
    pub fn note(&self, line: impl AsRef<str>) {
        let at = self.start.elapsed().as_micros();
        let line = format!("{:>5}.{:06} {}", at / 1_000_000, at % 1_000_000, line.as_ref());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All of it.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A cluster and its surroundings.
pub struct World {
    /// The network.
    pub network: Arc<Network>,
    /// The hosts that run nodes.
    pub hosts: Vec<Host>,
    /// What happened.
    pub log: Log,
    authority: CertificateAuthority,
    random: StdRng,
    start: Instant,
    clients: u8,
}

impl World {
    /// `nodes` hosts with empty disks, nothing running yet.
    pub fn new(seed: u64, nodes: u8) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let authority = CertificateAuthority::create(CLUSTER).expect("a good name");
        let hosts = (1..=nodes).map(|number| {
            let id: NodeId = format!("n{number}").parse().expect("a good id");
            let name = PeerName::node(CLUSTER, id).expect("good names");
            Host {
                id,
                address: SocketAddr::from(([10, 0, 0, number], 7400)),
                disk: Disk::new(random.next_u64()),
                backup: None,
                identity: identity(&authority, &name),
                node: None,
                boot: 0,
                skew_ms: Arc::new(AtomicI64::new(0)),
            }
        });
        let hosts = hosts.collect();
        let start = Instant::now();
        let log = Log { lines: Arc::default(), start };
        World { network: Network::new(random.next_u64()), hosts, log, authority, random, start, clients: 0 }
    }

    /// Starts the node of host `index` on whatever its disk holds.
    pub fn start(&mut self, index: usize) {
        let seed = self.random.next_u64();
        let seeds = self.hosts.iter().map(|host| host.address.to_string()).collect();
        let start = self.start;
        let host = &mut self.hosts[index];
        host.boot += 1;
        let options = Options { quic_seed: Some(seed), ..Options::default() };
        let socket = self.network.bind(host.address);
        let endpoint = Endpoint::with_socket(socket, Arc::new(TokioRuntime), host.identity.clone(), options)
            .expect("a simulated socket binds");
        let skew_ms = host.skew_ms.clone();
        let wall_ms = move || {
            let now = EPOCH_MS + start.elapsed().as_millis() as u64;
            now.saturating_add_signed(skew_ms.load(Ordering::Relaxed))
        };
        let random = Mutex::new(StdRng::seed_from_u64(seed ^ 1));
        let env = Env::new(wall_ms, move || random.lock().unwrap_or_else(PoisonError::into_inner).next_u64());
        let info = NodeInfo {
            id: host.id,
            address: host.address.to_string(),
            boot: host.boot,
            disk: seed,
            version: "sim".into(),
        };
        let parts = Parts {
            endpoint,
            storage: host.disk.mount(),
            env,
            info,
            seeds,
            hint_bytes_max: dynkv_node::HINT_BYTES_MAX,
        };
        host.node = Some(Node::assemble(parts).expect("a disk holds what a node wrote"));
        self.log.note(format!("{} starts, boot {}", host.id, host.boot));
    }

    /// Starts every node and founds the cluster with all of them.
    pub async fn found(&mut self, partitions: u32, replicas: u8) {
        (0..self.hosts.len()).for_each(|index| self.start(index));
        let founding = Founding {
            cluster: CLUSTER.into(),
            partitions: PartitionCount::new(partitions).expect("a power of two"),
            replicas,
            members: self.hosts.iter().map(|host| Member::new(host.id)).collect(),
        };
        let first = self.hosts[0].node.as_ref().expect("just started");
        first.found(founding, Vec::new()).await.expect("a cluster is founded once");
        for host in &self.hosts {
            let node = host.node.as_ref().expect("just started");
            tokio::time::timeout(Duration::from_secs(30), node.serving())
                .await
                .expect("a founded cluster serves within 30 s")
                .expect("every node is a member");
        }
        self.log.note("founded");
    }

    /// Whether the node of host `index` runs.
    pub fn is_up(&self, index: usize) -> bool {
        self.hosts[index].node.is_some()
    }

    /// The machine of host `index` loses power.
    pub fn crash(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        self.network.unbind(host.address);
        host.node = None;
        let lost = host.disk.crash();
        self.log.note(format!("{} loses power, {lost} unsynced batches with it", host.id));
    }

    /// The process of host `index` is killed.
    pub fn kill(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        self.network.unbind(host.address);
        host.node = None;
        host.disk.kill();
        self.log.note(format!("{} is killed", host.id));
    }

    /// Sets the clock of host `index` forward or back, against the true time.
    pub fn set_skew(&self, index: usize, skew_ms: i64) {
        self.hosts[index].skew_ms.store(skew_ms, Ordering::Relaxed);
        self.log.note(format!("{}'s clock is off by {skew_ms} ms", self.hosts[index].id));
    }

    /// A client of its own host.
    pub async fn client(&mut self, timeout: Duration) -> Client {
        self.clients += 1;
        let name =
            PeerName::client(CLUSTER, &format!("c{}", self.clients), Role::Admin).expect("a good name");
        let seed = self.random.random::<u64>();
        let options = Options { quic_seed: Some(seed), ..Options::default() };
        let socket = self.network.bind(SocketAddr::from(([10, 0, 1, self.clients], 9000)));
        let endpoint =
            Endpoint::with_socket(socket, Arc::new(TokioRuntime), identity(&self.authority, &name), options)
                .expect("a simulated socket binds");
        let seeds = self.hosts.iter().map(|host| host.address.to_string()).collect();
        let options = dynkv_client::Options { timeout, seed: Some(seed), ..dynkv_client::Options::default() };
        Client::with_endpoint(endpoint, seeds, options).await.expect("a founded cluster answers")
    }
}

fn identity(authority: &CertificateAuthority, name: &PeerName) -> Identity {
    let issued = authority.issue(name, Validity::default()).expect("a good name");
    Identity::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem).expect("just issued")
}
