//! Nodes that stop, crash and come back.

use bytes::Bytes;
use dynkv_client::Client;
use dynkv_net::{PeerName, Role};
use dynkv_proto::{FailureCode, Get, Outcome, Put};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::{CLUSTER, Cluster, id},
    peer::{get, put},
    wait::eventually,
};

use crate::support::{assert_refused, background_begun, counter, give, read, split, values};

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

async fn put_all(client: &Client, value: &'static str) {
    for key in KEYS {
        client.put("b", key, value).w(3).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

/// What one node holds of each key, without asking the others.
async fn held(cluster: &Cluster, node: NodeId) -> Vec<Vec<String>> {
    let peer = cluster.connect(node, Role::Reader).await;
    let mut all = Vec::new();
    for key in KEYS {
        let (reply, body) = peer.ask(&Get { r: Some(1), ..get("b", key) }, Bytes::new()).await.unwrap();
        assert_eq!(reply.replicas, 1);
        all.push(split(&reply, body));
    }
    all
}

#[tokio::test]
async fn with_one_node_of_three_down_puts_and_gets_go_on() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    put_all(&client, "before").await;
    cluster.stop(id("n2")).await;
    for key in KEYS {
        let before = client.get("b", key).await.unwrap();
        assert_eq!(before.value().unwrap(), "before");
        let stored = client.put("b", key, "after").context(&before.context).await.unwrap();
        assert_eq!((stored.replicas, stored.homes), (2, 2));
        assert_eq!(read(&client, "b", key).await, ["after"]);
    }
    // Quorums that cannot be met are never met, and refused at once by each node that knows. Until then it waits for the one that is down.
    for node in ["n1", "n3"] {
        let peer = cluster.connect(id(node), Role::Writer).await;
        eventually("the node is known to be down", async || {
            let read = Get { r: Some(3), timeout_ms: 500, ..get("b", "a") };
            let read = peer.ask(&read, Bytes::new()).await.expect_err("two of three have it");
            let write = Put { w: Some(3), timeout_ms: 500, ..put("b", "w3", 1, b"v") };
            let write = peer.ask(&write, Bytes::from_static(b"v")).await.expect_err("two of three take it");
            (read.code == FailureCode::Quorum && write.outcome == Outcome::NotDone).then_some(())
        })
        .await;
    }
    assert_refused(client.get("b", "a").r(3).timeout(SHORT).await, FailureCode::Quorum);
    for _ in 0..3 {
        assert_refused(client.put("b", "never", "v").w(3).timeout(SHORT).await, FailureCode::Quorum);
    }
    assert!(client.get("b", "never").await.unwrap().is_absent());
}

const SHORT: std::time::Duration = std::time::Duration::from_millis(500);

#[tokio::test]
async fn with_two_nodes_of_three_down_no_put_is_done_and_a_single_copy_can_be_read() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    put_all(&client, "before").await;
    cluster.stop(id("n1")).await;
    cluster.stop(id("n3")).await;
    for key in &KEYS[..3] {
        // Certainly not done, or unknown; and then with a reason.
        let error = client.put("b", *key, "never").timeout(SHORT).await.unwrap_err();
        assert!(!error.to_string().is_empty() && !error.to_string().contains('\n'), "{error}");
        let two = client.get("b", *key).timeout(SHORT).await.unwrap_err();
        assert_eq!(two.outcome(), Outcome::NotDone);
        let one = client.get("b", *key).r(1).await.unwrap();
        assert_eq!((one.replicas, one.homes), (1, 1));
        assert!(one.siblings.iter().any(|sibling| sibling.value == "before"));
        // One is enough for those who say so.
        client.put("b", *key, "alone").context(&one.context).w(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_put_without_its_quorum_is_never_answered_as_done() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    cluster.crash(id("n1"));
    cluster.crash(id("n3"));
    // At once, while the survivor may still think that they are there: refused or unknown.
    let error = client.put("b", "k", "v").timeout(SHORT).await.unwrap_err();
    if error.outcome() == Outcome::NotDone {
        assert!(client.get("b", "k").r(1).await.unwrap().is_absent(), "{error}");
    }
}

#[tokio::test]
async fn a_restarted_node_serves_what_it_had() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    put_all(&client, "kept").await;
    let node = id("n3");
    let before = cluster.node(node).info().clone();
    cluster.stop(node).await;
    cluster.restart(node).await;
    cluster.settled().await;
    let after = cluster.node(node).info().clone();
    assert_eq!((after.boot, after.disk), (before.boot + 1, before.disk));
    assert_eq!(held(&cluster, node).await, vec![vec!["kept"]; KEYS.len()]);
    // The client finds it at its new address.
    client.refresh().await.unwrap();
    client.put("b", "a", "blind").w(3).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_was_stopped_comes_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    put_all(&cluster.client(Role::Writer).await, "kept").await;
    let nodes = ["n1", "n2", "n3"].map(id);
    for node in nodes {
        cluster.stop(node).await;
    }
    for node in nodes {
        cluster.restart(node).await;
    }
    cluster.settled().await;
    for node in nodes {
        assert_eq!(held(&cluster, node).await, vec![vec!["kept"]; KEYS.len()]);
    }
    put_all(&cluster.client(Role::Writer).await, "blind").await;
}

#[tokio::test]
async fn nodes_that_were_dropped_come_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    put_all(&cluster.client(Role::Writer).await, "kept").await;
    let nodes = ["n1", "n2", "n3"].map(id);
    for node in nodes {
        cluster.crash(node);
    }
    for node in nodes {
        cluster.restart(node).await;
    }
    cluster.settled().await;
    for node in nodes {
        assert_eq!(held(&cluster, node).await, vec![vec!["kept"]; KEYS.len()]);
    }
}

