//! A node comes back with an empty disk, among two that hold many keys: how long until it has them all, and what that moves.
//!
//! `cargo test --release -p dynkv-sim --test empty_replica -- --ignored --nocapture` does it with a million keys, which takes minutes and
//! some gigabytes of memory.

use std::time::Duration;

use bytes::Bytes;
use dynkv_node::storage::Space;
use dynkv_sim::world::World;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

const VALUE_BYTES: usize = 100;

/// How long after the last put all homes have all keys.
const HINTS_WITHIN: Duration = Duration::from_secs(60);

/// Everything of `keys` keys, and how much of it was not states themselves.
fn heals(keys: usize, within: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O is memory only");
    runtime.block_on(async {
        let mut world = World::new(7, 3);
        world.found(64, 3, 0).await;
        let client = world.client(Duration::from_secs(30)).await;
        let put = |number: usize| {
            let (client, value) = (&client, Bytes::from(vec![b'v'; VALUE_BYTES]));
            async move { client.put("default", format!("key{number}"), value).await.expect("no faults") }
        };
        stream::iter(0..keys).map(put).buffer_unordered(256).for_each(|_| async {}).await;
        let held = |world: &World, node: usize| world.hosts[node].disk.count(Space::Records);
        // Homes that were slow while the keys were written get them as hints, which give way to requests until those have been over for some seconds.
        let loaded = Instant::now();
        while (0..3).any(|node| held(&world, node) < keys) {
            assert!(loaded.elapsed() < HINTS_WITHIN, "{:?} of {keys}", [0, 1, 2].map(|node| held(&world, node)));
            sleep(Duration::from_millis(500)).await;
        }

        world.kill(1);
        world.hosts[1].disk.wipe();
        let before = world.counters();
        let begun = Instant::now();
        world.start(1);
        while held(&world, 1) < keys {
            assert!(begun.elapsed() < within, "{} of {keys} after {within:?}", held(&world, 1));
            sleep(Duration::from_millis(500)).await;
        }
        let took = begun.elapsed();
        let after = world.counters();
        let more = |name: &str| after[name] - before.get(name).copied().unwrap_or_default();
        let moved = more("states_pulled") + more("states_pushed");
        // What a state is on the wire: its header has some fifty bytes.
        let states: usize =
            world.hosts[0].disk.content(Space::Records, &[]).iter().map(|(_, record)| record.len()).sum();
        let bytes = more("tree_bytes") as usize;
        println!(
            "{keys} keys: complete after {took:?}; {bytes} bytes for {states} bytes of records, {} messages, {moved} states moved",
            more("tree_messages")
        );
        assert!(bytes < 2 * states, "{bytes} bytes for {states} bytes of records");
        assert!(moved as usize <= keys + keys / 10, "{moved} states for {keys} keys");
        client.close().await;
    });
    runtime.shutdown_background();
}

#[test]
fn of_twenty_thousand_keys() {
    heals(20_000, Duration::from_secs(120));
}

#[test]
#[ignore = "minutes; see above"]
fn of_a_million_keys() {
    heals(1_000_000, Duration::from_secs(3600));
}
