//! Members that join, leave, are removed and replaced while nothing else goes well.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::{MemberChange, Place, Plan, What},
    workload::{Habit, Step},
};

use crate::{again, check_some, saw, saw_no};

const ADOPTED: &str = "nodes: configurations_adopted";
const GIVEN_UP: &str = "nodes: partitions_given_up";

/// Clusters in which partitions move take longer than others.
const SEEDS: usize = 4;

/// Keys in about all partitions, of buckets whose reads must be fresh.
fn keys() -> Vec<Key> {
    let buckets = [Bucket::Strict, Bucket::All, Bucket::Plain];
    (0..8).map(|number| Key::shared(buckets[number % 3], &format!("k{number}"))).collect()
}

fn change(change: MemberChange) -> What {
    What::Change(change)
}

/// Two clients work all the time, on `nodes` members beside `spares` that are none yet.
fn busy(seed: u64, nodes: usize, spares: usize, duration_ms: u64) -> Plan {
    Plan::quiet(seed, nodes, duration_ms).spares(spares).random_sessions(2, &keys())
}

/// All links between two places.
fn apart(plan: Plan, at_ms: u64, lasts_ms: u64, one: Place, other: Place) -> Plan {
    plan.fault(at_ms, lasts_ms, What::Cut(one, other)).fault(at_ms, lasts_ms, What::Cut(other, one))
}

/// A node that is joining is cut off with one member in mid-transfer, and comes back.
#[test]
fn join_during_partition() {
    check_some(
        SEEDS,
        |seed| {
            busy(seed, 3, 1, 15_000).fault(2_000, 0, change(MemberChange::Join(3))).fault(
                2_200 + 150 * seed,
                6_000,
                What::Split(vec![seed as usize % 3, 3]),
            )
        },
        |report| {
            saw(&report.seen, "splits");
            saw(&report.seen, ADOPTED);
            assert_eq!(report.seen["members at the end"], 4);
        },
    );
}

#[test]
fn six_nodes_join_at_once() {
    check_some(
        SEEDS,
        |seed| {
            (3..9).fold(busy(seed, 3, 6, 8_000), |plan, node| {
                plan.fault(1_000, 0, change(MemberChange::Join(node)))
            })
        },
        |report| {
            assert_eq!(report.seen["members at the end"], 9);
            saw(&report.seen, GIVEN_UP);
        },
    );
}

/// Of two nodes in each of two zones one leaves: every partition stays in both.
#[test]
fn leave_two_zones() {
    check_some(
        SEEDS,
        |seed| {
            busy(seed, 4, 0, 10_000).zones(2).fault(1_000, 0, change(MemberChange::Leave(seed as usize % 4)))
        },
        |report| {
            assert_eq!(report.seen["members gone"], 1);
            assert_eq!(report.seen["zones of the narrowest partition"], 2);
        },
    );
}

/// While the cluster is split in two, an operator on one side lets a node join, one on the other lets one leave. Both happen.
#[test]
fn two_operators_commit() {
    check_some(
        SEEDS,
        |seed| {
            let mut plan = busy(seed, 4, 1, 25_000).fault(1_000, 14_000, What::Split(vec![0, 1]));
            for node in [2, 3, 4] {
                plan = plan.fault(1_000, 6_000, What::Cut(Place::Operator, Place::Node(node)));
            }
            for node in [0, 1] {
                plan = plan.fault(7_500, 7_000, What::Cut(Place::Operator, Place::Node(node)));
            }
            plan.fault(1_200, 0, change(MemberChange::Leave(0))).fault(
                8_000,
                0,
                change(MemberChange::Join(4)),
            )
        },
        |report| {
            assert_eq!((report.seen["members at the end"], report.seen["members gone"]), (4, 1));
        },
    );
}

/// A node comes back where it was, with an empty disk: it becomes a member anew, by a change of its partitions' members.
#[test]
fn replace_same_address_new_disk() {
    check_some(
        SEEDS,
        |seed| busy(seed, 4, 0, 15_000).fault(3_000, 1_000, What::Wipe(seed as usize % 4)),
        |report| {
            saw(&report.seen, "nodes: disks_admitted");
            saw(&report.seen, ADOPTED);
        },
    );
}

