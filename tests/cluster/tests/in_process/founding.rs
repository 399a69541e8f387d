//! Founding a cluster, and who is not part of it.

use std::time::Duration;

use bytes::Bytes;
use dynkv_client::Client;
use dynkv_net::Role;
use dynkv_node::{JoinError, NotServing};
use dynkv_proto::{FailureCode, Feature, Outcome};
use dynkv_ring::{Change, Departure, Founding, Member};
use dynkv_tests::{
    cluster::{Cluster, id},
    peer::{get, put},
    wait::{eventually, in_time},
};

use crate::support::{assert_refused, read};

#[tokio::test]
async fn before_the_founding_nothing_is_served() {
    let cluster = Cluster::unfounded(3).await;
    let client = cluster.client(Role::Admin).await;
    let error = assert_refused(client.get("b", "k").await, FailureCode::NotServing);
    assert!(error.to_string().contains("dyn cluster create"), "{error}");
    assert_refused(client.put("b", "k", "v").await, FailureCode::NotServing);
    let change = dynkv_tests::cluster::bucket_change("b", "r=1").to_change();
    let proposed = client.propose(change, Vec::new()).timeout(Duration::from_millis(500)).await;
    assert_refused(proposed, FailureCode::NotServing);
    let mut list = client.list("b");
    assert_refused(list.next().await.unwrap(), FailureCode::NotServing);
    assert!(!list.is_complete());

    for node in cluster.running() {
        assert!(!node.is_founded());
        let status = cluster.status(node.id()).await;
        assert!(!status.serving && status.reason.contains("has not been founded"), "{}", status.reason);
        let peer = cluster.connect(node.id(), Role::Writer).await;
        let failure = peer.ask(&get("b", "k"), Bytes::new()).await.unwrap_err();
        assert_eq!((failure.code, failure.outcome), (FailureCode::NotServing, Outcome::NotDone));
        let failure = peer.ask(&put("b", "k", 1, b"v"), Bytes::from_static(b"v")).await.unwrap_err();
        assert_eq!((failure.code, failure.outcome), (FailureCode::NotServing, Outcome::NotDone));
    }
}

#[tokio::test]
async fn an_administrator_founds_over_the_wire_and_all_members_learn_of_it() {
    let cluster = Cluster::unfounded(3).await;
    let writer = cluster.client(Role::Writer).await;
    let found = |client: &Client| client.found(cluster.founding(), Feature::ALL, cluster.addresses());
    assert_refused(found(&writer).await, FailureCode::Forbidden);

    let admin = cluster.client(Role::Admin).await;
    let second = cluster.node(id("n2")).info().address.clone();
    found(&admin).at(second).await.unwrap();
    cluster.settled().await;
    assert!(Feature::ALL.iter().all(|feature| admin.view().features().is_on(*feature)));
    admin.put("b", "k", "v").w(3).await.unwrap();
    // The one who connected before the founding, too, once it has looked.
    writer.refresh().await.unwrap();
    assert_eq!(read(&writer, "b", "k").await, ["v"]);
}

#[tokio::test]
async fn a_cluster_is_founded_once() {
    let cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    let before = admin.view().digest();
    let other = Founding { replicas: 2, ..cluster.founding() };
    for founding in [cluster.founding(), other] {
        for node in cluster.running() {
            let again =
                admin.propose(Change::Found(founding.clone()), cluster.addresses()).to(node.id()).await;
            let error = assert_refused(again, FailureCode::Invalid);
            assert!(error.to_string().contains("founded already, with 3 members"), "{error}");
        }
    }
    assert_eq!(admin.refresh().await.unwrap().digest(), before);
}

#[tokio::test]
async fn a_founding_that_cannot_be_meant_is_refused() {
    let cluster = Cluster::unfounded(1).await;
    let node = cluster.node(id("n1"));
    let good = cluster.founding();
    for bad in [
        Founding { cluster: "other".into(), ..good.clone() },
        Founding { members: vec![Member::new(id("n2"))], ..good.clone() },
        Founding { members: vec![], ..good.clone() },
        Founding { replicas: 0, ..good },
    ] {
        let failure = node.found(bad, Vec::new()).await.unwrap_err();
        assert_eq!((failure.code, failure.outcome), (FailureCode::Invalid, Outcome::NotDone), "{failure}");
        assert!(!node.is_founded());
    }
}

