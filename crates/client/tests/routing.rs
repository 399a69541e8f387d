//! Which node a request goes to, and what is retried where.

mod support;

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynkv_client::proto::{FailureCode, Frame, GetReply, Outcome, PutId, PutReply, kinds};
use dynkv_client::ring::{Change, Member, NodeId};
use dynkv_client::{Client, Context, Error, Options};
use support::*;

#[tokio::test]
async fn requests_go_to_homes() {
    let cluster = FakeCluster::founded(5).await;
    let client = cluster.client().await;
    for n in 0..40 {
        let key = format!("key-{n}");
        cluster.with(|shared| shared.log.clear());
        client.get("b", key.clone()).await.unwrap();
        client.put("b", key.clone(), "v").await.unwrap();
        let asked: Vec<_> = cluster.with(|shared| shared.log.iter().map(|(id, _)| *id).collect());
        let homes = cluster.homes("b", key.as_bytes());
        assert_eq!(asked.len(), 2);
        assert!(asked.iter().all(|id| homes.contains(id)), "{key}: asked {asked:?}, homes are {homes:?}");
    }
}

#[tokio::test]
async fn puts_go_to_the_replica_that_answered_the_read_fastest() {
    let cluster = FakeCluster::founded(5).await;
    let client = cluster.client().await;
    for home in cluster.homes("b", b"k") {
        cluster.with(|shared| shared.log.clear());
        let context = Context::from_bytes(token("b", b"k", Some(home))).unwrap();
        client.put("b", "k", "v").context(&context).await.unwrap();
        client.delete("b", "k").context(&context).await.unwrap();
        assert_eq!(cluster.asked(kinds::PUT), [home, home]);
    }
    // A fastest replica that is no home any more is nobody's preference.
    let homes = cluster.homes("b", b"k");
    let other = (1..=5).map(node).find(|id| !homes.contains(id)).unwrap();
    let context = Context::from_bytes(token("b", b"k", Some(other))).unwrap();
    cluster.with(|shared| shared.log.clear());
    client.put("b", "k", "v").context(&context).await.unwrap();
    assert!(homes.contains(&cluster.asked(kinds::PUT)[0]));
}

/// `id` answers reads and puts as if it had forwarded them to `coordinator`.
fn forwarding(cluster: &FakeCluster, id: NodeId, coordinator: NodeId) {
    let view = cluster.with(|shared| shared.digest());
    cluster.script(id, move |frame| match frame.kind {
        kinds::GET => {
            let reply: GetReply = found(&frame.message().unwrap(), view, &[]).message().unwrap();
            let reply = GetReply { coordinator: Some(coordinator), ..reply };
            Some(Reaction::Answer(Frame::new(&reply, Bytes::new())))
        }
        kinds::PUT => {
            let reply: PutReply = stored(&frame.message().unwrap(), view).message().unwrap();
            let reply = PutReply { coordinator: Some(coordinator), ..reply };
            Some(Reaction::Answer(Frame::new(&reply, Bytes::new())))
        }
        _ => None,
    });
}

#[tokio::test]
async fn who_serves_a_key_is_asked_and_not_the_homes_that_forward() {
    let mut cluster = FakeCluster::founded(5).await;
    let client = cluster.client().await;
    let homes = cluster.homes("b", b"k");
    let serves = (1..=5).map(node).find(|id| !homes.contains(id)).unwrap();
    homes.iter().for_each(|&home| forwarding(&cluster, home, serves));
    for _ in 0..5 {
        client.put("b", "k", "v").await.unwrap();
        client.get("b", "k").await.unwrap();
    }
    let asked = [cluster.asked(kinds::PUT), cluster.asked(kinds::GET)].concat();
    for home in &homes {
        assert!(asked.iter().filter(|id| *id == home).count() <= 1, "{home} was asked again: {asked:?}");
    }
    assert!(asked.contains(&serves), "{asked:?}");
    // Not even if it answered the last read fastest, as its context says.
    cluster.with(|shared| shared.log.clear());
    let context = Context::from_bytes(token("b", b"k", Some(homes[0]))).unwrap();
    client.put("b", "k", "v").context(&context).await.unwrap();
    assert_eq!(cluster.asked(kinds::PUT), [serves]);

    // The homes have their turn when that one is gone.
    cluster.stop(serves).await;
    cluster.with(|shared| shared.log.clear());
    client.get("b", "k").await.unwrap();
    assert!(cluster.asked(kinds::GET).iter().all(|id| homes.contains(id)));
}

/// The nodes that fail the first `times` puts they get, in this way.
fn failing(cluster: &FakeCluster, times: usize, reaction: fn() -> Reaction) {
    let left = Arc::new(AtomicUsize::new(times));
    for &id in cluster.endpoints.keys() {
        let left = left.clone();
        cluster.script(id, move |frame| {
            let fails = frame.kind == kinds::PUT
                && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            fails.then(reaction)
        });
    }
}

