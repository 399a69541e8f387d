//! Changes of members: planned, conditional, and refused where nodes alone can know.

use dynkv_client::Client;
use dynkv_net::Role;
use dynkv_proto::{Digest, FailureCode, Feature};
use dynkv_ring::{Change, Member, Plan};
use dynkv_tests::{
    cluster::{Cluster, bucket_change, id},
    wait::eventually,
};

use crate::support::{assert_refused, values};

fn place(node: &str, host: &str) -> Change {
    Change::Place { node: id(node), zone: String::new(), host: host.into() }
}

fn plan(client: &Client, changes: impl IntoIterator<Item = Change>) -> Plan {
    Plan::new(client.view().history(), changes).unwrap()
}

/// Waits until all nodes have the founding with its features, each node's disk and so many changes, and returns the digest of that history.
async fn agreed(cluster: &Cluster, changes: usize) -> Digest {
    let client = cluster.client(Role::Reader).await;
    eventually("all nodes have the same history", async || {
        let view = client.refresh().await.unwrap();
        for node in cluster.running() {
            if cluster.status(node.id()).await.view != view.digest() {
                return None;
            }
        }
        (view.history().len() == 1 + Feature::ALL.len() + cluster.running().count() + changes)
            .then(|| view.digest())
    })
    .await
}

/// A cluster whose nodes have heard of each other's disks, so that nothing moves its history by itself.
async fn started(nodes: usize) -> Cluster {
    let cluster = Cluster::start(nodes).await;
    agreed(&cluster, 0).await;
    cluster
}

#[tokio::test]
async fn a_plan_is_applied_only_to_the_history_it_was_made_of() {
    let cluster = started(3).await;
    let (one, other) = (cluster.client(Role::Admin).await, cluster.client(Role::Admin).await);
    let first = plan(&one, [place("n1", "rack-1"), place("n2", "rack-2")]);
    let second = plan(&other, [place("n3", "rack-3")]);

    let entries = one.apply(&first, Vec::new()).to(id("n1")).await.unwrap();
    assert!(entries[0] < entries[1] && entries.iter().all(|entry| entry.issuer() == id("n1")));
    let host = |client: &Client, node: &str| client.view().ring().member(&id(node)).unwrap().host.clone();
    assert_eq!((host(&one, "n1"), host(&one, "n2")), ("rack-1".into(), "rack-2".into()));

    // At the node that took the first, the second comes too late. Nothing of it was done.
    let error =
        assert_refused(other.apply(&second, Vec::new()).to(id("n1")).await, FailureCode::HistoryMoved);
    assert!(error.to_string().contains("dyn cluster history"), "{error}");
    let digest = agreed(&cluster, 2).await;
    assert_eq!(digest, one.view().digest());
    // Nor does any other node take it that has heard of the first.
    assert_refused(other.apply(&second, Vec::new()).await, FailureCode::HistoryMoved);

    other.refresh().await.unwrap();
    let again = plan(&other, [place("n3", "rack-3")]);
    other.apply(&again, Vec::new()).await.unwrap();
    assert_eq!(host(&other, "n3"), "rack-3");
    assert_eq!(agreed(&cluster, 3).await, other.view().digest());
}

#[tokio::test]
async fn two_operators_who_commit_at_once_both_get_their_change() {
    let cluster = started(3).await;
    let (one, other) = (cluster.client(Role::Admin).await, cluster.client(Role::Admin).await);
    let (first, second) = (place("n1", "rack-1"), place("n2", "rack-2"));
    let (first, second) = tokio::join!(
        one.propose(first, Vec::new()).to(id("n1")),
        other.propose(second, Vec::new()).to(id("n2"))
    );
    let entries = [first.unwrap(), second.unwrap()];
    agreed(&cluster, 2).await;
    for client in [&one, &other] {
        let view = client.refresh().await.unwrap();
        assert!(entries.iter().all(|entry| view.history().contains(entry)));
        let hosts = ["n1", "n2"].map(|node| view.ring().member(&id(node)).unwrap().host.clone());
        assert_eq!(hosts, ["rack-1", "rack-2"]);
    }
}

#[tokio::test]
async fn of_many_at_one_node_that_expect_the_same_one_succeeds() {
    let cluster = started(3).await;
    let admin = cluster.client(Role::Admin).await;
    let before = admin.view().digest();
    let mut proposed = tokio::task::JoinSet::new();
    for number in 0..8 {
        let change = bucket_change(&format!("b{number}"), "r=1").to_change();
        let change = admin.propose(change, Vec::new()).to(id("n2")).expect(before);
        proposed.spawn(async move { change.await });
    }
    let (done, refused): (Vec<_>, Vec<_>) = proposed.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    for result in refused {
        assert_refused(result, FailureCode::HistoryMoved);
    }
    agreed(&cluster, 1).await;
    // Without a condition all do.
    let mut proposed = tokio::task::JoinSet::new();
    for number in 0..8 {
        let change = bucket_change(&format!("c{number}"), "r=1").to_change();
        let change = admin.propose(change, Vec::new()).to(id("n2"));
        proposed.spawn(async move { change.await });
    }
    assert!(proposed.join_all().await.iter().all(Result::is_ok));
    agreed(&cluster, 9).await;
}

#[tokio::test]
async fn what_no_operator_may_propose_is_refused_whole() {
    let cluster = started(4).await;
    let admin = cluster.client(Role::Admin).await;
    let before = admin.view().digest();
    // What the nodes refuse by themselves, past a client's own plan.
    for (change, expected) in [
        (Change::Leave(id("n9")), "there is no such member"),
        (Change::Join(Member::new(id("n1"))), "the node is a member already"),
        (Change::Left(id("n1")), "do not propose it"),
        (Change::Disk { node: id("n1"), disk: 7 }, "do not propose it"),
    ] {
        let error = assert_refused(admin.propose(change, Vec::new()).await, FailureCode::Invalid);
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(admin.refresh().await.unwrap().digest(), before);
}

#[tokio::test]
async fn weights_and_places_are_changed_together_and_nothing_is_lost() {
    let cluster = started(3).await;
    let admin = cluster.client(Role::Admin).await;
    for key in ["a", "b", "c"] {
        admin.put("b", key, "v").w(3).await.unwrap();
    }
    let order = plan(&admin, [Change::Weight { node: id("n1"), weight: 100 }, place("n2", "rack-2")]);
    assert!(!order.keeps_placement() && order.moves().is_empty());
    admin.apply(&order, Vec::new()).await.unwrap();
    agreed(&cluster, 2).await;
    for key in ["a", "b", "c"] {
        assert_eq!(values(&admin.get("b", key).r(3).await.unwrap()), ["v"]);
    }
}
