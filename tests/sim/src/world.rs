//! Hosts: clocks, disks, addresses, and the nodes and clients on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use dynkv_client::Client;
use dynkv_net::{
    Endpoint, Identity, Options, PeerName, Role,
    certs::{CertificateAuthority, Validity},
    socket::TokioRuntime,
};
use dynkv_node::{Env, Node, NotServing, Parts};
use dynkv_proto::{FeatureSet, NodeInfo};
use dynkv_ring::{Departure, Founding, History, Member, Membership, NodeId, PartitionCount};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    disk::Disk,
    gate::{Gate, GatedRuntime},
    log::Log,
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
    /// What the version knows that the node is started with.
    pub features: FeatureSet,
    /// What the last process has known of the history, and on which disk.
    pub(crate) known: Option<(u64, History)>,
    identity: Identity,
    process: Option<Process>,
    skew_ms: Arc<AtomicI64>,
}

struct Process {
    node: Node,
    disk: u64,
    gate: Gate,
}

/// A cluster and its surroundings.
pub struct World {
    /// The network.
    pub network: Arc<Network>,
    /// The hosts that run nodes; those of clones come last.
    pub hosts: Vec<Host>,
    /// What happened.
    pub log: Log,
    /// Whether nodes that are started compare their replicas.
    pub anti_entropy: bool,
    /// Nodes are in so many zones in turn; zero: in none.
    pub zones: usize,
    /// Whether nodes that are started are told no addresses.
    pub seedless: bool,
    /// Hosts, by their index, that are gone for ever.
    pub gone: BTreeSet<usize>,
    /// Nodes of which a disk that is no more in use was set aside as an old one.
    set_aside: BTreeSet<NodeId>,
    /// Nodes that knew less of the history when they were started again on the same disk.
    pub forgetful: BTreeSet<NodeId>,
    /// Sums of the counters of all nodes that have ended, by name.
    counters: BTreeMap<String, u64>,
    authority: CertificateAuthority,
    random: StdRng,
    start: Instant,
    clients: u8,
    moves: u8,
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
                features: FeatureSet::known(),
                known: None,
                identity: identity(&authority, &name),
                process: None,
                skew_ms: Arc::new(AtomicI64::new(0)),
            }
        });
        let hosts = hosts.collect();
        let start = Instant::now();
        World {
            network: Network::new(random.next_u64()),
            hosts,
            log: Log::new(start),
            anti_entropy: true,
            zones: 0,
            seedless: false,
            gone: BTreeSet::new(),
            set_aside: BTreeSet::new(),
            forgetful: BTreeSet::new(),
            counters: BTreeMap::new(),
            authority,
            random,
            start,
            clients: 0,
            moves: 0,
        }
    }

    /// Starts the node of host `index` on whatever its disk holds.
    pub fn start(&mut self, index: usize) {
        let seed = self.random.next_u64();
        let seeds = match self.seedless {
            true => Vec::new(),
            false => self.hosts.iter().map(|host| host.address.to_string()).collect(),
        };
        let (start, anti_entropy) = (self.start, self.anti_entropy);
        let host = &mut self.hosts[index];
        let gate = Gate::default();
        let (mut storage, mut label) = host.disk.mount(gate.clone());
        if dynkv_node::disk_is_old(&*storage).is_ok_and(|old| old) {
            // As a real node does when it starts.
            host.disk.wipe();
            (storage, label) = host.disk.mount(gate.clone());
            self.log.note(format!("{} sets its disk aside", host.id));
        }
        let options = Options { quic_seed: Some(seed), ..Options::default() };
        let socket = self.network.bind(host.address);
        let runtime = Arc::new(GatedRuntime(gate.clone()));
        let endpoint = Endpoint::with_socket(socket, runtime, host.identity.clone(), options)
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
            boot: label.boots,
            disk: label.id,
            version: "sim".into(),
        };
        let (hint_bytes_max, features) = (dynkv_node::HINT_BYTES_MAX, host.features.clone());
        let parts = Parts { endpoint, storage, env, info, seeds, hint_bytes_max, anti_entropy, features };
        let node = Node::assemble(parts).expect("a disk holds what a node wrote");
        let (before, now) = (host.known.take().filter(|(disk, _)| *disk == label.id), node.history());
        if before.is_some_and(|(_, before)| !before.missing_from(&now).is_empty()) {
            self.forgetful.insert(host.id);
        }
        host.process = Some(Process { node, disk: label.id, gate });
        self.log.note(format!("{} starts at {}, boot {}", host.id, host.address, label.boots));
    }

    /// Starts every node and founds the cluster with all of them but the last `spares`.
    pub async fn found(&mut self, partitions: u32, replicas: u8, spares: usize) {
        let founding_members = self.hosts.len() - spares;
        (0..self.hosts.len()).for_each(|index| self.start(index));
        let founding = Founding {
            cluster: CLUSTER.into(),
            partitions: PartitionCount::new(partitions).expect("a power of two"),
            replicas,
            members: (0..founding_members).map(|index| self.member(index)).collect(),
        };
        let first = &self.hosts[0].process.as_ref().expect("just started").node;
        first.found(founding, Vec::new()).await.expect("a cluster is founded once");
        for host in self.hosts.iter().take(founding_members) {
            let node = &host.process.as_ref().expect("just started").node;
            tokio::time::timeout(Duration::from_secs(30), node.serving())
                .await
                .expect("a founded cluster serves within 30 s")
                .expect("every node is a member");
        }
        self.log.note("founded");
    }

    /// The node of host `index` as a member.
    pub fn member(&self, index: usize) -> Member {
        let member = Member::new(self.hosts[index].id);
        match self.zones {
            0 => member,
            zones => member.with_zone(format!("z{}", index % zones)),
        }
    }

    /// A node that runs although it was removed, and does not know it, or serves.
    pub fn undead(&self) -> Option<NodeId> {
        let all = self.membership();
        let knows = |id: &NodeId, node: &Node| {
            node.membership().departure(id).is_some() && !matches!(at_once(node.serving()), Some(Ok(())))
        };
        self.running().find(|(id, node)| all.departure(id).is_some() && !knows(id, node)).map(|(id, _)| id)
    }

    /// Whether the node of host `index` runs.
    pub fn is_up(&self, index: usize) -> bool {
        self.hosts[index].process.is_some()
    }

    /// Restarts processes that refuse to serve because another one had their name, as an operator does who has stopped the
    /// other one.
    pub fn restart_refused(&mut self) {
        for index in 0..self.hosts.len() {
            let process = self.hosts[index].process.as_ref();
            if process.is_some_and(|process| refused(&process.node).is_some()) {
                self.kill(index);
                self.start(index);
            }
        }
    }

    /// Whether a process refuses to serve because its version lacks what is switched on.
    pub fn lacks_feature(&self) -> bool {
        self.running().any(|(_, node)| matches!(refused(node), Some(NotServing::Feature { .. })))
    }

    /// Restarts processes of the first `nodes` hosts whose disk has turned out to be an old one, as `dyn node start` does by itself.
    pub fn restart_old(&mut self, nodes: usize) {
        for index in 0..nodes {
            if self.hosts[index].process.as_ref().is_some_and(|process| has_old_disk(&process.node)) {
                self.kill(index);
                self.start(index);
            }
        }
    }

    /// Nodes of which a disk was set aside as an old one.
    pub fn set_aside(&self) -> BTreeSet<NodeId> {
        let now = self.running().filter(|(_, node)| has_old_disk(node)).map(|(id, _)| id);
        now.chain(self.set_aside.iter().copied()).collect()
    }

    /// Stops processes that say that their node has left, for ever, as they do by themselves once another node knows.
    pub fn stop_left(&mut self) {
        for index in 0..self.hosts.len() {
            let id = self.hosts[index].id;
            let knows = |node: &Node| node.membership().departure(&id) == Some(Departure::Left);
            let says = self.hosts[index].process.as_ref().is_some_and(|process| knows(&process.node));
            if says && self.running().any(|(other, node)| other != id && knows(node)) {
                self.kill(index);
                self.gone.insert(index);
            }
        }
    }

    /// Ends the process of host `index`, whatever it is doing.
    fn end(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        self.network.unbind(host.address);
        if let Some(Process { node, disk, gate }) = host.process.take() {
            host.known = Some((disk, node.history()));
            add_counters(&mut self.counters, &node);
            if has_old_disk(&node) {
                self.set_aside.insert(host.id);
            }
            // Its ghost may go on: nobody hears it, and its disk is another's.
            gate.open();
        }
    }

    /// The machine of host `index` loses power.
    pub fn crash(&mut self, index: usize) {
        self.end(index);
        let lost = self.hosts[index].disk.crash();
        self.log.note(format!("{} loses power, {lost} unsynced batches with it", self.hosts[index].id));
    }

    /// The process of host `index` is killed.
    pub fn kill(&mut self, index: usize) {
        self.end(index);
        self.hosts[index].disk.kill();
        self.log.note(format!("{} at {} is killed", self.hosts[index].id, self.hosts[index].address));
    }

    /// Kills the process of host `index` and gives it another address.
    pub fn relocate(&mut self, index: usize) {
        self.kill(index);
        self.moves += 1;
        self.hosts[index].address = SocketAddr::from(([10, 0, 2, self.moves], 7400));
        self.log.note(format!("{} moves to {}", self.hosts[index].id, self.hosts[index].address));
    }

    /// A second host with the id of host `index`, and a copy of its disk or an empty one. Returns its index.
    pub fn duplicate(&mut self, index: usize, with_disk: bool) -> usize {
        self.moves += 1;
        let disk = Disk::new(self.random.next_u64());
        let host = &self.hosts[index];
        if with_disk {
            disk.restore(&host.disk.snapshot());
        }
        let double = Host {
            id: host.id,
            address: SocketAddr::from(([10, 0, 2, self.moves], 7400)),
            disk,
            features: host.features.clone(),
            known: None,
            identity: host.identity.clone(),
            process: None,
            skew_ms: host.skew_ms.clone(),
        };
        let what = if with_disk { "a copy of its" } else { "an empty" };
        self.log.note(format!("a double of {} is at {}, with {what} disk", double.id, double.address));
        self.hosts.push(double);
        self.hosts.len() - 1
    }

    /// Lets the process of host `index` stand still, or go on.
    pub fn set_paused(&self, index: usize, paused: bool) {
        let Some(Process { gate, .. }) = &self.hosts[index].process else { return };
        match paused {
            true => gate.shut(),
            false => gate.open(),
        }
        let now = if paused { "stands still" } else { "goes on" };
        self.log.note(format!("{} {now}", self.hosts[index].id));
    }

    /// Sets the clock of host `index` forward or back, against the true time.
    pub fn set_skew(&self, index: usize, skew_ms: i64) {
        self.hosts[index].skew_ms.store(skew_ms, Ordering::Relaxed);
        self.log.note(format!("{}'s clock is off by {skew_ms} ms", self.hosts[index].id));
    }

    /// Counters of all nodes so far, those that have ended included, by their names in `dyn metrics`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.counters.clone();
        for process in self.hosts.iter().filter_map(|host| host.process.as_ref()) {
            add_counters(&mut counters, &process.node);
        }
        counters
    }

    /// What the longest history of a running node says of the members.
    pub fn membership(&self) -> Membership {
        let all = self.running().map(|(_, node)| node.membership());
        all.max_by_key(|membership| membership.members().len() + 2 * membership.gone().len())
            .expect("some node runs")
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.hosts.iter().filter_map(|host| Some((host.id, &host.process.as_ref()?.node)))
    }

    /// A gauge of each running node.
    pub fn gauges(&self, name: &str) -> Vec<(NodeId, u64)> {
        self.running().map(|(id, node)| (id, number(&node.metrics(), name).unwrap_or_default())).collect()
    }

    /// Where the client lives that was made last.
    pub fn latest_client(&self) -> IpAddr {
        IpAddr::from([10, 0, 1, self.clients])
    }

    /// An endpoint of its own host with the certificate of a node that is no member: for single messages that only nodes may send.
    pub fn stranger(&mut self) -> Endpoint {
        self.clients += 1;
        let id: NodeId = "stranger".parse().expect("a good id");
        let name = PeerName::node(CLUSTER, id).expect("good names");
        let options = Options { quic_seed: Some(self.random.random()), ..Options::default() };
        let socket = self.network.bind(SocketAddr::new(self.latest_client(), 9000));
        Endpoint::with_socket(socket, Arc::new(TokioRuntime), identity(&self.authority, &name), options)
            .expect("a simulated socket binds")
    }

    /// A client of its own host.
    pub async fn client(&mut self, timeout: Duration) -> Client {
        self.clients += 1;
        let name =
            PeerName::client(CLUSTER, &format!("c{}", self.clients), Role::Admin).expect("a good name");
        let seed = self.random.random::<u64>();
        let options = Options { quic_seed: Some(seed), ..Options::default() };
        let socket = self.network.bind(SocketAddr::new(self.latest_client(), 9000));
        let endpoint =
            Endpoint::with_socket(socket, Arc::new(TokioRuntime), identity(&self.authority, &name), options)
                .expect("a simulated socket binds");
        let seeds = self.hosts.iter().map(|host| host.address.to_string()).collect();
        let options = dynkv_client::Options { timeout, seed: Some(seed), ..dynkv_client::Options::default() };
        Client::with_endpoint(endpoint, seeds, options).await.expect("a founded cluster answers")
    }
}

/// Whether the node has found out that its disk is an old one.
fn has_old_disk(node: &Node) -> bool {
    matches!(refused(node), Some(NotServing::OldDisk { .. }))
}

/// Why `node` serves nothing any more, if that is so.
fn refused(node: &Node) -> Option<NotServing> {
    at_once(node.refused())
}

/// What a future has to say now.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

fn identity(authority: &CertificateAuthority, name: &PeerName) -> Identity {
    let issued = authority.issue(name, Validity::default()).expect("a good name");
    Identity::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem).expect("just issued")
}

/// Adds what `node` has counted: lines like `dynkv_read_repairs_total 3`, and with labels, which are summed.
fn add_counters(counters: &mut BTreeMap<String, u64>, node: &Node) {
    for line in node.metrics().lines() {
        if let Some((name, rest)) = line.split_once("_total")
            && let Some((_, count)) = rest.rsplit_once(' ')
            && let (Some(name), Ok(count)) = (name.strip_prefix("dynkv_"), count.parse::<u64>())
        {
            *counters.entry(name.to_owned()).or_default() += count;
        }
    }
}

fn number(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix("dynkv_")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value)
}
