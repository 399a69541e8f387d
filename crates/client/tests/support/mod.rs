//! A cluster of fake nodes: real endpoints on loopback, scripted answers, no storage.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dynkv_client::net::certs::{CertificateAuthority, Validity};
use dynkv_client::net::{self, Endpoint, Identity, PeerName, Responder, Role};
use dynkv_client::proto::{
    Actor, ContextToken, Digest, Failure, FailureCode, Frame, Get, GetReply, NodeInfo, Put, PutReply,
    Version, VersionHeader, View, ViewReply, kinds, value_hash,
};
use dynkv_client::ring::{
    Change, Entry, Founding, History, Member, Membership, NodeId, PartitionCount, Position,
};
use dynkv_client::{Client, ClusterFile, Options};
use dynkv_vclock::{Dot, HybridTime};
use tokio::task::JoinHandle;

pub(crate) const CLUSTER: &str = "test";

pub(crate) fn node(n: usize) -> NodeId {
    format!("n{n}").parse().unwrap()
}

/// What a node does with a request.
pub(crate) enum Reaction {
    Answer(Frame),
    /// Says nothing, and keeps the caller waiting.
    Silence,
    /// Closes its endpoint: the connection is lost.
    Die,
}

pub(crate) type Script = Box<dyn FnMut(&Frame) -> Option<Reaction> + Send>;

pub(crate) struct Shared {
    pub(crate) history: History,
    pub(crate) nodes: BTreeMap<NodeId, NodeInfo>,
    /// Requests other than views, in the order of their arrival.
    pub(crate) log: Vec<(NodeId, Frame)>,
    pub(crate) views: usize,
    scripts: BTreeMap<NodeId, Script>,
    silenced: Vec<Responder>,
}

impl Shared {
    pub(crate) fn digest(&self) -> Digest {
        digest(&self.history)
    }
}

pub(crate) fn digest(history: &History) -> Digest {
    Digest(u128::from_be_bytes(history.digest()))
}

pub(crate) struct FakeCluster {
    pub(crate) ca: CertificateAuthority,
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) endpoints: BTreeMap<NodeId, Endpoint>,
    serving: Vec<JoinHandle<()>>,
}

impl FakeCluster {
    /// `n` nodes, founded with three replicas.
    pub(crate) async fn founded(n: usize) -> FakeCluster {
        let cluster = FakeCluster::unfounded(n).await;
        let founding = cluster.founding();
        cluster.with(|shared| add(&mut shared.history, 1, Change::Found(founding)));
        cluster
    }

    pub(crate) async fn unfounded(n: usize) -> FakeCluster {
        let shared = Shared {
            history: History::new(),
            nodes: BTreeMap::new(),
            log: Vec::new(),
            views: 0,
            scripts: BTreeMap::new(),
            silenced: Vec::new(),
        };
        let mut cluster = FakeCluster {
            ca: CertificateAuthority::create(CLUSTER).unwrap(),
            shared: Arc::new(Mutex::new(shared)),
            endpoints: BTreeMap::new(),
            serving: Vec::new(),
        };
        for n in 1..=n {
            cluster.start(node(n));
        }
        cluster
    }

