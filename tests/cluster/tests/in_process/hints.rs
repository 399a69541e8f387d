//! Homes that are down: others take their writes, keep them as hints, and hand them over.

use std::time::Duration;

use bytes::Bytes;
use dynkv_client::Client;
use dynkv_net::{PeerName, Role};
use dynkv_proto::{DrainHints, Failure, FailureCode, Get, Outcome, Put, PutReply, ReplicaPut, Stamp, State};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::{CLUSTER, Cluster, id},
    peer::{get, put},
    wait::eventually,
};

use crate::support::{assert_refused, background_begun, read, split};

/// For what the client library tries again and again until its time is up.
const SHORT: Duration = Duration::from_millis(500);

/// Keys with the same homes as `k`, in the same order.
fn neighbours(cluster: &Cluster, count: usize) -> Vec<String> {
    let homes = cluster.homes("b", b"k").0;
    let keys = (0..).map(|number| format!("k{number}"));
    keys.filter(|key| cluster.homes("b", key.as_bytes()).0 == homes).take(count).collect()
}

/// What one node holds of a key, without asking the others.
async fn held(cluster: &Cluster, node: NodeId, key: &str) -> Vec<String> {
    let peer = cluster.connect(node, Role::Reader).await;
    let request = Get { r: Some(1), ..get("b", key.to_owned()) };
    let (reply, body) = peer.ask(&request, Bytes::new()).await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((reply.replicas, reply.homes), (1, 1));
    split(&reply, body)
}

async fn put_at(cluster: &Cluster, node: NodeId, request: &Put) -> PutReply {
    let peer = cluster.connect(node, Role::Writer).await;
    let answer = peer.ask(request, Bytes::from_static(b"v")).await;
    answer.unwrap_or_else(|failure| panic!("{node}: {failure}")).0
}

async fn get_at(cluster: &Cluster, node: NodeId, request: Get) -> Result<(u8, u8, Vec<String>), Failure> {
    let peer = cluster.connect(node, Role::Reader).await;
    let (reply, body) = peer.ask(&request, Bytes::new()).await?;
    Ok((reply.replicas, reply.homes, split(&reply, body)))
}

async fn stop_all(cluster: &mut Cluster, nodes: &[NodeId]) {
    for &node in nodes {
        cluster.stop(node).await;
    }
    cluster.missed().await;
}

