//! After all faults are over, with all members in reach: nothing is left of what was deleted or replaced.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    checker::Violation,
    replicas::{self, Replica},
    world::World,
};

/// Within this time after the homes are equal. Clocks may have been ahead by 45 s, by which versions are that much younger.
const WITHIN: Duration = Duration::from_secs(120);

/// Waits until no record has a tombstone, or a context entry of which no version is live.
pub(crate) async fn everywhere(world: &mut World, nodes: usize) -> Result<(), Violation> {
    let begun = Instant::now();
    while let Some(what) = left(world, nodes) {
        if begun.elapsed() >= WITHIN {
            let promise = "tombstones and old context entries go while all members are in reach";
            return Err(Violation { promise, key: None, what });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.restart_refused();
    }
    // Members do not all drop what is settled at one moment.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// A record with something that should be gone.
fn left(world: &World, nodes: usize) -> Option<String> {
    replicas::all(world, nodes).into_iter().find_map(|((bucket, key), replicas)| {
        let unsettled = |replica: &Replica| {
            let siblings = replica.state.siblings();
            let mut actors = replica.state.context().actors();
            siblings.values().any(|version| version.tombstone)
                || actors.any(|actor| siblings.iter().all(|(dot, _)| dot.actor != *actor))
        };
        replicas.iter().any(unsettled).then(|| {
            let held = replicas.iter().map(ToString::to_string).collect::<Vec<_>>();
            format!("{bucket}/{key}: {}", held.join("; "))
        })
    })
}
