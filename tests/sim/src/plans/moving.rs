//! Plans in which members change at a bad moment. Replicas are not compared in those of odd seeds: comparisons would mend what is to be seen.

use crate::{
    buckets::Bucket,
    history::Key,
    plan::{Kind, MemberChange, Place, Plan, What},
    workload::{Habit, Step},
};

/// Keys of a bucket, enough for most partitions.
fn keys(bucket: Bucket) -> Vec<Key> {
    (0..10).map(|number| Key::shared(bucket, &format!("k{number}"))).collect()
}

/// `times` steps, to one key after the other.
fn in_turn(keys: &[Key], times: usize, wait_ms: u64, habit: Habit) -> Vec<Step> {
    keys.iter().cycle().take(times).map(|key| Step::new(wait_ms, habit, key)).collect()
}

/// Members change, and `kinds` of faults happen, while clients ask for what must be fresh.
pub fn under(seed: u64, kinds: &[Kind]) -> Plan {
    let mut plan = Plan::draw_with(2 * seed + 1, kinds);
    plan.grace_ms = None;
    plan.keys = [Bucket::Strict, Bucket::All].map(keys).concat();
    plan.draw_changes();
    plan
}

/// A node is told to leave, and cut off from the others, not from clients, some time `after_ms`. One client writes through the others, one reads from
/// that node alone. Disks are slow, so that much may be under way at that time.
pub fn leaves_and_is_cut_off(seed: u64, bucket: Bucket, cut_at_ms: u64) -> Plan {
    let away = seed as usize % 4;
    let keys = keys(bucket);
    let plan = Plan::quiet(2 * seed + 1, 4, 25_000)
        .session(in_turn(&keys, 200, 30, Habit::Blind))
        .session(in_turn(&keys, 400, 40, Habit::Read))
        .fault(4_000, 0, What::Change(MemberChange::Leave(away)))
        .fault(cut_at_ms, 15_000, What::Island(vec![away], vec![1]));
    slow_disks(plan, 4, 100)
}

/// All disks take so many times as long, from the beginning to the end.
fn slow_disks(plan: Plan, nodes: usize, factor: u32) -> Plan {
    let duration_ms = plan.duration_ms;
    (0..nodes).fold(plan, |plan, node| plan.fault(500, duration_ms, What::SlowDisk(node, factor)))
}

/// A node joins three while they write and read all the time, and their disks are slow: much is written between the node's reading and its first answer as a member.
pub fn joins_while_written(seed: u64) -> Plan {
    let keys = keys(Bucket::All);
    let plan = Plan::quiet(2 * seed + 1, 3, 20_000).spares(1);
    let plan = (0..3).fold(plan, |plan, _| plan.session(in_turn(&keys, 300, 10, Habit::Blind)));
    let plan = (0..3).fold(plan, |plan, _| plan.session(in_turn(&keys, 600, 10, Habit::Read)));
    let plan = plan.fault(2_000 + seed % 500, 0, What::Change(MemberChange::Join(3)));
    slow_disks(plan, 3, 100)
}

/// A node joins three; when it is about to be a member of some partitions, it and one of the three are cut off from the other two, who must not choose otherwise.
pub fn joins_and_is_cut_off_with_one(seed: u64, after_ms: u64) -> Plan {
    let keys = keys(Bucket::Strict);
    let side = vec![seed as usize % 3, 3];
    let plan = Plan::quiet(2 * seed + 1, 3, 25_000).spares(1);
    let plan = (0..3).fold(plan, |plan, _| plan.session(in_turn(&keys, 250, 30, Habit::ReadModifyWrite)));
    let plan = plan
        .fault(2_000, 0, What::Change(MemberChange::Join(3)))
        .fault(2_000 + after_ms, 12_000, What::Split(side));
    slow_disks(plan, 3, 100)
}