/// Two of five nodes lose their disks at once, or three, or two die and are removed: partitions are left with one of their three members, or none. All members of the cluster
/// agree on who follows, and everything can be written and read again; what is lost is lost.
#[test]
fn most_members_are_lost() {
    for lost in [2, 3] {
        check_some(
            SEEDS,
            |seed| {
                let plan = busy(seed, 5, 0, 15_000).lost_at_once(lost as u32);
                (0..lost).fold(plan, |plan, turn| {
                    plan.fault(3_000, 1_000 + 200 * turn as u64, What::Wipe((seed as usize + turn) % 5))
                })
            },
            |report| {
                saw(&report.seen, "nodes: disks_admitted");
                saw(&report.seen, ADOPTED);
            },
        );
    }
    check_some(
        SEEDS,
        |seed| {
            let (one, other) = (seed as usize % 5, (seed as usize + 1) % 5);
            busy(seed, 5, 0, 15_000).lost_at_once(2).fault(3_000, 0, change(MemberChange::Remove(one))).fault(
                3_000,
                0,
                change(MemberChange::Remove(other)),
            )
        },
        |report| assert_eq!(report.seen["members gone"], 2),
    );
}

/// With w = 1 a change of members needs all three of them: when one has lost its disk, all members of the cluster agree in their place.
#[test]
fn one_of_three_that_are_all_needed_is_lost() {
    check_some(
        SEEDS,
        |seed| {
            let keys: Vec<Key> =
                (0..8).map(|number| Key::shared(Bucket::Each, &format!("k{number}"))).collect();
            Plan::quiet(seed, 4, 10_000)
                .session(keys.iter().flat_map(|key| again(4, 100, Habit::GoOn, key)).collect())
                .fault(2_000, 500, What::Wipe(seed as usize % 4))
        },
        |report| saw(&report.seen, ADOPTED),
    );
}

/// A node is to take the place of a dead one, and dies twice before it has.
#[test]
fn replace_aborted_twice() {
    check_some(
        SEEDS,
        |seed| {
            busy(seed, 4, 1, 25_000)
                .fault(2_000, 0, change(MemberChange::Replace(seed as usize % 4, 4)))
                .fault(2_100 + 100 * seed, 3_000, What::Kill(4))
                .fault(6_000 + 100 * seed, 3_000, What::Kill(4))
        },
        |report| {
            assert_eq!(report.seen["kills"], 2);
            assert_eq!((report.seen["members at the end"], report.seen["members gone"]), (4, 1));
        },
    );
}

/// A node is removed while it is down, and comes back with all it held: it finds out, and serves nobody (`World::undead`).
#[test]
fn zombie_returns_after_removal() {
    check_some(
        SEEDS,
        |seed| {
            let node = seed as usize % 4;
            busy(seed, 4, 0, 20_000).fault(1_000, 10_000, What::Kill(node)).fault(
                3_000,
                0,
                change(MemberChange::Exclude(node)),
            )
        },
        |report| {
            saw(&report.seen, "restarts");
            assert_eq!(report.seen["members gone"], 1);
        },
    );
}

/// Two parts of a cluster, cut off from each other, are restarted without seeds, and each has heard of another change. They find together by what their disks
/// say.
#[test]
fn seedless_islands_merge() {
    check_some(
        SEEDS,
        |seed| {
            let mut plan = busy(seed, 4, 1, 30_000).fault(1_000, 18_000, What::Split(vec![0, 1]));
            plan.seedless = true;
            for node in [2, 3, 4] {
                plan = plan.fault(1_000, 6_000, What::Cut(Place::Operator, Place::Node(node)));
            }
            for node in [0, 1] {
                plan = plan.fault(7_500, 11_000, What::Cut(Place::Operator, Place::Node(node)));
            }
            let plan = plan.fault(1_200, 0, change(MemberChange::Weight(0, 3))).fault(
                8_000,
                0,
                change(MemberChange::Join(4)),
            );
            (0..4).fold(plan, |plan, node| plan.fault(13_000 + 50 * node as u64, 2_000, What::Kill(node)))
        },
        |report| {
            assert_eq!((report.seen["kills"], report.seen["members at the end"]), (4, 5));
            saw(&report.seen, ADOPTED);
        },
    );
}

/// Three copies need three nodes: one of three cannot leave, or be removed.
#[test]
fn shrink_below_n_refused() {
    check_some(
        SEEDS,
        |seed| {
            busy(seed, 3, 0, 5_000).fault(1_000, 0, change(MemberChange::Leave(seed as usize % 3))).fault(
                2_000,
                0,
                change(MemberChange::Exclude(seed as usize % 3)),
            )
        },
        |report| {
            assert_eq!((report.seen["changes refused"], report.seen["members gone"]), (2, 0));
            saw_no(&report.seen, ADOPTED);
        },
    );
}

