//! Gossip and failure detection over the simulated network: how soon, and at what cost.

use std::time::Duration;

use dynkv_client::{Client, proto::BucketChange};
use dynkv_sim::world::World;
use tokio::time::{Instant, sleep};

fn simulated<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O is memory only");
    runtime.block_on(async { test().await });
    runtime.shutdown_background();
}

async fn founded(seed: u64, nodes: u8) -> (World, Client) {
    let mut world = World::new(seed, nodes);
    world.found(8, 3, 0).await;
    let client = world.client(Duration::from_secs(2)).await;
    sleep(Duration::from_secs(20)).await;
    (world, client)
}

/// Whether node `from` sees node `to` as up.
async fn sees(world: &World, client: &Client, from: usize, to: usize) -> bool {
    let status = client.status(world.hosts[from].id).await.expect("a client reaches everybody");
    let peer = status.peers.iter().find(|peer| peer.id == world.hosts[to].id).expect("a member");
    peer.connected && !peer.suspected
}

/// How long it takes until `from` sees `to` as `up`.
async fn until(world: &World, client: &Client, from: usize, to: usize, up: bool) -> Duration {
    let begun = Instant::now();
    while sees(world, client, from, to).await != up {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s");
        sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

#[test]
fn a_link_that_fails_in_one_direction_is_noticed_by_both_and_so_is_its_return() {
    for seed in 0..8 {
        simulated(|| async {
            let (world, client) = founded(seed, 3).await;
            let [one, two] = [0, 1].map(|index: usize| world.hosts[index].address.ip());
            world.network.cut(one, two);
            for (from, to) in [(0, 1), (1, 0)] {
                let missed = until(&world, &client, from, to, false).await;
                println!("seed {seed}: missed {missed:?} later");
                assert!(missed < Duration::from_secs(6), "seed {seed}: missed after {missed:?}");
            }
            // Others see both all the while.
            sleep(Duration::from_millis(20_000 + 137 * seed)).await;
            assert!(sees(&world, &client, 2, 0).await && sees(&world, &client, 2, 1).await);
            world.network.clear();
            let back = [until(&world, &client, 0, 1, true).await, until(&world, &client, 1, 0, true).await];
            let back = back[0] + back[1];
            println!("seed {seed}: both are back after {back:?}");
            assert!(back < Duration::from_millis(2500), "seed {seed}: back after {back:?}");
        });
    }
}

#[test]
fn two_islands_unite() {
    for seed in 0..4 {
        simulated(|| async {
            let (world, client) = founded(seed, 4).await;
            let address = |index: usize| world.hosts[index].address.ip();
            for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
                world.network.cut(address(a), address(b));
                world.network.cut(address(b), address(a));
            }
            sleep(Duration::from_secs(60)).await;
            for (node, bucket) in [(1, "here"), (2, "there")] {
                let mut change = BucketChange::new(bucket);
                change.set("w", "1").expect("a good property");
                let node = world.hosts[node].id;
                client.propose(change.to_change(), Vec::new()).to(node).await.expect("no quorum is needed");
            }
            world.network.clear();
            let healed = Instant::now();
            loop {
                let mut views = Vec::new();
                for host in &world.hosts {
                    views.push(client.status(host.id).await.expect("it runs").view);
                }
                views.dedup();
                if views.len() == 1 {
                    break;
                }
                assert!(healed.elapsed() < Duration::from_secs(6), "seed {seed}: {views:?}");
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
}

#[test]
fn idle_nodes_stay_below_a_kibibyte_a_second() {
    for nodes in [3, 10] {
        simulated(|| async {
            let (world, client) = founded(1, nodes).await;
            let bytes = async || {
                let mut sum = 0.0;
                for host in &world.hosts {
                    let text = client.metrics(host.id).await.expect("it runs");
                    let line = text.lines().find_map(|line| line.strip_prefix("dynkv_gossip_bytes_total "));
                    sum += line.and_then(|number| number.parse::<f64>().ok()).expect("every node counts");
                }
                sum
            };
            let before = bytes().await;
            sleep(Duration::from_secs(60)).await;
            let per_node = (bytes().await - before) / 60.0 / f64::from(nodes);
            println!("{nodes} nodes: {per_node:.0} bytes of gossip a second and node");
            assert!(per_node < 1024.0, "{nodes} nodes: {per_node:.0} bytes a second and node");
        });
    }
}
