//! Coordinators, forwarding, and puts that are sent twice.

use bytes::Bytes;
use dynkv_net::Role;
use dynkv_proto::{FailureCode, Get, Hops, Outcome, Put, PutReply};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::Cluster,
    peer::{get, put},
};

use crate::support::{read, split};

async fn put_at(cluster: &Cluster, node: NodeId, request: &Put, value: &'static str) -> PutReply {
    let peer = cluster.connect(node, Role::Writer).await;
    let answer = peer.ask(request, Bytes::from_static(value.as_bytes())).await;
    answer.unwrap_or_else(|failure| panic!("{node}: {failure}")).0
}

#[tokio::test]
async fn any_node_of_a_larger_cluster_answers_for_any_key() {
    let cluster = Cluster::start(5).await;
    for key in ["a", "b", "c"] {
        let (homes, others) = cluster.homes("b", key.as_bytes());
        assert_eq!((homes.len(), others.len()), (3, 2));
        let put_reply = put_at(&cluster, others[0], &put("b", key, 1, b"value"), "value").await;
        assert!(put_reply.replicas >= 2 && put_reply.homes >= 2);
        assert!(put_reply.coordinator.is_some_and(|coordinator| homes.contains(&coordinator)));
        for &node in homes.iter().chain(&others) {
            let peer = cluster.connect(node, Role::Reader).await;
            let (reply, body) = peer.ask(&Get { r: Some(3), ..get("b", key) }, Bytes::new()).await.unwrap();
            assert_eq!((reply.replicas, reply.homes), (3, 3), "{key} at {node}");
            match reply.coordinator {
                Some(coordinator) => {
                    assert!(!homes.contains(&node) && homes.contains(&coordinator), "{node}");
                }
                None => assert!(homes.contains(&node), "{node} forwards, and does not say so"),
            }
            assert_eq!(split(&reply, body), ["value"], "{key} at {node}");
            assert_eq!(
                (reply.versions[0].actor, reply.versions[0].counter),
                (put_reply.actor, put_reply.counter)
            );
        }
    }
    // The client library finds the homes by itself.
    let client = cluster.client(Role::Reader).await;
    assert_eq!(read(&client, "b", "a").await, ["value"]);
}

#[tokio::test]
async fn a_forwarded_request_is_not_forwarded_again() {
    let cluster = Cluster::start(5).await;
    let (homes, others) = cluster.homes("b", b"k");
    let peer = cluster.connect(others[0], Role::Writer).await;
    let get_failure = peer.ask(&Get { hops: Hops(1), ..get("b", "k") }, Bytes::new()).await.unwrap_err();
    let forwarded = Put { hops: Hops(1), ..put("b", "k", 1, b"v") };
    let put_failure = peer.ask(&forwarded, Bytes::from_static(b"v")).await.unwrap_err();
    for failure in [get_failure, put_failure] {
        assert_eq!((failure.code, failure.outcome), (FailureCode::NotHome, Outcome::NotDone), "{failure}");
    }
    put_at(&cluster, homes[0], &forwarded, "v").await;
}

#[tokio::test]
async fn a_request_goes_on_to_the_next_home_when_one_is_down() {
    let mut cluster = Cluster::start(5).await;
    let (homes, others) = cluster.homes("b", b"k");
    cluster.stop(homes[0]).await;
    put_at(&cluster, others[0], &put("b", "k", 1, b"v"), "v").await;
    let peer = cluster.connect(others[1], Role::Reader).await;
    let (reply, body) = peer.ask(&get("b", "k"), Bytes::new()).await.unwrap();
    assert_eq!(split(&reply, body), ["v"]);
}

#[tokio::test]
async fn one_put_id_is_one_version_however_often_it_is_sent() {
    let cluster = Cluster::start(3).await;
    let (homes, _) = cluster.homes("b", b"k");
    let first = put_at(&cluster, homes[0], &put("b", "k", 7, b"v"), "v").await;
    let second = put_at(&cluster, homes[0], &put("b", "k", 7, b"v"), "v").await;
    assert_eq!((first.actor, first.counter), (second.actor, second.counter));
    assert_eq!(first.context, second.context);
    let client = cluster.client(Role::Reader).await;
    assert_eq!(read(&client, "b", "k").await, ["v"]);
}

