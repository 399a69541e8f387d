//! Connecting, the view of the cluster, damaged values, lists, and what operators ask.

mod support;

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dynkv_client::net::certs::{CertificateAuthority, Validity};
use dynkv_client::net::{self, IdentityError};
use dynkv_client::proto::{
    BucketChange, Conflict, Digest, DrainHints, DrainHintsReply, FailureCode, Frame, Get, Hints, HintsReply,
    ListReply, MetricsReply, Outcome, Propose, ProposeReply, PutId, StatusReply, kinds,
};
use dynkv_client::ring::{Change, Entry, Member};
use dynkv_client::{Client, ClusterFile, ClusterFileError, ConnectError, Context, Error, Options};
use support::*;

#[tokio::test]
async fn one_living_seed_is_enough() {
    let cluster = FakeCluster::founded(3).await;
    let mut file = cluster.file();
    // A port that was free a moment ago, a name that does not exist, and no address at all.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let living = file.seeds.pop().unwrap();
    file.seeds = vec![dead.clone(), "nowhere.invalid:1".into(), "nonsense".into(), living];
    let client = Client::with_options(&file, options()).await.unwrap();
    assert_eq!(client.view().nodes().len(), 3);
    assert_eq!(client.view().digest(), cluster.with(|shared| shared.digest()));

    file.seeds.pop();
    let options = Options { timeout: Duration::from_millis(500), ..options() };
    match Client::with_options(&file, options).await.unwrap_err() {
        error @ ConnectError::Unreachable { .. } => {
            let text = error.to_string();
            for part in ["'test'", &dead, "nowhere.invalid:1", "nonsense"] {
                assert!(text.contains(part), "{part} is missing: {text}");
            }
            assert!(!text.contains('\n'), "{text}");
        }
        other => panic!("{other}"),
    }
    file.seeds.clear();
    assert!(matches!(Client::connect(&file).await.unwrap_err(), ConnectError::NoSeeds { .. }));
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_refused_with_the_reason() {
    let cluster = FakeCluster::founded(1).await;
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let expired = cluster.file_with(&cluster.ca, Validity::between(now - 2 * hour, now - hour));
    let error = Client::connect(&expired).await.unwrap_err();
    assert!(matches!(
        &error,
        ConnectError::ClusterFile(ClusterFileError::Certificate(IdentityError::Certificate(
            net::CertificateError::Expired { .. }
        )))
    ));

    // Of another CA under the same name, and of another cluster: the file is consistent, the nodes are not its.
    for name in [CLUSTER, "other"] {
        let foreign = CertificateAuthority::create(name).unwrap();
        let file = cluster.file_with(&foreign, Validity::default());
        let error = Client::with_options(&file, options()).await.unwrap_err();
        match &error {
            ConnectError::Unreachable { seeds, .. } => {
                assert!(seeds[0].reason.contains("certificate"), "{error}");
            }
            other => panic!("{other}"),
        }
    }

    let mut mixed = cluster.file();
    mixed.cluster = "other".into();
    assert!(matches!(
        Client::connect(&mixed).await.unwrap_err(),
        ConnectError::ClusterFile(ClusterFileError::OtherCluster { .. })
    ));
    let broken = ClusterFile { ca: "nothing".into(), ..cluster.file() };
    assert!(matches!(
        Client::connect(&broken).await.unwrap_err(),
        ConnectError::ClusterFile(ClusterFileError::Certificate(IdentityError::Read { .. }))
    ));
}

fn take_proposals(cluster: &FakeCluster, n: usize) {
    let shared = cluster.shared.clone();
    cluster.script(node(n), move |frame| {
        let propose: Propose = frame.message().ok()?;
        let proposed = Entry::from_bytes(&propose.entry).unwrap();
        let entry = Entry::new(99, node(n), proposed.change().clone()).unwrap();
        // The script runs with the lock of `shared` held: the history follows in another task.
        let shared = shared.clone();
        let mut history = dynkv_client::ring::History::new();
        history.insert(entry.clone()).unwrap();
        let view = digest(&history);
        tokio::spawn(async move { shared.lock().unwrap().history.merge(&history).unwrap() });
        Some(Reaction::Answer(Frame::new(
            &ProposeReply { entry: entry.to_bytes().into(), view, more: Vec::new() },
            Bytes::new(),
        )))
    });
}

#[tokio::test]
async fn a_cluster_is_founded_through_a_client() {
    let cluster = FakeCluster::unfounded(3).await;
    let client = cluster.client().await;
    assert!(!client.view().membership().founded());
    for error in [
        client.get("b", "k").await.map(drop).unwrap_err(),
        client.put("b", "k", "v").await.map(drop).unwrap_err(),
        client.list("b").next().await.unwrap().map(drop).unwrap_err(),
    ] {
        assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(FailureCode::NotServing)));
        assert!(error.to_string().contains("dyn cluster create"), "{error}");
    }

    // What a retry cannot even try says nothing about the put that it repeats.
    let error = client.put("b", "k", "v").retry_of(PutId(5)).await.unwrap_err();
    assert_eq!((error.outcome(), error.code()), (Outcome::Unknown, Some(FailureCode::NotServing)));

    take_proposals(&cluster, 2);
    let nodes = cluster.with(|shared| shared.nodes.values().cloned().collect());
    let address = cluster.endpoints[&node(2)].local_addr().to_string();
    let founded = client.propose(Change::Found(cluster.founding()), nodes).at(address).await.unwrap();
    assert_eq!((founded.issuer(), founded.time()), (node(2), 99));
    assert!(client.view().membership().founded());
    client.put("b", "k", "v").await.unwrap();
}

