//! Nodes of two versions side by side: what a feature of the protocol needs before it is switched on, and what comes of it afterwards. A node of the old
//! version is one that owns up to no features.

use bytes::Bytes;
use dynkv_net::{PeerName, Role};
use dynkv_node::{JoinError, NotServing};
use dynkv_proto::{ChainReady, Digest, FailureCode, Feature, FeatureChange, FeatureSet, View};
use dynkv_ring::{Change, Member, NodeId};
use dynkv_tests::{
    cluster::{CLUSTER, Cluster, id},
    peer::get,
    wait::{eventually, in_time},
};

use crate::support::{assert_refused, read};

fn old() -> FeatureSet {
    FeatureSet::default()
}

fn join(node: &str) -> Change {
    Change::Join(Member::new(id(node)))
}

/// Stops a node and starts it with a version that knows `features`.
async fn restart(cluster: &mut Cluster, node: NodeId, features: FeatureSet) {
    cluster.stop(node).await;
    cluster.set_features(features);
    cluster.restart(node).await;
}

/// Enables moving at `node`, as soon as that has heard of who was restarted.
async fn enabled(cluster: &Cluster, node: NodeId) {
    let admin = cluster.client(Role::Admin).await;
    eventually("the feature is switched on", async || admin.enable(Feature::Moving).to(node).await.ok())
        .await;
}

#[tokio::test]
async fn a_cluster_is_upgraded_node_by_node_and_then_switches_on_what_is_new() {
    let mut cluster = Cluster::unfounded_with(3, old()).await;
    cluster.found().await;
    let admin = cluster.client(Role::Admin).await;
    assert_eq!(admin.view().features().iter().count(), 0);
    admin.put("b", "k", "v").w(3).await.unwrap();

    // An old node answers as such.
    let name = PeerName::node(CLUSTER, id("n9")).unwrap();
    let ask = ChainReady { partitions: vec![0] };
    let peer = cluster.connect_as(id("n1"), &name).await;
    let failure = peer.ask(&ask, Bytes::new()).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::UnknownKind, "{failure}");

    // Two of three are new, one of them goes back and forth: what is read is what was written.
    for (node, features) in
        [("n1", FeatureSet::known()), ("n2", FeatureSet::known()), ("n1", old()), ("n1", FeatureSet::known())]
    {
        restart(&mut cluster, id(node), features).await;
        cluster.settled().await;
        let client = cluster.client(Role::Reader).await;
        assert_eq!(read(&client, "b", "k").await, ["v"]);
    }
    // A new one waits until it is switched on.
    let peer = cluster.connect_as(id("n1"), &name).await;
    let failure = peer.ask(&ask, Bytes::new()).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::Stale, "{failure}");

    let admin = cluster.client(Role::Admin).await;
    let error = assert_refused(admin.enable(Feature::Moving).to(id("n2")).await, FailureCode::Invalid);
    assert!(error.to_string().contains("n3 (dynkv ") && !error.to_string().contains("n1 ("), "{error}");
    // One that does not know it cannot know what it would be.
    let error = assert_refused(admin.enable(Feature::Moving).to(id("n3")).await, FailureCode::Invalid);
    assert!(error.to_string().contains("n3 (dynkv "), "{error}");

    // Nobody may come or go, but what moves nothing may be changed.
    cluster.add("n4").await;
    let error = assert_refused(admin.propose(join("n4"), Vec::new()).await, FailureCode::Invalid);
    assert!(error.to_string().contains("`dyn cluster enable moving`"), "{error}");
    // Each of three keeps all there is, whatever it weighs.
    admin.propose(Change::Weight { node: id("n1"), weight: 100 }, Vec::new()).await.unwrap();
    let newcomer = cluster.node(id("n4"));
    let refused = in_time("it is refused", newcomer.join(Member::new(id("n4")))).await;
    let Err(JoinError::Refused { reason, .. }) = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("dyn cluster enable moving"), "{reason}");

    restart(&mut cluster, id("n3"), FeatureSet::known()).await;
    in_time("it serves", cluster.node(id("n3")).serving()).await.unwrap();
    enabled(&cluster, id("n1")).await;
    let admin = cluster.client(Role::Admin).await;
    let again = assert_refused(admin.enable(Feature::Moving).await, FailureCode::Invalid);
    assert!(again.to_string().contains("already"), "{again}");
    let newcomer = cluster.node(id("n4"));
    assert_eq!(in_time("it joins", newcomer.join(Member::new(id("n4")))).await, Ok(true));
    cluster.settled().await;
    eventually("every partition is where it should be", async || {
        cluster.running().all(|node| node.misplaced().is_none()).then_some(())
    })
    .await;
    assert_eq!(read(&admin, "b", "k").await, ["v"]);
}

