//! What several tests look at.

use bytes::Bytes;
use dynkv_client::{Client, Error, Fetched};
use dynkv_net::PeerName;
use dynkv_proto::{
    Actor, Conflict, FailureCode, GetReply, Outcome, PutId, ReplicaPut, Stamp, State, Version, value_hash,
};
use dynkv_ring::NodeId;
use dynkv_tests::{
    cluster::{CLUSTER, Cluster},
    wait::in_time,
};
use dynkv_vclock::{CausalContext, HybridTime};

/// The values of a key, sorted.
pub(crate) fn values(fetched: &Fetched) -> Vec<String> {
    let mut values: Vec<String> = fetched.siblings.iter().map(|sibling| text(&sibling.value)).collect();
    values.sort();
    values
}

/// The values of a key, sorted, by a read with the bucket's quorum.
pub(crate) async fn read(client: &Client, bucket: &str, key: &'static str) -> Vec<String> {
    let fetched = client.get(bucket, key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    values(&fetched)
}

/// The values in a bare answer, sorted.
pub(crate) fn split(reply: &GetReply, mut body: Bytes) -> Vec<String> {
    let cut = |len: u64| text(&body.split_to(usize::try_from(len).expect("as long as the body at most")));
    let mut values: Vec<String> = reply.versions.iter().map(|version| version.len).map(cut).collect();
    values.sort();
    values
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A refusal with this code that certainly changed nothing.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, code: FailureCode) -> Error {
    let error = result.expect_err("it was not refused");
    assert_eq!((error.code(), error.outcome()), (Some(code), Outcome::NotDone), "{error}");
    assert!(!error.to_string().contains('\n'), "more than one line: {error}");
    error
}

/// Has one replica unite a version that no other has, as another node would; each number is another version.
pub(crate) async fn give(
    cluster: &Cluster,
    node: NodeId,
    key: &'static str,
    number: u64,
    value: &'static str,
) {
    let version = Version {
        time: HybridTime::from_u64(number),
        put_id: PutId(number.into()),
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        hash: value_hash(value.as_bytes()),
        value: value.into(),
    };
    let mut state = State::default();
    state.put(Actor(1, number), &CausalContext::new(), version, Conflict::Siblings).expect("a new actor");
    hand(cluster, node, key, &state).await;
}

/// Has one replica unite a state, as another node would.
pub(crate) async fn hand(cluster: &Cluster, node: NodeId, key: &str, state: &State) {
    let request = ReplicaPut {
        bucket: "b".into(),
        key: key.to_owned().into(),
        stamp: Stamp::default(),
        durable: true,
        hint_for: None,
    };
    let other = cluster.running().find(|other| other.id() != node).expect("another node runs").id();
    let peer = cluster.connect_as(node, &PeerName::node(CLUSTER, other).expect("a good name")).await;
    peer.ask(&request, state.encode()).await.unwrap_or_else(|failure| panic!("{key}: {failure}"));
}

/// Waits until every running node does what no client waits for: after its start it first looks how busy it is.
pub(crate) async fn background_begun(cluster: &Cluster) {
    for node in cluster.running() {
        let other = cluster.running().find(|other| other.id() != node.id()).expect("another node runs").id();
        // That waits for a turn of background work.
        let compared = in_time("nodes are compared", node.compare_with(other, 1)).await;
        compared.unwrap_or_else(|error| panic!("{}: {error}", node.id()));
    }
}

/// What a node has counted, by the name of a counter or a gauge.
pub(crate) fn counter(cluster: &Cluster, node: NodeId, name: &str) -> u64 {
    let (total, gauge) = (format!("dynkv_{name}_total "), format!("dynkv_{name} "));
    let text = cluster.node(node).metrics();
    let value =
        |line: &str| line.strip_prefix(&total).or_else(|| line.strip_prefix(&gauge)).map(str::to_owned);
    let value = text.lines().find_map(value).unwrap_or_else(|| panic!("no metric {name}"));
    value.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}