#[tokio::test]
async fn a_founding_by_somebody_else_is_seen_at_the_next_request() {
    let cluster = FakeCluster::unfounded(3).await;
    let options = Options { refresh_interval: Duration::from_secs(3600), ..options() };
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::with_options(&cluster.file(), options.clone()).await.unwrap());
    }
    let founding = cluster.founding();
    cluster.with(|shared| add(&mut shared.history, 1, Change::Found(founding)));
    let before = cluster.with(|shared| shared.views);
    // Requests at one time ask once.
    let (client, mut gets) = (&clients[0], tokio::task::JoinSet::new());
    for n in 0..20 {
        gets.spawn(client.get("b", format!("key-{n}")).into_future());
    }
    while let Some(got) = gets.join_next().await {
        got.unwrap().unwrap();
    }
    assert_eq!(cluster.with(|shared| shared.views) - before, 1);
    clients[1].put("b", "k", "v").await.unwrap();
    // The fake nodes do not know how to list; but they are asked.
    let mut list = clients[2].list("b").timeout(Duration::from_millis(500)).concurrency(1);
    let error = list.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(FailureCode::UnknownKind), "{error}");
}

#[tokio::test]
async fn a_refused_change_is_answered_at_once() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let change = BucketChange::new("b").to_change();
    for code in [FailureCode::NotServing, FailureCode::Overloaded, FailureCode::Storage] {
        cluster.with(|shared| shared.log.clear());
        for n in 1..=3 {
            cluster.script(node(n), move |frame| {
                (frame.kind == kinds::PROPOSE).then(|| Reaction::Answer(no(code)))
            });
        }
        let proposed = client.propose(change.clone(), vec![]).timeout(Duration::from_secs(3600));
        let error = within(Duration::from_secs(20), proposed.into_future()).await.unwrap_err();
        assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(code)));
        let mut asked = cluster.asked(kinds::PROPOSE);
        asked.sort();
        assert_eq!(asked, [node(1), node(2), node(3)], "each once");
    }
}

#[tokio::test]
async fn changes_are_proposed_once() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    take_proposals(&cluster, 3);
    let mut change = BucketChange::new("sessions");
    change.set("conflict", "lww").unwrap();
    // The other two say that they do not know the message: that is certainly not done, so the third is asked.
    client.propose(change.to_change(), vec![]).await.unwrap();
    assert_eq!(client.view().buckets().get("sessions").conflict, Conflict::Lww);

    cluster.with(|shared| shared.log.clear());
    for n in 1..=3 {
        cluster.script(node(n), |frame| {
            (frame.kind == kinds::PROPOSE).then(|| Reaction::Answer(perhaps(FailureCode::Timeout)))
        });
    }
    let error = client.propose(change.to_change(), vec![]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(cluster.asked(kinds::PROPOSE).len(), 1);

    let invalid = Change::Join(Member::new(node(9)).with_weight(0));
    assert_eq!(client.propose(invalid, vec![]).await.unwrap_err().code(), Some(FailureCode::Invalid));
}