#[tokio::test]
async fn who_lacks_what_is_switched_on_serves_nothing_and_gossips_on_until_it_is_upgraded() {
    let mut cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    admin.put("b", "k", "v").w(3).await.unwrap();
    let late = id("n3");
    restart(&mut cluster, late, old()).await;
    let reason = cluster.node(late).not_serving().expect("its disk tells it");
    assert!(matches!(&reason, NotServing::Feature { features, .. } if features.starts_with("moving")));
    assert_eq!(in_time("it says so", cluster.node(late).serving()).await, Err(reason.clone()));
    let status = cluster.status(late).await;
    assert!(!status.serving && status.features == old(), "{status:?}");
    let peer = cluster.connect(late, Role::Reader).await;
    let failure = peer.ask(&get("b", "k"), Bytes::new()).await.unwrap_err();
    assert_eq!((failure.code, failure.message), (FailureCode::NotServing, reason.to_string()));

    // It hears what happens, where others are, and is heard.
    let before = cluster.client(Role::Reader).await.view().digest();
    cluster.client(Role::Admin).await.propose(join("n8"), Vec::new()).await.unwrap();
    eventually("it has heard of the change", async || {
        let status = cluster.status(late).await;
        (status.view != before && status.peers.iter().all(|peer| !peer.address.is_empty())).then_some(())
    })
    .await;
    eventually("the others know what it lacks", async || {
        let status = cluster.status(id("n1")).await;
        status.peers.iter().find(|peer| peer.id == late && peer.features == Some(old())).map(drop)
    })
    .await;

    restart(&mut cluster, late, FeatureSet::known()).await;
    in_time("it serves", cluster.node(late).serving()).await.unwrap();
    let peer = cluster.connect(late, Role::Reader).await;
    eventually("it reads", async || peer.ask(&get("b", "k"), Bytes::new()).await.ok()).await;
}

#[tokio::test]
async fn a_newcomer_that_lacks_what_is_switched_on_is_refused_by_name() {
    let mut cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    cluster.set_features(old());
    cluster.add("n4").await;
    let refused = in_time("it finds out by itself", cluster.node(id("n4")).join(Member::new(id("n4")))).await;
    assert!(matches!(&refused, Err(JoinError::NotServing(NotServing::Feature { .. }))), "{refused:?}");
    let member = cluster.connect(id("n1"), Role::Reader).await;
    eventually("a member has heard of it", async || {
        let (view, _) = member.ask(&View { view: Digest::default() }, Bytes::new()).await.unwrap();
        view.nodes.iter().any(|info| info.id == id("n4")).then_some(())
    })
    .await;
    let error =
        assert_refused(admin.propose(join("n4"), Vec::new()).to(id("n1")).await, FailureCode::Invalid);
    assert!(error.to_string().contains("n4 (dynkv ") && error.to_string().contains("moving"), "{error}");
}

#[tokio::test]
async fn members_that_are_down_stand_in_the_way_unless_they_were_heard_of() {
    let mut cluster = Cluster::unfounded_with(3, old()).await;
    cluster.found().await;
    for node in ["n1", "n2", "n3"] {
        restart(&mut cluster, id(node), FeatureSet::known()).await;
        cluster.settled().await;
    }
    // It is down, and the one that is asked has not been there to hear of it.
    cluster.crash(id("n3"));
    cluster.crash(id("n2"));
    restart(&mut cluster, id("n1"), FeatureSet::known()).await;
    let admin = cluster.client(Role::Admin).await;
    let error = assert_refused(admin.enable(Feature::Moving).await, FailureCode::Invalid);
    for absent in ["n2 has not been heard of", "n3 has not been heard of"] {
        assert!(error.to_string().contains(absent), "{error}");
    }
    cluster.restart(id("n3")).await;
    eventually("n3 was heard of", async || {
        let error = assert_refused(admin.enable(Feature::Moving).await, FailureCode::Invalid).to_string();
        (!error.contains("n3") && error.contains("n2 has not been heard of")).then_some(())
    })
    .await;
    // Down again, but known.
    cluster.restart(id("n2")).await;
    cluster.settled().await;
    cluster.crash(id("n2"));
    enabled(&cluster, id("n1")).await;
}

#[tokio::test]
async fn what_comes_with_a_founding_is_what_its_node_knows() {
    let cluster = Cluster::unfounded(1).await;
    let admin = cluster.client(Role::Admin).await;
    let later = FeatureChange { number: 900, name: "flying".into(), since: "9.0.0".into() };
    let error = assert_refused(admin.propose(later.to_change(), Vec::new()).await, FailureCode::NotServing);
    assert!(error.to_string().contains("dyn cluster create"), "{error}");
    cluster.found().await;
    let error = assert_refused(admin.propose(later.to_change(), Vec::new()).await, FailureCode::Invalid);
    assert!(error.to_string().contains("does not know the feature flying"), "{error}");
    admin.refresh().await.unwrap();
    assert_eq!(admin.view().features().iter().map(|on| on.number).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_disk_that_is_lost_before_moving_is_on_is_filled_and_waits_for_it() {
    let mut cluster = Cluster::unfounded_with(3, old()).await;
    cluster.found().await;
    cluster.client(Role::Admin).await.put("b", "k", "v").w(3).await.unwrap();
    cluster.set_features(FeatureSet::known());
    let lost = id("n3");
    for node in ["n1", "n2"] {
        cluster.stop(id(node)).await;
        cluster.restart(id(node)).await;
        cluster.settled().await;
    }
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    cluster.restart(lost).await;
    in_time("it serves", cluster.node(lost).serving()).await.unwrap();
    let admin = cluster.client(Role::Admin).await;
    eventually("it says what it waits for", async || {
        let told = admin.transfers(lost).await.ok()?;
        told.transfers
            .iter()
            .any(|transfer| transfer.reason.contains("`dyn cluster enable moving`"))
            .then_some(())
    })
    .await;
    enabled(&cluster, id("n1")).await;
    eventually("it is a member of every partition", async || {
        cluster.running().all(|node| node.misplaced().is_none()).then_some(())
    })
    .await;
    let client = cluster.client(Role::Reader).await;
    assert_eq!(read(&client, "b", "k").await, ["v"]);
}