/// The puts that were sent, as `node-number-in-order-of-appearance` and `!` for retries.
fn trace(cluster: &FakeCluster) -> String {
    let mut seen: Vec<NodeId> = Vec::new();
    let mut words = Vec::new();
    for (id, put) in cluster.puts() {
        let at = seen.iter().position(|&other| other == id).unwrap_or_else(|| {
            seen.push(id);
            seen.len() - 1
        });
        words.push(format!("{}{}", ['a', 'b', 'c', 'd', 'e'][at], if put.retry { "!" } else { "" }));
    }
    words.join(" ")
}

#[tokio::test]
async fn puts_are_retried_as_far_as_that_is_safe() {
    use FailureCode::*;
    type Case = (&'static str, usize, fn() -> Reaction, &'static str, Result<(), Outcome>);
    let cases: [Case; 12] = [
        ("no failure", 0, || Reaction::Silence, "a", Ok(())),
        ("overloaded", 1, || Reaction::Answer(no(Overloaded)), "a b", Ok(())),
        ("storage", 2, || Reaction::Answer(no(Storage)), "a b c", Ok(())),
        ("no quorum, certainly", 1, || Reaction::Answer(no(Quorum)), "a b", Ok(())),
        ("no quorum, perhaps", 1, || Reaction::Answer(perhaps(Quorum)), "a a!", Ok(())),
        ("no quorum, perhaps, twice", 2, || Reaction::Answer(perhaps(Quorum)), "a a! b!", Ok(())),
        ("silence", 1, || Reaction::Silence, "a a!", Ok(())),
        ("silence twice", 2, || Reaction::Silence, "a a! b!", Ok(())),
        ("the node dies", 1, || Reaction::Die, "a b!", Ok(())),
        ("too large", 9, || Reaction::Answer(no(TooLarge)), "a", Err(Outcome::NotDone)),
        ("a bad context", 9, || Reaction::Answer(no(Context)), "a", Err(Outcome::NotDone)),
        ("perhaps invalid", 9, || Reaction::Answer(perhaps(Invalid)), "a", Err(Outcome::Unknown)),
    ];
    for (name, times, reaction, expected, result) in cases {
        let cluster = FakeCluster::founded(4).await;
        let client = cluster.client().await;
        failing(&cluster, times, reaction);
        let put = client.put("b", "k", "v").timeout(Duration::from_secs(2)).await;
        assert_eq!(trace(&cluster), expected, "{name}");
        assert_eq!(put.as_ref().map(|_| ()).map_err(Error::outcome), result, "{name}");
        let ids: BTreeSet<PutId> = cluster.puts().iter().map(|(_, put)| put.put_id).collect();
        assert_eq!(ids.len(), 1, "{name}: one put, one id");
        match put {
            Ok(stored) => assert!(ids.contains(&stored.put_id)),
            Err(Error::Unknown { put_id, .. }) => assert!(ids.contains(&put_id.unwrap())),
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn every_put_has_an_id_of_its_own_and_keeps_a_given_one() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let first = client.put("b", "k", "v").await.unwrap();
    let second = client.put("b", "k", "v").await.unwrap();
    assert_ne!(first.put_id, second.put_id);
    client.put("b", "k", "v").put_id(PutId(5)).await.unwrap();
    client.put("b", "k", "v").retry_of(PutId(5)).await.unwrap();
    let given: Vec<_> = cluster.puts()[2..].iter().map(|(_, put)| (put.put_id, put.retry)).collect();
    assert_eq!(given, [(PutId(5), false), (PutId(5), true)]);

    // What the retry certainly did not do, the put it repeats may have.
    failing(&cluster, 9, || Reaction::Answer(no(FailureCode::TooLarge)));
    let error = client.put("b", "k", "v").retry_of(PutId(5)).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Unknown { put_id: Some(PutId(5)), code: Some(FailureCode::TooLarge), .. }
    ));
}

#[tokio::test]
async fn a_deadline_is_kept_and_what_is_left_of_it_is_told() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    for n in 1..=3 {
        cluster.script(node(n), |frame| (frame.kind != kinds::VIEW).then_some(Reaction::Silence));
    }
    let started = Instant::now();
    let timeout = Duration::from_millis(400);
    let error = client.put("b", "k", "v").timeout(timeout).await.unwrap_err();
    let took = started.elapsed();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert!(took >= timeout / 2 && took < 5 * timeout, "{took:?}");
    let puts = cluster.puts();
    assert!(puts.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len() > 1, "one node had all the time");
    assert!(puts.iter().all(|(_, put)| (1..=200).contains(&put.timeout_ms)), "{puts:?}");

    let error = client.get("b", "k").timeout(timeout).await.unwrap_err();
    assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(FailureCode::Timeout)), "{error}");
    assert!(started.elapsed() < 10 * timeout);

    let error = client.get("b", "k").timeout(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Some(FailureCode::Timeout));
}

