//! Plans that more than one test goes by: named scenarios, and hunts for planted bugs.

pub mod moving;

use crate::{
    buckets::Bucket,
    history::Key,
    plan::{Place, Plan, What},
    workload::{Habit, Step},
};

/// Clients are alone with two of five nodes, twice. For some keys neither is a home: they stand in for the homes, and mint in
/// hints, which are delivered and gone in between. The second time they must not mint what they have minted before.
pub fn fallback_mints_twice(seed: u64) -> Plan {
    let side: Vec<usize> = vec![seed as usize % 5, (seed as usize + 1) % 5];
    let steps = |habit| {
        (0..120)
            .map(|turn| Step::new(250, habit, &Key::shared(Bucket::Plain, &format!("k{}", turn % 10))))
            .collect()
    };
    Plan::quiet(seed, 5, 50_000)
        .session(steps(Habit::ReadModifyWrite))
        .session(steps(Habit::Blind))
        .fault(1_000, 12_000, What::Island(side.clone(), vec![0, 1]))
        .fault(22_000, 12_000, What::Island(side, vec![0, 1]))
}

/// A home is down while its keys are written, for the last time. It comes back with a disk that takes long to sync, is handed its
/// hints, and loses its power at about that time: whatever it had acknowledged must be there, or the hint.
pub fn hint_target_loses_power(seed: u64) -> Plan {
    let target = seed as usize % 4;
    let keys = (0..10).map(|number| Key::shared(Bucket::Plain, &format!("k{number}")));
    let steps = keys.map(|key| Step::new(300, Habit::Blind, &key)).collect();
    Plan::quiet(seed, 4, 30_000)
        .session(steps)
        .fault(500, 9_500, What::Kill(target))
        .fault(9_900, 5_000, What::SlowDisk(target, 400))
        .fault(10_100 + 100 * (seed % 20), 2_000, What::PowerLoss(target))
}

/// A node gets an empty disk when many keys have been written for the last time, and nobody reads any more: whatever it lacks it has by
/// comparisons, all over the positions.
pub fn empty_disk_is_filled(seed: u64) -> Plan {
    let keys = (0..24).map(|number| Key::shared(Bucket::Plain, &format!("k{seed}-{number}")));
    let steps = keys.map(|key| Step::new(100, Habit::Blind, &key)).collect();
    Plan::quiet(2 * seed, 3, 12_000).session(steps).fault(8_000, 500, What::Wipe(seed as usize % 3))
}

/// The last writes are on two of three homes, for the third has been cut off from the one that coordinates some of them. Then bits flip in
/// every record of the second, and the first is cut off from both: the two that are left must not answer that they have all there is.
pub fn records_rot_beside_a_home_that_is_behind(seed: u64) -> Plan {
    let (ahead, rotten) = (seed as usize % 3, (seed as usize + 1) % 3);
    let behind = 3 - ahead - rotten;
    let keys: Vec<Key> = (0..6).map(|number| Key::shared(Bucket::Strict, &format!("k{number}"))).collect();
    let writes = (0..30).map(|turn| Step::new(150, Habit::GoOn, &keys[turn % 6])).collect();
    let reads =
        (0..60).map(|turn| Step::new(if turn == 0 { 11_000 } else { 100 }, Habit::Read, &keys[turn % 6]));
    let (ahead_at, behind_at) = (Place::Node(ahead), Place::Node(behind));
    Plan::quiet(2 * seed + 1, 3, 25_000)
        .session(writes)
        .session(reads.collect())
        .fault(200, 20_000, What::Cut(ahead_at, behind_at))
        .fault(200, 20_000, What::Cut(behind_at, ahead_at))
        .fault(10_000, 10_000, What::Split(vec![ahead]))
        .fault(10_500, 100, What::Rot(rotten, 1))
}

/// Somebody starts a second process with a node's certificate, on an empty disk. It is found out before its disk is taken for the node's new one: otherwise the node would
/// set its own aside, with all it holds.
pub fn twin_on_an_empty_disk(seed: u64) -> Plan {
    let keys = ["k0", "k1"].map(|name| Key::shared(Bucket::Plain, name));
    Plan::quiet(seed, 3, 15_000).random_sessions(2, &keys).fault(
        2_000 + 50 * (seed % 20),
        8_000,
        What::Twin(seed as usize % 3),
    )
}

/// Keys are deleted and settled. Then of five nodes one comes back with a copy of its disk from before, another with an empty one, both cut off
/// from the other three, while clients reach them all. The old disk must not admit the new one: the two would be two homes of some
/// keys, acknowledge writes, and be set aside with those when they meet the others.
pub fn old_disk_meets_a_new_one(seed: u64) -> Plan {
    let (old, new) = (seed as usize % 5, (seed as usize + 1 + seed as usize / 5 % 4) % 5);
    let keys: Vec<Key> = (0..10).map(|number| Key::shared(Bucket::Strict, &format!("k{number}"))).collect();
    let all = |wait_ms, habit| {
        let step = move |(at, key)| Step::new(if at == 0 { wait_ms } else { 50 }, habit, key);
        keys.iter().enumerate().map(step)
    };
    let deleted = all(300, Habit::Blind).chain(all(3_000, Habit::Remove)).collect();
    let written = all(16_000, Habit::Blind).chain(all(1_000, Habit::Blind)).collect();
    Plan::quiet(2 * seed, 5, 30_000)
        .grace(0)
        .session(deleted)
        .session(written)
        .fault(13_000, 10_000, What::Split(vec![old, new]))
        // Taken when the values were there.
        .fault(13_100, 300, What::Restore(old, 10_000))
        .fault(13_200, 300, What::Wipe(new))
}
