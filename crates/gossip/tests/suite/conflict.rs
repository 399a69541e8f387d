//! Two processes under one id.

use dynkv_gossip::{Config, Effect, Incarnation};

use crate::world::{Faults, World};
use crate::{Carried, SECOND, size};

fn cluster(nodes: u32, faults: Faults, seed: u64) -> World<Carried> {
    let mut world = World::new(seed, faults, size);
    for id in 0..nodes {
        start(&mut world, id, 5);
    }
    world.run(40 * SECOND);
    world
}

fn start(world: &mut World<Carried>, id: u32, boot: u64) -> usize {
    let process = world.start(Config::default(), id, boot, &[0, 1], Carried::default());
    world.node_mut(process).set_state(vec![boot as u8]).unwrap();
    process
}

/// The conflicts that each process reported, as (process, id, lesser, greater).
fn conflicts(world: &World<Carried>) -> Vec<(usize, u32, Incarnation, Incarnation)> {
    let conflict = |(process, report): &(usize, Effect<_, _>)| match report {
        Effect::Conflict { id, lesser, greater } => Some((*process, *id, *lesser, *greater)),
        _ => None,
    };
    world.reports.iter().filter_map(conflict).collect()
}

fn check(seed: u64, original_boot: u64, clone_boot: u64) {
    let mut world = cluster(6, Faults::NONE, seed);
    let original = start(&mut world, 9, original_boot);
    world.run(20 * SECOND);
    let clone = start(&mut world, 9, clone_boot);
    world.run(60 * SECOND);

    let runs = [original, clone].map(|process| world.node(process).incarnation());
    let [lesser, greater] = [runs[0].min(runs[1]), runs[0].max(runs[1])];
    let conflicts = conflicts(&world);
    for process in 0..world.nodes.len() {
        let reported: Vec<_> = conflicts.iter().filter(|report| report.0 == process).collect();
        assert_eq!(reported, [&(process, 9, lesser, greater)], "seed {seed}, process {process}");
    }
    // And all agree about the states, so the cluster is quiet again.
    let digest = world.node(0).states().digest();
    assert!(world.alive().all(|node| node.states().digest() == digest));
}

#[test]
fn everybody_learns_of_a_cloned_disk() {
    for seed in 0..10 {
        check(seed, 5, 6); // a copy of a running node's disk
        check(seed, 5, 5); // two copies of one disk, started both
    }
}

#[test]
fn everybody_learns_of_a_disk_of_an_earlier_day() {
    check(1, 9, 4);
}

#[test]
fn a_restart_is_no_conflict() {
    let faults = Faults { latency: (SECOND / 100, 3 * SECOND), loss: 0.2, duplication: 0.3, pauses: None };
    for seed in 0..10 {
        let mut world = cluster(6, faults, seed);
        let mut process = 2;
        for boot in 6..12 {
            // Messages of the old process are still on their way.
            world.kill(process);
            process = start(&mut world, 2, boot);
            world.run(SECOND * (boot as u32 % 4));
        }
        world.run(60 * SECOND);
        assert_eq!(conflicts(&world), [], "seed {seed}");
        assert!(world.alive().all(|node| node.state(&2).unwrap().bytes == [11]), "seed {seed}");
    }
}

#[test]
fn a_conflict_is_over_with_the_next_start() {
    let mut world = cluster(6, Faults::NONE, 1);
    let clone = start(&mut world, 3, 6);
    world.run(30 * SECOND);
    assert!(!conflicts(&world).is_empty());
    world.kill(clone);
    world.kill(3);
    world.reports.clear();
    start(&mut world, 3, 7);
    world.run(30 * SECOND);
    assert_eq!(conflicts(&world), []);
    assert!(world.alive().all(|node| node.state(&3).unwrap().stamp.contested_by.is_none()));
}

#[test]
fn a_run_that_has_not_said_anything_yet_is_no_conflict_either() {
    let mut world = cluster(4, Faults::NONE, 1);
    world.kill(2);
    let process = world.start(Config::default(), 2, 6, &[0, 1], Carried::default());
    world.run(20 * SECOND);
    assert_eq!(world.node(process).state(&2).unwrap().bytes, [5], "of the run before");
    assert_eq!(conflicts(&world), []);
}
