//! What a request costs through a node that holds no replica of its key, beside one that does.
//!
//! `cargo run --release -p dynkv-tests --example forwarded`: four nodes and the caller in one process, CPU of the
//! whole process for each request (from /proc, so on Linux only), in turns, so that a noisy machine disturbs both alike.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use dynkv_net::Role;
use dynkv_proto::{Frame, Get, kinds};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::Cluster,
    peer::{Peer, get, put},
};
use tokio::task::JoinSet;

const KEYS: usize = 2000;
const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    // The main thread's only: with a current-thread runtime that is everything but the storage threads, which gets do not use.
    let running_ns = stat.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(running_ns.expect("nanoseconds come first"))
}

fn key(at: usize) -> String {
    format!("user{at:06}")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cluster = Cluster::start(4).await;
    let mut peers: BTreeMap<NodeId, Peer> = BTreeMap::new();
    for info in cluster.addresses() {
        peers.insert(info.id, cluster.connect(info.id, Role::Writer).await);
    }
    let homes: Vec<_> = (0..KEYS).map(|at| cluster.homes("b", key(at).as_bytes())).collect();
    for (at, (home, _)) in homes.iter().enumerate() {
        let value = vec![at as u8; 1024];
        let request = put("b", key(at), at as u128, &value);
        peers[&home[0]].ask(&request, Bytes::from(value)).await.expect("a healthy cluster");
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let direct = run(&peers, &homes, |(homes, _)| homes[0]).await;
        let forwarded = run(&peers, &homes, |(_, others)| others[0]).await;
        println!("get, direct {direct:.1} us, forwarded {forwarded:.1} us, ratio {:.2}", forwarded / direct);
        ratios.push(forwarded / direct);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUNDS / 2]);
}

/// Reads every key at the node that `choose` names, and returns CPU microseconds per request.
async fn run(
    peers: &BTreeMap<NodeId, Peer>,
    homes: &[(Vec<NodeId>, Vec<NodeId>)],
    choose: impl Fn(&(Vec<NodeId>, Vec<NodeId>)) -> NodeId,
) -> f64 {
    let before = cpu();
    let mut workers = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let mine: Vec<_> = (worker..KEYS)
            .step_by(IN_FLIGHT)
            .map(|at| (at, peers[&choose(&homes[at])].connection().clone()))
            .collect();
        workers.spawn(async move {
            for (at, connection) in mine {
                let request: Get = get("b", key(at));
                let frame = Frame::new(&request, Bytes::new());
                let answer =
                    connection.call(dynkv_net::Class::Foreground, frame, Duration::from_secs(10)).await;
                assert_eq!(answer.expect("a healthy cluster").kind, kinds::GET_REPLY);
            }
        });
    }
    workers.join_all().await;
    (cpu() - before).as_secs_f64() * 1e6 / KEYS as f64
}
