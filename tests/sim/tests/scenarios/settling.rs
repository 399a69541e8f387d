//! Tombstones and old context entries that go, and who might bring back what they cover.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    network::{Latency, Weather},
    plan::{Plan, What},
    plans, rounds,
    workload::{Habit, Step},
};
use std::time::Duration;

use crate::{again, check, check_each, last, plain, saw, saw_no};

const DROPPED: &str = "nodes: tombstones_dropped";
const COMPACTED: &str = "nodes: contexts_compacted";
const REFUSED: &str = "nodes: messages_behind";
const SET_ASIDE: &str = "nodes: disks_set_aside";

/// A value that is deleted after a while, by the same client.
fn deleted(key: &Key, after_ms: u64) -> Vec<Step> {
    vec![Step::new(500, Habit::Blind, key), Step::new(after_ms, Habit::Remove, key)]
}

/// Some keys of one bucket.
fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|at| Key::shared(Bucket::Strict, &format!("k{at}"))).collect()
}

/// Without faults whatever can go goes, and nobody is refused for long.
#[test]
fn everything_settles() {
    let seen = check(|seed| {
        let plan = Plan::quiet(2 * seed, 4, 15_000).grace(200);
        keys(3).iter().fold(plan, |plan, key| {
            plan.session(again(8, 300, Habit::ReadModifyWrite, key)).session(deleted(key, 6_000))
        })
    });
    saw(&seen, DROPPED);
    saw(&seen, COMPACTED);
    saw_no(&seen, SET_ASIDE);
    saw_no(&seen, "puts unknown");
}

/// A replica that holds the value is away while it is deleted, for far longer than the grace: nothing settles before it is back.
#[test]
fn tombstone_gc_with_replica_away() {
    for what in [|node| What::Kill(node), |node| What::Split(vec![node])] {
        check_each(
            |seed| {
                Plan::quiet(2 * seed, 3, 25_000).grace(0).session(deleted(&plain(), 3_000)).fault(
                    2_000,
                    18_000,
                    what(seed as usize % 3),
                )
            },
            |report| {
                saw(&report.seen, DROPPED);
                assert_eq!(last(report, &plain()), Vec::<&str>::new());
            },
        );
    }
}

/// The same with a node that is no home and keeps hints: it is a member like any other.
#[test]
fn old_hint_after_reap() {
    let seen = check(|seed| {
        let homes_down = seed as usize % 5;
        let plan = Plan::quiet(2 * seed, 5, 40_000).grace(0);
        let plan = keys(4).iter().fold(plan, |plan, key| plan.session(deleted(key, 4_000)));
        // Hints are taken for one node, then whoever keeps them is away while the values are deleted.
        plan.fault(100, 2_500, What::Kill(homes_down))
            .fault(2_550, 15_000, What::Kill((homes_down + 3) % 5))
            .fault(2_600, 15_000, What::Split(vec![(homes_down + 4) % 5]))
    });
    saw(&seen, "nodes: hints_kept");
    saw(&seen, DROPPED);
}

/// Datagrams take seconds: writes arrive when what has replaced them is settled already.
#[test]
fn delayed_write_after_reap() {
    let seen = check(|seed| {
        let plan = Plan::quiet(2 * seed, 4, 30_000).grace(0).random_sessions(3, &keys(3));
        (0..6).fold(plan, |plan, turn| {
            let slow = What::SlowNode((seed as usize + turn as usize) % 4, 700);
            let storm = Weather {
                latency: Latency::LongTail { typical: Duration::from_millis(20) },
                lost_percent: 10,
                doubled_percent: 10,
            };
            plan.fault(1_000 + 4_500 * turn, 2_000, slow).fault(
                3_100 + 4_500 * turn,
                1_500,
                What::Storm(storm),
            )
        })
    });
    saw(&seen, DROPPED);
    saw(&seen, REFUSED);
}

/// Replicas that differ are mended, by reads and by comparisons, while deletes go on and settle: those that were cut off, and one that has lost everything.
#[test]
fn delete_during_repair() {
    let seen = check(|seed| {
        let plan = Plan::quiet(2 * seed, 3, 25_000).grace(100).random_sessions(3, &keys(4));
        let plan = plan.fault(7_500, 300, What::Wipe(seed as usize % 3));
        (0..5).fold(plan, |plan, turn| {
            plan.fault(500 + 4_500 * turn, 1_800, What::Split(vec![(seed + turn) as usize % 3]))
        })
    });
    saw(&seen, DROPPED);
    saw(&seen, "nodes: states_pulled");
}