#[tokio::test]
async fn with_fewer_nodes_than_replicas_quorums_shrink_and_answers_say_so() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client(Role::Writer).await;
    let stored = client.put("b", "k", "v").await.unwrap();
    assert_eq!((stored.replicas, stored.homes, stored.durable), (1, 1, 1));
    let fetched = client.get("b", "k").await.unwrap();
    assert_eq!((fetched.replicas, fetched.homes), (1, 1));
    let mut list = client.list("b");
    while list.next().await.is_some() {}
    assert!(list.is_complete());
}

#[tokio::test]
async fn a_node_that_comes_late_serves_nothing_and_says_why_until_it_joins() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    client.put("b", "k", "v").await.unwrap();
    let before = client.view().digest();

    cluster.add("n4").await;
    let late = id("n4");
    let reason = eventually("it learns of the founding", async || {
        cluster.node(late).not_serving().filter(|reason| !matches!(reason, NotServing::NotFounded { .. }))
    })
    .await;
    let NotServing::NotMember { node, members, .. } = &reason else { panic!("{reason:?}") };
    assert_eq!((*node, members.as_str()), (late, "n1, n2, n3"));
    assert!(reason.to_string().contains("dyn cluster plan --join n4"), "{reason}");

    let status = cluster.status(late).await;
    assert!(!status.serving && status.reason.contains("n4 is not a member"), "{}", status.reason);
    let peer = cluster.connect(late, Role::Writer).await;
    for failure in [
        peer.ask(&get("b", "k"), Bytes::new()).await.unwrap_err(),
        peer.ask(&put("b", "k", 1, b"x"), Bytes::from_static(b"x")).await.unwrap_err(),
    ] {
        assert_eq!((failure.code, failure.outcome), (FailureCode::NotServing, Outcome::NotDone), "{failure}");
    }
    // The cluster is as it was.
    assert_eq!(client.refresh().await.unwrap().digest(), before);
    assert_eq!(read(&client, "b", "k").await, ["v"]);

    let weightless = cluster.node(late).join(Member::new(late).with_weight(0));
    let refused = in_time("it is refused", weightless).await;
    assert!(matches!(&refused, Err(JoinError::Invalid(_))), "{refused:?}");
    assert_eq!(client.refresh().await.unwrap().digest(), before);

    // Its own id counts, whatever it is told to join as.
    let member = Member::new(id("n9")).with_zone("b");
    assert_eq!(in_time("it joins", cluster.node(late).join(member.clone())).await, Ok(true));
    assert_eq!(in_time("it has joined", cluster.node(late).join(member)).await, Ok(false));
    cluster.settled().await;
    let membership = cluster.node(id("n1")).membership();
    assert_eq!(membership.member(&late).map(|state| state.member.zone.as_str()), Some("b"));
    assert_eq!(membership.members().len(), 4);
    eventually("every partition is where it should be", async || {
        cluster.running().all(|node| node.misplaced().is_none()).then_some(())
    })
    .await;
    assert_eq!(read(&client, "b", "k").await, ["v"]);
}

#[tokio::test]
async fn a_node_that_leaves_says_so_to_the_others_before_it_is_gone() {
    let mut cluster = Cluster::start(4).await;
    let admin = cluster.client(Role::Admin).await;
    admin.put("b", "k", "v").w(3).await.unwrap();
    let leaving = id("n4");
    admin.propose(Change::Leave(leaving), Vec::new()).await.unwrap();
    let gone = in_time("it has left", cluster.node(leaving).gone()).await;
    assert!(matches!(&gone, NotServing::Gone { node, .. } if *node == leaving), "{gone:?}");
    // Whatever becomes of its disk.
    cluster.crash(leaving);
    for node in cluster.running() {
        assert_eq!(node.membership().departure(&leaving), Some(Departure::Left));
    }
    assert_eq!(read(&admin, "b", "k").await, ["v"]);
}
