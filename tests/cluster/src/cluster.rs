//! Clusters in one process: real nodes over real UDP and real stores, on the test's runtime.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use bytes::Bytes;
use dynkv_client::{Client, ClusterFile};
use dynkv_net::{
    Endpoint, Expect, Identity, Options, PeerName, Role,
    certs::{CertificateAuthority, Issued, Validity},
};
use dynkv_node::{Node, NodeConfig, StartError};
use dynkv_proto::{BucketChange, FeatureSet, Hints, HintsReply, NodeInfo, Status, StatusReply};
use dynkv_ring::{Change, Entry, Founding, History, Member, Membership, NodeId, PartitionCount, Position};
use tempfile::TempDir;

use crate::{
    peer::Peer,
    wait::{eventually, in_time},
};

/// The name of every cluster made here.
pub const CLUSTER: &str = "test";

/// Partitions: enough that every node is home of some and of others not, few enough that a listing is quick.
const PARTITIONS: u32 = 16;

/// A node id.
///
/// # Panics
/// When `text` is none.
pub fn id(text: &str) -> NodeId {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Nodes with a CA of their own. Everything is gone when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    ca: CertificateAuthority,
    partitions: PartitionCount,
    hint_bytes_max: Option<u64>,
    features: FeatureSet,
    nodes: BTreeMap<NodeId, Slot>,
    // After the nodes, which have files open in it.
    dir: TempDir,
}

#[derive(Debug)]
struct Slot {
    node: Option<Node>,
    /// As of its latest start.
    info: NodeInfo,
}

impl Cluster {
    /// A founded cluster of `n1`, `n2`, … with three replicas of each key; every node serves and is connected to every other.
    pub async fn start(nodes: usize) -> Cluster {
        let cluster = Cluster::unfounded(nodes).await;
        cluster.found().await;
        cluster
    }

    /// Nodes that know of each other and wait to be founded.
    pub async fn unfounded(nodes: usize) -> Cluster {
        Cluster::unfounded_with(nodes, FeatureSet::known()).await
    }

    /// Nodes of a version that knows these features, as those that are started later.
    pub async fn unfounded_with(nodes: usize, features: FeatureSet) -> Cluster {
        let ca = CertificateAuthority::create(CLUSTER).expect("a good name");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let partitions = PartitionCount::new(PARTITIONS).expect("a power of two");
        let (hint_bytes_max, nodes_by_id) = (None, BTreeMap::new());
        let mut cluster = Cluster { ca, partitions, hint_bytes_max, features, nodes: nodes_by_id, dir };
        for number in 1..=nodes {
            cluster.add(&format!("n{number}")).await;
        }
        cluster
    }

    /// Another number of partitions, for the founding to come.
    pub fn set_partitions(&mut self, partitions: u32) {
        self.partitions = PartitionCount::new(partitions).expect("a power of two");
    }

    /// Another bound for the hints that a node keeps, for the nodes that are started from now on.
    pub fn set_hint_bytes_max(&mut self, bytes: u64) {
        self.hint_bytes_max = Some(bytes);
    }

    /// Nodes that are started from now on are of a version that knows these features of the protocol.
    pub fn set_features(&mut self, features: FeatureSet) {
        self.features = features;
    }

    /// Starts a further node, with a good certificate and the others as seeds.
    pub async fn add(&mut self, node: &str) {
        let node =
            self.start_node(id(node), loopback()).await.unwrap_or_else(|error| panic!("{node}: {error}"));
        self.nodes.insert(node.id(), Slot { info: node.info().clone(), node: Some(node) });
    }

