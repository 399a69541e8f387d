//! What operators see of replicas, and have nodes do for them.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use dynkv_client::Client;
use dynkv_net::Role;
use dynkv_node::storage::{FjallOptions, FjallStorage, Space, Storage, write_durably};
use dynkv_proto::{
    Actor, Conflict, DiffKey, FailureCode, PutId, Relation, RepairRun, RunState, State, VerifyRun, Version,
    value_hash,
};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::{Cluster, id},
    peer::put,
    wait::eventually,
};
use dynkv_vclock::{CausalContext, HybridTime};

use crate::support::{assert_refused, background_begun, counter, hand};

/// Attempts at what the comparisons that nodes make by themselves may come before.
const ATTEMPTS: u64 = 20;

/// For what the client library tries again and again until its time is up.
const SHORT: Duration = Duration::from_millis(500);

/// `before` and a version of `actor` that replaces it.
fn after(before: &State, actor: u64) -> State {
    let version = Version {
        time: HybridTime::from_u64(actor),
        put_id: PutId(actor.into()),
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        hash: value_hash(b"v"),
        value: Bytes::from_static(b"v"),
    };
    let mut state = before.clone();
    let context: CausalContext<Actor> = before.context().clone();
    state.put(Actor(7, actor), &context, version, Conflict::Siblings).expect("a new actor");
    state
}

fn relations(keys: &[DiffKey]) -> Vec<(&[u8], Relation)> {
    keys.iter().map(|key| (&key.key[..], key.relation)).collect()
}

async fn repaired(client: &Client, node: NodeId) -> RepairRun {
    eventually("the repair ends", async || {
        let run = client.repair_status(node).await.unwrap_or_else(|error| panic!("{error}")).run?;
        (run.state != RunState::Running).then_some(run)
    })
    .await
}

async fn verified(client: &Client, node: NodeId) -> VerifyRun {
    eventually("the verification ends", async || {
        let run = client.verify_status(node).await.unwrap_or_else(|error| panic!("{error}")).run?;
        (run.state != RunState::Running).then_some(run)
    })
    .await
}

