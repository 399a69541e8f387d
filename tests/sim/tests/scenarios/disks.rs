//! Disks that are lost, old, doubled, slow or broken.

use dynkv_sim::{
    buckets::Bucket,
    disk::{Operation, Trouble},
    history::Key,
    plan::{Plan, What},
    plans,
    workload::Habit,
};

use crate::{again, check, check_each, last, plain, saw, saw_no};

/// A node that has forgotten which dots it minted mints for the same key again (Riak's kv679): every dot must be a new one,
/// and what was acknowledged is still on another disk.
#[test]
fn wiped_replica_mints_again() {
    for node in 0..3 {
        let plan = |seed| {
            Plan::quiet(seed, 3, 12_000)
                .session(again(25, 300, Habit::ReadModifyWrite, &plain()))
                .session(again(25, 310, Habit::GoOn, &plain()))
                .fault(3_000, 500, What::Wipe(node))
        };
        saw(&check(plan), "wiped disks");
    }
}

/// As when a disk is restored from last week's backup: the copy is older than anything that anybody else remembers of recent
/// puts.
#[test]
fn restored_week_old_disk() {
    check_each(
        |seed| {
            let mut steps = again(10, 200, Habit::ReadModifyWrite, &plain());
            steps.extend(again(1, 300_000, Habit::ReadModifyWrite, &plain()));
            steps.extend(again(10, 200, Habit::ReadModifyWrite, &plain()));
            Plan::quiet(seed, 3, 310_000).session(steps).fault(
                303_000,
                300,
                What::Restore(seed as usize % 3, 302_000),
            )
        },
        |report| {
            saw(&report.seen, "restored disks");
            assert_eq!(last(report, &plain()).len(), 1);
        },
    );
}

/// A virtual machine was copied and both run: they share a disk's content and a name, and must not share an actor.
#[test]
fn cloned_disk_two_nodes() {
    let keys = [plain(), Key::shared(Bucket::Strict, "k0")];
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 15_000).random_sessions(4, &keys).fault(
            3_000,
            8_000,
            What::Clone(seed as usize % 3),
        )
    });
    saw(&seen, "cloned disks");
    // One of the two is told to stop, and does.
    saw(&seen, "nodes: identity_conflicts");
}

/// A second process under a node's name has an empty disk: it serves nobody, and the node keeps its own.
#[test]
fn twin_on_an_empty_disk() {
    let seen = check(plans::twin_on_an_empty_disk);
    saw(&seen, "twins");
    saw(&seen, "nodes: identity_conflicts");
    saw_no(&seen, "nodes: disks_admitted");
}

/// One disk takes 200 ms to sync. Writes need it only where every replica must be durable.
#[test]
fn slow_disk() {
    let keys = [plain(), Key::shared(Bucket::Strict, "k0")];
    let seen = check(|seed| {
        Plan::quiet(seed, 3, 15_000).random_sessions(3, &keys).fault(
            1_000,
            12_000,
            What::SlowDisk(seed as usize % 3, 400),
        )
    });
    saw_no(&seen, "gets failed");
    saw(&seen, "puts done");
}

/// Every operation of a disk gets to fail once, the very first ones of a put among them.
#[test]
fn nth_operation_fails() {
    for operation in [Operation::Read, Operation::Write] {
        let seen = check(|seed| {
            let trouble = |after| Trouble { operation, after, times: 1 };
            let plan = Plan::quiet(seed, 3, 10_000)
                .session(again(20, 250, Habit::ReadModifyWrite, &plain()))
                .session(again(20, 260, Habit::Blind, &plain()));
            (0..8).fold(plan, |plan, turn| {
                let after = (seed + 3 * turn) as u32 % 11;
                plan.fault(500 + 1_000 * turn, 900, What::Trouble(turn as usize % 3, trouble(after)))
            })
        });
        saw(&seen, "failing disks");
        saw(&seen, "puts done");
    }
}

/// Of the homes within reach one lacks the last writes, and the other cannot read its records: reads fail, until the third is back.
#[test]
fn records_rot_beside_a_home_that_is_behind() {
    let seen = check(plans::records_rot_beside_a_home_that_is_behind);
    saw(&seen, "rotten disks");
    saw(&seen, "gets failed");
    saw(&seen, "nodes: records_healed");
}
