//! Plans in which members change at a bad moment. Replicas are not compared in those of odd seeds: comparisons would mend what is to be seen.

use std::ops::Range;

use crate::{
    buckets::Bucket,
    disk::{Operation, Trouble},
    history::Key,
    plan::{MemberChange, Place, Plan, What},
    workload::{Habit, Step},
};

/// Keys of a bucket, enough for all partitions.
fn keys(bucket: Bucket) -> Vec<Key> {
    (0..24).map(|number| Key::shared(bucket, &format!("k{number}"))).collect()
}

/// `times` steps, to one key after the other.
fn in_turn(keys: &[Key], times: usize, wait_ms: u64, habit: Habit) -> Vec<Step> {
    keys.iter().cycle().take(times).map(|key| Step::new(wait_ms, habit, key)).collect()
}

/// A step to each of the keys with these numbers.
fn once(bucket: Bucket, numbers: Range<usize>, wait_ms: u64, habit: Habit) -> Vec<Step> {
    numbers.map(|number| Step::new(wait_ms, habit, &Key::shared(bucket, &format!("k{number}")))).collect()
}

/// The disks of so many nodes take so many times as long, from the beginning to the end.
fn slow_disks(plan: Plan, nodes: usize, factor: u32) -> Plan {
    let duration_ms = plan.duration_ms;
    (0..nodes).fold(plan, |plan, node| plan.fault(500, duration_ms, What::SlowDisk(node, factor)))
}

/// Nothing gets through between two places.
fn cut_both(plan: Plan, at_ms: u64, lasts_ms: u64, one: Place, other: Place) -> Plan {
    plan.fault(at_ms, lasts_ms, What::Cut(one, other)).fault(at_ms, lasts_ms, What::Cut(other, one))
}

/// A node is told to leave, and cut off from the others with a client, who only does `there`; others do `elsewhere`. Disks are slow, so that much is under
/// way at that time.
pub fn leaves_and_is_cut_off(
    seed: u64,
    cut_at_ms: u64,
    bucket: Bucket,
    there: Habit,
    elsewhere: Habit,
) -> Plan {
    let away = seed as usize % 4;
    let keys = keys(bucket);
    let plan = Plan::quiet(2 * seed + 1, 4, 20_000).session(in_turn(&keys, 250, 40, there));
    let mut plan = (0..4).fold(plan, |plan, _| plan.session(in_turn(&keys, 250, 40, elsewhere)));
    // Those whose partition waits do not hold up the next.
    plan.sessions.iter_mut().for_each(|session| session.timeout_ms = 400);
    let plan = plan.fault(4_000, 0, What::Change(MemberChange::Leave(away))).fault(
        cut_at_ms,
        12_000,
        What::Island(vec![away], vec![0]),
    );
    slow_disks(plan, 4, 100)
}

/// A node joins three while they are written to, each key once, and their disks are slow: much is written between the node's reading and its first answer as a
/// member. One of the three stands still before it hands over what it need not hold any more, and each key is read from one home.
pub fn joins_while_written(seed: u64) -> Plan {
    let mut plan = Plan::quiet(2 * seed + 1, 3, 16_000).spares(1);
    for writer in 0..6 {
        plan = plan.session(once(Bucket::All, 40 * writer..40 * (writer + 1), 40, Habit::Blind));
    }
    for _ in 0..2 {
        let mut reads = once(Bucket::All, 0..240, 5, Habit::Read);
        reads[0].wait_ms = 5_000;
        plan = plan.session(reads);
    }
    plan.sessions.iter_mut().for_each(|session| session.timeout_ms = 1_000);
    let plan = plan.fault(1_000, 0, What::Change(MemberChange::Join(3))).fault(
        2_600 + 15 * (seed % 50),
        10_000,
        What::Pause(seed as usize % 3),
    );
    slow_disks(plan, 3, 100)
}

/// A node joins three; when it is about to be a member of some partitions, it and one of the three are cut off from the other two, who must not choose otherwise.
pub fn joins_and_is_cut_off_with_one(seed: u64) -> Plan {
    let keys = keys(Bucket::Strict);
    let side = vec![seed as usize % 3, 3];
    let plan = Plan::quiet(2 * seed + 1, 3, 20_000).spares(1);
    let plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 150, 60, Habit::GoOn)));
    let plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 250, 50, Habit::Read)));
    let plan = plan.fault(2_000, 0, What::Change(MemberChange::Join(3))).fault(
        2_050 + 12 * (seed % 100),
        12_000,
        What::Split(side),
    );
    slow_disks(plan, 3, 100)
}

/// As in [`joins_and_is_cut_off_with_one`], and the other two are killed and come back at once.
pub fn others_are_killed_when_it_joins(seed: u64) -> Plan {
    let plan = joins_and_is_cut_off_with_one(seed);
    let at_ms = plan.faults[1].at_ms;
    [1, 2]
        .into_iter()
        .fold(plan, |plan, turn| plan.fault(at_ms + 50, 300, What::Kill((seed as usize + turn) % 3)))
}

/// As in [`joins_while_written`], and writes to the disk of the node that joins fail for an instant.
pub fn joins_with_failing_disk(seed: u64) -> Plan {
    let trouble =
        Trouble { operation: Operation::Write, after: (seed % 5) as u32, times: 1 + (seed % 7) as u32 };
    joins_while_written(seed).fault(1_050 + 20 * (seed % 50), 3_000, What::Trouble(3, trouble))
}