    /// Starts another process of a node, on a data directory of its own, at any free port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_twin(&self, node: NodeId, data_dir: &Path) -> Node {
        let started = self.start_on(node, loopback(), data_dir).await;
        started.unwrap_or_else(|error| panic!("{node}: {error}"))
    }

    async fn start_node(&self, node: NodeId, listen: SocketAddr) -> Result<Node, StartError> {
        self.start_on(node, listen, &self.data_dir(node)).await
    }

    async fn start_on(&self, node: NodeId, listen: SocketAddr, data_dir: &Path) -> Result<Node, StartError> {
        let identity = self.identity(&PeerName::node(CLUSTER, node).expect("a good name"));
        let mut config = NodeConfig::new(data_dir, listen, identity);
        config.seeds = self.running().map(|other| other.info().address.clone()).collect();
        config.cache_bytes = 1024 * 1024;
        config.features = self.features.clone();
        config.hint_bytes_max = self.hint_bytes_max.unwrap_or(config.hint_bytes_max);
        Node::start(config).await
    }

    /// Where a node keeps its data.
    pub fn data_dir(&self, node: NodeId) -> std::path::PathBuf {
        self.dir.path().join(node.as_str())
    }

    /// The founding of a cluster of all nodes there are.
    pub fn founding(&self) -> Founding {
        Founding {
            cluster: CLUSTER.into(),
            partitions: self.partitions,
            replicas: 3,
            members: self.nodes.keys().map(|&node| Member::new(node)).collect(),
        }
    }

    /// Where all nodes are, as an operator tells the node that takes the founding: without boots and disks.
    pub fn addresses(&self) -> Vec<NodeInfo> {
        let plain = |slot: &Slot| NodeInfo { boot: 0, disk: 0, ..slot.info.clone() };
        self.nodes.values().map(plain).collect()
    }

    /// Founds the cluster with all nodes there are, and waits until all serve.
    pub async fn found(&self) {
        let first = self.running().next().expect("a node runs");
        let founded = first.found(self.founding(), self.addresses()).await;
        founded.unwrap_or_else(|failure| panic!("not founded: {failure}"));
        self.settled().await;
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter_map(|slot| slot.node.as_ref())
    }

    /// A node that runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn node(&self, node: NodeId) -> &Node {
        let running = self.nodes.get(&node).and_then(|slot| slot.node.as_ref());
        running.unwrap_or_else(|| panic!("{node} does not run"))
    }

    /// Waits until every running node serves and is connected to every other one.
    pub async fn settled(&self) {
        for node in self.running() {
            in_time("a node serves", node.serving()).await.unwrap_or_else(|error| panic!("{error}"));
            let peer = self.connect(node.id(), Role::Reader).await;
            eventually("every node is connected to every other", async || {
                let status = ask_status(&peer).await;
                let connected = |other: &Node| {
                    other.id() == node.id()
                        || status.peers.iter().any(|peer| peer.id == other.id() && peer.connected)
                };
                self.running().all(connected).then_some(())
            })
            .await;
        }
    }

    /// How a node is, by its own account.
    pub async fn status(&self, node: NodeId) -> StatusReply {
        ask_status(&self.connect(node, Role::Reader).await).await
    }

    /// What a node keeps for others, by its own account.
    pub async fn hints(&self, node: NodeId) -> HintsReply {
        let peer = self.connect(node, Role::Reader).await;
        let answer = peer.ask(&Hints { target: None, after: None, limit: 0 }, Bytes::new()).await;
        answer.unwrap_or_else(|failure| panic!("{node}: {failure}")).0
    }

    /// How many hints the running nodes keep for `target`.
    pub async fn hints_for(&self, target: NodeId) -> u64 {
        let mut sum = 0;
        for node in self.running() {
            let totals = self.hints(node.id()).await.totals;
            sum += totals.iter().filter(|kept| kept.target == target).map(|kept| kept.hints).sum::<u64>();
        }
        sum
    }

    /// Waits until no running node keeps a hint.
    pub async fn drained(&self) {
        eventually("all hints are delivered", async || {
            for node in self.running() {
                if !self.hints(node.id()).await.totals.is_empty() {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until every running node has noticed who does not run.
    pub async fn missed(&self) {
        let down: Vec<NodeId> =
            self.nodes.iter().filter(|(_, slot)| slot.node.is_none()).map(|(id, _)| *id).collect();
        eventually("it is known who is down", async || {
            let noticed = |node: &Node| down.iter().all(|&other| !node.is_up(other));
            self.running().all(noticed).then_some(())
        })
        .await;
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, node: NodeId) {
        let running = self.take(node);
        in_time("a node stops", running.shutdown()).await;
    }

    /// Drops a node as it stands, without a shutdown.
    pub fn crash(&mut self, node: NodeId) {
        drop(self.take(node));
    }

    fn take(&mut self, node: NodeId) -> Node {
        let running = self.nodes.get_mut(&node).and_then(|slot| slot.node.take());
        running.unwrap_or_else(|| panic!("{node} does not run"))
    }

    /// Starts a stopped node on its data, at another port.
    pub async fn restart(&mut self, node: NodeId) {
        self.restart_at(node, loopback()).await;
    }

    /// Starts a stopped node where it was before, on whatever is in its data directory.
    pub async fn restart_in_place(&mut self, node: NodeId) {
        let address = self.nodes[&node].info.address.parse().expect("an address of ours");
        self.restart_at(node, address).await;
    }

    async fn restart_at(&mut self, node: NodeId, listen: SocketAddr) {
        // What a node was doing when it ended may hold its directory and its port for a moment longer.
        let started =
            eventually("a node starts on its data", async || match self.start_node(node, listen).await {
                Ok(node) => Some(node),
                Err(StartError::DataDir(dynkv_node::DataDirError::InUse { .. }) | StartError::Bind(_)) => {
                    None
                }
                Err(error) => panic!("{node}: {error}"),
            })
            .await;
        self.nodes.insert(node, Slot { info: started.info().clone(), node: Some(started) });
    }

    /// The cluster's authority.
    pub fn ca(&self) -> &CertificateAuthority {
        &self.ca
    }

    /// A certificate of the cluster's CA.
    pub fn issue(&self, name: &PeerName) -> Issued {
        self.ca.issue(name, Validity::default()).expect("a good name")
    }

    /// An identity of the cluster's CA.
    pub fn identity(&self, name: &PeerName) -> Identity {
        let issued = self.issue(name);
        Identity::from_pem(self.ca.cert_pem(), &issued.cert_pem, &issued.key_pem).expect("just issued")
    }

    /// A cluster file for a client of this role, with all running nodes as seeds.
    pub fn file(&self, role: Role) -> ClusterFile {
        let issued = self.issue(&client_name(role));
        ClusterFile {
            cluster: CLUSTER.into(),
            seeds: self.running().map(|node| node.info().address.clone()).collect(),
            ca: self.ca.cert_pem().into(),
            certificate: issued.cert_pem,
            key: issued.key_pem,
        }
    }

    /// A client of this role.
    pub async fn client(&self, role: Role) -> Client {
        Client::connect(&self.file(role)).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A bare connection to one node.
    pub async fn connect(&self, node: NodeId, role: Role) -> Peer {
        self.connect_as(node, &client_name(role)).await
    }

    /// A bare connection to a process of a node, which may be another than the cluster's.
    pub async fn connect_to(&self, node: NodeId, at: SocketAddr, role: Role) -> Peer {
        self.connect_to_as(node, at, &client_name(role)).await
    }

    /// A bare connection to one node under any name that the CA issues.
    pub async fn connect_as(&self, node: NodeId, name: &PeerName) -> Peer {
        self.connect_to_as(node, self.node(node).local_addr(), name).await
    }

    async fn connect_to_as(&self, node: NodeId, at: SocketAddr, name: &PeerName) -> Peer {
        let endpoint = Endpoint::client(self.identity(name), Options::default()).expect("a free port");
        let connected = endpoint.connect(at, Expect::Node(node)).await;
        let connection = connected.unwrap_or_else(|error| panic!("{node}: {error}"));
        Peer::new(endpoint, connection)
    }

    /// The homes of a key in the preference list's order, and the nodes that are none.
    pub fn homes(&self, bucket: &str, key: &[u8]) -> (Vec<NodeId>, Vec<NodeId>) {
        let issuer = *self.nodes.keys().next().expect("there is a node");
        let entry = Entry::new(1, issuer, Change::Found(self.founding())).expect("a good founding");
        let mut history = History::new();
        history.insert(entry).expect("room for one entry");
        let membership = Membership::fold(&history);
        let partition = Position::of(bucket, key).partition(self.partitions);
        let homes = membership.ring().homes(partition).to_vec();
        let others = self.nodes.keys().copied().filter(|node| !homes.contains(node)).collect();
        (homes, others)
    }

    /// Changes properties of a bucket (`"r=1 conflict=lww"`) and waits until every running node knows.
    pub async fn set_bucket(&self, bucket: &str, properties: &str) {
        let admin = self.client(Role::Admin).await;
        let entry = admin.propose(bucket_change(bucket, properties).to_change(), Vec::new()).await;
        entry.unwrap_or_else(|error| panic!("{bucket} {properties}: {error}"));
        let digest = admin.view().digest();
        for node in self.running() {
            eventually("every node knows the change", async || {
                (self.status(node.id()).await.view == digest).then_some(())
            })
            .await;
        }
    }
}

/// A change of a bucket's properties, `"r=1 conflict=lww"`.
///
/// # Panics
/// When there is no such property or value.
pub fn bucket_change(bucket: &str, properties: &str) -> BucketChange {
    let mut change = BucketChange::new(bucket);
    for property in properties.split_whitespace() {
        let (name, value) = property.split_once('=').expect("name=value");
        change.set(name, value).unwrap_or_else(|error| panic!("{error}"));
    }
    change
}

/// The name of a client of this role.
pub fn client_name(role: Role) -> PeerName {
    PeerName::client(CLUSTER, "tester", role).expect("a good name")
}

/// Any free port of this machine.
pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn ask_status(peer: &Peer) -> StatusReply {
    let answer = peer.ask(&Status { reserved: 0 }, Bytes::new()).await;
    answer.unwrap_or_else(|failure| panic!("{failure}")).0
}
