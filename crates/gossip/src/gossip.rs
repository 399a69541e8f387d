//! The state machine of a node.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::time::Duration;

use crate::map::Limits;
use crate::peers::{Peers, draw};
use crate::{
    Config, Counters, Effect, Heartbeat, Incarnation, Message, NodeState, Payload, Reply, Stamp,
    VersionedMap, reconcile,
};

/// One node's part in the gossip: `N` are node ids, `P` what is carried.
///
/// It does no I/O and asks no clock. Call [`tick`](Self::tick) when [`next_tick`](Self::next_tick) has come, hand in
/// every message by [`handle`](Self::handle), and do what the [effects](Effect) say.
///
/// `now` is the time since any moment, the same for all calls, of a clock that does not go back. `random`
/// gives uniformly random numbers, on which no guarantee depends. Equal calls have equal effects.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use dynkv_gossip::{Config, Effect, Gossip, GrowSet, Incarnation};
///
/// let node = |id, seed| {
///     let run = Incarnation { boot: 1, nonce: 0x5eed };
///     Gossip::new(Config::default(), id, run, [seed], GrowSet::<String>::new())
/// };
/// let (mut a, mut b) = (node("a", "b"), node("b", "a"));
/// a.set_state(b"10.0.0.1:4433".to_vec())?;
/// b.payload_mut().insert("n1 joins".to_owned())?;
///
/// // A round of a's; what it sends is carried here.
/// let now = Duration::ZERO;
/// let mut effects = a.tick(now, || 0);
/// while let Some(effect) = effects.pop() {
///     let more = match effect {
///         Effect::Send { to: "a", message } => a.handle("b", message, now),
///         Effect::Send { message, .. } => b.handle("a", message, now),
///         Effect::StateChanged { id } => { println!("{id} has a new state"); vec![] }
///         _ => vec![],
///     };
///     effects.extend(more);
/// }
/// assert_eq!(b.state(&"a").unwrap().bytes, b"10.0.0.1:4433");
/// assert!(a.payload().contains(&"n1 joins".to_owned()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gossip<N, P> {
    config: Config,
    me: N,
    incarnation: Incarnation,
    /// The version of the last state set here, and what it says; nothing has been said at 0.
    version: u64,
    said: Vec<u8>,
    /// The run that this one rejects, in everything it says.
    rejects: Option<Incarnation>,
    /// Rounds begun, the heartbeat.
    rounds: u64,
    next_tick: Duration,
    seeds: Vec<N>,
    states: VersionedMap<N, NodeState>,
    removed: BTreeSet<N>,
    peers: Peers<N>,
    payload: P,
    counters: Counters,
}

/// See [`Config::steps_max`].
const STEPS_MIN: u16 = 16;

/// What [`Gossip::tick`] and [`Gossip::handle`] return.
type Effects<N, P> = Vec<Effect<N, <P as Payload>::Message>>;

impl<N: Ord + Hash + Clone, P: Payload> Gossip<N, P> {
    /// A node that knows nobody but its seeds. It does not learn whether it is one of them itself: its own id is
    /// ignored.
    #[must_use]
    pub fn new(
        config: Config,
        me: N,
        incarnation: Incarnation,
        seeds: impl IntoIterator<Item = N>,
        payload: P,
    ) -> Self {
        let limits = Limits { entries_max: config.nodes_max, message_bytes_max: config.message_bytes_max };
        let seeds = seeds.into_iter().filter(|seed| *seed != me).collect();
        Self {
            config,
            me,
            incarnation,
            version: 0,
            said: Vec::new(),
            rejects: None,
            rounds: 0,
            next_tick: Duration::ZERO,
            seeds,
            states: VersionedMap::with_limits(limits),
            removed: BTreeSet::new(),
            peers: Peers::new(),
            payload,
            counters: Counters::default(),
        }
    }

    /// When the next round is due. At the beginning: at once.
    #[must_use]
    pub fn next_tick(&self) -> Duration {
        self.next_tick
    }

    /// Begins a round if one is due: an exchange with a random node, sometimes a second one with a seed or with a
    /// suspected node.
    ///
    /// If the call comes late by more than an interval, then it was this node that slept, and the others' silence in
    /// that time is not held against them.
    pub fn tick(&mut self, now: Duration, random: impl FnMut() -> u64) -> Effects<N, P> {
        self.tick_among(now, random, |_| true)
    }

