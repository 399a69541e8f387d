//! After all faults are over: everything becomes readable, equal and quiet, within bounds.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use dynkv_ring::{Membership, NodeId, Position, Status};
use tokio::time::Instant;

use crate::{
    checker::Violation,
    converge,
    history::{GetRecord, HeldVersion, History, Key, lock},
    plan::Plan,
    replicas::{self, Records},
    run::REPLICAS,
    settled,
    workload::Session,
    world::World,
};

/// Within this time after all faults are over every key can be read from all its homes.
const READABLE_WITHIN: Duration = Duration::from_secs(60);

/// Longer than a put's deadline and a hint's together.
const LINGERING: Duration = Duration::from_secs(16);

/// Within this time after all faults are over partitions are where the ring wants them.
const PLACED_WITHIN: Duration = Duration::from_secs(120);

/// Within this time after all faults are over every hint has found its target.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// Within this time after the reads of a round nodes have written back what they found behind: stragglers are waited for
/// two seconds.
const REPAIRED_WITHIN: Duration = Duration::from_secs(5);

/// Reads of every key, beside rounds that settle, after which the homes are equal.
const READS_UNTIL_EQUAL: usize = 4;

/// What the last reads saw.
pub(crate) struct Last {
    /// One read of each key, from all homes.
    pub(crate) gets: Vec<GetRecord>,
    /// All versions that some node holds.
    pub(crate) held: Vec<HeldVersion>,
    /// Repairs made by the reads of the first round.
    pub(crate) repairs: u64,
}

/// Reads every key from all homes, twice: afterwards the homes must be equal, and the second round must have had nothing
/// to repair.
pub(crate) async fn read_all(
    world: &mut World,
    plan: &Plan,
    keys: &[Key],
    seed: u64,
) -> Result<Last, Violation> {
    let nodes = plan.nodes;
    let client = world.client(Duration::from_secs(10)).await;
    let history = Arc::new(Mutex::new(History::default()));
    let mut session = Session::new(99, client.clone(), Vec::new(), history.clone(), world.log.clone(), seed);
    let mut repairs = Vec::new();
    partitions_arrive(world).await?;
    hints_are_delivered(world).await?;
    if world.anti_entropy {
        converge::without_reads(world, plan).await?;
    }
    for round in 0..2 {
        if round == 1 && plan.grace_ms.is_some() && !world.anti_entropy {
            equal_by_reads(world, plan, &mut session, keys).await?;
            settled::everywhere(world, nodes).await?;
        }
        let before = count_repairs(world);
        for key in keys {
            read_until_answered(world, &mut session, key).await?;
        }
        tokio::time::sleep(REPAIRED_WITHIN).await;
        repairs.push(count_repairs(world) - before);
    }
    let mut records = replicas::all(world, nodes);
    let held = held_versions(&records, keys);
    homes_are_equal(&mut records, &world.membership(), keys)?;
    if repairs[1] > 0 {
        return Err(Violation {
            promise: "after healing and one read of each key there is nothing to repair",
            key: None,
            what: format!("{} repairs in the second round", repairs[1]),
        });
    }
    nothing_is_left_behind(world)?;
    let gets = std::mem::take(&mut lock(&history).gets);
    // Those of the last round.
    let before = gets.len() - keys.len();
    Ok(Last { held, gets: gets.into_iter().skip(before).collect(), repairs: repairs[0] })
}

/// Reads until the homes are equal. A read's repair is given up when settlement rounds come in between, as they do now, and without comparisons nobody but the next
/// read mends what it has left.
async fn equal_by_reads(
    world: &mut World,
    plan: &Plan,
    session: &mut Session,
    keys: &[Key],
) -> Result<(), Violation> {
    for _ in 0..READS_UNTIL_EQUAL {
        if homes_are_equal(&mut replicas::all(world, plan.nodes), &world.membership(), keys).is_ok() {
            break;
        }
        for key in keys {
            read_until_answered(world, session, key).await?;
        }
        tokio::time::sleep(REPAIRED_WITHIN).await;
    }
    Ok(())
}