#[tokio::test]
async fn an_answer_of_a_newer_view_refreshes_ours() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let before = cluster.with(|shared| shared.views);
    client.get("b", "k").await.unwrap();
    assert_eq!(cluster.with(|shared| shared.views), before, "nothing has changed, nothing was asked");
    cluster.with(|shared| add(&mut shared.history, 5, Change::Weight { node: node(1), weight: 2 }));
    client.get("b", "k").await.unwrap();
    let newest = cluster.with(|shared| shared.digest());
    until(|| client.view().digest() == newest).await;
    assert_eq!(client.view().membership().member(&node(1)).unwrap().member.weight, 2);
}

#[tokio::test]
async fn one_stale_answer_asks_for_one_refresh() {
    let cluster = FakeCluster::founded(1).await;
    let client = cluster.client().await;
    let before = cluster.with(|shared| shared.views);
    cluster.script(node(1), |frame| {
        let get: Get = frame.message().ok()?;
        Some(Reaction::Answer(found(&get, Digest(1), &[])))
    });
    let started = std::time::Instant::now();
    for _ in 0..100 {
        client.get("b", "k").await.unwrap();
    }
    until(|| cluster.with(|shared| shared.views) > before).await;
    let asked = cluster.with(|shared| shared.views) - before;
    let most = 1 + started.elapsed().as_secs() as usize;
    assert!(asked <= most, "{asked} refreshes for one stale digest");
}

#[tokio::test]
async fn refreshes_at_one_time_are_one() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let before = cluster.with(|shared| shared.views);
    let mut refreshes = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        refreshes.spawn(async move { client.refresh().await.map(drop) });
    }
    while let Some(refreshed) = refreshes.join_next().await {
        refreshed.unwrap().unwrap();
    }
    assert_eq!(cluster.with(|shared| shared.views) - before, 1);
}

#[tokio::test]
async fn the_view_is_refreshed_without_a_cause_until_the_client_is_dropped() {
    let cluster = FakeCluster::founded(1).await;
    let options = Options { refresh_interval: Duration::from_millis(20), ..options() };
    let client = Client::with_options(&cluster.file(), options).await.unwrap();
    cluster.with(|shared| add(&mut shared.history, 5, Change::Weight { node: node(1), weight: 2 }));
    let newest = cluster.with(|shared| shared.digest());
    until(|| client.view().digest() == newest).await;
    drop(client);
    // With the last client its connections go, too.
    until(|| cluster.endpoints[&node(1)].open_connections() == 0).await;
}

#[tokio::test]
async fn closing_ends_all_connections() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    client.get("b", "k").await.unwrap();
    client.close().await;
    until(|| cluster.endpoints.values().all(|endpoint| endpoint.open_connections() == 0)).await;
    let error = client.put("b", "k", "v").timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotDone);
}

fn damage(cluster: &FakeCluster, n: usize) {
    let view = cluster.with(|shared| shared.digest());
    cluster.script(node(n), move |frame| {
        let get: Get = frame.message().ok()?;
        let mut answer = found(&get, view, &["one", "two"]);
        let mut body = answer.body.to_vec();
        body[4] ^= 1;
        answer.body = body.into();
        Some(Reaction::Answer(answer))
    });
}