    /// [`tick`](Self::tick) with exchanges only with `eligible` nodes: others may be known who are nobody's concern,
    /// and open an exchange themselves when they want one.
    pub fn tick_among(
        &mut self,
        now: Duration,
        mut random: impl FnMut() -> u64,
        eligible: impl Fn(&N) -> bool,
    ) -> Effects<N, P> {
        if now < self.next_tick {
            return Vec::new();
        }
        if self.rounds == 0 {
            for seed in &self.seeds {
                self.peers.add(seed, &self.config, now);
            }
        } else {
            self.excuse_if_late(now);
        }
        self.rounds += 1;
        self.counters.rounds += 1;
        // 0.9 to 1.1 intervals.
        let share = 0.9 + 0.2 * (random() as f64 / u64::MAX as f64);
        self.next_tick = now.saturating_add(self.config.interval.mul_f64(share));

        let mut partners: Vec<N> =
            self.peers.draw(now, &mut random, &eligible).cloned().into_iter().collect();
        let seeding = pick_one_in(self.config.seed_every, &mut random);
        if seeding || partners.is_empty() {
            partners.extend(self.island(now, &mut random, &eligible));
        }
        partners.dedup();
        let open = |to| Effect::Send { to, message: self.open() };
        partners.into_iter().map(open).collect()
    }

    /// The opening of an exchange outside of the rounds, with whomever it is sent to: because there is news, or to
    /// see whether somebody is there.
    pub fn open(&mut self) -> Message<N, P::Message> {
        self.counters.messages_sent += 1;
        Message {
            step: 0,
            heartbeats: self.heartbeats(),
            states: Some(reconcile::open(&mut self.states)),
            payload: Some(self.payload.open()),
        }
    }

    /// Takes a message in. `from` is who sent it, as the transport knows: this node's own id, if another run of it did.
    pub fn handle(&mut self, from: N, message: Message<N, P::Message>, now: Duration) -> Effects<N, P> {
        self.counters.messages_received += 1;
        if self.removed.contains(&from) {
            self.counters.messages_ignored += 1;
            return Vec::new();
        }
        if from != self.me {
            self.peers.add(&from, &self.config, now);
        }
        self.hear(&message.heartbeats, now);
        if message.step > 0
            && let Some(peer) = self.peers.get_mut(&from)
        {
            // An answer: we were heard.
            peer.detector.success(now);
        }

        let mut effects = Vec::new();
        let mut states = None;
        if let Some(question) = message.states {
            let changed;
            (states, changed) = self.reconcile(question, now);
            effects.extend(changed);
        }
        let reply = message.payload.map_or_else(Reply::default, |question| self.payload.handle(question));
        if reply.changed {
            effects.push(Effect::PayloadChanged);
        }

        let opening = message.step == 0;
        let something = states.is_some() || reply.answer.is_some();
        // The number of messages comes from the other side: at the limit the exchange is over.
        let step = message.step.saturating_add(1);
        if (opening || something) && step < self.config.steps_max.max(STEPS_MIN) {
            let heartbeats = if opening { self.heartbeats() } else { Vec::new() };
            let message = Message { step, heartbeats, states, payload: reply.answer };
            self.counters.messages_sent += 1;
            effects.push(Effect::Send { to: from, message });
        }
        effects
    }

    /// Says something new about this node. The others have it within some rounds.
    ///
    /// Every change travels to every node: say a number that moves all the time in rough steps.
    ///
    /// While another run [supersedes](Effect::Superseded) this one, nobody will hear of it.
    ///
    /// # Errors
    ///
    /// If the state is too long, or if there are too many nodes; nothing has changed then.
    pub fn set_state(&mut self, bytes: Vec<u8>) -> Result<(), SetStateError> {
        let bytes_max = self.config.state_bytes_max.min(NodeState::BYTES_MAX);
        if bytes.len() > bytes_max {
            return Err(SetStateError::TooLong { len: bytes.len(), bytes_max });
        }
        let before = (self.version, std::mem::replace(&mut self.said, bytes));
        // What is known of this run was said here, unless somebody lies; the next word is this node's in any case.
        let known = self.states.get(&self.me).map(|state| state.stamp);
        let known = known.filter(|known| known.incarnation == self.incarnation).map_or(0, |own| own.version);
        self.version = known.max(self.version).saturating_add(1);
        if self.say().is_err() {
            (self.version, self.said) = before;
            return Err(SetStateError::TooManyNodes { nodes_max: self.config.nodes_max });
        }
        Ok(())
    }

    /// What this node said last.
    #[must_use]
    pub fn said(&self) -> &[u8] {
        &self.said
    }

    /// The state by which another run of this node's id [supersedes](Effect::Superseded) this one.
    #[must_use]
    pub fn superseded_by(&self) -> Option<Stamp> {
        let known = self.states.get(&self.me)?.stamp;
        (known.incarnation > self.incarnation).then_some(known)
    }

