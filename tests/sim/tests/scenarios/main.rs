//! Named scenarios: plans written by hand, each for an interleaving that has broken stores like this one.
//!
//! Every scenario runs under several seeds, which decide the fates of datagrams, and must keep every promise under each. What
//! is asserted beyond that says that the interleaving did happen, or what must come of it.

mod clients;
mod disks;
mod hints;
mod moving;
mod network;
mod processes;
mod repair;
mod settling;
mod upgrade;

use dynkv_sim::{
    batch::{cores, run_all},
    buckets::Bucket,
    history::Key,
    plan::Plan,
    report::{Report, Sightings},
    run::run_plan,
    workload::{Habit, Step},
};

const SEEDS: usize = 8;

/// Runs the plan of every seed. Returns what all runs saw together.
fn check(plan: impl Fn(u64) -> Plan + Sync) -> Sightings {
    let batch = run_all(SEEDS, cores(), |seed| plan(seed as u64));
    if let Some(report) = &batch.failed {
        panic!("{}", report.failure());
    }
    batch.seen
}

/// Runs the plan of every seed and shows each run to `expect`.
fn check_each(plan: impl Fn(u64) -> Plan, expect: impl Fn(&Report)) {
    check_some(SEEDS, plan, expect);
}

/// The same with so many seeds.
fn check_some(seeds: usize, plan: impl Fn(u64) -> Plan, expect: impl Fn(&Report)) {
    for seed in 0..seeds as u64 {
        let report = run_plan(&plan(seed));
        assert_eq!(report.failure(), "");
        expect(&report);
    }
}

/// A key of the bucket with the defaults.
fn plain() -> Key {
    Key::shared(Bucket::Plain, "k0")
}

/// `times` steps, all alike.
fn again(times: usize, wait_ms: u64, habit: Habit, key: &Key) -> Vec<Step> {
    vec![Step::new(wait_ms, habit, key); times]
}

/// The values of `key` at the end.
fn last<'a>(report: &'a Report, key: &Key) -> Vec<&'a str> {
    report.last[key].iter().map(String::as_str).collect()
}

/// That `what` was seen.
fn saw(seen: &Sightings, what: &str) {
    assert!(seen.get(what).is_some_and(|count| *count > 0), "no {what} in {seen:?}");
}

/// That `what` was not seen.
fn saw_no(seen: &Sightings, what: &str) {
    assert_eq!(seen.get(what).copied().unwrap_or_default(), 0, "{what} in {seen:?}");
}
