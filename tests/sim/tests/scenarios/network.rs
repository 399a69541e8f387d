//! Links that fail.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::{Place, Plan, What},
    workload::Habit,
};

use crate::{again, check, plain, saw, saw_no};

/// A put is carried out and its answer lost; the client asks another coordinator. It must be found there, or flagged.
///
/// The cluster is older than the retry window, so that homes can say that they have not applied a put.
#[test]
fn ack_dropped_then_retried_elsewhere() {
    let seen = check(|seed| {
        let mut plan = Plan::quiet(seed, 3, 45_000)
            // Without reads, which would find out before the put that a node is silent.
            .session(again(45, 400, Habit::GoOn, &plain()))
            .session(again(50, 410, Habit::ReadModifyWrite, &plain()));
        plan.warm_up_ms = 70_000;
        (0..3).fold(plan, |plan, node| {
            plan.fault(1_000 + 7_000 * node, 6_500, What::Cut(Place::Node(node as usize), Place::Session(0)))
        })
    });
    saw(&seen, "nodes: puts_repeated");
    saw_no(&seen, "possible duplicates");
}

/// What one node sends another is lost, the other way works: neither may wait for ever or be taken for dead by everybody.
#[test]
fn one_way_partition() {
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 15_000)
            .session(again(30, 300, Habit::ReadModifyWrite, &plain()))
            .session(again(30, 310, Habit::Blind, &plain()))
            .fault(
                2_000,
                10_000,
                What::Cut(Place::Node(seed as usize % 3), Place::Node((seed as usize + 1) % 3)),
            )
    });
    saw_no(&seen, "puts refused");
    saw_no(&seen, "puts unknown");
    saw_no(&seen, "gets failed");
}

/// Links stop one by one and come back in another order (FoundationDB's swizzle-clogging).
#[test]
fn swizzle_clog() {
    let keys = [plain(), Key::shared(Bucket::Strict, "k0"), Key::shared(Bucket::Lww, "k0")];
    let seen = check(|seed| {
        let plan = Plan::quiet(seed, 5, 20_000).random_sessions(4, &keys);
        (0..5).fold(plan, |plan, turn| {
            let node = (turn * 2 + seed as usize) % 5;
            let (stops_ms, returns_ms) = (1_000 + 900 * turn as u64, 8_000 + 1_100 * (node as u64 * 3 % 5));
            plan.fault(stops_ms, returns_ms - stops_ms, What::Split(vec![node]))
        })
    });
    saw(&seen, "splits");
}

/// A node is there for a second and a half and away for as long, again and again: work goes on.
#[test]
fn flap_every_3s() {
    let seen = check(|seed| {
        let plan = Plan::quiet(seed, 3, 30_000)
            .session(again(60, 350, Habit::ReadModifyWrite, &plain()))
            .session(again(60, 360, Habit::Blind, &plain()));
        (0..9).fold(plan, |plan, turn| {
            plan.fault(1_000 + 3_000 * turn, 1_500, What::Split(vec![seed as usize % 3]))
        })
    });
    saw_no(&seen, "gets failed");
    saw_no(&seen, "puts refused");
    saw_no(&seen, "puts unknown");
}