    /// Takes a boot counter above that of the run which [supersedes](Effect::Superseded) this one, so that what this run
    /// says counts again; with `reject` it also says that the other one has to stop, see [`Effect::Conflict`].
    ///
    /// Two runs that live outbid each other for ever, unless one rejects. Returns the incarnation outbid; nothing is
    /// done if no run supersedes this one, or if it has the greatest counter there is.
    pub fn outbid(&mut self, reject: bool) -> Option<Incarnation> {
        let other = self.superseded_by()?.incarnation;
        self.incarnation.boot = other.boot.checked_add(1)?;
        if reject {
            // One at a time; until then the last one stays named, for it may not have heard of it yet.
            self.rejects = Some(other);
        }
        if self.version > 0 {
            // The key is there, so there is room.
            let _ = self.say();
        }
        Some(other)
    }

    fn say(&mut self) -> Result<bool, crate::MapFull> {
        let Self { incarnation, version, rejects, .. } = *self;
        let stamp = Stamp { incarnation, version, rejects };
        self.states.insert(self.me.clone(), NodeState { stamp, bytes: self.said.clone() })
    }

    /// Makes a node known that has not been heard of: it will be drawn for exchanges, and watched. `bytes` is what is
    /// known about it, from an operator (`boot` is 0 then) or from earlier days, by a run with the counter `boot`. It
    /// travels as [hearsay](Incarnation::is_hearsay): whatever a run of that counter or a later one says replaces it.
    ///
    /// Nothing happens if something is known about it already, or if there is no room.
    pub fn introduce(&mut self, id: N, boot: u64, bytes: Vec<u8>, now: Duration) {
        let bytes_max = self.config.state_bytes_max.min(NodeState::BYTES_MAX);
        let wanted = id != self.me && !self.removed.contains(&id) && bytes.len() <= bytes_max;
        if wanted && self.states.get(&id).is_none() {
            let incarnation = Incarnation { boot, nonce: 0 };
            let stamp = Stamp { incarnation, version: 0, rejects: None };
            if self.states.insert(id.clone(), NodeState { stamp, bytes }).is_ok() {
                self.peers.add(&id, &self.config, now);
            }
        }
    }

    /// Forgets a node that is gone for good, and will not hear of it again. To be called on every node: until the
    /// last one has, the others offer it theirs.
    ///
    /// Memory holds the ids removed.
    pub fn remove(&mut self, id: N) {
        if id == self.me {
            return;
        }
        self.states.remove(&id);
        self.peers.remove(&id);
        self.seeds.retain(|seed| *seed != id);
        self.removed.insert(id);
    }

