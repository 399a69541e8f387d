//! Connections to the other nodes, and what this node thinks of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dynkv_net::{CallError, Class, ConnectError, Connection, Endpoint, Expect};
use dynkv_proto::{DecodeError, Failure, Feature, Frame, Message, NodeInfo, PeerStatus, kinds};
use dynkv_ring::NodeId;
use thiserror::Error;
use tokio::{sync::Notify, time::Instant};

use crate::{
    cluster::{Cluster, NotServing},
    gossip::{Gossiper, Opinion},
    metrics::Metrics,
    news::{Listener, News},
};

/// How long after a failed attempt to connect there is no other. Calls fail at once until one has succeeded.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A call that was given less time says nothing about the peer when the time is up.
const SILENCE_MIN: Duration = Duration::from_millis(500);

/// How long a node that keeps as many hints as it may is not asked to keep more.
const HINTS_FULL_FOR: Duration = Duration::from_secs(5);

/// Why a peer gave no answer that can be used.
#[derive(Clone, Debug, Error)]
pub(crate) enum PeerError {
    #[error("its address is not known yet")]
    NoAddress,
    #[error("{0}")]
    Unreachable(String),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Refused(Failure),
    #[error("its answer cannot be read: {0}")]
    Answer(#[from] DecodeError),
    #[error("it has not said that it knows the feature {0}: upgrade it, or wait until it is heard of")]
    Lacks(Feature),
    #[error("{0}")]
    NotServing(NotServing),
}

impl PeerError {
    /// Whether the peer certainly did not act on the request.
    pub(crate) fn is_not_done(&self) -> bool {
        match self {
            PeerError::NoAddress
            | PeerError::Unreachable(_)
            | PeerError::Lacks(_)
            | PeerError::NotServing(_) => true,
            PeerError::Call(error) => error.is_not_sent(),
            PeerError::Refused(failure) => failure.outcome == dynkv_proto::Outcome::NotDone,
            PeerError::Answer(_) => false,
        }
    }
}

/// All other nodes.
pub(crate) struct Peers {
    endpoint: Endpoint,
    cluster: Arc<Cluster>,
    gossip: Arc<Gossiper>,
    metrics: Arc<Metrics>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    /// Whether the node stops: no connection is kept any more.
    closed: AtomicBool,
    /// Wakes whoever keeps connections up when one was lost.
    trouble: Notify,
    /// Counts the times that a peer came up.
    came_up: News,
}

/// One other node.
struct Peer {
    id: NodeId,
    state: Mutex<PeerState>,
    /// Held by whoever is connecting; the others wait for the outcome.
    connecting: tokio::sync::Mutex<()>,
    /// Smoothed time of a call in microseconds; 0: none made yet.
    latency_us: AtomicU64,
    /// When it last refused a hint because it keeps as many as it may.
    hints_full: Mutex<Option<Instant>>,
    /// When it last answered, in microseconds of the gossip's time.
    answered_us: AtomicU64,
    /// Whether a call has failed since it last answered.
    failing: AtomicBool,
    /// The failure detector's opinion, as last asked.
    suspected: AtomicBool,
    /// Whether it was up when last looked at.
    up: AtomicBool,
}

#[derive(Default)]
struct PeerState {
    connection: Option<Connection>,
    /// Where the node was believed to be when the connection was made, if anybody had told.
    address: Option<String>,
    /// When the latest attempt to connect failed, and to which address it was.
    failed: Option<(Instant, String)>,
    last_error: String,
}

impl Peers {
    pub(crate) fn new(
        endpoint: Endpoint,
        cluster: Arc<Cluster>,
        gossip: Arc<Gossiper>,
        metrics: Arc<Metrics>,
    ) -> Peers {
        Peers {
            endpoint,
            cluster,
            gossip,
            metrics,
            peers: Mutex::default(),
            closed: AtomicBool::new(false),
            trouble: Notify::new(),
            came_up: News::default(),
        }
    }

