//! Whole runs against an oracle that keeps explicit causal histories: plain sets of events.

use std::collections::{BTreeMap, BTreeSet};

use dynkv_vclock::{CausalContext, Dot, Siblings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::expand;

/// A replica's number and which life it lives.
type Actor = (u8, u8);
/// An event is the number of its write; it is also the value written.
type Event = usize;
type Events = BTreeSet<Event>;
type State = Siblings<Actor, Event>;

const REPLICAS: usize = 3;
const CLIENTS: usize = 3;

/// What a replica has been told, in the oracle's terms.
#[derive(Clone, Default)]
struct Told {
    /// The writes that arrived, themselves or merged away at some other replica.
    writes: Events,
    /// The events that somebody discarded here or there, without a write.
    discarded: Events,
}

#[derive(Clone, Debug)]
enum Under {
    /// What the client knows.
    Own,
    /// Nothing: a blind write.
    Nothing,
    /// A context that some client had once.
    Old(Index),
    /// Some of the events the client knows: those whose bit is set.
    Part(u64),
}

#[derive(Clone, Debug)]
enum Step {
    /// The client forgets what it knew and reads.
    Read {
        client: usize,
        replica: usize,
    },
    /// The client reads and adds it to what it knew.
    ReadMore {
        client: usize,
        replica: usize,
    },
    Put {
        client: usize,
        replica: usize,
        under: Under,
    },
    Discard {
        client: usize,
        replica: usize,
        under: Under,
    },
    /// Keeps one value only, as last-writer-wins does.
    KeepLast {
        replica: usize,
    },
    /// A state that some replica once had arrives: late, twice, or out of order.
    Sync {
        from: Index,
        to: usize,
    },
    /// The replica's disk is replaced by an old copy; it goes on as a new actor.
    Restore {
        replica: usize,
        from: Index,
    },
}

fn under() -> impl Strategy<Value = Under> {
    prop_oneof![
        4 => Just(Under::Own),
        2 => Just(Under::Nothing),
        2 => any::<Index>().prop_map(Under::Old),
        2 => any::<u64>().prop_map(Under::Part),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..CLIENTS, 0..REPLICAS);
    prop_oneof![
        3 => at().prop_map(|(client, replica)| Step::Read { client, replica }),
        1 => at().prop_map(|(client, replica)| Step::ReadMore { client, replica }),
        8 => (at(), under())
            .prop_map(|((client, replica), under)| Step::Put { client, replica, under }),
        1 => (at(), under())
            .prop_map(|((client, replica), under)| Step::Discard { client, replica, under }),
        1 => (0..REPLICAS).prop_map(|replica| Step::KeepLast { replica }),
        5 => (any::<Index>(), 0..REPLICAS).prop_map(|(from, to)| Step::Sync { from, to }),
        1 => (0..REPLICAS, any::<Index>())
            .prop_map(|(replica, from)| Step::Restore { replica, from }),
    ]
}

/// The real thing and the oracle, side by side.
struct World {
    replicas: Vec<(State, Told)>,
    lives: Vec<u8>,
    clients: Vec<(CausalContext<Actor>, Events)>,
    /// Every state and context there ever was.
    states: Vec<(State, Told)>,
    contexts: Vec<(CausalContext<Actor>, Events)>,
    /// Per event, in order: its dot, and the events it replaced.
    events: Vec<(Dot<Actor>, Events)>,
    of_dot: BTreeMap<Dot<Actor>, Event>,
}

impl World {
    fn new() -> Self {
        Self {
            replicas: vec![Default::default(); REPLICAS],
            lives: vec![0; REPLICAS],
            clients: vec![Default::default(); CLIENTS],
            states: vec![Default::default()],
            contexts: vec![Default::default()],
            events: Vec::new(),
            of_dot: BTreeMap::new(),
        }
    }

    /// Everything the writes a replica was told of replaced, and what was discarded.
    fn replaced(&self, told: &Told) -> Events {
        let by_writes = told.writes.iter().flat_map(|&event| &self.events[event].1);
        by_writes.chain(&told.discarded).copied().collect()
    }

    fn seen(&self, told: &Told) -> Events {
        self.replaced(told).union(&told.writes).copied().collect()
    }

    fn siblings(&self, told: &Told) -> Events {
        told.writes.difference(&self.replaced(told)).copied().collect()
    }

    fn check_context(&self, context: &CausalContext<Actor>, events: &Events) {
        let got: Events = expand(context).iter().map(|dot| self.of_dot[dot]).collect();
        assert_eq!(got, *events);
    }

    fn check(&self, state: &State, told: &Told) {
        let got: Events = state.values().copied().collect();
        assert_eq!(got, self.siblings(told));
        for (dot, &event) in state {
            assert_eq!(*dot, self.events[event].0);
        }
        self.check_context(state.context(), &self.seen(told));
    }

    fn pick(&self, client: usize, under: &Under) -> (CausalContext<Actor>, Events) {
        match under {
            Under::Own => self.clients[client].clone(),
            Under::Nothing => Default::default(),
            Under::Old(index) => index.get(&self.contexts).clone(),
            Under::Part(bits) => {
                let known = self.clients[client].1.iter().copied();
                let part: Events = known.filter(|event| bits >> (event % 64) & 1 == 1).collect();
                (part.iter().map(|&event| self.events[event].0).collect(), part)
            }
        }
    }

    fn step(&mut self, step: Step) {
        let touched = match step {
            Step::Read { client, replica } => {
                let (state, told) = &self.replicas[replica];
                self.clients[client] = (state.context().clone(), self.seen(told));
                replica
            }
            Step::ReadMore { client, replica } => {
                let (state, told) = &self.replicas[replica];
                let seen = self.seen(told);
                let (context, events) = &mut self.clients[client];
                context.merge(state.context());
                events.extend(seen);
                replica
            }
            Step::Put { client, replica, under } => {
                let (context, mut events) = self.pick(client, &under);
                let actor = (replica as u8, self.lives[replica]);
                let event = self.events.len();
                let (state, told) = &mut self.replicas[replica];
                let written = state.put(actor, &context, event).unwrap();
                told.writes.insert(event);
                assert_eq!(self.of_dot.insert(written.dot, event), None, "minted twice");
                self.events.push((written.dot, events.clone()));
                events.insert(event);
                self.check_context(&written.context, &events);
                self.clients[client] = (written.context, events);
                replica
            }
            Step::Discard { client, replica, under } => {
                let (context, events) = self.pick(client, &under);
                let (state, told) = &mut self.replicas[replica];
                state.discard(&context);
                told.discarded.extend(events);
                replica
            }
            Step::KeepLast { replica } => {
                let siblings = self.siblings(&self.replicas[replica].1);
                let (state, told) = &mut self.replicas[replica];
                if let Some(last) = siblings.last() {
                    state.retain(|_, event| event == last);
                    told.discarded.extend(siblings.iter().filter(|event| *event != last));
                }
                replica
            }
            Step::Sync { from, to } => {
                let (arriving, news) = from.get(&self.states).clone();
                let (state, told) = &mut self.replicas[to];
                state.sync(arriving);
                told.writes.extend(news.writes);
                told.discarded.extend(news.discarded);
                to
            }
            Step::Restore { replica, from } => {
                self.replicas[replica] = from.get(&self.states).clone();
                self.lives[replica] += 1;
                replica
            }
        };
        let (state, told) = &self.replicas[touched];
        self.check(state, told);
        self.states.push((state.clone(), told.clone()));
        self.contexts.extend(self.clients.iter().cloned());
    }
}

fn digest(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.digest_into(&mut |part| bytes.extend_from_slice(part));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_run_gives_exactly_the_siblings_of_its_histories(steps in vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }

        // Replicas that tell each other everything become equal, in whatever order.
        let all: Vec<_> = world.replicas.iter().map(|(state, _)| state.clone()).collect();
        let told = world.replicas.iter().fold(Told::default(), |mut all, (_, told)| {
            all.writes.extend(&told.writes);
            all.discarded.extend(&told.discarded);
            all
        });
        for start in 0..REPLICAS {
            let mut united = State::new();
            for i in 0..REPLICAS {
                united.sync(all[(start + i) % REPLICAS].clone());
            }
            world.check(&united, &told);
            world.states.push((united, told.clone()));
        }

        // Equal states have equal digests and only they, however they came about.
        let mut by_digest: BTreeMap<Vec<u8>, &State> = BTreeMap::new();
        for (state, told) in &world.states {
            let same = by_digest.entry(digest(state)).or_insert(state);
            prop_assert_eq!(&*same, &state);
            let twin = world.states.iter().find(|(_, other)| {
                world.siblings(other) == world.siblings(told) && world.seen(other) == world.seen(told)
            });
            prop_assert_eq!(digest(&twin.unwrap().0), digest(state));
        }
    }
}