/// Waits until all trees of all nodes are built.
async fn built(cluster: &Cluster, client: &Client) {
    for node in cluster.running() {
        eventually("all trees are built", async || {
            let reply = client.trees(node.id()).await.unwrap_or_else(|error| panic!("{error}"));
            (reply.building == 0 && reply.partitions > 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn trees_are_shown_page_by_page() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Reader).await;
    built(&cluster, &client).await;
    let node = id("n1");
    let all = client.trees(node).await.unwrap();
    assert_eq!((all.trees.len(), all.partitions, all.more), (16, 16, false));
    let roots = cluster.node(node).tree_roots();
    let shown: Vec<_> = all.trees.iter().map(|tree| (tree.partition, tree.root.map(|root| root.0))).collect();
    assert_eq!(shown, roots.iter().map(|(partition, root)| (partition.0, *root)).collect::<Vec<_>>());
    let page = client.trees(node).after(3).limit(5).await.unwrap();
    assert_eq!(page.trees.iter().map(|tree| tree.partition).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    assert!(page.more);
    assert_eq!(client.trees(node).partition(9).await.unwrap().trees[0].partition, 9);
    assert_refused(client.trees(node).partition(16).await, FailureCode::Invalid);
}

#[tokio::test]
async fn what_was_changed_behind_a_nodes_back_shows_as_what_it_is_until_it_is_mended() {
    let cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    let reader = cluster.client(Role::Reader).await;
    built(&cluster, &reader).await;
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(id);
    let mut seen = None;
    for attempt in 0..ATTEMPTS {
        let keys = ["concurrent", "missing", "older"].map(|name| format!("{name} {attempt}"));
        let base = after(&State::default(), 1);
        for node in [n1, n2, n3] {
            hand(&cluster, node, &keys[0], &base).await;
            hand(&cluster, node, &keys[2], &base).await;
        }
        hand(&cluster, n1, &keys[0], &after(&base, 2)).await;
        hand(&cluster, n2, &keys[0], &after(&base, 3)).await;
        hand(&cluster, n1, &keys[1], &base).await;
        hand(&cluster, n1, &keys[2], &after(&base, 2)).await;
        let here = reader.diff(n1, n2).keys(100).await.unwrap();
        let there = reader.diff(n2, n1).keys(100).await.unwrap();
        let first = reader.diff(n1, n2).keys(1).await.unwrap();
        let partition = reader.diff(n1, n2).partition(here.keys.first().map_or(0, |key| key.partition)).await;
        if here.keys.len() == 3 && there.keys.len() == 3 && first.more {
            seen = Some((keys, here, there, first, partition.unwrap()));
            break;
        }
    }
    let (keys, mut here, mut there, first, one) = seen.expect("seen before it was mended");
    for reply in [&mut here, &mut there] {
        assert_eq!((reply.shared, reply.skipped.len(), reply.more), (16, 0, false));
        let partitions: Vec<u32> = reply.keys.iter().map(|key| key.partition).collect();
        assert!(partitions.is_sorted() && partitions.iter().all(|at| reply.differing.contains(at)));
        reply.keys.sort_by(|a, b| a.key.cmp(&b.key));
    }
    let [concurrent, missing, older] = keys.each_ref().map(String::as_bytes);
    let expected = |missed, behind| [(concurrent, Relation::Concurrent), (missing, missed), (older, behind)];
    assert_eq!(relations(&here.keys), expected(Relation::MissingThere, Relation::OlderThere));
    assert_eq!(relations(&there.keys), expected(Relation::MissingHere, Relation::OlderHere));
    assert!(here.keys[1].here.is_some() && here.keys[1].there.is_none());
    let sides = (here.keys[2].here.as_ref().unwrap(), here.keys[2].there.as_ref().unwrap());
    assert!(sides.0.digest != sides.1.digest && sides.0.bytes > sides.1.bytes && sides.0.versions == 1);
    assert_eq!(first.keys.len(), 1);
    assert!(one.shared == 1 && one.keys.is_empty());

    // Of one partition at first: its homes are all nodes here.
    let run = admin.repair(n1).partition(here.keys[0].partition).await.unwrap();
    assert!(run.started && run.run.partition == Some(here.keys[0].partition));
    repaired(&admin, n1).await;
    admin.repair(n1).await.unwrap();
    let run = repaired(&admin, n1).await;
    assert_eq!((run.number, run.state, run.compared, run.comparisons), (2, RunState::Done, 32, 32));
    assert_eq!((run.errors, run.last_errors.len()), (0, 0));
    let after = reader.diff(n1, n2).keys(100).await.unwrap();
    assert!(after.differing.is_empty() && after.keys.is_empty(), "{after:?}");
    assert_eq!(reader.repair_status(n2).await.unwrap().run, None);
}

#[tokio::test]
async fn a_repair_tells_what_it_moved_and_can_be_stopped() {
    let cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    built(&cluster, &admin).await;
    let (n1, n2) = (id("n1"), id("n2"));
    let mut told = None;
    for attempt in 0..ATTEMPTS {
        hand(&cluster, n1, &format!("here {attempt}"), &after(&State::default(), 1)).await;
        hand(&cluster, n2, &format!("there {attempt}"), &after(&State::default(), 1)).await;
        admin.repair(n1).await.unwrap();
        let run = repaired(&admin, n1).await;
        assert_eq!((run.state, run.errors), (RunState::Done, 0), "{run:?}");
        if run.pulled > 0 && run.pushed > 0 {
            told = Some(run);
            break;
        }
    }
    let run = told.expect("a repair that came first");
    assert!(run.differences >= 2 && run.bytes > 0 && run.took_ms <= run.age_ms, "{run:?}");

    assert!(!admin.stop_repair(n1).await.unwrap().stopped, "there is none");
    let mut stopped = None;
    for attempt in 0..ATTEMPTS {
        // What differs is looked at again after half a second.
        hand(&cluster, n1, &format!("again {attempt}"), &after(&State::default(), 1)).await;
        let begun = admin.repair(n1).await.unwrap();
        let again = admin.repair(n1).partition(0).await.unwrap();
        let reply = admin.stop_repair(n1).await.unwrap();
        if !again.started && reply.stopped {
            assert_eq!(again.run.number, begun.run.number);
            stopped = reply.run;
            break;
        }
    }
    let run = stopped.expect("stopped while it was under way");
    assert_eq!(run.state, RunState::Stopped);
    assert_eq!(admin.repair_status(n1).await.unwrap().run.unwrap().took_ms, run.took_ms);
    // Another can be made then.
    admin.repair(n1).await.unwrap();
    assert_eq!(repaired(&admin, n1).await.state, RunState::Done);
}

#[tokio::test]
async fn who_is_down_is_an_error_of_a_repair_and_of_a_comparison() {
    let mut cluster = Cluster::start(3).await;
    cluster.stop(id("n3")).await;
    cluster.missed().await;
    let admin = cluster.client(Role::Admin).await;
    built(&cluster, &admin).await;
    admin.repair(id("n1")).await.unwrap();
    let run = repaired(&admin, id("n1")).await;
    assert_eq!((run.state, run.compared, run.comparisons, run.errors), (RunState::Done, 16, 32, 1));
    assert!(run.last_errors[0].starts_with("16 partitions were not compared with n3: "), "{run:?}");
    let error = assert_refused(admin.diff(id("n1"), id("n3")).await, FailureCode::NoAnswer);
    assert!(error.to_string().contains("n1 was not compared with n3: "), "{error}");
    assert_refused(admin.diff(id("n1"), id("n1")).await, FailureCode::Invalid);
    assert_refused(admin.diff(id("n1"), id("n9")).await, FailureCode::Invalid);
    assert_refused(admin.diff(id("n1"), id("n2")).partition(16).await, FailureCode::Invalid);
    assert_refused(admin.repair(id("n1")).partition(16).await, FailureCode::Invalid);
}

#[tokio::test]
async fn orders_need_an_administrator() {
    let cluster = Cluster::start(3).await;
    let node = id("n2");
    for role in [Role::Reader, Role::Writer] {
        let client = cluster.client(role).await;
        for error in [
            assert_refused(client.repair(node).await, FailureCode::Forbidden),
            assert_refused(client.stop_repair(node).await, FailureCode::Forbidden),
            assert_refused(client.verify(node).await, FailureCode::Forbidden),
            assert_refused(client.stop_verify(node).await, FailureCode::Forbidden),
        ] {
            assert!(error.to_string().contains("the role admin"), "{error}");
        }
        assert!(client.repair_status(node).await.unwrap().run.is_none());
        assert!(client.verify_status(node).await.unwrap().run.is_none());
        client.held(node, "b", "k").await.unwrap();
    }
}

/// Changes what a store that nobody uses holds in `space` under the keys that `wanted` chooses.
async fn change(
    cluster: &Cluster,
    node: NodeId,
    space: Space,
    wanted: impl Fn(&[u8]) -> bool,
    change: impl Fn(&mut [u8]) -> bool,
) {
    let store = FjallStorage::open(&cluster.data_dir(node).join("store"), &FjallOptions::default()).unwrap();
    let mut changed = Vec::new();
    store
        .scan(space, b"", b"", &mut |at, value| {
            if wanted(&at) {
                let mut bytes = value.to_vec();
                let stays = change(&mut bytes);
                changed.push((space, at, stays.then(|| bytes.into())));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(changed.len(), 1, "{node}");
    write_durably(&store, changed).await.unwrap();
    store.close();
}

fn flip_last(bytes: &mut [u8]) -> bool {
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    true
}

#[tokio::test]
async fn a_verification_finds_what_is_damaged_and_it_heals_once_the_others_are_there() {
    let mut cluster = Cluster::start(3).await;
    let (n1, n2, n3) = (id("n1"), id("n2"), id("n3"));
    let client = cluster.client(Role::Writer).await;
    for key in ["gone", "header", "sound", "unnamed", "value"] {
        client.put("b", key, "kept").w(3).await.unwrap();
    }
    drop(client);
    cluster.stop(n3).await;
    cluster.missed().await;
    let peer = cluster.connect(n2, Role::Writer).await;
    peer.ask(&put("b", "hinted", 1, b"v"), Bytes::from_static(b"v")).await.unwrap();
    eventually("it is kept", async || (cluster.hints(n2).await.totals.len() == 1).then_some(())).await;
    drop(peer);
    cluster.stop(n1).await;
    cluster.stop(n2).await;
    let named = |name: &'static str| move |at: &[u8]| at.ends_with(format!("\u{1}b{name}").as_bytes());
    change(&cluster, n2, Space::Records, named("value"), flip_last).await;
    // In the middle of the header (`docs/storage.md`).
    let flip_header = |bytes: &mut [u8]| {
        bytes[25 + 4 + 9] ^= 1;
        true
    };
    change(&cluster, n2, Space::Records, named("header"), flip_header).await;
    change(&cluster, n2, Space::Records, named("gone"), |_| false).await;
    change(&cluster, n2, Space::Digests, named("unnamed"), |_| false).await;
    change(&cluster, n2, Space::Hints, |at| at.starts_with(b"h"), flip_last).await;

    cluster.restart(n2).await;
    let admin = cluster.client(Role::Admin).await;
    let begun = admin.verify(n2).rate(1 << 20).await.unwrap();
    assert!(begun.started && begun.run.rate_bytes == 1 << 20);
    let joined = admin.verify(n2).rate(64 << 20).await.unwrap();
    assert_eq!((joined.started, joined.run.number), (false, begun.run.number));
    let run = verified(&admin, n2).await;
    assert_eq!((run.state, run.rate_bytes, run.errors), (RunState::Done, 64 << 20, 0), "{run:?}");
    assert_eq!((run.damaged, run.healed), (3, 0), "{run:?}");
    // Delivery has looked at the hint before, or has not.
    assert!(counter(&cluster, n2, "hints_damaged") + run.hints_damaged >= 1, "{run:?}");
    let mut unhealed: Vec<_> = run.unhealed.iter().map(|name| (&name.bucket[..], &name.key[..])).collect();
    unhealed.sort_unstable();
    assert_eq!(unhealed, [("b", &b"gone"[..]), ("b", b"header"), ("b", b"value")]);
    assert!(run.records >= 5 && run.bytes > 0 && run.steps == run.steps_all, "{run:?}");
    assert!(counter(&cluster, n2, "tree_drifts") >= 1, "the index is set right");
    let held = admin.held(n2, "b", "value").await.unwrap();
    assert_eq!((held.states.len(), held.damaged.len()), (0, 1));

    cluster.restart(n1).await;
    cluster.restart(n3).await;
    cluster.settled().await;
    let whole = eventually("all is healed", async || {
        admin.refresh().await.ok()?;
        admin.verify(n2).await.ok()?;
        let run = verified(&admin, n2).await;
        (run.damaged == run.healed && run.hints_damaged == 0).then_some(run)
    })
    .await;
    assert_eq!((whole.state, whole.errors, whole.unhealed.len()), (RunState::Done, 0, 0), "{whole:?}");
    cluster.drained().await;
    assert_eq!(admin.held(n2, "b", "value").await.unwrap().states[0].versions[0].len, 4);
}

#[tokio::test]
async fn a_slow_verification_is_stopped_at_once() {
    let cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    admin.put("b", "k", vec![7; 100_000]).w(3).await.unwrap();
    let node = id("n1");
    // Two minutes at this rate.
    admin.verify(node).rate(1024).await.unwrap();
    eventually("it is read", async || {
        let run = admin.verify_status(node).await.ok()?.run?;
        (run.records == 1).then_some(())
    })
    .await;
    let reply = admin.stop_verify(node).await.unwrap();
    assert!(reply.stopped && reply.run.is_some_and(|run| run.state == RunState::Stopped));
    assert!(!admin.stop_verify(node).await.unwrap().stopped);
    // The next one does not wait for what that one has read.
    assert!(admin.verify(node).await.unwrap().started);
    let run = verified(&admin, node).await;
    assert_eq!((run.state, run.records, run.damaged), (RunState::Done, 1, 0), "{run:?}");
}

#[tokio::test]
async fn what_each_node_holds_of_a_key_is_shown_hints_too_and_nothing_is_repaired() {
    let mut cluster = Cluster::start(4).await;
    let (homes, others) = cluster.homes("b", b"k");
    let (down, fallback) = (homes[2], others[0]);
    let client = cluster.client(Role::Writer).await;
    client.put("b", "k", "first").w(3).await.unwrap();
    cluster.stop(down).await;
    cluster.missed().await;
    let read = client.get("b", "k").await.unwrap();
    client.delete("b", "k").context(&read.context).await.unwrap();
    let hint = eventually("another node stands in", async || {
        let reply = client.held(fallback, "b", "k").await.unwrap();
        assert!(!reply.home);
        reply.states.into_iter().next()
    })
    .await;
    assert_eq!(hint.hint_for, Some(down));
    assert!(hint.versions.len() == 1 && hint.versions[0].tombstone);
    for home in &homes[..2] {
        let reply = client.held(*home, "b", "k").await.unwrap();
        assert!(reply.home && reply.damaged.is_empty());
        let [record] = &reply.states[..] else { panic!("{reply:?}") };
        assert_eq!((record.hint_for, record.digest), (None, hint.digest));
        assert!(record.covers(&hint) && hint.covers(record));
        assert!(client.held(*home, "b", "other").await.unwrap().states.is_empty());
    }
    let error = client.held(down, "b", "k").timeout(SHORT).await.unwrap_err();
    assert!(
        matches!(error, dynkv_client::Error::Connect { .. } | dynkv_client::Error::NotDone { .. }),
        "{error}"
    );

    // One home alone is changed: that is seen, and stays so.
    background_begun(&cluster).await;
    let newer = after(&State::default(), 5);
    for attempt in 0..ATTEMPTS {
        hand(&cluster, homes[0], &format!("new {attempt}"), &newer).await;
        let key = format!("new {attempt}");
        let (has, lacks) = (client.held(homes[0], "b", key.clone()), client.held(homes[1], "b", key));
        if has.await.unwrap().states.len() == 1 && lacks.await.unwrap().states.is_empty() {
            break;
        }
        assert!(attempt + 1 < ATTEMPTS, "never seen before it was mended");
    }
    for node in cluster.running() {
        assert_eq!(counter(&cluster, node.id(), "read_repairs"), 0);
    }
}

#[tokio::test]
async fn what_moves_is_told_to_whoever_may_read_and_limited_by_administrators() {
    let cluster = Cluster::start(3).await;
    let (admin, reader) = (cluster.client(Role::Admin).await, cluster.client(Role::Reader).await);
    let node = id("n1");
    let told = reader.transfers(node).await.unwrap();
    assert_eq!((told.node, told.to_receive, told.to_give_up, told.limit_bytes), (node, 0, 0, None));
    assert!(told.transfers.is_empty(), "{told:?}");
    assert_refused(reader.limit_transfers(node, Some(4096)).await, FailureCode::Forbidden);
    assert_refused(admin.limit_transfers(node, Some(1023)).await, FailureCode::Invalid);
    assert_eq!(admin.limit_transfers(node, Some(1024)).await.unwrap().before_bytes, None);
    assert_eq!(reader.transfers(node).await.unwrap().limit_bytes, Some(1024));
    assert_eq!(admin.limit_transfers(node, None).await.unwrap().before_bytes, Some(1024));
    assert_eq!(reader.transfers(node).await.unwrap().limit_bytes, None);
}
