//! Processes that stop, stand still or are slow.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::{Plan, What},
    workload::Habit,
};

use crate::{again, check, check_each, last, plain, saw, saw_no};

/// A process stands still for longer than connections live, and goes on with what it had in hand: puts that were long
/// retried elsewhere.
#[test]
fn pause_30s() {
    let keys = [plain(), Key::shared(Bucket::Strict, "k0"), Key::shared(Bucket::Lww, "k0")];
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 45_000).random_sessions(3, &keys).fault(
            3_000,
            30_000,
            What::Pause(seed as usize % 3),
        )
    });
    saw(&seen, "pauses");
}

/// A node is not dead, only late: clients and reads go to the others.
#[test]
fn slow_coordinator() {
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 20_000)
            .session(again(30, 300, Habit::ReadModifyWrite, &plain()))
            .session(again(30, 310, Habit::Blind, &plain()))
            .fault(2_000, 15_000, What::SlowNode(seed as usize % 3, 300))
    });
    saw(&seen, "slow nodes");
    saw_no(&seen, "puts refused");
    saw_no(&seen, "puts unknown");
    saw_no(&seen, "gets failed");
}

/// Every process is killed at the same moment: the disks have everything that was acknowledged.
#[test]
fn all_nodes_restart_at_once() {
    check_each(
        |seed| {
            let plan = Plan::quiet(seed, 3, 10_000).session(again(10, 200, Habit::ReadModifyWrite, &plain()));
            (0..3).fold(plan, |plan, node| plan.fault(2_500, 1_000, What::Kill(node)))
        },
        |report| {
            assert_eq!(report.seen["restarts"], 3);
            assert!(last(report, &plain()).len() <= 1);
        },
    );
}

/// Every machine loses power at the same moment, while writes are on their way to the disks.
#[test]
fn blackout_in_mid_write() {
    let keys = [plain(), Key::shared(Bucket::Strict, "k0"), Key::shared(Bucket::All, "k0")];
    let seen = check(|seed| {
        let plan = Plan::quiet(seed, 3, 12_000).random_sessions(4, &keys);
        (0..3).fold(plan, |plan, turn| plan.fault(2_000 + 3_000 * turn + 7 * seed, 400, What::Blackout))
    });
    saw(&seen, "blackouts");
}

/// Coordinators die while the disks are busy with the puts that they have sent out.
#[test]
fn coordinator_dies_mid_put() {
    let seen = check(|seed| {
        let plan = Plan::quiet(seed, 5, 30_000)
            .session(again(40, 150, Habit::ReadModifyWrite, &plain()))
            .session(again(40, 160, Habit::Blind, &plain()))
            .session(again(40, 170, Habit::GoOn, &plain()));
        let plan = (0..5).fold(plan, |plan, node| plan.fault(500, 25_000, What::SlowDisk(node, 200)));
        (0..10).fold(plan, |plan, turn| {
            plan.fault(1_000 + 2_000 * turn + 13 * seed, 1_500, What::Kill((turn + seed) as usize % 5))
        })
    });
    saw(&seen, "nodes: puts_repeated");
}

/// Two clocks are a minute and a half apart. Where time decides, a put that would replace something from the future is refused;
/// none is stamped earlier than what it replaces.
#[test]
fn clocks_90s_apart() {
    let key = Key::shared(Bucket::Lww, "k0");
    let seen = check(|seed| {
        let (ahead, behind) = (seed as usize % 3, (seed as usize + 1) % 3);
        let plan = Plan::quiet(seed, 3, 20_000)
            .session(again(30, 300, Habit::ReadModifyWrite, &key))
            .session(again(30, 310, Habit::Blind, &key))
            .fault(1_000, 18_000, What::Clock(ahead, 45_000))
            .fault(1_000, 18_000, What::Clock(behind, -45_000));
        (0..3).fold(plan, |plan, turn| plan.fault(2_000 + 5_000 * turn, 2_000, What::Split(vec![ahead])))
    });
    saw(&seen, "nodes: puts_refused_clock");
}
