//! Deleted keys go from real disks, and an old copy of a disk does not bring them back.

use bytes::Bytes;
use dynkv_client::Client;
use dynkv_net::{PeerName, Role};
use dynkv_node::NotServing;
use dynkv_proto::{Marks, Round, StateAsked, States, TreePosition};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::{CLUSTER, Cluster, id},
    files::copy_folder,
    wait::{eventually, in_time},
};

use crate::support::read;

fn nodes() -> [NodeId; 3] {
    ["n1", "n2", "n3"].map(id)
}

/// How many nodes have anything of a key.
async fn holders(client: &Client, key: &'static str) -> usize {
    let mut holders = 0;
    for node in nodes() {
        let reply = client.held(node, "b", key).await.unwrap_or_else(|error| panic!("{node}: {error}"));
        holders += usize::from(!reply.states.is_empty());
    }
    holders
}

async fn held_by(client: &Client, key: &'static str, wanted: usize, what: &str) {
    eventually(what, async || (holders(client, key).await == wanted).then_some(())).await;
}

/// Deletes `key` and waits until no disk has anything of it.
async fn delete(client: &Client, key: &'static str) {
    let read = client.get("b", key).r(3).await.unwrap();
    client.delete("b", key).context(&read.context).w(3).await.unwrap();
    held_by(client, key, 0, "the tombstone is settled").await;
}

#[tokio::test]
async fn an_old_copy_of_a_disk_is_set_aside_and_filled_again() {
    let mut cluster = Cluster::start(3).await;
    cluster.set_bucket("b", "grace_ms=1").await;
    let client = cluster.client(Role::Writer).await;
    for key in ["deleted", "kept"] {
        client.put("b", key, "v").w(3).await.unwrap();
    }
    let node = id("n3");
    let (folder, copy) = (cluster.data_dir(node), cluster.data_dir(node).with_extension("copy"));
    cluster.stop(node).await;
    copy_folder(&folder, &copy);
    cluster.restart(node).await;
    cluster.settled().await;
    client.refresh().await.unwrap();
    delete(&client, "deleted").await;

    cluster.stop(node).await;
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&copy, &folder).unwrap();
    cluster.restart(node).await;
    let old = cluster.node(node).info().disk;
    let refused = in_time("the disk is found out", cluster.node(node).refused()).await;
    assert!(matches!(refused, NotServing::OldDisk { node: refused } if refused == node), "{refused}");
    // It stays so.
    assert_eq!(cluster.node(node).serving().await, Err(refused));
    assert!(!cluster.status(node).await.serving);
    // The others go on, without what it had.
    client.refresh().await.unwrap();
    assert!(client.get("b", "deleted").await.unwrap().is_absent());

    cluster.stop(node).await;
    cluster.restart(node).await;
    cluster.settled().await;
    assert_ne!(cluster.node(node).info().disk, old);
    let aside = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let aside: Vec<_> = aside.filter(|name| name.to_string_lossy().starts_with("store.aside-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    client.refresh().await.unwrap();
    held_by(&client, "kept", 3, "it is filled again").await;
    assert_eq!(holders(&client, "deleted").await, 0);
    assert!(read(&client, "b", "deleted").await.is_empty());
    assert_eq!(client.get("b", "kept").r(3).await.unwrap().value().unwrap(), "v");
    // It takes part in what settles from now on.
    client.put("b", "deleted", "again").w(3).await.unwrap();
    delete(&client, "deleted").await;
}

/// Who of two nodes compares is up to chance: an old disk is found out also by what it is asked.
#[tokio::test]
async fn an_old_disk_that_is_only_asked_is_found_out() {
    let cluster = Cluster::start(3).await;
    let node = id("n3");
    let peer = cluster.connect_as(node, &PeerName::node(CLUSTER, id("n1")).unwrap()).await;
    let round = Round(5, 1);
    let asked = |decided| StateAsked {
        position: TreePosition(0),
        have: None,
        marks: Marks { promise: round, agreed: round, decided },
    };
    let ask = |decided| States { asked: vec![asked(decided)], bodies: true, urgent: false };
    // It can take part in what is not decided yet.
    peer.ask(&ask(Round::default()), Bytes::new()).await.unwrap();
    let refused = peer.ask(&ask(round), Bytes::new()).await.unwrap_err();
    assert!(refused.message.contains("has missed settlement round"), "{refused}");
    let refused = in_time("the disk is found out", cluster.node(node).refused()).await;
    assert!(matches!(refused, NotServing::OldDisk { node: refused } if refused == node), "{refused}");
}
