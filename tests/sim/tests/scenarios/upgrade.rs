//! Two versions of the software side by side.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::{MemberChange, Place, Plan, Release, What},
};

use crate::{check_some, saw, saw_no};

const ADOPTED: &str = "nodes: configurations_adopted";
const REFUSED: &str = "refusals for want of a feature";

/// An operator goes on for half a minute with what is refused.
const REFUSED_FOR_MS: u64 = 31_000;

/// A restart, and how long it takes.
fn restart(plan: Plan, at_ms: u64, node: usize, release: Release) -> Plan {
    plan.fault(at_ms, 1_500, What::Restart(node, release))
}

/// Two clients work all the time, in buckets whose reads must be fresh and in one with the defaults.
fn busy(seed: u64, duration_ms: u64) -> Plan {
    let buckets = [Bucket::Strict, Bucket::All, Bucket::Plain];
    let keys: Vec<Key> =
        (0..8).map(|number| Key::shared(buckets[number % 3], &format!("k{number}"))).collect();
    Plan::quiet(seed, 3, duration_ms).old().spares(1).random_sessions(2, &keys)
}

/// Three old nodes become new ones, one after the other; one of them goes back once more in between. As long as one is old nothing may be switched on, whichever new
/// node is asked, and nobody may join; then both. A node that is started with the old version after that refuses, until it is started with the new one.
#[test]
fn rolling_upgrade() {
    check_some(
        4,
        |seed| {
            let turn = seed as usize;
            let [first, second, third] = [0, 1, 2].map(|node| (node + turn) % 3);
            let join = |node| What::Change(MemberChange::Join(node));
            let mut plan = busy(seed, 62_000).spares(1).fault(500, 0, join(4)).fault(500, 0, What::Enable);
            // The operator asks those that are new first.
            for (from, to) in [(Place::Operator, Place::Node(third)), (Place::Node(third), Place::Operator)] {
                plan = plan.fault(400, REFUSED_FOR_MS, What::Cut(from, to));
            }
            for (at_ms, node, release) in [
                (1_000, first, Release::New),
                (5_000, second, Release::New),
                (9_000, first, Release::Old),
                (13_000, first, Release::New),
                (REFUSED_FOR_MS + 1_000, third, Release::New),
                (48_000, second, Release::Old),
                (55_000, second, Release::New),
            ] {
                plan = restart(plan, at_ms + 100 * seed, node, release);
            }
            plan.fault(36_000, 0, What::Enable).fault(38_000, 0, join(3))
        },
        |report| {
            assert_eq!((report.seen["upgrades"], report.seen["changes refused"]), (9, 2));
            assert_eq!(report.seen["members at the end"], 4);
            saw(&report.seen, ADOPTED);
            saw(&report.seen, REFUSED);
        },
    );
}

/// An old node loses its disk. Others must agree before the new disk is one of the partition's members, which old nodes cannot: it serves nothing of the
/// others' until all are new, and what takes that is switched on. Nothing is lost meanwhile, and nothing stale is read.
#[test]
fn a_lost_disk_waits_for_the_upgrade() {
    check_some(
        4,
        |seed| {
            let plan = busy(seed, 22_000).fault(1_500, 1_000, What::Wipe(seed as usize % 3));
            let plan = (0..3)
                .fold(plan, |plan, node| restart(plan, 6_000 + 3_500 * node as u64, node, Release::New));
            let mut plan = plan.fault(17_000, 0, What::Enable);
            plan.two_disks = true;
            plan
        },
        |report| {
            assert_eq!(report.seen["upgrades"], 4);
            saw_no(&report.seen, "changes refused");
            saw(&report.seen, "nodes: disks_admitted");
            saw(&report.seen, ADOPTED);
        },
    );
}

/// All nodes are new in the end, and nothing is switched on: they go on as the old ones did, and any may go back.
#[test]
fn what_is_not_switched_on_rests() {
    check_some(
        4,
        |seed| {
            let plan = (0..3).fold(busy(seed, 14_000), |plan, node| {
                restart(plan, 1_000 + 3_500 * node as u64, node, Release::New)
            });
            restart(plan, 11_500, seed as usize % 3, Release::Old)
        },
        |report| {
            assert_eq!(report.seen["upgrades"], 4);
            saw_no(&report.seen, ADOPTED);
            saw_no(&report.seen, "nodes: configuration_attempts");
            saw_no(&report.seen, REFUSED);
        },
    );
}