#[tokio::test]
async fn reads_go_on_to_other_nodes_and_then_avoid_the_bad_one() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    // Until all are known and one has shown to be the fastest.
    for _ in 0..50 {
        client.get("b", "k").await.unwrap();
    }
    let first = *cluster.asked(kinds::GET).last().unwrap();
    cluster.with(|shared| shared.log.clear());
    cluster.script(first, |frame| {
        (frame.kind == kinds::GET).then(|| Reaction::Answer(perhaps(FailureCode::Storage)))
    });
    for _ in 0..20 {
        client.get("b", "k").await.unwrap();
    }
    let asked = cluster.asked(kinds::GET);
    let bad = asked.iter().filter(|&&id| id == first).count();
    assert!(bad <= 2, "the failing node was asked {bad} times");
}

#[tokio::test]
async fn when_no_home_can_be_reached_another_node_forwards() {
    let mut cluster = FakeCluster::founded(5).await;
    let client = cluster.client().await;
    let homes = cluster.homes("b", b"k");
    for &home in &homes {
        cluster.stop(home).await;
    }
    within(Duration::from_secs(10), client.get("b", "k").timeout(Duration::from_secs(8)).into_future())
        .await
        .unwrap();
    assert!(!homes.contains(cluster.asked(kinds::GET).last().unwrap()));
}

#[tokio::test]
async fn a_node_that_is_no_home_any_more_sends_us_to_the_new_one() {
    let mut cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    client.get("b", "k").await.unwrap();
    // Three new nodes take over from the three old ones; the client does not know yet.
    for (old, new) in [(1, 4), (2, 5), (3, 6)] {
        cluster.start(node(new));
        let change = Change::Replace { old: node(old), new: Member::new(node(new)) };
        cluster.with(|shared| add(&mut shared.history, new as u64, change));
        cluster.script(node(old), |frame| {
            (frame.kind == kinds::GET).then(|| Reaction::Answer(no(FailureCode::NotHome)))
        });
    }
    cluster.with(|shared| shared.log.clear());
    client.get("b", "k").await.unwrap();
    let asked = cluster.asked(kinds::GET);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(cluster.homes("b", b"k").contains(&asked[1]));
    assert_eq!(client.view().digest(), cluster.with(|shared| shared.digest()));
}

#[tokio::test]
async fn callers_share_connections() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let mut gets = tokio::task::JoinSet::new();
    for n in 0..100 {
        gets.spawn(client.get("b", format!("key-{n}")).into_future());
    }
    while let Some(got) = gets.join_next().await {
        got.unwrap().unwrap();
    }
    // Connecting to all seeds at once may have made a second one, which closes by itself.
    until(|| cluster.endpoints.values().all(|endpoint| endpoint.open_connections() <= 1)).await;
}

#[tokio::test]
async fn a_node_that_comes_back_elsewhere_is_found() {
    let mut cluster = FakeCluster::founded(1).await;
    // A seed that stays, so that the view can be refreshed; it is no member.
    cluster.start(node(2));
    let client = cluster.client().await;
    client.get("b", "k").await.unwrap();
    cluster.stop(node(1)).await;
    cluster.start(node(1));
    client.refresh().await.unwrap();
    client.get("b", "k").await.unwrap();
    assert_eq!(cluster.asked(kinds::GET), [node(1), node(1)]);
}

#[tokio::test]
async fn a_node_that_moves_is_found_without_asking() {
    let mut cluster = FakeCluster::founded(3).await;
    let options = Options { refresh_interval: Duration::from_secs(3600), ..options() };
    let client = Client::with_options(&cluster.file(), options).await.unwrap();
    // Until there are connections to all homes.
    let connected =
        |cluster: &FakeCluster| cluster.endpoints.values().all(|node| node.open_connections() > 0);
    client.get("b", "k").await.unwrap();
    until(|| connected(&cluster)).await;
    cluster.stop(node(2)).await;
    cluster.start(node(2));
    // The other two answer; that the third is missed is enough.
    let moved = cluster.with(|shared| shared.nodes[&node(2)].address.clone());
    let found = async {
        while client.view().node(&node(2)).is_none_or(|info| info.address != moved) || !connected(&cluster) {
            client.get("b", "k").await.unwrap();
        }
    };
    within(Duration::from_secs(20), found).await;
}

#[tokio::test]
async fn a_node_that_is_gone_does_not_make_a_storm_of_refreshes() {
    let mut cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    client.get("b", "k").await.unwrap();
    let (before, started) = (cluster.with(|shared| shared.views), Instant::now());
    cluster.stop(node(2)).await;
    for _ in 0..500 {
        client.get("b", "k").await.unwrap();
    }
    let asked = cluster.with(|shared| shared.views) - before;
    assert!(asked <= 1 + started.elapsed().as_secs() as usize, "{asked} refreshes for one lost node");
}

#[tokio::test]
async fn requests_may_be_made_from_another_runtime() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let (done, finished) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn({
        let client = client.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = done.send(runtime.block_on(client.get("b", "k").into_future()));
        }
    });
    within(Duration::from_secs(10), finished).await.unwrap().unwrap();
    thread.join().unwrap();
    // The connections belong to the client's own runtime and outlive the other.
    client.get("b", "k").await.unwrap();
    assert!(cluster.endpoints.values().all(|endpoint| endpoint.open_connections() >= 1));
}
