//! Replicas that became different without a client's knowledge, and become equal again without its help.

use std::ops::ControlFlow;

use bytes::Bytes;
use dynkv_net::Role;
use dynkv_node::storage::{FjallOptions, FjallStorage, Space, Storage, write_durably};
use dynkv_proto::{FailureCode, Get};
use dynkv_ring::{NodeId, PartitionId};
use dynkv_tests::{
    cluster::{Cluster, id},
    peer::get,
    wait::eventually,
};

use crate::support::{counter, give, split};

const KEYS: [&str; 40] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
    "v", "w", "x", "y", "z", "aa", "ab", "ac", "ad", "ae", "af", "ag", "ah", "ai", "aj", "ak", "al", "am",
    "an",
];

fn nodes() -> [NodeId; 3] {
    ["n1", "n2", "n3"].map(id)
}

async fn started() -> Cluster {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    for key in KEYS {
        client.put("b", key, "kept").w(3).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    equal(&cluster).await;
    cluster
}

fn roots(cluster: &Cluster, node: NodeId) -> Vec<(PartitionId, Option<u128>)> {
    cluster.node(node).tree_roots()
}

fn are_equal(cluster: &Cluster) -> bool {
    let first = roots(cluster, id("n1"));
    let all_built = !first.is_empty() && first.iter().all(|(_, root)| root.is_some());
    all_built && nodes().iter().all(|node| roots(cluster, *node) == first)
}

/// Waits until all replicas are equal, without waiting for the next comparison.
async fn equal(cluster: &Cluster) {
    eventually("all replicas are equal", async || {
        if are_equal(cluster) {
            return Some(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        cluster.running().for_each(dynkv_node::Node::compare_now);
        None
    })
    .await;
}

fn moved(cluster: &Cluster) -> u64 {
    let of_node = |node| counter(cluster, node, "states_pulled") + counter(cluster, node, "states_pushed");
    nodes().into_iter().map(of_node).sum()
}

/// What one node answers for a key without asking others.
async fn held(cluster: &Cluster, node: NodeId, key: &'static str) -> Result<Vec<String>, FailureCode> {
    let peer = cluster.connect(node, Role::Reader).await;
    let answer = peer.ask(&Get { r: Some(1), ..get("b", key) }, Bytes::new()).await;
    answer.map(|(reply, body)| split(&reply, body)).map_err(|failure| failure.code)
}

/// More keys than one batch of differences holds.
async fn put_many(cluster: &Cluster) {
    let client = cluster.client(Role::Writer).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..MANY_WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            for key in (writer..MANY).step_by(MANY_WRITERS) {
                client
                    .put("many", format!("{key}"), "kept")
                    .w(3)
                    .await
                    .unwrap_or_else(|error| panic!("{error}"));
            }
        });
    }
    writers.join_all().await;
}

const MANY: usize = 1500;
const MANY_WRITERS: usize = 32;

#[tokio::test]
async fn a_wiped_node_becomes_complete_without_any_traffic() {
    let mut cluster = started().await;
    put_many(&cluster).await;
    equal(&cluster).await;
    let node = id("n2");
    let before = roots(&cluster, node);
    cluster.stop(node).await;
    std::fs::remove_dir_all(cluster.data_dir(node)).unwrap();
    cluster.restart(node).await;
    cluster.settled().await;
    equal(&cluster).await;
    assert_eq!(roots(&cluster, node), before);
    for key in KEYS {
        assert_eq!(held(&cluster, node, key).await.unwrap(), ["kept"]);
    }
    let records = cluster.status(node).await.records;
    assert!(records as usize >= MANY + KEYS.len(), "{records} records");
}

#[tokio::test]
async fn what_one_replica_alone_has_goes_to_the_others_and_nothing_else_moves() {
    let cluster = started().await;
    let before = moved(&cluster);
    give(&cluster, id("n1"), "k", 7, "alone").await;
    give(&cluster, id("n1"), "new", 8, "alone").await;

    let found = cluster.node(id("n2")).compare_with(id("n1"), 10).await.unwrap();
    let keys: Vec<_> = found.iter().map(|found| &found.key[..]).collect();
    assert_eq!(keys, [&b"k"[..], b"new"]);
    assert!(found[0].here.is_some() && found[0].there.is_some());
    assert!(found[1].here.is_none() && found[1].there.is_some());
    let found = cluster.node(id("n1")).compare_with(id("n2"), 10).await.unwrap();
    assert!(found[1].here.is_some() && found[1].there.is_none());
    assert!(cluster.node(id("n2")).compare_with(id("n3"), 10).await.unwrap().is_empty());

    equal(&cluster).await;
    for node in nodes() {
        assert_eq!(held(&cluster, node, "k").await.unwrap(), ["alone", "kept"]);
        assert_eq!(held(&cluster, node, "new").await.unwrap(), ["alone"]);
    }
    // Two keys to two nodes; more if both of a pair compare at once, as they were told to. Of forty that are equal, none.
    let states = moved(&cluster) - before;
    assert!((4..=15).contains(&states), "{states} states");
}