    fn peer(&self, id: NodeId) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Peer {
                id,
                state: Mutex::default(),
                connecting: tokio::sync::Mutex::new(()),
                latency_us: AtomicU64::new(0),
                hints_full: Mutex::new(None),
                answered_us: AtomicU64::new(0),
                failing: AtomicBool::new(false),
                suspected: AtomicBool::new(false),
                up: AtomicBool::new(false),
            })
        };
        peers.entry(id).or_insert_with(new).clone()
    }

    /// Sends `frame` to `node` and returns the answer, unless it is a failure.
    pub(crate) async fn call(
        &self,
        node: NodeId,
        class: Class,
        frame: Frame,
        timeout: Duration,
    ) -> Result<Frame, PeerError> {
        self.may_ask(node, frame.kind)?;
        let peer = self.peer(node);
        let deadline = Instant::now() + timeout;
        let connection = match peer.connected() {
            Some(connection) => connection,
            // Seldom, and four fifths of what every request's future would otherwise be moved about with.
            None => Box::pin(self.connect(&peer, timeout)).await?,
        };
        let started = Instant::now();
        let allowed = deadline.saturating_duration_since(started);
        let answer = connection.call(class, frame, allowed).await;
        let ended = Instant::now();
        match &answer {
            Ok(_) => self.answered(&peer, ended),
            Err(error) => self.unanswered(&peer, error, allowed),
        }
        match answer {
            Ok(frame) if frame.kind == kinds::FAILURE => Err(PeerError::Refused(frame.message()?)),
            Ok(frame) => {
                if class == Class::Foreground {
                    peer.observe_latency(ended - started);
                }
                Ok(frame)
            }
            Err(error) => {
                peer.observe_latency(ended - started);
                peer.state().last_error = error.to_string();
                Err(error.into())
            }
        }
    }

    /// [`Peers::call`] with the answer's message decoded; its body comes beside it.
    pub(crate) async fn request<R: Message>(
        &self,
        node: NodeId,
        class: Class,
        frame: Frame,
        timeout: Duration,
    ) -> Result<(R, bytes::Bytes), PeerError> {
        let answer = self.call(node, class, frame, timeout).await?;
        Ok((answer.message()?, answer.body))
    }

    /// Nobody is asked for what it does not know. And whoever does not know what the cluster does only gossips.
    fn may_ask(&self, node: NodeId, kind: u16) -> Result<(), PeerError> {
        if let Some(refused @ NotServing::Feature { .. }) = self.cluster.refused()
            && kind != kinds::GOSSIP
        {
            return Err(PeerError::NotServing(refused.clone()));
        }
        let Some(feature) = Feature::of_kind(kind) else { return Ok(()) };
        match self.gossip.said_by(&node).is_some_and(|said| said.features.contains(feature)) {
            true => Ok(()),
            false => Err(PeerError::Lacks(feature)),
        }
    }

    async fn connect(&self, peer: &Peer, timeout: Duration) -> Result<Connection, PeerError> {
        // While a node is down, requests must not queue behind attempts to reach it, which the exchange makes.
        if let Some(error) = self.failed(peer) {
            return Err(PeerError::Unreachable(error));
        }
        let attempt = async {
            let _connecting = peer.connecting.lock().await;
            if let Some(connection) = peer.connected() {
                return Ok(connection);
            }
            match self.failed(peer) {
                Some(error) => Err(PeerError::Unreachable(error)),
                None => self.connect_now(peer).await,
            }
        };
        match tokio::time::timeout(timeout, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PeerError::Unreachable("no connection in time".into())),
        }
    }

    async fn connect_now(&self, peer: &Peer) -> Result<Connection, PeerError> {
        let mut news = self.cluster.subscribe();
        let info = self.cluster.node(&peer.id).ok_or(PeerError::NoAddress)?;
        let attempt = async {
            let address = resolve(&info.address).await?;
            let connected = self.endpoint.connect(address, Expect::Node(peer.id)).await;
            connected.map_err(|error: ConnectError| error.to_string())
        };
        let moved = async {
            // Without further news this never ends; the attempt does.
            loop {
                news.changed().await;
                if self.cluster.node(&peer.id).is_some_and(|now| now.address != info.address) {
                    return;
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = attempt => outcome,
            () = moved => Err("it has moved to another address".into()),
        };
        let mut state = peer.state();
        match outcome {
            Ok(connection) => {
                tracing::debug!(peer = %peer.id, address = %info.address, "connected");
                let address = Some(info.address);
                *state = PeerState { connection: self.kept(&connection), address, ..PeerState::default() };
                drop(state);
                self.connected(peer);
                Ok(connection)
            }
            Err(error) => {
                tracing::debug!(peer = %peer.id, address = %info.address, %error, "not connected");
                state.failed = Some((Instant::now(), info.address));
                state.last_error.clone_from(&error);
                drop(state);
                self.gossip.call_failed(peer.id);
                peer.failing.store(true, Ordering::Relaxed);
                self.review_one(peer);
                Err(PeerError::Unreachable(error))
            }
        }
    }

    /// The peer has answered. On the path of every request: the failure detector is told at once only if it has had
    /// reason for suspicion, otherwise by the next [review](Peers::review).
    fn answered(&self, peer: &Peer, at: Instant) {
        let at = self.gossip.time_of(at);
        peer.answered_us.store(at.as_micros() as u64, Ordering::Relaxed);
        if peer.failing.load(Ordering::Relaxed) {
            peer.failing.store(false, Ordering::Relaxed);
            self.gossip.call_succeeded(peer.id, at);
            self.review_one(peer);
        }
    }

    /// A connection stands, which takes packets in both directions.
    fn connected(&self, peer: &Peer) {
        self.gossip.call_succeeded(peer.id, self.gossip.now());
        self.review_one(peer);
    }

    /// A call had no answer.
    fn unanswered(&self, peer: &Peer, error: &CallError, allowed: Duration) {
        let silent = match error {
            CallError::TimedOut { .. } | CallError::NotSentInTime { .. } => allowed >= SILENCE_MIN,
            CallError::Lost { .. } => true,
            // Too large, too many, or a connection that was lost before: nothing was asked of the peer.
            _ => false,
        };
        if silent {
            self.gossip.call_failed(peer.id);
            peer.failing.store(true, Ordering::Relaxed);
            self.review_one(peer);
        }
        if peer.connected().is_none() {
            self.trouble.notify_one();
        }
    }

    /// Wakes when a connection was lost.
    pub(crate) async fn trouble(&self) {
        self.trouble.notified().await;
    }

    /// Tells the failure detector who has answered, and looks who is up.
    pub(crate) fn review(&self, nodes: impl Iterator<Item = NodeId>) {
        let (mut up, mut suspected) = (0, 0);
        for node in nodes {
            let peer = self.peer(node);
            let answered_us = peer.answered_us.swap(0, Ordering::Relaxed);
            // A failure that came after the answer must not be forgotten for it.
            if answered_us > 0 && !peer.failing.load(Ordering::Relaxed) {
                self.gossip.call_succeeded(node, Duration::from_micros(answered_us));
            }
            self.review_one(&peer);
            up += i64::from(peer.up.load(Ordering::Relaxed));
            suspected += i64::from(peer.suspected.load(Ordering::Relaxed));
        }
        self.metrics.peers_up.set(up);
        self.metrics.peers_suspected.set(suspected);
    }

    fn review_one(&self, peer: &Peer) {
        peer.suspected.store(self.gossip.is_suspect(peer.id), Ordering::Relaxed);
        let up = peer.is_up();
        if peer.up.swap(up, Ordering::Relaxed) != up {
            tracing::debug!(peer = %peer.id, up, "a peer's standing has changed");
            if up {
                self.came_up.tell();
            }
        }
    }

    /// Changes whenever some peer has come up.
    pub(crate) fn watch_up(&self) -> Listener {
        self.came_up.listen()
    }

    /// Lets go of the connection to a node that is somewhere else now, and returns it.
    pub(crate) fn leave_old_address(&self, info: &NodeInfo) -> Option<Connection> {
        let peer = self.peer(info.id);
        let mut state = peer.state();
        match &state.address {
            Some(address) if *address != info.address => {
                state.address = None;
                state.connection.take()
            }
            Some(_) => None,
            None => {
                // A seed's: now its node has said where it is.
                state.address = state.connection.as_ref().map(|_| info.address.clone());
                None
            }
        }
    }

    /// To be called under the lock of the peer's state, so that none slips in behind [`Peers::close`].
    fn kept(&self, connection: &Connection) -> Option<Connection> {
        (!self.closed.load(Ordering::SeqCst)).then(|| connection.clone())
    }

    /// Lets go of all connections: each ends with its last call, and none holds the node's port any longer than that.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in peers.values() {
            peer.state().connection = None;
        }
    }

    /// Why the latest attempt to connect failed, if it did and the node has not moved since.
    fn failed(&self, peer: &Peer) -> Option<String> {
        self.failed_since(peer).map(|_| peer.state().last_error.clone())
    }

    fn failed_lately(&self, peer: &Peer) -> bool {
        self.failed_since(peer).is_some_and(|at| at.elapsed() < RETRY_AFTER)
    }

    fn failed_since(&self, peer: &Peer) -> Option<Instant> {
        let (at, address) = peer.state().failed.clone()?;
        let moved = self.cluster.node(&peer.id).is_some_and(|now| now.address != address);
        (!moved).then_some(at)
    }

    /// Tries to connect to `node` unless it is connected: what keeps connections up without traffic. Says whether it has
    /// connected.
    pub(crate) async fn ensure_connected(&self, node: NodeId) -> bool {
        let peer = self.peer(node);
        if peer.connected().is_none()
            && let Ok(_connecting) = peer.connecting.try_lock()
            && !self.failed_lately(&peer)
        {
            // Why not is kept in the peer's state.
            return self.connect_now(&peer).await.is_ok();
        }
        false
    }

    /// Connects to an address of which only the cluster is known, unless one of `others` is dialled there anyway. Returns
    /// who answers there, with the connection if one was made.
    pub(crate) async fn connect_seed(
        &self,
        seed: &str,
        others: &[NodeInfo],
    ) -> Result<(NodeId, Option<Connection>), String> {
        let address = resolve(seed).await?;
        let text = address.to_string();
        if let Some(info) = others.iter().find(|info| info.address == text) {
            return Ok((info.id, None));
        }
        let connection =
            self.endpoint.connect(address, Expect::AnyNode).await.map_err(|error| error.to_string())?;
        let id = *connection.peer().node_id().ok_or("a client answers there")?;
        if id != self.cluster.me.id {
            let peer = self.peer(id);
            if peer.connected().is_none() {
                let mut state = peer.state();
                *state = PeerState { connection: self.kept(&connection), ..PeerState::default() };
                drop(state);
                self.connected(&peer);
            }
        }
        Ok((id, Some(connection)))
    }

    /// Whether a connection to `node` stands.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.peer(node).connected().is_some()
    }

    /// Whether `node` is up, as far as this node can tell: a connection stands, and the failure detector does not suspect it.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.peer(node).is_up()
    }

    /// Whether the failure detector suspects `node` to be down.
    pub(crate) fn is_suspected(&self, node: NodeId) -> bool {
        self.peer(node).suspected.load(Ordering::Relaxed)
    }

    /// Whether a request to `node` has a chance: it is up, or nobody has tried yet.
    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        let peer = self.peer(node);
        let suspected = peer.suspected.load(Ordering::Relaxed);
        !suspected && (peer.connected().is_some() || self.failed(&peer).is_none() && !peer.is_lost())
    }

    /// Takes note that `node` keeps as many hints as it may.
    pub(crate) fn hints_full(&self, node: NodeId) {
        *self.peer(node).hints_full.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether `node` may be asked to keep a hint.
    pub(crate) fn takes_hints(&self, node: NodeId) -> bool {
        let full = *self.peer(node).hints_full.lock().unwrap_or_else(PoisonError::into_inner);
        full.is_none_or(|at| at.elapsed() >= HINTS_FULL_FOR)
    }

    /// Smoothed time of a call to `node`.
    pub(crate) fn latency(&self, node: NodeId) -> Duration {
        Duration::from_micros(self.peer(node).latency_us.load(Ordering::Relaxed))
    }

    /// Sorts `nodes`: reachable ones first, the quickest first among them.
    pub(crate) fn sort_by_latency(&self, nodes: &mut [NodeId]) {
        nodes.sort_by_cached_key(|&node| (!self.is_reachable(node), self.latency(node)));
    }

    /// What this node thinks of `node`.
    pub(crate) fn status(&self, node: NodeId) -> PeerStatus {
        let peer = self.peer(node);
        let connection = peer.connected();
        let Opinion { suspected, phi, silent, load, features } = self.gossip.opinion(node);
        let info = self.cluster.node(&node);
        PeerStatus {
            id: node,
            connected: connection.is_some(),
            rtt_us: connection.map_or(0, |connection| connection.rtt().as_micros() as u64),
            last_error: peer.state().last_error.clone(),
            suspected,
            phi_milli: (phi * 1000.0) as u64,
            silent_ms: silent.map(|silent| silent.as_millis() as u64),
            boot: info.as_ref().map_or(0, |info| info.boot),
            address: info.as_ref().map_or_else(String::new, |info| info.address.clone()),
            version: info.map_or_else(String::new, |info| info.version),
            load,
            features,
        }
    }
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> Option<Connection> {
        self.state().connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    fn is_up(&self) -> bool {
        self.connected().is_some() && !self.suspected.load(Ordering::Relaxed)
    }

    /// Whether it had a connection that is lost now.
    fn is_lost(&self) -> bool {
        self.state().connection.as_ref().is_some_and(Connection::is_closed)
    }

    /// An eighth of each new sample, as TCP smooths its round trip time.
    fn observe_latency(&self, sample: Duration) {
        let sample = (sample.as_micros() as u64).max(1);
        let old = self.latency_us.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        self.latency_us.store(new.max(1), Ordering::Relaxed);
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let mut found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| format!("{address} cannot be resolved: {error}"))?;
    found.next().ok_or_else(|| format!("{address} has no address"))
}
