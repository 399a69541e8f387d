//! Gossip and failure detection: what this node has heard, what it says, and whom it suspects. No I/O: `rounds` and
//! `upkeep` carry the messages.

mod identity;
mod rounds;
mod seeds;
mod upkeep;
mod wire;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dynkv_gossip::{Config, Effect, Gossip, GrowSet, Incarnation, Latest, NodeState, VersionedMap};
use dynkv_proto::{Announcement, Configuration, DecodeError, FeatureSet, NodeInfo, NodeLoad};
use dynkv_ring::{Entry, History, NodeId};
use tokio::{sync::Notify, time::Instant};

use crate::{
    cluster::{Cluster, NotServing},
    env::Env,
    metrics::Metrics,
};
use identity::{Identity, Verdict};
pub(crate) use rounds::{answer, others, run as run_rounds, tell_all};
pub(crate) use seeds::run as ask_seeds;
pub(crate) use upkeep::run as keep_up;
pub(crate) use upkeep::take_over;
use wire::{Carried, HistoryEntry, Holders, Message};

/// How often others are told of another load, if it is another by some eighth.
const LOAD_EVERY: Duration = Duration::from_secs(30);

/// The gossip of one node.
pub(crate) struct Gossiper {
    inner: Mutex<Inner>,
    cluster: Arc<Cluster>,
    env: Arc<Env>,
    metrics: Arc<Metrics>,
    started: Instant,
    /// Whether this run says nothing any more: it stops, or another run of its id goes on.
    silent: AtomicBool,
    /// Wakes whoever stores entries that were heard of.
    grown: Notify,
    /// Wakes whoever takes over configurations that were heard of.
    configured: Notify,
}

struct Inner {
    gossip: Gossip<NodeId, Carried>,
    identity: Identity,
    /// What this node says of itself.
    said: Announcement,
    loaded: Option<Duration>,
}

/// What a message changed, to be done when the gossip is not locked any more.
#[derive(Default)]
struct Tidings {
    infos: Vec<NodeInfo>,
    grown: bool,
    /// The boot counter that this run has taken.
    boot: Option<u64>,
    refused: Option<NotServing>,
}

/// What this node thinks of another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opinion {
    pub(crate) suspected: bool,
    pub(crate) phi: f64,
    /// Time since the last sign of life, of which ever one was heard.
    pub(crate) silent: Option<Duration>,
    pub(crate) load: Option<NodeLoad>,
    /// What it knows, if it was heard of.
    pub(crate) features: Option<FeatureSet>,
}

impl Gossiper {
    pub(crate) fn new(cluster: Arc<Cluster>, env: Arc<Env>, metrics: Arc<Metrics>) -> Gossiper {
        let NodeInfo { id, address, boot, disk, version } = cluster.me.clone();
        // 0 is nobody's.
        let nonce = env.random().max(1);
        let features = cluster.knows.clone();
        let said = Announcement { address, disk, version, load: NodeLoad::default(), features };
        let mut entries = GrowSet::new();
        for entry in cluster.view().history.entries() {
            // The set has the history's own limit.
            let _ = entries.insert(entry.clone().into());
        }
        let run = Incarnation { boot, nonce };
        let mut configurations = VersionedMap::new();
        for Configuration { partition, epoch, members } in cluster.chain.all() {
            // There are no more partitions than the map has room for.
            let _ = configurations.insert(partition, Latest { version: epoch, value: Holders(members) });
        }
        let gossip = Gossip::new(Config::default(), id, run, [], (entries, configurations));
        let inner = Inner { gossip, identity: Identity::new(nonce), said, loaded: None };
        let gossiper = Gossiper {
            inner: Mutex::new(inner),
            env,
            metrics,
            started: Instant::now(),
            silent: AtomicBool::new(false),
            grown: Notify::new(),
            configured: Notify::new(),
            cluster,
        };
        gossiper.lock().say();
        gossiper.introduce(gossiper.cluster.nodes());
        gossiper
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the node's start, which is what gossip goes by.
    pub(crate) fn now(&self) -> Duration {
        self.time_of(Instant::now())
    }

    pub(crate) fn time_of(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.started)
    }