#[tokio::test]
async fn equal_replicas_move_a_few_bytes() {
    let cluster = started().await;
    let node = id("n1");
    let count = |name| counter(&cluster, node, name);
    let before = ["comparisons", "comparisons_equal", "tree_bytes"].map(count);
    eventually("the nodes are compared again", async || {
        cluster.node(node).compare_now();
        (count("comparisons") >= before[0] + 10).then_some(())
    })
    .await;
    let after = ["comparisons", "comparisons_equal", "tree_bytes"].map(count);
    // The last ones may be under way.
    assert!(after[1] - before[1] + 2 >= after[0] - before[0]);
    let bytes = (after[2] - before[2]) / (after[0] - before[0]);
    assert!(bytes < 100, "{bytes} bytes sent for each comparison");
}

#[tokio::test]
async fn trees_outlive_a_clean_stop_and_are_built_anew_after_a_crash() {
    let mut cluster = started().await;
    let node = id("n3");
    let before = roots(&cluster, node);
    cluster.stop(node).await;
    cluster.restart(node).await;
    // At once: nothing had to be built.
    assert_eq!(roots(&cluster, node), before);
    cluster.settled().await;
    // What it writes takes them away, and the next stop saves them again.
    give(&cluster, node, "k", 7, "more").await;
    equal(&cluster).await;
    let before = roots(&cluster, node);
    cluster.stop(node).await;
    cluster.restart(node).await;
    assert_eq!(roots(&cluster, node), before);
    cluster.settled().await;
    give(&cluster, node, "k", 8, "still more").await;
    equal(&cluster).await;

    let before = roots(&cluster, node);
    cluster.crash(node);
    cluster.restart(node).await;
    cluster.settled().await;
    equal(&cluster).await;
    assert_eq!(roots(&cluster, node), before);
    assert_eq!(counter(&cluster, node, "tree_drifts"), 0);
}

/// Where the state begins in a record, and the header in the state (`docs/storage.md`).
const HEADER_AT: usize = 25 + 4;

enum Damage {
    Header,
    Value,
    /// The record is gone, its digest is not.
    Gone,
}

/// Damages the record of `key` in a store that nobody uses.
async fn damage(cluster: &Cluster, node: NodeId, key: &str, damage: Damage) {
    let store = FjallStorage::open(&cluster.data_dir(node).join("store"), &FjallOptions::default()).unwrap();
    let mut found = None;
    store
        .scan(Space::Records, b"", b"", &mut |at, record| {
            if at[2..] == *format!("\u{1}b{key}").as_bytes() {
                found = Some((at, record));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let (at, record) = found.unwrap_or_else(|| panic!("{node} has no {key}"));
    let mut bytes = record.to_vec();
    let last = bytes.len() - 1;
    let bytes = match damage {
        Damage::Header => {
            bytes[HEADER_AT + 9] ^= 1;
            Some(bytes.into())
        }
        Damage::Value => {
            bytes[last] ^= 1;
            Some(bytes.into())
        }
        Damage::Gone => None,
    };
    write_durably(&store, vec![(Space::Records, at, bytes)]).await.unwrap();
    store.close();
}

#[tokio::test]
async fn bit_rot_is_found_without_reads_never_served_and_healed() {
    let mut cluster = started().await;
    let node = id("n2");
    cluster.stop(node).await;
    damage(&cluster, node, "h", Damage::Header).await;
    damage(&cluster, node, "v", Damage::Value).await;
    damage(&cluster, node, "g", Damage::Gone).await;
    cluster.restart(node).await;
    // At once, while it can reach the others or not.
    for key in ["h", "v"] {
        match held(&cluster, node, key).await {
            Ok(values) => assert_eq!(values, ["kept"]),
            Err(code) => assert!(matches!(code, FailureCode::Quorum | FailureCode::Timeout), "{code:?}"),
        }
    }
    eventually("all three are healed", async || {
        (counter(&cluster, node, "records_healed") >= 3 && counter(&cluster, node, "records_unhealed") == 0)
            .then_some(())
    })
    .await;
    for key in ["h", "v", "g"] {
        assert_eq!(held(&cluster, node, key).await.unwrap(), ["kept"]);
    }
    assert!(are_equal(&cluster));
}

#[tokio::test]
async fn a_damaged_record_waits_until_every_other_home_has_answered() {
    let mut cluster = started().await;
    let (node, away) = (id("n2"), id("n3"));
    cluster.stop(away).await;
    cluster.stop(node).await;
    damage(&cluster, node, "h", Damage::Header).await;
    damage(&cluster, node, "v", Damage::Value).await;
    cluster.restart(node).await;
    cluster.settled().await;
    // One copy of a value is enough, but not of a header.
    eventually("the value is healed", async || {
        (counter(&cluster, node, "records_healed") >= 1 && counter(&cluster, node, "records_unhealed") == 1)
            .then_some(())
    })
    .await;
    assert_eq!(held(&cluster, node, "v").await.unwrap(), ["kept"]);
    cluster.restart(away).await;
    cluster.settled().await;
    eventually("the header is healed", async || {
        (counter(&cluster, node, "records_unhealed") == 0).then_some(())
    })
    .await;
    assert_eq!(held(&cluster, node, "h").await.unwrap(), ["kept"]);
}