/// Every partition is where the ring wants it, and nowhere else, who was to leave has left, and who was removed serves nobody.
async fn partitions_arrive(world: &mut World) -> Result<(), Violation> {
    let begun = Instant::now();
    loop {
        world.restart_refused();
        world.stop_left();
        let members = world.membership();
        let leaving = members.members().find(|state| state.status == Status::Leaving);
        let away = world.running().find_map(|(id, node)| Some((id, node.misplaced()?)));
        let what = match (leaving, away) {
            (None, None) => match world.undead() {
                None => return Ok(()),
                Some(node) => format!("{node} was removed, and does not know it, or serves"),
            },
            (Some(state), _) => format!("{} has not left", state.member.id),
            (None, Some((node, partition))) => format!("partition {partition} is not, for {node}"),
        };
        if begun.elapsed() >= PLACED_WITHIN {
            return Err(Violation {
                promise: "after healing partitions get to where they should be",
                key: None,
                what,
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Without any traffic.
async fn hints_are_delivered(world: &mut World) -> Result<(), Violation> {
    let begun = Instant::now();
    let mut none_since = begun;
    loop {
        world.restart_refused();
        let left = world.gauges("hints").into_iter().find(|(_, count)| *count > 0);
        let Some((node, left)) = left else {
            // Puts that have been answered may still be looking for somebody to keep them.
            if none_since.elapsed() >= LINGERING {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        none_since = Instant::now();
        if begun.elapsed() >= DELIVERED_WITHIN {
            return Err(Violation {
                promise: "after healing every hint finds its target",
                key: None,
                what: format!("{node} still keeps {left} after {DELIVERED_WITHIN:?}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn read_until_answered(world: &mut World, session: &mut Session, key: &Key) -> Result<(), Violation> {
    let begun = Instant::now();
    while session.get(key, Some(REPLICAS)).await.is_none() {
        // One whose disk turns out to be an old one by being read.
        world.restart_refused();
        if begun.elapsed() >= READABLE_WITHIN {
            return Err(Violation {
                promise: "after healing every key can be read",
                key: Some(key.clone()),
                what: format!("not within {READABLE_WITHIN:?}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Read repairs made by all nodes so far.
fn count_repairs(world: &World) -> u64 {
    world.counters().get("read_repairs").copied().unwrap_or_default()
}

fn held_versions(records: &Records, keys: &[Key]) -> Vec<HeldVersion> {
    let of_key = |key: &Key| records.get(&(key.bucket.name().into(), key.name.clone()));
    let versions = keys.iter().flat_map(|key| {
        let replicas = of_key(key).into_iter().flatten();
        let versions = replicas.flat_map(|replica| replica.state.siblings().iter());
        versions.map(|(dot, version)| HeldVersion { key: key.clone(), dot: *dot, put_id: version.put_id })
    });
    versions.collect()
}

fn homes_are_equal(records: &mut Records, view: &Membership, keys: &[Key]) -> Result<(), Violation> {
    for key in keys {
        let held = records.remove(&(key.bucket.name().into(), key.name.clone())).unwrap_or_default();
        let partition =
            Position::of(key.bucket.name(), key.name.as_bytes()).partition(view.ring().partitions());
        let homes: BTreeSet<NodeId> = view.ring().homes(partition).iter().copied().collect();
        let held: Vec<_> = held.iter().filter(|replica| homes.contains(&replica.node)).collect();
        let same = held.windows(2).all(|pair| pair[0].state == pair[1].state);
        if !held.is_empty() && (held.len() != homes.len() || !same) {
            return Err(Violation {
                promise: "after healing and one read the replicas of a key are equal",
                key: Some(key.clone()),
                what: format!("{} of {} homes have it, equal: {same}", held.len(), homes.len()),
            });
        }
    }
    Ok(())
}

/// Nothing is counted as under way for ever.
fn nothing_is_left_behind(world: &World) -> Result<(), Violation> {
    match world.gauges("requests_in_flight").into_iter().find(|(_, count)| *count > 0) {
        Some((node, count)) => Err(Violation {
            promise: "every request ends",
            key: None,
            what: format!("{node} counts {count} as under way when nobody asks for anything"),
        }),
        None => Ok(()),
    }
}
