//! Plans that more than one test goes by: named scenarios, and hunts for planted bugs.

use crate::{
    buckets::Bucket,
    history::Key,
    plan::{Plan, What},
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