#[tokio::test]
async fn after_a_restart_no_dot_is_minted_twice() {
    let mut cluster = Cluster::start(3).await;
    let node = id("n1");
    let client = cluster.client(Role::Writer).await;
    let first = client.put("b", "k", "one").await.unwrap();
    for node in ["n1", "n2", "n3"].map(id) {
        cluster.stop(node).await;
        cluster.restart(node).await;
        cluster.settled().await;
    }
    let client = cluster.client(Role::Writer).await;
    let second = client.put("b", "k", "two").context(&first.context).await.unwrap();
    assert_ne!(first.dot, second.dot);
    assert_eq!(read(&client, "b", "k").await, ["two"]);
    assert!(cluster.node(node).is_founded());
}

#[tokio::test]
async fn reads_repair_a_node_that_is_behind() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    background_begun(&cluster).await;
    // Nobody keeps a hint for what only one was told. A comparison of the nodes may be quicker than the read, but not every time.
    for attempt in 1.. {
        give(&cluster, id("n1"), "k", attempt, "missed").await;
        assert!(read_all(&client, "k").await.contains(&"missed".to_owned()));
        let repairs = ["n1", "n2", "n3"].map(|node| counter(&cluster, id(node), "read_repairs"));
        if repairs.iter().any(|repairs| *repairs > 0) {
            break;
        }
        assert!(attempt < 50, "no read has repaired anything");
    }
}

async fn read_all(client: &Client, key: &'static str) -> Vec<String> {
    values(&client.get("b", key).r(3).await.unwrap())
}

#[tokio::test]
async fn a_data_directory_is_used_by_one_running_node_at_a_time() {
    use dynkv_node::{DataDirError, Node, NodeConfig, StartError};
    use dynkv_tests::cluster::loopback;

    let mut cluster = Cluster::start(1).await;
    let node = id("n1");
    let identity = cluster.identity(&PeerName::node(CLUSTER, node).unwrap());
    let config = NodeConfig::new(cluster.data_dir(node), loopback(), identity);
    let second = Node::start(config.clone()).await.map(|node| node.id());
    assert!(matches!(second, Err(StartError::DataDir(DataDirError::InUse { .. }))), "{second:?}");
    cluster.stop(node).await;
    // An address that is taken: said, and the directory is free again.
    let taken = std::net::UdpSocket::bind(loopback()).unwrap();
    let listen = taken.local_addr().unwrap();
    let second = Node::start(NodeConfig { listen, ..config }).await.map(|node| node.id());
    assert!(matches!(second, Err(StartError::Bind(_))), "{second:?}");
    cluster.restart(node).await;
    cluster.settled().await;
}

#[tokio::test]
async fn a_node_with_a_new_disk_is_found_at_a_new_address() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let node = id("n2");
    // So that the new disk's count of starts lies below the old one's.
    cluster.stop(node).await;
    cluster.restart(node).await;
    cluster.settled().await;
    cluster.stop(node).await;
    std::fs::remove_dir_all(cluster.data_dir(node)).unwrap();
    cluster.restart(node).await;
    cluster.settled().await;
    client.refresh().await.unwrap();
    client.put("b", "k", "v").w(3).await.unwrap();
    // And again, on that disk.
    cluster.stop(node).await;
    cluster.restart(node).await;
    cluster.settled().await;
    client.refresh().await.unwrap();
    assert_eq!(client.get("b", "k").r(3).await.unwrap().value().unwrap(), "v");
}

#[tokio::test]
async fn a_node_that_was_stopped_has_left_its_port() {
    use dynkv_node::{Node, NodeConfig};

    let mut cluster = Cluster::start(3).await;
    let node = id("n1");
    let before = cluster.node(node).info().clone();
    // So that there are handshakes under way which nobody answers.
    cluster.crash(id("n2"));
    cluster.crash(id("n3"));
    eventually("a connection is missed", async || {
        let peers = cluster.status(node).await.peers;
        peers.iter().any(|peer| !peer.connected).then_some(())
    })
    .await;
    cluster.stop(node).await;
    // Not "eventually".
    let identity = cluster.identity(&PeerName::node(CLUSTER, node).unwrap());
    let config = NodeConfig::new(cluster.data_dir(node), before.address.parse().unwrap(), identity);
    let again = Node::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again.info().address, before.address);
    again.shutdown().await;
}
