//! Two processes under one id, and one after the other.
//!
//! The caller's part of the rules is played here as the crate's page tells it: outbid, and reject after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynkv_gossip::{Config, Effect, Incarnation};

use crate::world::{Faults, World};
use crate::{Carried, SECOND, size};

/// A run that has been there for so long takes others for newcomers.
const SETTLED: Duration = Duration::from_secs(10);

struct Cluster {
    world: World<Carried>,
    /// When each process was started.
    started: BTreeMap<usize, Duration>,
    /// Processes that heard that they are rejected, and were silent from then on.
    refused: BTreeSet<usize>,
}

impl Cluster {
    /// `nodes` nodes that have been there for a while.
    fn new(nodes: u32, faults: Faults, seed: u64) -> Cluster {
        let world = World::new(seed, faults, size);
        let mut cluster = Cluster { world, started: BTreeMap::new(), refused: BTreeSet::new() };
        for id in 0..nodes {
            cluster.start(id, 5);
        }
        cluster.run(40 * SECOND);
        cluster
    }

    fn start(&mut self, id: u32, boot: u64) -> usize {
        let process = self.world.start(Config::default(), id, boot, &[0, 1], Carried::default());
        // Its own number, so that it can be seen whose word counts.
        self.world.node_mut(process).set_state(vec![process as u8]).unwrap();
        self.started.insert(process, self.world.now);
        process
    }

    fn kill(&mut self, process: usize) {
        self.world.kill(process);
        self.started.remove(&process);
    }

    fn run(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            self.world.run(SECOND / 2);
            let now = self.world.now;
            for (&process, &started) in &self.started {
                let node = self.world.node_mut(process);
                let Some(other) = node.superseded_by() else { continue };
                if other.rejects.is_some_and(|rejected| rejected.nonce == node.incarnation().nonce) {
                    self.refused.insert(process);
                } else {
                    node.outbid(now - started >= SETTLED);
                }
            }
            for process in &self.refused {
                self.world.kill(*process);
                self.started.remove(process);
            }
        }
    }

    /// What everybody knows of `id`: the one process whose word counts.
    fn heard(&self, id: u32) -> usize {
        let mut said: Vec<_> = self.world.alive().map(|node| node.state(&id).unwrap().bytes[0]).collect();
        said.dedup();
        assert_eq!(said.len(), 1, "{said:?}");
        usize::from(said[0])
    }

    /// The conflicts that each process reported, as (process, id, rejected nonce, rejecting nonce).
    fn conflicts(&self) -> Vec<(usize, u32, u64, u64)> {
        let conflict = |(process, report): &(usize, Effect<_, _>)| match report {
            Effect::Conflict { id, rejected, by } => Some((*process, *id, rejected.nonce, by.nonce)),
            _ => None,
        };
        self.world.reports.iter().filter_map(conflict).collect()
    }
}

fn nonce(cluster: &Cluster, process: usize) -> u64 {
    cluster.world.node(process).incarnation().nonce
}

/// The one that was there first goes on, whatever the counters say, and all others know of it.
fn check_clone(seed: u64, original_boot: u64, clone_boot: u64) {
    let mut cluster = Cluster::new(6, Faults::NONE, seed);
    let original = cluster.start(9, original_boot);
    cluster.run(20 * SECOND);
    let clone = cluster.start(9, clone_boot);
    let (old, new) = (nonce(&cluster, original), nonce(&cluster, clone));
    cluster.run(60 * SECOND);
    assert_eq!(cluster.refused, [clone].into(), "seed {seed}");
    assert_eq!(cluster.heard(9), original, "seed {seed}");
    let conflicts = cluster.conflicts();
    for process in 0..6 {
        let reported = conflicts.iter().filter(|report| report.0 == process);
        assert!(reported.clone().count() > 0, "seed {seed}, process {process}");
        assert!(
            reported.clone().all(|report| *report == (process, 9, new, old)),
            "seed {seed}: {conflicts:?}"
        );
    }
    // And all agree about the states, so the cluster is quiet again.
    let digest = cluster.world.node(0).states().digest();
    assert!(cluster.world.alive().all(|node| node.states().digest() == digest));
}