#[tokio::test]
async fn one_put_id_on_two_keys_is_two_puts() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let (homes, _) = cluster.homes("b", b"other");
    client.put("b", "other", "before").w(3).await.unwrap();
    put_at(&cluster, homes[0], &put("b", "k", 7, b"v"), "v").await;
    put_at(&cluster, homes[0], &put("b", "other", 7, b"v"), "v").await;
    put_at(&cluster, homes[1], &Put { retry: true, ..put("b", "other", 7, b"v") }, "v").await;
    assert_eq!(read(&client, "b", "other").await, ["before", "v"]);
}

#[tokio::test]
async fn a_retry_at_another_coordinator_finds_what_the_first_one_did() {
    let cluster = Cluster::start(3).await;
    let (homes, _) = cluster.homes("b", b"k");
    let first = put_at(&cluster, homes[0], &Put { w: Some(3), ..put("b", "k", 7, b"v") }, "v").await;
    for &home in &homes[1..] {
        let retry = Put { retry: true, ..put("b", "k", 7, b"v") };
        let again = put_at(&cluster, home, &retry, "v").await;
        assert_eq!((again.actor, again.counter), (first.actor, first.counter));
        // They are younger than the retry window: that no other version of it was there and is gone they cannot say. (The
        // simulator's scenario `ack_dropped_then_retried_elsewhere` has a cluster that can.)
        assert!(again.possible_duplicate);
    }
    let client = cluster.client(Role::Reader).await;
    assert_eq!(client.get("b", "k").r(3).await.unwrap().siblings.len(), 1);
}

#[tokio::test]
async fn a_retry_does_not_bring_back_what_was_overwritten() {
    let cluster = Cluster::start(3).await;
    let (homes, _) = cluster.homes("b", b"k");
    let client = cluster.client(Role::Writer).await;
    let first = put_at(&cluster, homes[0], &Put { w: Some(3), ..put("b", "k", 7, b"old") }, "old").await;
    let overwrite = Put { context: first.context.clone(), w: Some(3), ..put("b", "k", 8, b"new") };
    put_at(&cluster, homes[1], &overwrite, "new").await;
    for &home in &homes {
        let retry = Put { retry: true, ..put("b", "k", 7, b"old") };
        let again = put_at(&cluster, home, &retry, "old").await;
        assert_eq!((again.actor, again.counter), (first.actor, first.counter), "{home}");
    }
    assert_eq!(read(&client, "b", "k").await, ["new"]);
}

#[tokio::test]
async fn a_retry_that_not_every_home_can_judge_is_a_possible_duplicate() {
    let mut cluster = Cluster::start(3).await;
    let (homes, _) = cluster.homes("b", b"k");
    cluster.stop(homes[2]).await;
    let retry = Put { retry: true, ..put("b", "k", 7, b"v") };
    let reply = put_at(&cluster, homes[0], &retry, "v").await;
    assert!(reply.possible_duplicate);
    // The one that is down may still have another one of it.
    let again = put_at(&cluster, homes[1], &retry, "v").await;
    assert!(again.possible_duplicate);
    assert_eq!((again.actor, again.counter), (reply.actor, reply.counter));
    let client = cluster.client(Role::Reader).await;
    assert_eq!(read(&client, "b", "k").await, ["v"]);
}

#[tokio::test]
async fn values_minted_twice_under_one_put_id_are_one_to_a_reader() {
    let cluster = Cluster::start(3).await;
    let (homes, _) = cluster.homes("b", b"k");
    // Without `retry` the second coordinator does not ask, as after a flagged duplicate: two dots, one value.
    let request = Put { w: Some(1), ..put("b", "k", 7, b"v") };
    let (one, two) =
        tokio::join!(put_at(&cluster, homes[0], &request, "v"), put_at(&cluster, homes[1], &request, "v"));
    let client = cluster.client(Role::Writer).await;
    let seen = client.get("b", "k").r(3).await.unwrap();
    assert_eq!(seen.siblings.len(), 1, "{one:?} {two:?}");
    // The context covers both.
    client.delete("b", "k").context(&seen.context).w(3).await.unwrap();
    assert!(client.get("b", "k").r(3).await.unwrap().is_absent());
}