    /// Starts a node, on a new port with a higher boot counter if it ran before.
    pub(crate) fn start(&mut self, id: NodeId) {
        let identity = self.identity(&PeerName::node(CLUSTER, id).unwrap());
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap(), identity, net_options()).unwrap();
        let address = endpoint.local_addr().to_string();
        {
            let mut shared = self.shared.lock().unwrap();
            let boot = shared.nodes.get(&id).map_or(1, |info| info.boot + 1);
            shared.nodes.insert(id, NodeInfo { id, address, boot, disk: 1, version: "test".into() });
        }
        let (shared, own) = (self.shared.clone(), endpoint.clone());
        let handler = move |_: &Arc<PeerName>, frame: Frame, responder: Responder| {
            let reaction = react(&mut shared.lock().unwrap(), id, &frame);
            match reaction {
                Reaction::Answer(answer) => responder.send(answer),
                Reaction::Silence => shared.lock().unwrap().silenced.push(responder),
                Reaction::Die => {
                    // Answering nothing at all takes the responder along.
                    shared.lock().unwrap().silenced.push(responder);
                    let own = own.clone();
                    tokio::spawn(async move { own.close().await });
                }
            }
        };
        let serving = endpoint.clone();
        self.serving.push(tokio::spawn(async move { serving.serve(Arc::new(handler)).await }));
        self.endpoints.insert(id, endpoint);
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        let endpoint = self.endpoints.remove(&id).unwrap();
        endpoint.close().await;
    }

    pub(crate) fn founding(&self) -> Founding {
        Founding {
            cluster: CLUSTER.into(),
            partitions: PartitionCount::new(16).unwrap(),
            replicas: 3,
            members: self.endpoints.keys().map(|&id| Member::new(id)).collect(),
        }
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        change(&mut self.shared.lock().unwrap())
    }

    /// What `id` answers before the usual answers are considered.
    pub(crate) fn script(&self, id: NodeId, script: impl FnMut(&Frame) -> Option<Reaction> + Send + 'static) {
        self.with(|shared| shared.scripts.insert(id, Box::new(script)));
    }

    pub(crate) fn identity(&self, name: &PeerName) -> Identity {
        let issued = self.ca.issue(name, Validity::default()).unwrap();
        Identity::from_pem(self.ca.cert_pem(), &issued.cert_pem, &issued.key_pem).unwrap()
    }

    pub(crate) fn file(&self) -> ClusterFile {
        self.file_with(&self.ca, Validity::default())
    }

    pub(crate) fn file_with(&self, ca: &CertificateAuthority, validity: Validity) -> ClusterFile {
        let name = PeerName::client(ca.cluster(), "tester", Role::Admin).unwrap();
        let issued = ca.issue(&name, validity).unwrap();
        ClusterFile {
            cluster: ca.cluster().into(),
            seeds: self.endpoints.values().map(|endpoint| endpoint.local_addr().to_string()).collect(),
            ca: ca.cert_pem().into(),
            certificate: issued.cert_pem,
            key: issued.key_pem,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::with_options(&self.file(), options()).await.unwrap()
    }

    pub(crate) fn homes(&self, bucket: &str, key: &[u8]) -> Vec<NodeId> {
        self.with(|shared| {
            let membership = Membership::fold(&shared.history);
            let ring = membership.ring();
            ring.homes(Position::of(bucket, key).partition(ring.partitions())).to_vec()
        })
    }

    /// Requests of one kind so far, by node.
    pub(crate) fn requests(&self, kind: u16) -> Vec<(NodeId, Frame)> {
        self.with(|shared| shared.log.iter().filter(|(_, frame)| frame.kind == kind).cloned().collect())
    }

    pub(crate) fn puts(&self) -> Vec<(NodeId, Put)> {
        self.requests(kinds::PUT).into_iter().map(|(id, frame)| (id, frame.message().unwrap())).collect()
    }

    pub(crate) fn asked(&self, kind: u16) -> Vec<NodeId> {
        self.requests(kind).into_iter().map(|(id, _)| id).collect()
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}

pub(crate) fn add(history: &mut History, time: u64, change: Change) {
    history.insert(Entry::new(time, node(1), change).unwrap()).unwrap();
}

pub(crate) fn net_options() -> net::Options {
    net::Options { connect_timeout_ms: 1000, drain_timeout_ms: 20, ..net::Options::default() }
}

/// Everything as usual, but put ids that repeat from run to run.
pub(crate) fn options() -> Options {
    Options { net: net_options(), seed: Some(7), ..Options::default() }
}

fn react(shared: &mut Shared, id: NodeId, frame: &Frame) -> Reaction {
    if frame.kind == kinds::VIEW {
        shared.views += 1;
    } else {
        shared.log.push((id, frame.clone()));
    }
    if let Some(mut script) = shared.scripts.remove(&id) {
        let reaction = script(frame);
        shared.scripts.insert(id, script);
        if let Some(reaction) = reaction {
            return reaction;
        }
    }
    let view = shared.digest();
    Reaction::Answer(match frame.kind {
        kinds::VIEW => {
            let theirs = frame.message::<View>().unwrap().view;
            let history = (theirs != view).then(|| shared.history.to_bytes().into());
            Frame::new(
                &ViewReply { view, history, nodes: shared.nodes.values().cloned().collect() },
                Bytes::new(),
            )
        }
        kinds::GET => {
            let get: Get = frame.message().unwrap();
            found(&get, view, &[])
        }
        kinds::PUT => {
            let put: Put = frame.message().unwrap();
            stored(&put, view)
        }
        _ => no(FailureCode::UnknownKind),
    })
}

/// The answer to `get`: these values, whose checksums are right, and a context that prefers nobody.
pub(crate) fn found(get: &Get, view: Digest, values: &[&'static str]) -> Frame {
    let mut body = Vec::new();
    let mut versions = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let version = Version {
            time: HybridTime::from_u64(1),
            put_id: dynkv_client::proto::PutId(n as u128),
            tombstone: false,
            content_type: "text/plain".into(),
            meta: BTreeMap::new(),
            value: Bytes::from_static(value.as_bytes()),
            hash: value_hash(value.as_bytes()),
        };
        versions.push(VersionHeader::new(&Dot::new(Actor(1, 0), n as u64 + 1), &version));
        body.extend_from_slice(value.as_bytes());
    }
    let context = token(&get.bucket, &get.key, None).into();
    Frame::new(&GetReply { context, versions, replicas: 2, homes: 2, view, coordinator: None }, body.into())
}

pub(crate) fn stored(put: &Put, view: Digest) -> Frame {
    let reply = PutReply {
        context: token(&put.bucket, &put.key, None).into(),
        actor: Actor(1, 0),
        counter: 1,
        replicas: 2,
        homes: 2,
        durable: 1,
        possible_duplicate: false,
        view,
        coordinator: None,
    };
    Frame::new(&reply, Bytes::new())
}

pub(crate) fn token(bucket: &str, key: &[u8], fastest: Option<NodeId>) -> Bytes {
    let context = [Dot::new(Actor(1, 0), 1)].into_iter().collect();
    ContextToken::new(Position::of(bucket, key), context, HybridTime::from_u64(1), fastest).encode().into()
}

pub(crate) fn no(code: FailureCode) -> Frame {
    Frame::new(&Failure::not_done(code, format!("no: {code:?}")), Bytes::new())
}

pub(crate) fn perhaps(code: FailureCode) -> Frame {
    Frame::new(&Failure::unknown(code, format!("perhaps: {code:?}")), Bytes::new())
}

/// Runs other tasks until `condition` holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    within(Duration::from_secs(10), waiting).await;
}

pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("this takes too long")
}
