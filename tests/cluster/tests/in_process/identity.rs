//! One node, one run: two processes under one id, and what idle nodes say.

use std::{path::Path, time::Instant};

use bytes::Bytes;
use dynkv_client::Client;
use dynkv_net::Role;
use dynkv_node::NotServing;
use dynkv_proto::{FailureCode, Outcome};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::{Cluster, id},
    peer::{get, put},
    wait::eventually,
};

use crate::support::read;

/// Starts another process of a node, on the data in `dir`, and waits until one of the two refuses. Then the original must
/// be the one that serves.
async fn check_newer_refuses(cluster: &Cluster, node: NodeId, dir: &Path) {
    let client = cluster.client(Role::Writer).await;
    client.put("b", "k", "before").await.unwrap();
    eventually("the original has been there for a while", async || {
        (cluster.status(node).await.uptime_ms > 6000).then_some(())
    })
    .await;
    let twin = cluster.start_twin(node, dir).await;
    let refused = eventually("one of the two refuses", async || {
        assert!(cluster.status(node).await.serving, "the original refuses");
        twin.serving().await.err()
    })
    .await;
    let NotServing::Duplicate { node: named, address } = &refused else { panic!("{refused}") };
    assert_eq!((*named, address), (node, &cluster.node(node).info().address));

    // It answers nobody but those who ask how it is, and says why.
    let peer = cluster.connect_to(node, twin.local_addr(), Role::Writer).await;
    for failure in [
        peer.ask(&get("b", "k"), Bytes::new()).await.unwrap_err(),
        peer.ask(&put("b", "k", 1, b"v"), Bytes::from_static(b"v")).await.unwrap_err(),
    ] {
        assert_eq!((failure.code, failure.outcome), (FailureCode::NotServing, Outcome::NotDone));
        assert!(failure.message.contains("runs as node") && failure.message.contains(address), "{failure}");
    }
    // Everybody knows where the node is, and uses it.
    cluster.settled().await;
    for other in cluster.running() {
        let told = cluster.status(other.id()).await;
        assert!(told.serving, "{}", told.reason);
        if let Some(peer) = told.peers.iter().find(|peer| peer.id == node) {
            assert_eq!(&peer.address, address);
        }
    }
    client.refresh().await.unwrap();
    client.put("b", "k", "after").w(3).await.unwrap();
    assert!(read(&client, "b", "k").await.contains(&"after".to_owned()));
    assert!(metric(&client, node, "identity_conflicts_total").await > 0);
    twin.shutdown().await;
    client.put("b", "k", "at last").w(3).await.unwrap();
}

#[tokio::test]
async fn of_two_processes_with_copies_of_one_disk_the_newer_one_refuses() {
    let mut cluster = Cluster::start(3).await;
    let node = id("n2");
    cluster.stop(node).await;
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&cluster.data_dir(node), copy.path());
    cluster.restart(node).await;
    cluster.settled().await;
    check_newer_refuses(&cluster, node, copy.path()).await;
}

#[tokio::test]
async fn a_certificate_that_is_used_twice_serves_once() {
    let cluster = Cluster::start(3).await;
    let empty = tempfile::tempdir().unwrap();
    check_newer_refuses(&cluster, id("n3"), empty.path()).await;
}

#[tokio::test]
async fn a_node_that_refused_serves_after_a_restart_without_the_other() {
    let mut cluster = Cluster::start(3).await;
    let node = id("n1");
    let empty = tempfile::tempdir().unwrap();
    check_newer_refuses(&cluster, node, empty.path()).await;
    cluster.stop(node).await;
    let again = cluster.start_twin(node, empty.path()).await;
    again.serving().await.unwrap();
    let client = cluster.client(Role::Writer).await;
    eventually("everybody knows where it is", async || client.put("b", "k", "v").w(3).await.ok()).await;
    again.serving().await.unwrap();
    again.shutdown().await;
}

#[tokio::test]
async fn idle_nodes_say_little() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Reader).await;
    let node = id("n1");
    let begun = Instant::now();
    let [messages, bytes] = [
        metric(&client, node, "gossip_messages_total").await,
        metric(&client, node, "gossip_bytes_total").await,
    ];
    eventually("some rounds have passed", async || {
        (metric(&client, node, "gossip_messages_total").await >= messages + 8).then_some(())
    })
    .await;
    let bytes = metric(&client, node, "gossip_bytes_total").await - bytes;
    let per_second = bytes as f64 / begun.elapsed().as_secs_f64();
    assert!(per_second < 1024.0, "{per_second:.0} bytes a second");
    assert_eq!(metric(&client, node, "peers_up").await, 2);
    assert_eq!(metric(&client, node, "peers_suspected").await, 0);
}

#[tokio::test]
async fn a_node_that_comes_back_is_noticed() {
    let mut cluster = Cluster::start(3).await;
    let (watcher, node) = (id("n1"), id("n2"));
    assert!(cluster.node(watcher).is_up(node));
    let mut came_up = cluster.node(watcher).watch_up();
    came_up.mark_unchanged();
    cluster.stop(node).await;
    eventually("it is missed", async || (!cluster.node(watcher).is_up(node)).then_some(())).await;
    assert!(!came_up.has_changed());
    cluster.restart(node).await;
    dynkv_tests::wait::in_time("it is noticed", came_up.changed()).await;
    assert!(cluster.node(watcher).is_up(node));
}

/// A metric of one node, by its name without the prefix.
async fn metric(client: &Client, node: NodeId, name: &str) -> u64 {
    let text = client.metrics(node).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("dynkv_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
