//! Homes that are out of reach, and those who stand in for them.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::{Plan, What},
    plans,
    workload::Habit,
};

use crate::{again, check, plain, saw, saw_no};

const KEPT: &str = "nodes: hints_kept";
const DELIVERED: &str = "nodes: hints_delivered";

/// A home is down while its keys are written. Nobody reads or writes after it is back: the hints find it all the same, and
/// reads find nothing to repair.
#[test]
fn hints_without_traffic() {
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 25_000)
            .session(again(20, 200, Habit::Blind, &plain()))
            .session(again(20, 210, Habit::ReadModifyWrite, &Key::shared(Bucket::Lww, "k0")))
            .fault(1_000, 9_000, What::Kill(seed as usize % 3))
    });
    saw(&seen, KEPT);
    saw(&seen, DELIVERED);
    saw_no(&seen, "repairs after healing");
}

/// A home comes back at another address, with its disk.
#[test]
fn hint_target_at_new_address() {
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 25_000).session(again(30, 200, Habit::ReadModifyWrite, &plain())).fault(
            1_000,
            6_000,
            What::Move(seed as usize % 3),
        )
    });
    saw(&seen, "moves");
    saw(&seen, DELIVERED);
    saw_no(&seen, "repairs after healing");
}

/// Whoever keeps hints for a node that is down dies before that is back, loses its power at that, and comes back later.
#[test]
fn hint_holder_dies_before_delivery() {
    let seen = check(|seed| {
        let target = seed as usize % 5;
        let plan = Plan::quiet(seed, 5, 40_000)
            .session(again(20, 200, Habit::ReadModifyWrite, &plain()))
            .session(again(20, 210, Habit::Blind, &Key::shared(Bucket::Strict, "k0")))
            .fault(1_000, 14_000, What::Kill(target));
        (1..5).fold(plan, |plan, other| {
            plan.fault(8_000 + 500 * other as u64, 12_000, What::PowerLoss((target + other) % 5))
        })
    });
    saw(&seen, KEPT);
    saw(&seen, DELIVERED);
}

/// Nodes that are alone mint in hints, twice: see the plan.
#[test]
fn fallback_mints_twice() {
    let seen = check(plans::fallback_mints_twice);
    saw(&seen, "nodes: puts_fallback");
    saw(&seen, "nodes: puts_sloppy");
    saw(&seen, DELIVERED);
}

/// A home is out of reach for an instant, again and again: each time somebody begins to keep hints for it.
#[test]
fn home_comes_and_goes() {
    let seen = check(|seed| {
        let plan = Plan::quiet(seed, 4, 30_000)
            .session(again(60, 300, Habit::ReadModifyWrite, &plain()))
            .session(again(60, 310, Habit::Blind, &plain()));
        (0..8).fold(plan, |plan, turn| {
            plan.fault(1_000 + 3_000 * turn, 700 + 100 * turn, What::Split(vec![seed as usize % 4]))
        })
    });
    saw(&seen, "nodes: hints_kept");
    saw(&seen, DELIVERED);
}

/// A home that was handed hints loses its power at that moment.
#[test]
fn hint_target_loses_power() {
    // Odd, so that replicas are not compared: what is missing would be mended.
    let seen = check(|seed| plans::hint_target_loses_power(2 * seed + 1));
    saw(&seen, DELIVERED);
    saw(&seen, "power losses");
    saw_no(&seen, "repairs after healing");
}

/// A home is replaced because it is late, and acknowledges after all: both copies are for one home. Every write is counted for
/// three.
#[test]
fn late_home_and_its_stand_in_are_one() {
    let wide = Key::shared(Bucket::Wide, "k0");
    let seen = check(|seed| {
        let plan = Plan::quiet(seed, 5, 30_000)
            .session(again(40, 200, Habit::ReadModifyWrite, &wide))
            .session(again(40, 210, Habit::Blind, &wide));
        (0..6).fold(plan, |plan, turn| {
            plan.fault(1_000 + 3_000 * turn, 2_000, What::SlowNode(turn as usize % 5, 150 + 50 * seed))
        })
    });
    saw(&seen, KEPT);
}