/// A node joins three and is told to leave when a member has asked it to join and cannot tell the others that it has.
pub fn leaves_while_joining(seed: u64) -> Plan {
    let keys = keys(Bucket::All);
    let (proposer, first, second) = (seed as usize % 3, (seed as usize + 1) % 3, (seed as usize + 2) % 3);
    let at_ms = 3_200 + 20 * (seed % 100);
    let plan = Plan::quiet(2 * seed + 1, 3, 15_000).spares(1);
    let plan = plan.session(in_turn(&keys, 150, 30, Habit::GoOn));
    let plan = (0..3).fold(plan, |plan, _| plan.session(in_turn(&keys, 300, 25, Habit::Read)));
    plan.fault(500, 15_000, What::SlowDisk(3, 200))
        .fault(2_000, 0, What::Change(MemberChange::Join(3)))
        .fault(at_ms, 1_200, What::Cut(Place::Node(proposer), Place::Node(first)))
        .fault(at_ms, 1_200, What::Cut(Place::Node(proposer), Place::Node(second)))
        .fault(at_ms, 0, What::Change(MemberChange::Leave(3)))
}

/// A node is cut off from the others, and killed: some writes are there alone. It is to leave, the others choose their next members without it, and it
/// comes back.
pub fn comes_back_with_the_only_copy(seed: u64) -> Plan {
    let node = seed as usize % 4;
    let mut plan = Plan::quiet(2 * seed + 1, 4, 25_000)
        .session(once(Bucket::One, 0..150, 20, Habit::Blind))
        .fault(3_000 - 20 * (seed % 25), 3_000, What::Split(vec![node]))
        .fault(3_000, 12_000, What::Kill(node))
        .fault(4_000, 0, What::Change(MemberChange::Leave(node)));
    plan.sessions[0].timeout_ms = 500;
    plan
}

/// As in [`joins_and_is_cut_off_with_one`], and the one could not reach one of the other two from the beginning: that one has promised nothing, and goes on.
pub fn goes_on_at_an_old_epoch(seed: u64) -> Plan {
    let (one, behind) = (seed as usize % 3, (seed as usize + 1) % 3);
    let keys = keys(Bucket::Strict);
    let plan = Plan::quiet(2 * seed + 1, 3, 20_000).spares(1);
    let plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 250, 60, Habit::GoOn)));
    let mut plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 350, 50, Habit::Read)));
    plan.sessions.iter_mut().for_each(|session| session.timeout_ms = 1_000);
    let plan = cut_both(plan, 500, 18_000, Place::Node(one), Place::Node(behind))
        .fault(6_000, 0, What::Change(MemberChange::Join(3)))
        .fault(6_050 + 20 * (seed % 100), 8_000, What::Split(vec![one, 3]));
    slow_disks(plan, 3, 100)
}

/// Two of five nodes are cut off from the others with all clients, and keep hints for homes that they cannot reach. Meanwhile three nodes join, and some of those homes are none
/// any more. One of them is removed before the two come back: it takes no hints, and hands over nothing.
pub fn homes_move_away_from_hints(seed: u64) -> Plan {
    let mut plan = Plan::quiet(2 * seed + 1, 5, 45_000).spares(3);
    for writer in 0..3 {
        plan = plan.session(once(Bucket::Plain, 50 * writer..50 * (writer + 1), 200, Habit::Blind));
    }
    // Nobody else keeps hints: those of a removed node would be lost with it.
    let plan = plan.fault(0, 20_500, What::Island(vec![3, 4], vec![0, 1, 2])).fault(
        18_000,
        0,
        What::Change(MemberChange::Remove(seed as usize % 3)),
    );
    (5..8).fold(plan, |plan, node| plan.fault(2_000, 0, What::Change(MemberChange::Join(node))))
}

/// Three operators, each at a node that is cut off from all others, let that node leave: together they leave one of four. It lacks what was written while it was away.
pub fn shrinks_to_one(seed: u64) -> Plan {
    let stays = seed as usize % 4;
    let keys = keys(Bucket::Strict);
    let mut plan = Plan::quiet(2 * seed + 1, 4, 90_000)
        .session(in_turn(&keys, 60, 50, Habit::Blind))
        .session(
            (0..400)
                .map(|turn| {
                    Step::new(if turn == 0 { 66_000 } else { 20 }, Habit::Read, &keys[turn % keys.len()])
                })
                .collect(),
        )
        .fault(200, 64_000, What::Split(vec![stays]));
    let leaving: Vec<usize> = (0..4).filter(|node| *node != stays).collect();
    for node in &leaving {
        plan = plan.fault(6_000, 59_000, What::Split(vec![*node]));
    }
    for (turn, node) in leaving.iter().enumerate() {
        let at_ms = 8_000 + 15_000 * turn as u64;
        for other in (0..4).filter(|other| other != node) {
            plan = plan.fault(at_ms, 14_000, What::Cut(Place::Operator, Place::Node(other)));
        }
        plan = plan.fault(at_ms + 100, 0, What::Change(MemberChange::Leave(*node)));
    }
    plan
}