/// A node joins three and is told to leave at once, when a member has asked it to join and cannot tell the others that it has.
pub fn leaves_while_joining(seed: u64, after_ms: u64) -> Plan {
    let keys = keys(Bucket::All);
    let (proposer, first, second) = (seed as usize % 3, (seed as usize + 1) % 3, (seed as usize + 2) % 3);
    let at_ms = 2_000 + after_ms;
    let plan = Plan::quiet(2 * seed + 1, 3, 25_000).spares(1);
    let plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 200, 30, Habit::Blind)));
    let plan = (0..3).fold(plan, |plan, _| plan.session(in_turn(&keys, 500, 20, Habit::Read)));
    plan.fault(500, 25_000, What::SlowDisk(3, 200))
        .fault(2_000, 0, What::Change(MemberChange::Join(3)))
        .fault(at_ms, 1_200, What::Cut(Place::Node(proposer), Place::Node(first)))
        .fault(at_ms, 1_200, What::Cut(Place::Node(proposer), Place::Node(second)))
        .fault(at_ms, 0, What::Change(MemberChange::Leave(3)))
}

/// A client writes through one node, which is cut off and killed: some writes are there alone. The node is to leave, the others choose their next members without it, and it comes back.
pub fn comes_back_with_the_only_copy(seed: u64) -> Plan {
    let node = seed as usize % 4;
    Plan::quiet(2 * seed + 1, 4, 25_000)
        .session(in_turn(&keys(Bucket::One), 80, 20, Habit::GoOn))
        .fault(3_000 - 20 * (seed % 50), 3_000, What::Island(vec![node], vec![0]))
        .fault(3_000, 12_000, What::Kill(node))
        .fault(4_000, 0, What::Change(MemberChange::Leave(node)))
}

/// A member is cut off while it leaves. When it can reach one other member again it goes on with its clients' requests: that one's answers are of another epoch.
pub fn goes_on_at_an_old_epoch(seed: u64) -> Plan {
    let nodes = [0, 1, 2, 3].map(|turn| (seed as usize + turn) % 4);
    let [old, other, third, fourth] = nodes;
    let keys = keys(Bucket::Strict);
    let plan = Plan::quiet(2 * seed + 1, 4, 25_000);
    let plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 300, 20, Habit::Blind)));
    let plan = (0..2).fold(plan, |plan, _| plan.session(in_turn(&keys, 500, 20, Habit::Read)));
    let plan = plan
        .fault(4_000, 0, What::Change(MemberChange::Leave(old)))
        .fault(3_900, 5_000 + 10 * (seed % 100), What::Split(vec![old]));
    [third, fourth].into_iter().fold(plan, |plan, node| {
        plan.fault(3_900, 15_000, What::Cut(Place::Node(old), Place::Node(node)))
            .fault(3_900, 15_000, What::Cut(Place::Node(node), Place::Node(old)))
    })
}

/// A client is alone with two of five nodes, who keep hints for homes of its keys. Meanwhile three nodes join with so much weight that most of those homes are none any more.
pub fn homes_move_away_from_hints(seed: u64) -> Plan {
    let keys: Vec<Key> = (0..24).map(|number| Key::shared(Bucket::Plain, &format!("k{number}"))).collect();
    let mut plan = Plan::quiet(2 * seed + 1, 5, 40_000)
        .spares(3)
        .session(in_turn(&keys, 48, 100, Habit::Blind))
        .fault(1_000, 24_000, What::Island(vec![3, 4], vec![0]));
    for node in 5..8 {
        let at_ms = 2_000 + 200 * node as u64;
        plan = plan
            .fault(at_ms, 0, What::Change(MemberChange::Join(node)))
            .fault(at_ms + 2_000, 0, What::Change(MemberChange::Weight(node, 100)));
    }
    plan
}

/// The same, and the disk of a home that has got hints is lost when nobody keeps any.
pub fn home_is_lost_after_hints_have_moved(seed: u64) -> Plan {
    let mut plan = homes_move_away_from_hints(seed);
    plan.duration_ms = 70_000;
    plan.fault(60_000, 500, What::Wipe(5 + seed as usize % 3))
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
