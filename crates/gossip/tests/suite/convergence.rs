//! Whatever happens on the way: once it stops, all are equal, and then only hashes travel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynkv_gossip::{Config, Effect, Latest};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{Faults, World};
use crate::{Carried, SECOND, size};

const NODES: usize = 7;

#[derive(Debug, Clone)]
enum Step {
    State(usize, Vec<u8>),
    History(usize, Vec<u8>),
    /// Partition and epoch.
    Configuration(usize, u16, u64),
    Round(usize, u64),
    /// Each node's island, as a bit.
    Cut(u8),
    Restart(usize),
    Run(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        3 => (node(), vec(any::<u8>(), 0..20)).prop_map(|(node, bytes)| Step::State(node, bytes)),
        3 => (node(), vec(any::<u8>(), 0..40)).prop_map(|(node, entry)| Step::History(node, entry)),
        3 => (node(), 0..20u16, 0..9u64).prop_map(|(node, partition, epoch)| Step::Configuration(node, partition, epoch)),
        3 => (node(), any::<u64>()).prop_map(|(node, round)| Step::Round(node, round)),
        2 => any::<u8>().prop_map(Step::Cut),
        1 => node().prop_map(Step::Restart),
        8 => (0..3_000u64).prop_map(|ms| Step::Run(Duration::from_millis(ms))),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    (0..3_000u64, 0.0..0.5f64, 0.0..0.5f64, any::<bool>()).prop_map(
        |(latency_ms, loss, duplication, pauses)| Faults {
            latency: (Duration::ZERO, Duration::from_millis(latency_ms)),
            loss,
            duplication,
            pauses: pauses.then_some((3 * SECOND, 10 * SECOND)),
        },
    )
}

/// What everybody should have in the end.
#[derive(Default)]
struct Oracle {
    states: BTreeMap<u32, Vec<u8>>,
    history: BTreeSet<Vec<u8>>,
    epochs: BTreeMap<u16, u64>,
    rounds: BTreeSet<u64>,
}

impl Oracle {
    fn check(&self, world: &World<Carried>) {
        for node in world.alive() {
            let states = node.states().iter().map(|(id, state)| (*id, state.bytes.clone()));
            assert_eq!(states.collect::<BTreeMap<_, _>>(), self.states, "states at {}", node.me());
            let (history, configurations, rounds) = node.payload();
            assert_eq!(history.iter().cloned().collect::<BTreeSet<_>>(), self.history);
            let epochs = configurations.iter().map(|(partition, latest)| (*partition, latest.version));
            assert_eq!(epochs.collect::<BTreeMap<_, _>>(), self.epochs);
            assert_eq!(rounds.iter().copied().collect::<BTreeSet<_>>(), self.rounds);
        }
    }
}

fn start(world: &mut World<Carried>, config: Config, id: u32, boot: u64) -> usize {
    let process = world.start(config, id, boot, &[0, 1], Carried::default());
    world.node_mut(process).set_state(vec![boot as u8]).unwrap();
    process
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_healing_all_are_equal(
        seed: u64,
        faults in faults(),
        steps in vec(step(), 1..60),
        message_bytes_max in 1..400usize,
        steps_max in 2..20u16,
    ) {
        let mut config = Config::default();
        config.message_bytes_max = message_bytes_max;
        config.steps_max = steps_max;
        let mut world = World::new(seed, faults, size);
        let mut oracle = Oracle::default();
        // A node's process and boot counter.
        let mut nodes: Vec<(usize, u64)> = (0..NODES).map(|id| (start(&mut world, config, id as u32, 1), 1)).collect();
        oracle.states.extend((0..NODES as u32).map(|id| (id, vec![1])));
        for step in steps {
            match step {
                Step::State(node, bytes) => {
                    world.node_mut(nodes[node].0).set_state(bytes.clone()).unwrap();
                    oracle.states.insert(node as u32, bytes);
                }
                Step::History(node, entry) => {
                    world.node_mut(nodes[node].0).payload_mut().0.insert(entry.clone()).unwrap();
                    oracle.history.insert(entry);
                }
                Step::Configuration(node, partition, epoch) => {
                    let latest = Latest { version: epoch, value: 10 * epoch };
                    world.node_mut(nodes[node].0).payload_mut().1.insert(partition, latest).unwrap();
                    let known = oracle.epochs.entry(partition).or_default();
                    *known = epoch.max(*known);
                }
                Step::Round(node, round) => {
                    world.node_mut(nodes[node].0).payload_mut().2.insert(round).unwrap();
                    oracle.rounds.insert(round);
                }
                Step::Cut(islands) => {
                    for (node, (process, _)) in nodes.iter().enumerate() {
                        world.islands[*process] = islands >> node & 1;
                    }
                }
                Step::Restart(node) => {
                    let (process, boot) = nodes[node];
                    // The payload is durable, as the caller of a gossip crate would have it.
                    let payload = world.node(process).payload().clone();
                    let island = world.islands[process];
                    world.kill(process);
                    let process = world.start(config, node as u32, boot + 1, &[0, 1], payload);
                    world.node_mut(process).set_state(vec![boot as u8 + 1]).unwrap();
                    world.islands[process] = island;
                    oracle.states.insert(node as u32, vec![boot as u8 + 1]);
                    nodes[node] = (process, boot + 1);
                }
                Step::Run(time) => world.run(time),
            }
        }

        world.faults = Faults::NONE;
        world.islands.fill(0);
        world.run(120 * SECOND);
        oracle.check(&world);
        let conflicts = world.reports.iter().filter(|(_, report)| matches!(report, Effect::Conflict { .. })).count();
        prop_assert_eq!(conflicts, 0);

        // Now only hashes travel.
        world.log = Some(Vec::new());
        world.run(20 * SECOND);
        let log = world.log.take().unwrap();
        prop_assert!(log.len() >= 18 * NODES);
        for message in log {
            match message.step {
                0 => {
                    let states = message.states.as_ref().unwrap();
                    prop_assert_eq!((states.branches.len(), states.leaves.len()), (1, 0));
                    prop_assert!(states.values.is_empty() && states.wanted.is_empty());
                    let (history, configurations, rounds) = message.payload.as_ref().unwrap();
                    let (history, rounds) = (history.as_ref().unwrap(), rounds.as_ref().unwrap());
                    prop_assert!(history.values.is_empty() && rounds.values.is_empty());
                    prop_assert!(configurations.as_ref().unwrap().values.is_empty());
                }
                1 => prop_assert!(message.states.is_none() && message.payload.is_none()),
                step => prop_assert!(false, "step {} of an idle exchange", step),
            }
        }
        // Nobody is wrong about anybody once all is well.
        let now = world.now;
        for node in world.alive() {
            prop_assert_eq!(node.peers().filter(|id| node.is_suspect(id, now)).count(), 0);
        }
    }
}

/// A cluster in which everybody knows everybody.
fn settled(nodes: u32, config: Config) -> World<Carried> {
    let mut world = World::new(1, Faults::NONE, size);
    for id in 0..nodes {
        start(&mut world, config, id, 1);
    }
    world.run(40 * SECOND);
    assert!(world.alive().all(|node| node.states().len() == nodes as usize));
    world
}

#[test]
fn an_idle_node_sends_at_most_a_kib_a_second() {
    for nodes in [2, 10, 60] {
        let mut world = settled(nodes, Config::default());
        let before = world.traffic.bytes;
        world.run(50 * SECOND);
        let bytes = (world.traffic.bytes - before) / u64::from(nodes) / 50;
        assert!(bytes <= 1024, "{nodes} nodes: {bytes} B/s");
    }
}

#[test]
fn islands_that_know_nothing_of_each_other_merge_by_a_seed() {
    let mut world = World::new(3, Faults::NONE, size);
    for id in 0..10 {
        // Seed 0 is on one island; the other's nodes know each other by node 5, and node 0 by name only.
        let seeds: &[u32] = if id < 5 { &[0] } else { &[5, 0] };
        let process = world.start(Config::default(), id, 1, seeds, Carried::default());
        world.node_mut(process).set_state(vec![1]).unwrap();
        world.islands[process] = u8::from(id >= 5);
    }
    world.run(300 * SECOND);
    assert!(world.alive().all(|node| node.states().len() == 5));
    world.islands.fill(0);
    world.run(60 * SECOND);
    assert!(world.alive().all(|node| node.states().len() == 10));
}

#[test]
fn a_large_set_reaches_a_new_node_in_bounded_messages() {
    let config = Config::default();
    let mut world = settled(3, config);
    for number in 0..20_000u32 {
        let entry = [&number.to_be_bytes()[..], &[7; 60]].concat();
        world.node_mut(0).payload_mut().0.insert(entry).unwrap();
    }
    world.run(20 * SECOND);
    let joiner = start(&mut world, config, 9, 1);
    world.run(20 * SECOND);
    assert_eq!(world.node(joiner).payload().0.len(), 20_000);
    // Three kinds of things in a message, each bounded by itself; entries count as 40 bytes here.
    assert!(world.traffic.largest < 3 * 64 * 1024, "{}", world.traffic.largest);
}

#[test]
fn a_removed_node_does_not_come_back() {
    let mut world = settled(5, Config::default());
    world.kill(4);
    for process in 0..4 {
        world.node_mut(process).remove(4);
        world.run(3 * SECOND); // one by one: the others go on offering it
    }
    world.run(20 * SECOND);
    for node in world.alive() {
        assert!(node.state(&4).is_none() && node.phi(&4, world.now).is_none());
        assert_eq!(node.states().len(), 4);
    }
    // Nor by speaking up.
    let back = world.start(Config::default(), 4, 2, &[0], Carried::default());
    world.node_mut(back).set_state(vec![1]).unwrap();
    world.run(20 * SECOND);
    assert!((0..4).all(|process| world.node(process).state(&4).is_none()));
    assert!((0..4).any(|process| world.node(process).counters().messages_ignored > 0));
}

#[test]
fn what_one_does_not_want_the_other_does_not_offer_for_ever() {
    let mut config = Config::default();
    config.message_bytes_max = 1; // one state in a message
    let mut world = settled(22, config);
    for gone in 2..22 {
        world.kill(gone);
        world.node_mut(0).remove(gone as u32);
    }
    world.log = Some(Vec::new());
    world.run(20 * SECOND);
    let steps = world.log.take().unwrap().iter().map(|message| message.step).max().unwrap();
    assert!((2..10).contains(&steps), "{steps}");
    assert!(world.node(0).counters().states_refused > 0);
}

#[test]
fn equal_seeds_have_equal_runs() {
    let run = || {
        let faults = Faults { loss: 0.1, duplication: 0.1, ..Faults::NONE };
        let mut world = World::new(5, faults, size);
        for id in 0..10 {
            start(&mut world, Config::default(), id, 1);
        }
        world.log = Some(Vec::new());
        world.run(30 * SECOND);
        (world.log, world.reports)
    };
    assert_eq!(run(), run());
}

#[test]
fn the_dead_are_suspected_and_the_restarted_are_not() {
    let mut world = settled(10, Config::default());
    world.kill(3);
    world.run(90 * SECOND);
    let suspected = |world: &World<Carried>| {
        world.alive().filter(|node| *node.me() != 3 && node.is_suspect(&3, world.now)).count()
    };
    assert_eq!(suspected(&world), 9);
    start(&mut world, Config::default(), 3, 2);
    world.run(10 * SECOND);
    assert_eq!(suspected(&world), 0);
}

#[test]
fn a_node_that_slept_does_not_suspect_the_others() {
    let mut world = settled(5, Config::default());
    // Its own clock stops for ten minutes, as if suspended.
    let wake = world.now + 600 * SECOND;
    let mut node = world.nodes[2].take().unwrap();
    assert!(node.is_suspect(&0, wake));
    node.tick(wake, || 0);
    assert!(!node.peers().any(|id| node.is_suspect(id, wake)));
}

#[test]
fn a_change_reaches_a_hundred_nodes_in_eight_rounds() {
    let mut world = settled(100, Config::default());
    for change in 0..20 {
        world.node_mut(change).payload_mut().2.insert(change as u64).unwrap();
        world.run(8 * SECOND);
        let informed = world.alive().filter(|node| node.payload().2.contains(&(change as u64))).count();
        assert_eq!(informed, 100, "change {change}");
    }
}

#[test]
fn pauses_and_losses_make_no_suspects() {
    let mut world = settled(12, Config::default());
    world.faults.loss = 0.05;
    world.faults.pauses = Some((SECOND / 5, 10 * SECOND));
    let mut phi_max: f64 = 0.0;
    world.run_watched(1_800 * SECOND, |_, node, now| {
        phi_max = node.peers().filter_map(|id| node.phi(id, now)).fold(phi_max, f64::max);
    });
    assert!(phi_max < 8.0, "{phi_max}");
}