/// A node comes back with a copy of its disk from before the delete, which all have settled since.
#[test]
fn old_disk_after_reap() {
    check_each(
        |seed| {
            Plan::quiet(2 * seed, 4, 25_000)
                .grace(0)
                .session(deleted(&plain(), 4_000))
                .session(again(60, 300, Habit::ReadModifyWrite, &Key::shared(Bucket::Strict, "k0")))
                // Taken when the value was there.
                .fault(14_000, 300, What::Restore(seed as usize % 4, 12_000))
        },
        |report| {
            saw(&report.seen, "restored disks");
            saw(&report.seen, DROPPED);
            saw(&report.seen, SET_ASIDE);
            saw(&report.seen, "nodes: disks_admitted");
            assert_eq!(last(report, &plain()), Vec::<&str>::new());
        },
    );
}

/// Seed 2092: the old disk is asked to agree to a further round before anybody has told it what it has missed.
#[test]
fn old_disk_is_asked_to_agree_first() {
    let seen = check(|seed| {
        let plan = Plan::quiet(2 * seed + 1, 5, 25_000).grace(0).session(deleted(&plain(), 2_000));
        let plan = keys(3).iter().fold(plan, |plan, key| {
            plan.session(again(50, 250, Habit::ReadModifyWrite, key)).session(again(
                20,
                900,
                Habit::Delete,
                key,
            ))
        });
        plan.fault(12_000, 100, What::Restore(seed as usize % 5, 10_000))
    });
    saw(&seen, SET_ASIDE);
}

/// An empty disk is admitted while rounds are under way.
#[test]
fn new_disk_while_keys_settle() {
    let seen = check(|seed| {
        let plan = Plan::quiet(2 * seed, 4, 20_000).grace(0).random_sessions(3, &keys(4));
        plan.fault(6_000, 200, What::Wipe(seed as usize % 4))
    });
    saw(&seen, "nodes: disks_admitted");
    saw(&seen, DROPPED);
}

/// Whoever has heard of another change, such as a new disk, takes no part in rounds of those who have not.
#[test]
fn rounds_of_another_history_are_refused() {
    for seed in 0..3 {
        assert_eq!(rounds::of_another_history(seed), Ok(()));
    }
}

/// An old disk and an empty one are alone with each other: the old one must not admit the empty one.
#[test]
fn old_disk_meets_a_new_one() {
    check_each(plans::old_disk_meets_a_new_one, |report| {
        saw(&report.seen, DROPPED);
        saw(&report.seen, SET_ASIDE);
        saw(&report.seen, "nodes: disks_admitted");
    });
}

/// Every outage is longer than the grace.
#[test]
fn grace_shorter_than_outage() {
    let seen = check(|seed| {
        let plan =
            Plan::quiet(2 * seed, 3, 40_000).grace(200).random_sessions(3, &[plain(), keys(1).remove(0)]);
        (0..5).fold(plan, |plan, turn| {
            let node = (seed + turn) as usize % 3;
            let what = if turn % 2 == 0 { What::PowerLoss(node) } else { What::Pause(node) };
            plan.fault(1_000 + 7_500 * turn, 5_000, what)
        })
    });
    saw(&seen, DROPPED);
    saw(&seen, "nodes: settle_abandoned");
}

/// Bits flip in deleted keys at every home before they have settled: nobody is left to heal them from, and nobody has to be. Another time only one home
/// keeps its copy.
#[test]
fn tombstones_rot_before_they_settle() {
    check_each(
        |seed| {
            let plan = Plan::quiet(2 * seed, 3, 20_000).grace(6_000);
            let plan =
                keys(3).iter().chain([&plain()]).fold(plan, |plan, key| plan.session(deleted(key, 3_000)));
            let rotten = (0..3).filter(|node| seed % 2 == 0 || *node != seed as usize % 3);
            rotten.fold(plan, |plan, node| plan.fault(5_000, 100, What::Rot(node, 1)))
        },
        |report| {
            saw(&report.seen, DROPPED);
            assert_eq!(last(report, &plain()), Vec::<&str>::new());
        },
    );
}

/// A home loses its power before what it dropped is gone from its disk, and bits flip in what is there again. The others have nothing of those keys any more, and the first
/// of them, who begins rounds, neither.
#[test]
fn tombstones_come_back_and_rot() {
    let seen = check(|seed| {
        let node = seed as usize % 3;
        let all = |wait_ms, habit| keys(24).into_iter().map(move |key| Step::new(wait_ms, habit, &key));
        let steps = all(50, Habit::Blind).chain(all(250, Habit::Remove)).collect();
        let at_ms = 8_500 + 130 * seed;
        Plan::quiet(2 * seed, 3, 20_000)
            .grace(3_000)
            .session(steps)
            .fault(4_000, 8_000, What::SlowDisk(node, 400))
            .fault(at_ms, 1_000, What::PowerLoss(node))
            .fault(at_ms + 300, 100, What::Rot(node, 1))
    });
    saw(&seen, DROPPED);
    saw(&seen, "nodes: records_damaged");
}
