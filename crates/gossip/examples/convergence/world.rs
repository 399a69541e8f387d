//! A cluster in one thread: nodes, a network that loses, doubles, delays and cuts, and no clock but its own.
//!
//! The tests use it, too.
#![allow(dead_code, unreachable_pub)] // Each user is a program of its own, and needs a part.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::time::Duration;

use dynkv_gossip::{Config, Effect, Gossip, Incarnation, Message, Payload};

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// In `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() as f64) < probability * u64::MAX as f64
    }

    /// From `low` up to `high`.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + Duration::from_micros(self.below((high - low).as_micros() as u64 + 1))
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Of a message on its way; a wide range reorders.
    pub latency: (Duration, Duration),
    /// Probability that a message is lost.
    pub loss: f64,
    /// Probability that it arrives twice.
    pub duplication: f64,
    /// Each node stops for so long, once in the other time on average: what should happen then happens after it.
    pub pauses: Option<(Duration, Duration)>,
}

impl Faults {
    pub const NONE: Self = Self {
        latency: (Duration::from_millis(1), Duration::from_millis(5)),
        loss: 0.0,
        duplication: 0.0,
        pauses: None,
    };
}

enum Event<M> {
    Tick,
    Deliver { from: u32, message: Message<u32, M> },
}

/// What has been sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub messages: u64,
    pub bytes: u64,
    pub largest: u64,
}

/// The cluster. Two processes may have one id: processes are numbered, and whoever sends to an id reaches one of them.
pub struct World<P: Payload> {
    pub now: Duration,
    pub random: Random,
    pub faults: Faults,
    pub traffic: Traffic,
    /// Processes; `None` if dead.
    pub nodes: Vec<Option<Gossip<u32, P>>>,
    /// On which island each process is.
    pub islands: Vec<u8>,
    /// Everything that nodes reported, by process, sends excepted.
    pub reports: Vec<(usize, Effect<u32, P::Message>)>,
    /// All messages, if kept.
    pub log: Option<Vec<Message<u32, P::Message>>>,
    by_id: BTreeMap<u32, Vec<usize>>,
    paused_until: Vec<Duration>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: BTreeMap<u64, Event<P::Message>>,
    sequence: u64,
    size: fn(&Message<u32, P::Message>) -> usize,
}

impl<P: Payload> World<P>
where
    P::Message: Clone,
{
    pub fn new(seed: u64, faults: Faults, size: fn(&Message<u32, P::Message>) -> usize) -> Self {
        Self {
            now: Duration::ZERO,
            random: Random(seed),
            faults,
            traffic: Traffic::default(),
            nodes: Vec::new(),
            islands: Vec::new(),
            reports: Vec::new(),
            log: None,
            by_id: BTreeMap::new(),
            paused_until: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            size,
        }
    }

    /// Starts a process within the next second and returns its number.
    pub fn start(&mut self, config: Config, id: u32, boot: u64, seeds: &[u32], payload: P) -> usize {
        let incarnation = Incarnation { boot, nonce: self.random.next() };
        self.nodes.push(Some(Gossip::new(config, id, incarnation, seeds.iter().copied(), payload)));
        self.islands.push(0);
        self.paused_until.push(Duration::ZERO);
        let process = self.nodes.len() - 1;
        self.by_id.entry(id).or_default().push(process);
        let first = self.now + self.random.between(Duration::ZERO, Duration::from_secs(1));
        self.schedule(first, process, Event::Tick);
        process
    }

    pub fn kill(&mut self, process: usize) {
        self.nodes[process] = None;
    }

    pub fn node(&self, process: usize) -> &Gossip<u32, P> {
        self.nodes[process].as_ref().expect("alive")
    }

    pub fn node_mut(&mut self, process: usize) -> &mut Gossip<u32, P> {
        self.nodes[process].as_mut().expect("alive")
    }

    pub fn alive(&self) -> impl Iterator<Item = &Gossip<u32, P>> {
        self.nodes.iter().flatten()
    }

    /// Lets time go on.
    pub fn run(&mut self, time: Duration) {
        self.run_watched(time, |_, _, _| {});
    }

    /// Lets time go on; `watch` sees each process before it does anything.
    pub fn run_watched(&mut self, time: Duration, mut watch: impl FnMut(usize, &Gossip<u32, P>, Duration)) {
        let end = self.now + time;
        while let Some(Reverse((at, sequence, process))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let event = self.events.remove(&sequence).expect("scheduled once");
            self.happen(process, event, &mut watch);
        }
        self.now = end;
    }

    fn happen(
        &mut self,
        process: usize,
        event: Event<P::Message>,
        watch: &mut impl FnMut(usize, &Gossip<u32, P>, Duration),
    ) {
        let now = self.now;
        let Some(node) = self.nodes[process].as_mut() else { return };
        if self.paused_until[process] > now {
            let later = self.paused_until[process];
            return self.schedule(later, process, event);
        }
        watch(process, node, now);
        let random = &mut self.random;
        let effects = match event {
            Event::Tick => {
                let effects = node.tick(now, || random.next());
                let next = node.next_tick();
                if let Some((length, every)) = self.faults.pauses
                    && self.random.chance(1.0 / every.as_secs_f64())
                {
                    self.paused_until[process] =
                        self.random.between(now, now + Duration::from_secs(1)) + length;
                }
                self.schedule(next, process, Event::Tick);
                effects
            }
            Event::Deliver { from, message } => node.handle(from, message, now),
        };
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(process, to, message),
                report => self.reports.push((process, report)),
            }
        }
    }

    fn send(&mut self, process: usize, to: u32, message: Message<u32, P::Message>) {
        let bytes = (self.size)(&message) as u64;
        self.traffic.messages += 1;
        self.traffic.bytes += bytes;
        self.traffic.largest = self.traffic.largest.max(bytes);
        if let Some(log) = &mut self.log {
            log.push(message.clone());
        }
        let from = *self.node(process).me();
        let others = self.by_id.get(&to).map_or(&[][..], Vec::as_slice);
        let Some(&receiver) = others.get(self.random.below(others.len().max(1) as u64) as usize) else {
            return;
        };
        if self.islands[receiver] != self.islands[process] || self.random.chance(self.faults.loss) {
            return;
        }
        if self.random.chance(self.faults.duplication) {
            self.carry(receiver, from, message.clone());
        }
        self.carry(receiver, from, message);
    }

    fn carry(&mut self, receiver: usize, from: u32, message: Message<u32, P::Message>) {
        let (least, most) = self.faults.latency;
        let at = self.now + self.random.between(least, most);
        self.schedule(at, receiver, Event::Deliver { from, message });
    }

    fn schedule(&mut self, at: Duration, process: usize, event: Event<P::Message>) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((at, self.sequence, process)));
    }
}