#[tokio::test]
async fn a_damaged_value_is_never_returned() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    client.get("b", "k").await.unwrap();
    let view = cluster.with(|shared| shared.digest());
    let first = cluster.asked(kinds::GET)[0];
    for n in 1..=3 {
        if node(n) == first {
            damage(&cluster, n);
        } else {
            cluster.script(node(n), move |frame| {
                let get: Get = frame.message().ok()?;
                Some(Reaction::Answer(found(&get, view, &["one", "two"])))
            });
        }
    }
    let fetched = client.get("b", "k").await.unwrap();
    let values: Vec<_> = fetched.siblings.iter().map(|sibling| &sibling.value[..]).collect();
    assert_eq!(values, [b"one", b"two"]);
    assert!(fetched.value().is_none() && !fetched.is_absent());

    (1..=3).for_each(|n| damage(&cluster, n));
    let error = client.get("b", "k").timeout(Duration::from_millis(300)).await.unwrap_err();
    match &error {
        Error::Damaged { nodes, .. } => {
            assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 3);
            assert!((1..=3).all(|n| error.to_string().contains(&format!("n{n}"))), "{error}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn answers_that_lie_about_lengths_are_damaged() {
    let cluster = FakeCluster::founded(1).await;
    let client = cluster.client().await;
    let view = cluster.with(|shared| shared.digest());
    for cut in [true, false] {
        cluster.script(node(1), move |frame| {
            let get: Get = frame.message().ok()?;
            let mut answer = found(&get, view, &["value"]);
            answer.body = if cut { answer.body.slice(1..) } else { [&answer.body[..], b"x"].concat().into() };
            Some(Reaction::Answer(answer))
        });
        let error = client.get("b", "k").timeout(Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_before_they_are_sent() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let own = Context::from_bytes(token("b", b"k", None)).unwrap();
    for (code, error) in [
        (FailureCode::Invalid, client.get("b", "").await.map(drop)),
        (FailureCode::Invalid, client.put("b", "", "v").await.map(drop)),
        (FailureCode::Invalid, client.get("", "k").await.map(drop)),
        (FailureCode::Invalid, client.delete("a/b", "k").await.map(drop)),
        (FailureCode::Context, client.put("b", "other", "v").context(&own).await.map(drop)),
        (FailureCode::Context, client.delete("other", "k").context(&own).await.map(drop)),
        (FailureCode::Invalid, client.status(node(9)).await.map(drop)),
        (FailureCode::Invalid, client.list("").next().await.unwrap().map(drop)),
    ] {
        let error = error.unwrap_err();
        assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(code)), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    let big = vec![0u8; net_options().frame_bytes_max];
    let error = client.put("b", "k", big).await.unwrap_err();
    assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(FailureCode::TooLarge)));
    assert!(cluster.with(|shared| shared.log.is_empty()), "something was sent");
}

#[tokio::test]
async fn lists_go_through_all_pages_of_all_partitions() {
    let cluster = FakeCluster::founded(4).await;
    let client = cluster.client().await;
    let view = cluster.with(|shared| shared.digest());
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let incomplete = Arc::new(AtomicUsize::new(usize::MAX));
    for n in 1..=4 {
        let (now, most, incomplete) = (now.clone(), most.clone(), incomplete.clone());
        cluster.script(node(n), move |frame| {
            let list: dynkv_client::proto::List = frame.message().ok()?;
            assert_eq!((&list.prefix[..], list.limit), (&b"p"[..], 2));
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let now = now.clone();
            tokio::spawn(async move { now.fetch_sub(1, Ordering::SeqCst) });
            // Two pages of one key; partition 3 has none at all.
            let key = |page| Bytes::from(format!("p{:02}-{page}", list.partition));
            let (keys, next) = match (&list.after, list.partition) {
                (_, 3) => (vec![], None),
                (None, _) => (vec![key(0).into()], Some(key(0).into())),
                (Some(after), _) => {
                    assert_eq!(**after, key(0));
                    (vec![key(1).into()], None)
                }
            };
            let complete = list.partition as usize != incomplete.load(Ordering::SeqCst);
            Some(Reaction::Answer(Frame::new(&ListReply { keys, next, complete, view }, Bytes::new())))
        });
    }
    for concurrency in [1, 3] {
        most.store(0, Ordering::SeqCst);
        let mut list = client.list("b").prefix("p").page_keys(2).concurrency(concurrency);
        let mut keys = BTreeSet::new();
        while let Some(page) = list.next().await {
            assert!(!list.is_complete() || page.as_ref().unwrap().complete);
            for key in page.unwrap().keys {
                assert!(keys.insert(key), "a key came twice");
            }
        }
        assert!(list.is_complete());
        assert_eq!(keys.len(), 2 * 15);
        assert!(most.load(Ordering::SeqCst) <= concurrency);
        assert!(list.next().await.is_none());
    }

    incomplete.store(5, Ordering::SeqCst);
    let mut list = client.list("b").prefix("p").page_keys(2);
    let mut incomplete_pages = 0;
    while let Some(page) = list.next().await {
        incomplete_pages += usize::from(!page.unwrap().complete);
    }
    assert_eq!((incomplete_pages, list.is_complete()), (2, false));
}

#[tokio::test]
async fn a_partition_that_cannot_be_listed_is_said_and_the_rest_follows() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let view = cluster.with(|shared| shared.digest());
    for n in 1..=3 {
        cluster.script(node(n), move |frame| {
            let list: dynkv_client::proto::List = frame.message().ok()?;
            let reply = ListReply { keys: vec![], next: None, complete: true, view };
            let bad = list.partition == 7;
            Some(Reaction::Answer(if bad {
                no(FailureCode::Forbidden)
            } else {
                Frame::new(&reply, Bytes::new())
            }))
        });
    }
    let mut list = client.list("b");
    let (mut good, mut bad) = (0, 0);
    while let Some(page) = list.next().await {
        match page {
            Ok(_) => good += 1,
            Err(error) => {
                assert_eq!(error.code(), Some(FailureCode::Forbidden));
                bad += 1;
            }
        }
    }
    assert_eq!((good, bad, list.is_complete()), (15, 1, false));
}