/// A metric of one node, by its name without the prefix.
fn metric(cluster: &Cluster, node: NodeId, name: &str) -> u64 {
    let text = cluster.node(node).metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("dynkv_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

#[tokio::test]
async fn what_a_home_missed_is_delivered_without_traffic_wherever_it_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let down = id("n3");
    client.put("b", "k", "before").w(3).await.unwrap();
    cluster.stop(down).await;
    for key in ["k", "l", "m"] {
        let before = client.get("b", key).await.unwrap();
        let stored = client.put("b", key, "after").context(&before.context).await.unwrap();
        assert_eq!((stored.replicas, stored.homes), (2, 2), "{key}");
    }
    // Once for each key, however often it is written.
    let again = client.get("b", "k").await.unwrap();
    client.put("b", "k", "again").context(&again.context).await.unwrap();
    eventually("what it misses is kept", async || (cluster.hints_for(down).await >= 3).then_some(())).await;
    for node in ["n1", "n2"].map(id) {
        for kept in cluster.hints(node).await.totals {
            assert_eq!(kept.target, down);
            assert!(kept.hints > 0 && kept.bytes > 0, "{kept:?}");
        }
    }
    let before = cluster.node(id("n1")).info().clone();

    cluster.restart(down).await;
    cluster.drained().await;
    for (key, value) in [("k", "again"), ("l", "after"), ("m", "after")] {
        assert_eq!(held(&cluster, down, key).await, [value], "{key}");
    }
    assert_eq!(cluster.node(id("n1")).info(), &before);
    let delivered: u64 =
        ["n1", "n2"].map(|node| metric(&cluster, id(node), "hints_delivered_total")).iter().sum();
    assert!(delivered >= 3, "{delivered}");
    // Nothing was left for reads to repair, also when they may.
    cluster.settled().await;
    background_begun(&cluster).await;
    client.refresh().await.unwrap();
    for key in ["k", "l", "m"] {
        client.get("b", key).r(3).await.unwrap();
    }
    for node in ["n1", "n2", "n3"].map(id) {
        assert_eq!(metric(&cluster, node, "read_repairs_total"), 0, "{node}");
    }
}

#[tokio::test]
async fn hints_outlive_their_holder_and_an_order_to_drain_needs_an_administrator() {
    let mut cluster = Cluster::start(3).await;
    let (holder, down) = (id("n1"), id("n3"));
    stop_all(&mut cluster, &[down]).await;
    put_at(&cluster, holder, &put("b", "k", 1, b"v")).await;
    eventually("it is kept", async || (cluster.hints_for(down).await == 1).then_some(())).await;
    cluster.stop(holder).await;
    cluster.restart(holder).await;
    cluster.settled().await;
    assert_eq!(cluster.hints_for(down).await, 1);

    let writer = cluster.client(Role::Writer).await;
    let error = assert_refused(writer.drain_hints(holder).await, FailureCode::Forbidden);
    assert!(error.to_string().contains("the role admin"), "{error}");
    let admin = cluster.client(Role::Admin).await;
    assert_eq!(admin.drain_hints(holder).target(id("n2")).await.unwrap().hints, 0);
    assert_eq!(admin.drain_hints(holder).target(down).await.unwrap().hints, 1);
    let reader = cluster.client(Role::Reader).await;
    let shown = reader.hints(holder).target(down).await.unwrap();
    assert_eq!((shown.hints.len(), shown.more), (1, false));
    assert_eq!((&shown.hints[0].bucket[..], &shown.hints[0].key[..]), ("b", &b"k"[..]));
    let next = reader.hints(holder).target(down).after(shown.hints[0].sequence).await.unwrap();
    assert!(next.hints.is_empty() && !next.more);

    cluster.restart(down).await;
    cluster.drained().await;
    assert_eq!(held(&cluster, down, "k").await, ["v"]);
}

#[tokio::test]
async fn with_two_of_three_homes_down_another_node_stands_in() {
    let mut cluster = Cluster::start(5).await;
    let (homes, others) = cluster.homes("b", b"k");
    let client = cluster.client(Role::Writer).await;
    stop_all(&mut cluster, &homes[1..]).await;

    let stored = client.put("b", "k", "v").await.unwrap();
    assert_eq!((stored.replicas, stored.homes), (2, 1));
    // What both miss is kept, by one node each.
    for &home in &homes[1..] {
        eventually("it is kept", async || (cluster.hints_for(home).await == 1).then_some(())).await;
    }
    for &other in &others {
        assert_eq!(cluster.hints(other).await.totals.len(), 1, "{other}");
    }
    let fetched = client.get("b", "k").r(2).await.unwrap();
    assert_eq!((fetched.replicas, fetched.homes), (2, 1));
    assert_eq!(fetched.value().unwrap(), "v");
    for &other in &others {
        assert_eq!(
            get_at(&cluster, other, get("b", "k")).await.unwrap(),
            (2, 1, vec!["v".into()]),
            "{other}"
        );
    }

    let error = assert_refused(client.put("b", "k", "x").pw(2).timeout(SHORT).await, FailureCode::Quorum);
    assert!(error.to_string().contains("1 of the 2 home replicas"), "{error}");
    for (r, pr) in [(2, 2), (3, 2)] {
        let failure =
            get_at(&cluster, homes[0], Get { r: Some(r), pr: Some(pr), ..get("b", "k") }).await.unwrap_err();
        assert_eq!((failure.code, failure.outcome), (FailureCode::Quorum, Outcome::NotDone), "{failure}");
        assert!(failure.message.contains("1 of the 2 home replicas"), "{failure}");
    }
    assert_eq!(read(&client, "b", "k").await, ["v"]);

    for &home in &homes[1..] {
        cluster.restart(home).await;
    }
    cluster.drained().await;
    for &home in &homes {
        assert_eq!(held(&cluster, home, "k").await, ["v"], "{home}");
    }
}

#[tokio::test]
async fn with_all_homes_down_the_others_take_writes_and_give_them_back() {
    let mut cluster = Cluster::start(5).await;
    let (homes, others) = cluster.homes("b", b"k");
    let keys = neighbours(&cluster, 6);
    let client = cluster.client(Role::Writer).await;
    for key in &keys[..3] {
        client.put("b", key.clone(), "before").w(3).await.unwrap();
    }
    stop_all(&mut cluster, &homes).await;

    for key in &keys {
        // What was there cannot be read now: the write stands beside it.
        let stored = client.put("b", key.clone(), "first").await.unwrap();
        assert_eq!((stored.replicas, stored.homes), (2, 0), "{key}");
        client.put("b", key.clone(), "second").context(&stored.context).await.unwrap();
        let fetched = client.get("b", key.clone()).r(2).await.unwrap();
        assert_eq!((fetched.replicas, fetched.homes), (2, 0), "{key}");
        assert_eq!(fetched.value().unwrap(), "second", "{key}");
    }
    // Two nodes are not three.
    assert_refused(client.put("b", "k", "x").w(3).timeout(SHORT).await, FailureCode::Quorum);
    let error = assert_refused(client.put("b", "k", "x").pw(1).timeout(SHORT).await, FailureCode::Quorum);
    assert!(error.to_string().contains("0 of the 1 home replicas"), "{error}");
    for &home in &homes {
        eventually("every home's are kept", async || {
            (cluster.hints_for(home).await >= keys.len() as u64).then_some(())
        })
        .await;
    }
    assert!(others.iter().any(|&other| metric(&cluster, other, "puts_fallback_total") > 0));

    for &home in &homes {
        cluster.restart(home).await;
    }
    cluster.drained().await;
    for (number, key) in keys.iter().enumerate() {
        let expected: &[&str] = if number < 3 { &["before", "second"] } else { &["second"] };
        for &home in &homes {
            assert_eq!(held(&cluster, home, key).await, expected, "{key} at {home}");
        }
    }
    // A deleted key stays so, whoever stood in.
    let client = cluster.client(Role::Writer).await;
    let both = client.get("b", keys[0].clone()).await.unwrap();
    client.delete("b", keys[0].clone()).context(&both.context).await.unwrap();
    assert!(client.get("b", keys[0].clone()).r(3).await.unwrap().is_absent());
}

#[tokio::test]
async fn a_put_that_was_retried_at_another_fallback_is_one_version() {
    let mut cluster = Cluster::start(5).await;
    let (homes, others) = cluster.homes("b", b"k");
    stop_all(&mut cluster, &homes).await;
    let request = put("b", "k", 7, b"v");
    let first = put_at(&cluster, others[0], &request).await;
    assert_eq!((first.replicas, first.homes, first.possible_duplicate), (2, 0, false));

    let retry = |tried: &[NodeId]| Put { retry: true, tried: Some(tried.to_vec()), ..request.clone() };
    let second = put_at(&cluster, others[1], &retry(&others[..1])).await;
    assert_eq!((second.actor, second.counter), (first.actor, first.counter));
    // The homes may have had it from somebody else, and cannot say.
    assert!(second.possible_duplicate);

    for &home in &homes {
        eventually("it is kept", async || (cluster.hints_for(home).await >= 1).then_some(())).await;
    }
    for &home in &homes {
        cluster.restart(home).await;
    }
    cluster.drained().await;
    cluster.settled().await;
    for (home, tried) in homes.iter().zip([&homes[..], &others[..1], &[]]) {
        let again = put_at(&cluster, *home, &retry(tried)).await;
        assert_eq!((again.actor, again.counter), (first.actor, first.counter), "{home}");
        // Nodes younger than the retry window cannot say that there was no other.
        assert!(again.possible_duplicate, "{home}");
    }
    let client = cluster.client(Role::Reader).await;
    assert_eq!(client.get("b", "k").r(3).await.unwrap().siblings.len(), 1);
}

#[tokio::test]
async fn a_full_store_of_hints_refuses_more_and_fails_no_put() {
    let mut cluster = Cluster::start(3).await;
    let down = id("n3");
    // Room for one or two.
    cluster.set_hint_bytes_max(200);
    for node in ["n1", "n2"].map(id) {
        cluster.stop(node).await;
        cluster.restart(node).await;
    }
    cluster.settled().await;
    stop_all(&mut cluster, &[down]).await;
    let client = cluster.client(Role::Writer).await;
    let keys: Vec<String> = (0..12).map(|number| format!("k{number}")).collect();
    for key in &keys {
        let stored = client.put("b", key.clone(), "v").await.unwrap();
        assert_eq!((stored.replicas, stored.homes), (2, 2), "{key}");
    }
    eventually("some were refused", async || {
        let mut refused = 0;
        for node in ["n1", "n2"].map(id) {
            let kept = cluster.hints(node).await;
            let bytes: u64 = kept.totals.iter().map(|totals| totals.bytes).sum();
            assert!(bytes <= 200 && kept.limit_bytes == 200, "{kept:?}");
            assert_eq!(kept.refused_full, metric(&cluster, node, "hints_refused_full_total"));
            refused += kept.refused_full;
        }
        let not_placed: u64 =
            ["n1", "n2"].map(|node| metric(&cluster, id(node), "hints_not_placed_total")).iter().sum();
        (refused >= 6 && not_placed >= 6).then_some(())
    })
    .await;

    cluster.restart(down).await;
    cluster.drained().await;
    cluster.settled().await;
    // What nobody kept is there all the same, and reads bring it back.
    let client: Client = cluster.client(Role::Writer).await;
    for key in &keys {
        assert_eq!(client.get("b", key.clone()).r(3).await.unwrap().value().unwrap(), "v", "{key}");
        eventually("reads repair it", async || (held(&cluster, down, key).await == ["v"]).then_some(()))
            .await;
    }
    // There is room again.
    stop_all(&mut cluster, &[down]).await;
    client.refresh().await.unwrap();
    client.put("b", "later", "v").await.unwrap();
    eventually("it is kept", async || (cluster.hints_for(down).await == 1).then_some(())).await;
}

#[tokio::test]
async fn a_fallback_with_a_full_store_is_passed_over() {
    let mut cluster = Cluster::start(5).await;
    let (homes, others) = cluster.homes("b", b"k");
    // Only the first fallback has no room.
    cluster.set_hint_bytes_max(1);
    cluster.stop(others[0]).await;
    cluster.restart(others[0]).await;
    cluster.settled().await;
    stop_all(&mut cluster, &homes[1..2]).await;
    let reply = put_at(&cluster, homes[0], &Put { w: Some(3), ..put("b", "k", 1, b"v") }).await;
    assert_eq!((reply.replicas, reply.homes), (3, 2));
    eventually("the other keeps it", async || {
        let kept = cluster.hints(others[1]).await.totals;
        kept.first().filter(|kept| kept.target == homes[1] && kept.hints == 1).map(drop)
    })
    .await;
    assert_eq!(metric(&cluster, others[0], "hints_refused_full_total"), 1);
    assert_eq!(metric(&cluster, others[0], "hints"), 0);
}

#[tokio::test]
async fn only_nodes_hand_each_other_hints() {
    let cluster = Cluster::start(3).await;
    let (node, target) = (id("n1"), id("n3"));
    let request = ReplicaPut {
        bucket: "b".into(),
        key: "k".into(),
        stamp: Stamp::default(),
        durable: true,
        hint_for: Some(target),
    };
    let state = State::default().encode();
    for role in [Role::Reader, Role::Writer, Role::Admin] {
        let peer = cluster.connect(node, role).await;
        let failure = peer.ask(&request, state.clone()).await.unwrap_err();
        assert_eq!((failure.code, failure.outcome), (FailureCode::Forbidden, Outcome::NotDone), "{failure}");
        assert!(failure.message.contains("a node's certificate"), "{failure}");
        let drained = peer.ask(&DrainHints { target: None }, Bytes::new()).await;
        assert_eq!(drained.is_ok(), role == Role::Admin, "{role:?}: {drained:?}");
    }
    assert!(cluster.hints(node).await.totals.is_empty());
    // From a node it is taken, and handed to whom it is for.
    let peer = cluster.connect_as(node, &PeerName::node(CLUSTER, id("n2")).unwrap()).await;
    peer.ask(&request, state).await.unwrap();
    cluster.drained().await;
    assert_eq!(metric(&cluster, node, "hints_delivered_total"), 1);
}