    /// Takes note of a call to a node, outside of gossip, that was answered.
    pub fn call_succeeded(&mut self, id: &N, now: Duration) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.detector.success(now);
        }
    }

    /// Takes note of a call to a node, outside of gossip, that found nobody or timed out.
    pub fn call_failed(&mut self, id: &N, now: Duration) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.detector.failure(now);
        }
    }

    /// How suspicious a node is; `None` if it is not known (this node itself is not, either).
    #[must_use]
    pub fn phi(&self, id: &N, now: Duration) -> Option<f64> {
        self.detector(id).map(|detector| detector.phi(now))
    }

    /// Whether a node is suspected to be down: this node's opinion, from which nothing follows for the others. A node
    /// that is not known is not suspected.
    #[must_use]
    pub fn is_suspect(&self, id: &N, now: Duration) -> bool {
        self.detector(id).is_some_and(|detector| detector.is_suspect(now))
    }

    /// The failure detector of a node, if it is known.
    #[must_use]
    pub fn detector(&self, id: &N) -> Option<&crate::PhiAccrual> {
        self.peers.get(id).map(|peer| &peer.detector)
    }

    /// All nodes known, in order, without this one: seeds, nodes with a state, and nodes heard from directly.
    pub fn peers(&self) -> impl Iterator<Item = &N> {
        self.peers.iter().map(|(id, _)| id)
    }

    /// This node's id.
    #[must_use]
    pub fn me(&self) -> &N {
        &self.me
    }

    /// This run of this node.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What a node last said about itself, as far as is known here.
    #[must_use]
    pub fn state(&self, id: &N) -> Option<&NodeState> {
        self.states.get(id)
    }

    /// The states of all nodes, this one's included: digest, count and entries.
    #[must_use]
    pub fn states(&self) -> &VersionedMap<N, NodeState> {
        &self.states
    }

    /// What is carried.
    #[must_use]
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// What is carried, to merge something into it: the others have it within some rounds. What is taken out
    /// comes back.
    pub fn payload_mut(&mut self) -> &mut P {
        &mut self.payload
    }

    /// What was done and refused so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.states_refused += self.states.refused();
        counters
    }

    /// This node's own, and some others' that are news.
    fn heartbeats(&mut self) -> Vec<Heartbeat<N>> {
        let max = self.config.heartbeats_max.clamp(1, Message::<N, P::Message>::HEARTBEATS_MAX);
        let own = Heartbeat { id: self.me.clone(), boot: self.incarnation.boot, count: self.rounds };
        let mut heartbeats = vec![own];
        heartbeats.extend(self.peers.fresh(max - 1));
        heartbeats
    }

    fn hear(&mut self, heartbeats: &[Heartbeat<N>], now: Duration) {
        let max = Message::<N, P::Message>::HEARTBEATS_MAX;
        self.counters.heartbeats_ignored += heartbeats.len().saturating_sub(max) as u64;
        for beat in heartbeats.iter().take(max).filter(|beat| beat.id != self.me) {
            if !self.peers.hear(beat, now) {
                self.counters.heartbeats_ignored += 1;
            }
        }
    }

    /// Merges states; the answer, and the effects.
    fn reconcile(
        &mut self,
        mut message: StatesMessage<N>,
        now: Duration,
    ) -> (Option<StatesMessage<N>>, Effects<N, P>) {
        let bytes_max = self.config.state_bytes_max.min(NodeState::BYTES_MAX);
        let offered = message.values.len();
        message.values.retain(|(id, state)| state.bytes.len() <= bytes_max && !self.removed.contains(id));
        let refused = offered - message.values.len();
        self.counters.states_refused += refused as u64;
        if refused > 0 {
            // Questions about what was refused would be answered with the same states again.
            message.leaves.clear();
            message.branches.clear();
        }
        let ids: Vec<N> = message.values.iter().map(|(id, _)| id.clone()).collect();
        let before: Vec<_> = ids.iter().map(|id| self.rejection(id)).collect();
        let removed = &self.removed;
        let handled = reconcile::handle(&mut self.states, message, |id| !removed.contains(id));

        let mut effects = Vec::new();
        for id in handled.changed {
            if id != self.me {
                self.peers.add(&id, &self.config, now);
                effects.push(Effect::StateChanged { id });
            } else if let Some(by) = self.superseded_by() {
                effects.push(Effect::Superseded { by });
            }
        }
        for (id, before) in ids.into_iter().zip(before) {
            let after = self.rejection(&id);
            if before != after
                && let Some((rejected, by)) = after
            {
                effects.push(Effect::Conflict { id, rejected, by });
            }
        }
        (handled.answer, effects)
    }

    /// Which run of an id is rejected, and by which.
    fn rejection(&self, id: &N) -> Option<(Incarnation, Incarnation)> {
        let stamp = self.states.get(id)?.stamp;
        Some((stamp.rejects?, stamp.incarnation))
    }

    fn excuse_if_late(&mut self, now: Duration) {
        let late = now.saturating_sub(self.next_tick);
        if late > self.config.interval {
            self.peers.iter_mut().for_each(|peer| peer.detector.excuse(late, now));
        }
    }

    /// A seed, or a node that is suspected: somebody who may be on another island.
    fn island(
        &self,
        now: Duration,
        random: &mut impl FnMut() -> u64,
        eligible: impl Fn(&N) -> bool,
    ) -> Option<N> {
        let suspects = self.peers.iter().filter(|(id, peer)| eligible(id) && peer.detector.is_suspect(now));
        let suspects: Vec<&N> = suspects.map(|(id, _)| id).collect();
        let at = draw(self.seeds.len() + suspects.len(), random);
        self.seeds.get(at).or_else(|| suspects.get(at.checked_sub(self.seeds.len())?).copied()).cloned()
    }
}

type StatesMessage<N> = reconcile::MapMessage<N, NodeState, Stamp>;

/// True once in `every` times, on average.
fn pick_one_in(every: u32, random: &mut impl FnMut() -> u64) -> bool {
    draw(every.max(1) as usize, random) == 0
}

/// Why [`Gossip::set_state`] refused; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetStateError {
    /// The state is too long.
    #[error(
        "a node's state of {len} bytes is too long; keep it below {bytes_max}, or raise `state_bytes_max` on every node"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// The states of as many other nodes are known as there may be.
    #[error(
        "the states of {nodes_max} other nodes fill the table; remove nodes that are gone, or raise `nodes_max` on every node"
    )]
    TooManyNodes {
        /// The limit.
        nodes_max: usize,
    },
}