/// The node that joins, or one that it reads from, is killed at one moment after the other.
#[test]
fn transfer_killed_at_every_step() {
    for gives in [false, true] {
        check_some(
            2 * SEEDS,
            |seed| {
                let victim = if gives { seed as usize % 3 } else { 3 };
                let plan = busy(seed, 3, 1, 18_000).fault(2_000, 0, change(MemberChange::Join(3)));
                (0..6).fold(plan, |plan, turn| {
                    plan.fault(2_020 + 2_000 * turn + (40 * turn + 110 * seed) % 900, 300, What::Kill(victim))
                })
            },
            |report| {
                assert_eq!(report.seen["kills"], 6);
                saw(&report.seen, GIVEN_UP);
            },
        );
    }
}

/// The node that joins has no room for a while.
#[test]
fn receiver_disk_full() {
    check_some(
        SEEDS,
        |seed| {
            busy(seed, 3, 1, 18_000).fault(2_000, 0, change(MemberChange::Join(3))).fault(
                2_100 + 100 * seed,
                6_000,
                What::FullDisk(3),
            )
        },
        |report| {
            saw(&report.seen, "full disks");
            saw(&report.seen, GIVEN_UP);
            assert_eq!(report.seen["members at the end"], 4);
        },
    );
}

/// Keys are deleted while they are on their way to a new member, and settle: none comes back.
#[test]
fn delete_during_transfer() {
    check_some(
        SEEDS,
        |seed| {
            let steps = keys().into_iter().flat_map(|key| {
                [(100, Habit::Blind), (250, Habit::Remove)]
                    .map(|(wait_ms, habit)| Step::new(wait_ms, habit, &key))
            });
            Plan::quiet(seed, 3, 15_000).grace(0).spares(1).session(steps.collect()).fault(
                500 + 100 * seed,
                0,
                change(MemberChange::Join(3)),
            )
        },
        |report| {
            saw(&report.seen, GIVEN_UP);
            saw(&report.seen, "nodes: tombstones_dropped");
            assert!(report.last.values().all(Vec::is_empty), "{:?}", report.last);
        },
    );
}

/// Every process is killed while partitions move.
#[test]
fn restart_all_during_move() {
    check_some(
        SEEDS,
        |seed| {
            let plan = busy(seed, 3, 1, 15_000).fault(2_000, 0, change(MemberChange::Join(3)));
            (0..4).fold(plan, |plan, node| plan.fault(2_300 + 150 * seed, 1_000, What::Kill(node)))
        },
        |report| {
            assert_eq!(report.seen["restarts"], 4);
            saw(&report.seen, GIVEN_UP);
        },
    );
}

/// A home is down while its keys are written, and is removed: its hints go to those who follow it.
#[test]
fn hint_target_removed() {
    check_some(
        SEEDS,
        |seed| {
            let node = seed as usize % 5;
            Plan::quiet(seed, 5, 15_000)
                .session(keys().iter().flat_map(|key| again(3, 100, Habit::GoOn, key)).collect())
                .fault(200, 30_000, What::Kill(node))
                .fault(6_000, 0, change(MemberChange::Remove(node)))
        },
        |report| {
            saw(&report.seen, "nodes: hints_kept");
            saw(&report.seen, "nodes: hints_delivered");
            assert_eq!(report.seen["members gone"], 1);
        },
    );
}

/// Weights from one end to the other, and back.
#[test]
fn weights_1_to_100() {
    check_some(
        SEEDS,
        |seed| {
            let node = seed as usize % 5;
            busy(seed, 5, 0, 15_000)
                .fault(1_000, 0, change(MemberChange::Weight(node, 100)))
                .fault(6_000, 0, change(MemberChange::Weight(node, 1)))
                .fault(6_500, 0, change(MemberChange::Weight((node + 1) % 5, 100)))
        },
        |report| {
            saw_no(&report.seen, "changes refused");
            saw(&report.seen, GIVEN_UP);
        },
    );
}

/// An operator changes the members at a node whose clock is far ahead, then at others, which come later in the history all the same.
#[test]
fn clock_jump_in_history() {
    check_some(
        SEEDS,
        |seed| {
            let ahead = seed as usize % 4;
            let mut plan = busy(seed, 4, 1, 20_000).fault(500, 6_000, What::Clock(ahead, 45_000));
            for node in (0..5).filter(|node| *node != ahead) {
                plan = apart(plan, 1_000, 5_000, Place::Operator, Place::Node(node));
            }
            plan.fault(1_500, 0, change(MemberChange::Join(4))).fault(
                8_000,
                0,
                change(MemberChange::Leave(4)),
            )
        },
        |report| {
            saw(&report.seen, "clock jumps");
            saw_no(&report.seen, "changes refused");
            assert_eq!((report.seen["members at the end"], report.seen["members gone"]), (4, 1));
        },
    );
}
