//! After all faults are over, and without any traffic: the homes of every key become equal, and then nothing but roots moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dynkv_ring::{NodeId, PartitionId, Position};
use tokio::time::Instant;

use crate::{checker::Violation, plan::Plan, replicas, settled, world::World};

/// Within this time after all faults are over, and after the last hint was delivered, the homes of every key are equal: each
/// pair of nodes is compared every five seconds.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);

/// Long enough for every pair of nodes to be compared several times.
const QUIET: Duration = Duration::from_secs(20);

/// Bytes of a comparison that finds nothing, both frames.
const IDLE_BYTES_MAX: u64 = 100;

/// Waits until the homes are equal, then looks whether nothing moves.
pub(crate) async fn without_reads(world: &mut World, plan: &Plan) -> Result<(), Violation> {
    become_equal(world, plan.nodes).await?;
    if plan.grace_ms.is_some() {
        settled::everywhere(world, plan.nodes).await?;
        become_equal(world, plan.nodes).await?;
    }
    // Comparisons that are under way have seen how it was before.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = world.counters();
    tokio::time::sleep(QUIET).await;
    let after = world.counters();
    // And so have those that are under way now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    quiet_between(&before, &after, &world.counters())
}

async fn become_equal(world: &mut World, nodes: usize) -> Result<(), Violation> {
    let begun = Instant::now();
    while let Err(what) = all_equal(world, nodes) {
        if begun.elapsed() >= EQUAL_WITHIN {
            let promise = "after healing replicas become equal without traffic";
            return Err(Violation { promise, key: None, what });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.restart_refused();
    }
    Ok(())
}

fn all_equal(world: &World, nodes: usize) -> Result<(), String> {
    let view = world.membership();
    let ring = view.ring();
    for ((bucket, key), replicas) in replicas::all(world, nodes) {
        let homes = ring.homes(Position::of(&bucket, key.as_bytes()).partition(ring.partitions()));
        let held: Vec<_> = replicas.iter().filter(|replica| homes.contains(&replica.node)).collect();
        if held.is_empty() {
            // What a node that is no home has is not compared.
            continue;
        }
        if held.len() < homes.len() || held.iter().any(|replica| replica.state != held[0].state) {
            let held = held.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(format!("{bucket}/{key}: {held}"));
        }
    }
    let mut roots = BTreeMap::<PartitionId, BTreeSet<Option<u128>>>::new();
    let mut counts = BTreeMap::<PartitionId, usize>::new();
    // One that is gone gives nobody anything, and takes nothing.
    for (_, node) in world.running().filter(|(id, _)| view.departure(id).is_none()) {
        for (partition, root) in node.tree_roots() {
            roots.entry(partition).or_default().insert(root);
            *counts.entry(partition).or_default() += 1;
        }
    }
    for partition in ring.partitions().ids() {
        let homes: &[NodeId] = ring.homes(partition);
        let found = roots.remove(&partition).unwrap_or_default();
        if counts.get(&partition) != Some(&homes.len()) || found.len() != 1 || found.contains(&None) {
            return Err(format!("partition {partition}: roots {found:?} of homes {homes:?}"));
        }
    }
    Ok(())
}

type Counters = BTreeMap<String, u64>;

/// `ended` is when the comparisons have ended that had begun until `after`.
fn quiet_between(before: &Counters, after: &Counters, ended: &Counters) -> Result<(), Violation> {
    let count = |counters: &Counters, name: &str| counters.get(name).copied().unwrap_or_default();
    let more = |name: &str| count(after, name) - count(before, name);
    let violated = |what: String| {
        Err(Violation { promise: "replicas that are equal only compare roots", key: None, what })
    };
    for name in ["states_pulled", "states_pushed", "entries_differing", "comparisons_failed", "tree_drifts"] {
        if more(name) > 0 {
            return violated(format!("{} {name} in {QUIET:?}", more(name)));
        }
    }
    let (comparisons, bytes) = (more("comparisons"), more("tree_bytes"));
    let equal = count(ended, "comparisons_equal") - count(before, "comparisons_equal");
    if comparisons == 0 || equal < comparisons {
        return violated(format!("{comparisons} comparisons, {equal} equal"));
    }
    if bytes > comparisons * IDLE_BYTES_MAX {
        return violated(format!("{bytes} bytes in {comparisons} comparisons"));
    }
    Ok(())
}