    /// From here on nothing is said, and nothing heard has any effect: what is still under way must not speak in the
    /// name of a node that may run again elsewhere.
    pub(crate) fn stop(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    /// Makes nodes known of which an operator or the node's own notes tell. What they say themselves counts for more.
    pub(crate) fn introduce(&self, infos: Vec<NodeInfo>) {
        let now = self.now();
        let mut inner = self.lock();
        for NodeInfo { id, address, disk, version, boot } in infos {
            let (load, features) = (NodeLoad::default(), FeatureSet::default());
            let known = Announcement { address, disk, version, load, features };
            inner.gossip.introduce(id, boot, wire::encode_announcement(&known), now);
        }
    }

    /// Makes an entry of the history travel.
    pub(crate) fn carry(&self, entry: Entry) {
        // Full is what the history then is, too.
        let _ = self.lock().gossip.payload_mut().0.insert(entry.into());
    }

    /// Makes a configuration travel.
    pub(crate) fn carry_configuration(&self, configuration: Configuration) {
        let Configuration { partition, epoch, members } = configuration;
        let latest = Latest { version: epoch, value: Holders(members) };
        let _ = self.lock().gossip.payload_mut().1.insert(partition, latest);
    }

    /// The configurations heard of.
    fn configurations(&self) -> Vec<Configuration> {
        let inner = self.lock();
        let heard = inner.gossip.payload().1.iter();
        heard
            .map(|(partition, latest)| Configuration {
                partition: *partition,
                epoch: latest.version,
                members: latest.value.0.clone(),
            })
            .collect()
    }

    /// What the others are to know of the hints kept here: how many, and the age of the oldest in seconds.
    pub(crate) fn set_hints(&self, hints: u64, oldest_hint_s: Option<u64>) {
        let mut inner = self.lock();
        inner.said.load = NodeLoad { hints, oldest_hint_s, ..inner.said.load.clone() };
    }

    /// The hints kept here, as last [set](Gossiper::set_hints).
    pub(crate) fn own_load(&self) -> NodeLoad {
        self.lock().said.load.clone()
    }

    /// The opening of an exchange.
    fn open(&self) -> Bytes {
        wire::encode(&self.lock().gossip.open())
    }

    /// A round, if it is due: whom to open an exchange with, and how. And when the next one is due.
    fn round(&self, eligible: impl Fn(&NodeId) -> bool) -> (Vec<(NodeId, Bytes)>, Instant) {
        let now = self.now();
        let mut inner = self.lock();
        let effects = inner.gossip.tick_among(now, || self.env.random(), eligible);
        let send = |effect| match effect {
            Effect::Send { to, message } => Some((to, wire::encode(&message))),
            _ => None,
        };
        (effects.into_iter().filter_map(send).collect(), self.started + inner.gossip.next_tick())
    }

    /// Takes in a message of another node's, or of another run of this one. Returns the answer, if there is something to
    /// say.
    ///
    /// # Errors
    /// When it cannot be read; nothing has changed then.
    fn handle(&self, from: NodeId, message: &[u8]) -> Result<Option<Bytes>, DecodeError> {
        let message = wire::decode(message)?;
        if self.is_silent() {
            return Ok(None);
        }
        let now = self.now();
        let (answer, tidings) = self.lock().handle(from, message, now, &self.metrics);
        self.apply(tidings);
        if self.is_silent() {
            return Ok(None);
        }
        Ok(answer.as_ref().map(wire::encode))
    }

    fn apply(&self, tidings: Tidings) {
        let Tidings { infos, grown, boot, refused } = tidings;
        if let Some(reason) = refused {
            tracing::error!(%reason, "this node serves nothing any more");
            self.stop();
            self.cluster.refuse(reason);
        }
        if let Some(boot) = boot {
            self.cluster.set_own_boot(boot);
        }
        self.cluster.learn(infos);
        if grown {
            self.grown.notify_one();
            self.configured.notify_one();
        }
    }

    /// What has to be looked at again and again: whether another run still supersedes this one, whether the load is
    /// another, whether entries still have to be stored.
    fn review(&self, load: impl FnOnce() -> (u64, u64)) {
        let now = self.now();
        let tidings = {
            let mut inner = self.lock();
            let mut tidings = Tidings::default();
            inner.judge(now, &self.metrics, &mut tidings);
            if inner.loaded.is_none_or(|at| now.saturating_sub(at) >= LOAD_EVERY) {
                inner.loaded = Some(now);
                let (records, disk_bytes) = load();
                inner.said.load.records = records;
                inner.said.load.disk_bytes = disk_bytes;
                inner.say();
            }
            tidings.grown = inner.gossip.payload().0.len() > self.cluster.view().history.len();
            tidings
        };
        self.apply(tidings);
    }

    /// The entries heard of that the history has not.
    fn news_for(&self, history: &History) -> History {
        let inner = self.lock();
        let mut news = History::new();
        for HistoryEntry { entry, .. } in inner.gossip.payload().0.iter() {
            if !history.contains(entry) {
                // The set has no more entries than fit.
                let _ = news.insert(entry.clone());
            }
        }
        news
    }

    /// An exchange with another node has come to its end.
    fn contacted(&self) {
        let now = self.now();
        self.lock().identity.contacted(now);
    }

    /// Whether this run has been in touch with the cluster for so long that it would have heard of another run of its node that was there before.
    pub(crate) fn is_settled(&self) -> bool {
        let now = self.now();
        self.lock().identity.is_settled(now)
    }

    /// A call to `node` was answered at `at`.
    pub(crate) fn call_succeeded(&self, node: NodeId, at: Duration) {
        self.lock().gossip.call_succeeded(&node, at);
    }

    /// A call to `node` found nobody, or had no answer in a time that should do.
    pub(crate) fn call_failed(&self, node: NodeId) {
        let now = self.now();
        self.lock().gossip.call_failed(&node, now);
    }

    pub(crate) fn is_suspect(&self, node: NodeId) -> bool {
        let now = self.now();
        self.lock().gossip.is_suspect(&node, now)
    }

    pub(crate) fn opinion(&self, node: NodeId) -> Opinion {
        let now = self.now();
        let inner = self.lock();
        let Some(detector) = inner.gossip.detector(&node) else { return Opinion::default() };
        let (suspected, phi, last_sign) = (detector.is_suspect(now), detector.phi(now), detector.last_sign());
        let said = inner.said_by(&node);
        Opinion {
            suspected,
            phi,
            silent: inner.is_heard(&node).then(|| now.saturating_sub(last_sign)),
            load: said.as_ref().map(|said| said.load.clone()),
            features: said.map(|said| said.features),
        }
    }

    /// What `node` last said of itself, itself or by way of others; `None`: it has not been heard of since this one was started.
    pub(crate) fn said_by(&self, node: &NodeId) -> Option<Announcement> {
        self.lock().said_by(node)
    }
}

impl Inner {
    /// Tells the others what there is to say, unless they know it.
    fn say(&mut self) {
        let NodeLoad { records, disk_bytes, hints, oldest_hint_s } = self.said.load;
        let load = NodeLoad {
            records: rough(records),
            disk_bytes: rough(disk_bytes),
            hints: rough(hints),
            oldest_hint_s: oldest_hint_s.map(rough),
        };
        let bytes = wire::encode_announcement(&Announcement { load, ..self.said.clone() });
        if self.gossip.said() == bytes {
            return;
        }
        if let Err(error) = self.gossip.set_state(bytes) {
            tracing::warn!(%error, "the others are not told how this node is");
        }
    }