#[tokio::test]
async fn status_and_metrics_come_from_the_node_asked() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    for n in 1..=3 {
        let info = cluster.with(|shared| shared.nodes[&node(n)].clone());
        cluster.script(node(n), move |frame| match frame.kind {
            kinds::METRICS => {
                Some(Reaction::Answer(Frame::new(&MetricsReply { text: format!("node {n}") }, Bytes::new())))
            }
            kinds::STATUS => {
                let reply = StatusReply {
                    node: info.clone(),
                    cluster: CLUSTER.into(),
                    serving: true,
                    reason: String::new(),
                    uptime_ms: 1,
                    view: Digest::default(),
                    records: 0,
                    disk_bytes: 0,
                    peers: vec![],
                    hints: 0,
                    oldest_hint_s: None,
                    settling_paused: String::new(),
                    store_failed: String::new(),
                    features: Default::default(),
                };
                Some(Reaction::Answer(Frame::new(&reply, Bytes::new())))
            }
            _ => None,
        });
    }
    for n in 1..=3 {
        assert_eq!(client.metrics(node(n)).await.unwrap(), format!("node {n}"));
        assert_eq!(client.status(node(n)).await.unwrap().node.id, node(n));
        let address = cluster.endpoints[&node(n)].local_addr().to_string();
        assert_eq!(client.status_at(address).await.unwrap().node.id, node(n));
    }
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = client.status_at(dead.clone()).timeout(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { .. }) && error.to_string().contains(&dead), "{error}");
}

#[tokio::test]
async fn hints_are_asked_for_page_by_page_and_drained_at_one_node() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    cluster.script(node(2), |frame| match frame.kind {
        kinds::HINTS => {
            let reply = HintsReply {
                node: node(2),
                totals: vec![],
                hints: vec![],
                more: false,
                limit_bytes: 1,
                refused_full: 0,
            };
            Some(Reaction::Answer(Frame::new(&reply, Bytes::new())))
        }
        kinds::DRAIN_HINTS => Some(Reaction::Answer(Frame::new(&DrainHintsReply { hints: 5 }, Bytes::new()))),
        _ => None,
    });
    client.hints(node(2)).await.unwrap();
    assert_eq!(client.hints(node(2)).target(node(3)).after(7).limit(9).await.unwrap().node, node(2));
    let asked: Vec<Hints> =
        cluster.requests(kinds::HINTS).iter().map(|(_, frame)| frame.message().unwrap()).collect();
    assert_eq!(
        asked,
        [
            Hints { target: None, after: None, limit: 100 },
            Hints { target: Some(node(3)), after: Some(7), limit: 9 },
        ]
    );
    assert_eq!(client.drain_hints(node(2)).await.unwrap().hints, 5);
    client.drain_hints(node(2)).target(node(3)).await.unwrap();
    let asked: Vec<DrainHints> =
        cluster.requests(kinds::DRAIN_HINTS).iter().map(|(_, frame)| frame.message().unwrap()).collect();
    assert_eq!(asked, [DrainHints { target: None }, DrainHints { target: Some(node(3)) }]);
    // Nobody else can answer for a node.
    let error = client.hints(node(1)).timeout(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.code(), Some(FailureCode::UnknownKind));
    assert!(!cluster.asked(kinds::HINTS).contains(&node(3)));
}
