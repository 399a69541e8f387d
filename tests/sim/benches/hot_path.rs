//! Instructions of puts and gets through a whole cluster: client, coordinator and replicas, QUIC and TLS included.
//!
//! Counted by callgrind, over the simulated network and disks, so that neither the machine's load nor its disk matters. One run
//! makes `OPERATIONS` requests, `IN_FLIGHT` at once; founding the cluster is not counted. Simulated disks do less than
//! real ones: what the storage engine costs is measured by `dyn bench`.

#![expect(missing_docs, reason = "the benchmark macros make items that nobody can document")]

use std::time::Duration;

use dynkv_client::{Client, Context};
use dynkv_sim::world::World;
use gungraun::{library_benchmark, library_benchmark_group, main};
use tokio::{runtime::Runtime, task::JoinSet};

const OPERATIONS: usize = 1600;
const IN_FLIGHT: usize = 16;
const VALUE_BYTES: usize = 1024;

/// After the founding; simulated.
const SETTLED: Duration = Duration::from_secs(5);

struct Cluster {
    runtime: Runtime,
    client: Client,
    /// Keeps the nodes running.
    _world: World,
    contexts: Vec<Option<Context>>,
}

fn key(at: usize) -> String {
    format!("user{at:012}")
}

/// A founded cluster of three with every key written once.
fn prepare() -> Cluster {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O is memory only");
    let (world, client) = runtime.block_on(async {
        let mut world = World::new(1, 3);
        world.found(64, 3, 0).await;
        // Nodes have looked how busy they are and built their trees, which puts keep up.
        tokio::time::sleep(SETTLED).await;
        let client = world.client(Duration::from_secs(60)).await;
        (world, client)
    });
    let mut cluster = Cluster { runtime, client, _world: world, contexts: Vec::new() };
    cluster.contexts = vec![None; OPERATIONS];
    write_all(cluster)
}

/// Writes every key, with what was last known of it.
fn write_all(mut cluster: Cluster) -> Cluster {
    let (client, contexts) = (cluster.client.clone(), std::mem::take(&mut cluster.contexts));
    cluster.contexts = cluster.runtime.block_on(async move {
        let mut workers = JoinSet::new();
        for worker in 0..IN_FLIGHT {
            let client = client.clone();
            let mine: Vec<_> = contexts.iter().cloned().enumerate().skip(worker).step_by(IN_FLIGHT).collect();
            workers.spawn(async move {
                let mut after = Vec::with_capacity(mine.len());
                for (at, context) in mine {
                    let mut put = client.put("bench", key(at), vec![at as u8; VALUE_BYTES]);
                    if let Some(context) = &context {
                        put = put.context(context);
                    }
                    after.push((at, Some(put.await.expect("no faults here").context)));
                }
                after
            });
        }
        let mut contexts: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
        contexts.sort_by_key(|(at, _)| *at);
        contexts.into_iter().map(|(_, context)| context).collect()
    });
    cluster
}

/// Reads every key.
fn read_all(cluster: Cluster) -> Cluster {
    let client = cluster.client.clone();
    cluster.runtime.block_on(async move {
        let mut workers = JoinSet::new();
        for worker in 0..IN_FLIGHT {
            let client = client.clone();
            workers.spawn(async move {
                for at in (worker..OPERATIONS).step_by(IN_FLIGHT) {
                    let fetched = client.get("bench", key(at)).await.expect("no faults here");
                    assert_eq!(fetched.siblings.len(), 1);
                }
            });
        }
        workers.join_all().await;
    });
    cluster
}

#[library_benchmark]
#[bench::of_1_kib(prepare())]
fn puts(cluster: Cluster) -> Cluster {
    write_all(cluster)
}

#[library_benchmark]
#[bench::of_1_kib(prepare())]
fn gets(cluster: Cluster) -> Cluster {
    read_all(cluster)
}

library_benchmark_group!(name = hot_path; benchmarks = puts, gets);
main!(library_benchmark_groups = hot_path);