    fn handle(
        &mut self,
        from: NodeId,
        message: Message,
        now: Duration,
        metrics: &Metrics,
    ) -> (Option<Message>, Tidings) {
        let step = message.step.saturating_add(1);
        let mut answer = None;
        let mut tidings = Tidings::default();
        for effect in self.gossip.handle(from, message, now) {
            match effect {
                Effect::Send { message, .. } => answer = Some(message),
                Effect::PayloadChanged => tidings.grown = true,
                Effect::StateChanged { id } => tidings.infos.extend(self.info(id)),
                Effect::Superseded { .. } => self.judge(now, metrics, &mut tidings),
                Effect::Conflict { id, rejected, by } => {
                    metrics.identity_conflicts.inc();
                    tracing::warn!(
                        node = %id, %rejected, %by,
                        "a node has heard of another run of itself that it did not expect, and tells it to stop if it is alive: look for a copied disk, or a certificate used twice"
                    );
                }
                // Effects that a later version of the crate adds concern those who ask for them.
                _ => {}
            }
        }
        if tidings.boot.is_some() && step < Config::default().steps_max {
            // What the answer says of this node is out of date already; and whoever told it may be the other run.
            answer = Some(Message { step, ..self.gossip.open() });
        }
        (answer, tidings)
    }

    /// Does what has to be done about another run that supersedes this one.
    fn judge(&mut self, now: Duration, metrics: &Metrics, tidings: &mut Tidings) {
        let Some(other) = self.gossip.superseded_by() else { return };
        let verdict = self.identity.judge(other, now);
        let node = *self.gossip.me();
        let address = self.info(node).map_or_else(String::new, |info| info.address);
        match verdict {
            Verdict::Later => {}
            Verdict::Refuse => {
                metrics.identity_conflicts.inc();
                tidings.refused = Some(NotServing::Duplicate { node, address });
            }
            Verdict::Outbid | Verdict::Reject => {
                let reject = verdict == Verdict::Reject;
                if reject {
                    metrics.identity_conflicts.inc();
                    tracing::warn!(
                        %node, elsewhere = %address, rejected = %other.incarnation,
                        "another run of this node was heard of that came later, and is told to stop if it is alive: look for a copied disk, or a certificate used twice"
                    );
                } else {
                    tracing::info!(%node, before = %other.incarnation, "others know an earlier run of this node by a greater boot counter");
                }
                self.identity.outbid(now);
                if self.gossip.outbid(reject).is_some() {
                    tidings.boot = Some(self.gossip.incarnation().boot);
                }
            }
        }
    }

    fn is_heard(&self, node: &NodeId) -> bool {
        self.gossip.state(node).is_some_and(|state| !state.stamp.incarnation.is_hearsay())
    }

    fn said_by(&self, node: &NodeId) -> Option<Announcement> {
        let state = self.gossip.state(node).filter(|_| self.is_heard(node))?;
        wire::decode_announcement(&state.bytes).ok()
    }

    /// What a node has said of itself, or what others know of it.
    fn info(&self, id: NodeId) -> Option<NodeInfo> {
        let NodeState { stamp, bytes } = self.gossip.state(&id)?;
        match wire::decode_announcement(bytes) {
            Ok(Announcement { address, disk, version, .. }) => {
                Some(NodeInfo { id, address, boot: stamp.incarnation.boot, disk, version })
            }
            Err(error) => {
                tracing::warn!(node = %id, %error, "what a node says of itself cannot be read: is its version newer?");
                None
            }
        }
    }
}

/// A number with its three highest bits: what changes all the time would have to be told all the time.
fn rough(number: u64) -> u64 {
    let dropped = (u64::BITS - number.leading_zeros()).saturating_sub(3);
    number >> dropped << dropped
}

#[cfg(test)]
mod tests;
