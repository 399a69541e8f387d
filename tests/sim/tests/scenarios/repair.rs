//! Replicas that lack something, and become equal by themselves.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::{Plan, What},
    workload::{Habit, Step},
};

use crate::{again, check, check_each, last, plain, saw, saw_no};

/// Nodes compare their replicas in plans of even seed.
fn even(seed: u64) -> u64 {
    2 * seed
}

/// Writes each of some keys once, then one of them again and again.
fn steps() -> Vec<Step> {
    let keys = (0..20).map(|number| Key::shared(Bucket::Plain, &format!("k{number}")));
    keys.map(|key| Step::new(50, Habit::Blind, &key)).chain(again(10, 100, Habit::GoOn, &plain())).collect()
}

/// A node comes back with an empty disk when nobody writes or reads any more. The others have what it lacks, and it is complete
/// before anybody asks.
#[test]
fn wiped_replica_heals_without_traffic() {
    let seen = check(|seed| {
        Plan::quiet(even(seed), 3, 10_000).session(steps()).fault(5_000, 1_000, What::Wipe(seed as usize % 3))
    });
    saw(&seen, "wiped disks");
    saw_no(&seen, "repairs after healing");
}

/// Whoever keeps the hints for a node that is down loses its disk, and with it the hints.
#[test]
fn lost_hints_heal() {
    let seen = check(|seed| {
        let target = seed as usize % 4;
        Plan::quiet(even(seed), 4, 14_000).session(steps()).fault(200, 9_800, What::Kill(target)).fault(
            6_000,
            1_000,
            What::Wipe((target + 1 + seed as usize % 3) % 4),
        )
    });
    saw(&seen, "nodes: hints_kept");
    saw(&seen, "nodes: states_pulled");
    saw_no(&seen, "repairs after healing");
}

/// Bits flip in every record of all homes but one. No damaged value is served, none of them is taken for "not found", and one
/// good copy is enough for all.
#[test]
fn bit_rot_on_all_but_one() {
    check_each(
        |seed| {
            let good = seed as usize % 3;
            let plan = Plan::quiet(seed, 3, 15_000).session(steps());
            (0..3)
                .filter(|node| *node != good)
                .fold(plan, |plan, node| plan.fault(6_000, 1_000, What::Rot(node, 1)))
        },
        |report| {
            saw(&report.seen, "nodes: records_healed");
            assert_eq!(last(report, &plain()).len(), 1);
        },
    );
}

/// The same while clients read and write.
#[test]
fn bit_rot_under_load() {
    let keys = [plain(), Key::shared(Bucket::Strict, "k0"), Key::shared(Bucket::Lww, "k0")];
    let seen = check(|seed| {
        Plan::quiet(seed, 4, 20_000).random_sessions(3, &keys).fault(
            4_000,
            1_000,
            What::Rot(seed as usize % 4, 1),
        )
    });
    saw(&seen, "nodes: records_healed");
}

/// The index of digests says something else than the records, with and without a restart after which trees are built from it.
/// Reads notice nothing; a check that never ends finds it.
#[test]
fn tree_drifts_from_store() {
    let seen = check(|seed| {
        let node = seed as usize % 3;
        let plan = Plan::quiet(seed, 3, 20_000).session(steps()).fault(6_000, 1_000, What::Drift(node, 2));
        if seed % 4 < 2 { plan } else { plan.fault(6_001, 500, What::Kill(node)) }
    });
    saw(&seen, "nodes: tree_drifts");
    saw_no(&seen, "repairs after healing");
    saw_no(&seen, "gets failed");
}