#[test]
fn of_two_processes_the_one_that_was_there_first_goes_on() {
    for seed in 0..10 {
        check_clone(seed, 5, 6); // a copy of a running node's disk
        check_clone(seed, 5, 5); // two copies of one disk
        check_clone(seed, 9, 4); // a disk of an earlier day
        check_clone(seed, 9, 1); // an empty disk, and the other's certificate
        check_clone(seed, 5, 70);
    }
}

#[test]
fn of_two_that_start_at_once_one_goes_on() {
    let faults = Faults { latency: (SECOND / 100, 2 * SECOND), loss: 0.1, ..Faults::NONE };
    for seed in 0..30 {
        let mut cluster = Cluster::new(6, faults, seed);
        let two = [cluster.start(9, 5 + seed % 2), cluster.start(9, 5)];
        cluster.run(120 * SECOND);
        assert_eq!(cluster.refused.len(), 1, "seed {seed}");
        let left = two.into_iter().find(|process| !cluster.refused.contains(process)).unwrap();
        assert_eq!(cluster.heard(9), left, "seed {seed}");
    }
}

#[test]
fn a_dead_predecessor_never_stops_its_successor() {
    let faults = Faults { latency: (SECOND / 100, 3 * SECOND), loss: 0.2, duplication: 0.3, pauses: None };
    for seed in 0..10 {
        let mut cluster = Cluster::new(6, faults, seed);
        let mut process = 2;
        // The next start; an empty disk; a disk of an earlier day; a copy that counts alike; the next start.
        for boot in [6, 1, 3, 6, 7] {
            // Messages of the old process are still on their way.
            cluster.kill(process);
            process = cluster.start(2, boot);
            cluster.run(SECOND * (boot as u32 % 4) * 5);
        }
        cluster.run(60 * SECOND);
        assert!(cluster.refused.is_empty(), "seed {seed}");
        assert_eq!(cluster.heard(2), process, "seed {seed}");
    }
}

#[test]
fn a_predecessor_remembered_on_another_island_is_none_the_wiser() {
    let mut cluster = Cluster::new(6, Faults::NONE, 1);
    // Nodes 3 to 5 know the old process only; the new one lives among the others, for long.
    cluster.world.islands[3..].fill(1);
    cluster.kill(2);
    cluster.started.retain(|process, _| *process != 2);
    let process = cluster.start(2, 1);
    cluster.kill(0);
    cluster.kill(1);
    let fresh = [cluster.start(0, 1), cluster.start(1, 1)];
    cluster.run(60 * SECOND);
    assert!(fresh.iter().all(|fresh| cluster.world.node(*fresh).state(&2).unwrap().bytes == [process as u8]));
    cluster.world.islands.fill(0);
    cluster.run(60 * SECOND);
    assert!(cluster.refused.is_empty());
    assert_eq!(cluster.heard(2), process);
}

#[test]
fn a_conflict_is_over_with_the_next_start() {
    let mut cluster = Cluster::new(6, Faults::NONE, 1);
    let clone = cluster.start(3, 6);
    cluster.run(30 * SECOND);
    assert_eq!(cluster.refused, [clone].into());
    cluster.kill(3);
    cluster.run(5 * SECOND);
    cluster.world.reports.clear();
    let boot = cluster.world.node(0).state(&3).unwrap().stamp.incarnation.boot;
    let next = cluster.start(3, boot);
    cluster.run(30 * SECOND);
    assert_eq!(cluster.heard(3), next);
    // It learns of what was before it; nobody else learns anything.
    assert!(cluster.conflicts().iter().all(|report| report.0 == next));
    assert_eq!(cluster.refused, [clone].into());
    assert!(cluster.world.alive().all(|node| node.state(&3).unwrap().stamp.rejects.is_none()));
}

#[test]
fn outbidding_needs_somebody_to_outbid() {
    let mut cluster = Cluster::new(2, Faults::NONE, 1);
    let node = cluster.world.node_mut(0);
    let before = node.incarnation();
    assert_eq!((node.outbid(true), node.superseded_by()), (None, None));
    assert_eq!(node.incarnation(), before);
    assert_eq!(before.boot, 5);
    assert_ne!(before, Incarnation { boot: 5, nonce: 0 });
}
