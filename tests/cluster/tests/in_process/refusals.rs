//! Bad input: refused with a reason, and nothing changes.

use bytes::Bytes;
use dynkv_client::Context;
use dynkv_net::Role;
use dynkv_proto::{BUCKET_CHANGE_KIND, BucketChange, BucketError, FailureCode, Outcome, Put};
use dynkv_ring::Change;
use dynkv_tests::{
    cluster::{Cluster, bucket_change, id},
    peer::{Peer, get, put},
};

use crate::support::{assert_refused, read};

/// A put that the node itself refuses, sent past the client library's own checks.
async fn refused(peer: &Peer, request: Put, body: &'static [u8], code: FailureCode) -> String {
    let failure = peer.ask(&request, Bytes::from_static(body)).await.expect_err("it was not refused");
    assert_eq!((failure.code, failure.outcome), (code, Outcome::NotDone), "{failure}");
    failure.message
}

#[tokio::test]
async fn a_context_that_is_damaged_or_of_another_key_changes_nothing() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let stored = client.put("b", "k", "kept").await.unwrap();
    let other = client.put("b", "other", "x").await.unwrap();

    // The client library looks before it sends...
    assert_refused(client.put("b", "k", "new").context(&other.context).await, FailureCode::Context);
    assert_refused(client.delete("b", "k").context(&other.context).await, FailureCode::Context);
    let text = stored.context.to_string();
    assert!(text[..text.len() - 4].parse::<Context>().is_err());
    assert_eq!(text.parse::<Context>().unwrap(), stored.context);

    // ...and so does the node.
    let peer = cluster.connect(id("n1"), Role::Writer).await;
    let good = stored.context.as_bytes().to_vec();
    let mut contexts = vec![other.context.as_bytes().to_vec(), b"x".to_vec(), vec![0; 600_000]];
    contexts.extend((1..good.len()).map(|len| good[..len].to_vec()));
    contexts.extend((0..good.len()).map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        flipped
    }));
    for context in contexts {
        let request = Put { context: context.into(), ..put("b", "k", 1, b"new") };
        let message = refused(&peer, request, b"new", FailureCode::Context).await;
        assert!(message.contains("get"), "{message}");
    }
    assert_eq!(read(&client, "b", "k").await, ["kept"]);
}

#[tokio::test]
async fn keys_values_and_metadata_over_a_limit_are_refused() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    client.put("b", vec![b'k'; 1024], vec![0; 1024 * 1024]).meta("m", "x".repeat(4095)).await.unwrap();

    let long_key = assert_refused(client.put("b", vec![b'k'; 1025], "v").await, FailureCode::TooLarge);
    assert!(long_key.to_string().contains("the limit of bucket 'b' is 1024"), "{long_key}");
    let value = vec![0; 1024 * 1024 + 1];
    let long_value = assert_refused(client.put("b", "v", value).await, FailureCode::TooLarge);
    assert!(long_value.to_string().contains("value_bytes_max"), "{long_value}");
    let meta = client.put("b", "m", "v").meta("m", "x".repeat(4096)).await;
    assert_refused(meta, FailureCode::TooLarge);
    for key in ["v", "m"] {
        assert!(client.get("b", key).await.unwrap().is_absent());
    }
}

#[tokio::test]
async fn quorums_above_n_are_refused() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    for refused in [
        client.put("b", "k", "v").w(4).await,
        client.put("b", "k", "v").w(0).await,
        client.put("b", "k", "v").w(2).dw(3).await,
        client.put("b", "k", "v").w(2).pw(3).await,
        client.delete("b", "k").w(4).await,
    ] {
        assert_refused(refused, FailureCode::Invalid);
    }
    for refused in [client.get("b", "k").r(4).await, client.get("b", "k").r(2).pr(3).await] {
        assert_refused(refused, FailureCode::Invalid);
    }
    assert!(client.get("b", "k").r(3).await.unwrap().is_absent());
}

#[tokio::test]
async fn bad_bucket_changes_are_refused() {
    let unknown = BucketChange::new("b").set("q", "1");
    assert!(matches!(&unknown, Err(BucketError::Property { property }) if property == "q"));
    assert!(unknown.unwrap_err().to_string().contains("siblings_max"));

    let cluster = Cluster::start(3).await;
    let admin = cluster.client(Role::Admin).await;
    let before = admin.view().digest();
    let garbage = Change::Other { kind: BUCKET_CHANGE_KIND, payload: b"junk".to_vec() };
    let foreign = Change::Other { kind: BUCKET_CHANGE_KIND + 1, payload: Vec::new() };
    let mut changes = vec![garbage, foreign];
    changes.extend(
        [("b", "w=4"), ("b", "r=0"), ("b", "w=1 dw=2"), ("a/b", "r=1"), ("", "r=1")]
            .map(|(bucket, properties)| bucket_change(bucket, properties).to_change()),
    );
    for change in changes {
        let shown = format!("{change:?}");
        let error = admin.propose(change, Vec::new()).await.expect_err(&shown);
        assert_eq!(
            (error.code(), error.outcome()),
            (Some(FailureCode::Invalid), Outcome::NotDone),
            "{shown}"
        );
    }
    assert_eq!(admin.refresh().await.unwrap().digest(), before);
}

#[tokio::test]
async fn what_is_no_key_or_no_bucket_is_refused() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let peer = cluster.connect(id("n2"), Role::Writer).await;
    for (bucket, key) in [("b", ""), ("", "k"), ("a/b", "k"), ("a\n", "k"), (&"b".repeat(65), "k")] {
        let owned = key.to_owned();
        assert_refused(client.put(bucket, owned.clone(), "v").await, FailureCode::Invalid);
        assert_refused(client.get(bucket, owned.clone()).await, FailureCode::Invalid);
        assert_refused(client.delete(bucket, owned.clone()).await, FailureCode::Invalid);
        refused(&peer, put(bucket, owned.clone(), 1, b"v"), b"v", FailureCode::Invalid).await;
        let failure = peer.ask(&get(bucket, owned), Bytes::new()).await.unwrap_err();
        assert_eq!((failure.code, failure.outcome), (FailureCode::Invalid, Outcome::NotDone), "{failure}");
    }
    // A key need not be text.
    client.put("b", vec![0, 255, b'/'], "v").await.unwrap();
    assert_eq!(client.get("b", vec![0, 255, b'/']).await.unwrap().value().unwrap(), "v");
}

#[tokio::test]
async fn a_value_that_was_damaged_on_the_way_is_not_stored() {
    let cluster = Cluster::start(3).await;
    let peer = cluster.connect(id("n1"), Role::Writer).await;
    refused(&peer, put("b", "k", 1, b"sent"), b"seen", FailureCode::Invalid).await;
    let delete = Put { tombstone: true, ..put("b", "k", 2, b"value") };
    refused(&peer, delete, b"value", FailureCode::Invalid).await;
    let client = cluster.client(Role::Reader).await;
    assert!(client.get("b", "k").r(3).await.unwrap().is_absent());
}

#[tokio::test]
async fn every_node_follows_changed_bucket_properties() {
    let cluster = Cluster::start(3).await;
    cluster.set_bucket("small", "value_bytes_max=4").await;
    for (number, node) in cluster.running().enumerate() {
        let peer = cluster.connect(node.id(), Role::Writer).await;
        let message = refused(&peer, put("small", "k", 9, b"12345"), b"12345", FailureCode::TooLarge).await;
        assert!(message.contains("limit of bucket 'small' is 4"), "{message}");
        let id = number as u128 + 10;
        peer.ask(&put("small", "k", id, b"1234"), Bytes::from_static(b"1234")).await.unwrap();
        peer.ask(&put("large", "k", id, b"12345"), Bytes::from_static(b"12345")).await.unwrap();
    }
    // And go on following them after a restart.
    let mut cluster = cluster;
    let first = id("n1");
    cluster.stop(first).await;
    cluster.restart(first).await;
    cluster.settled().await;
    let peer = cluster.connect(first, Role::Writer).await;
    refused(&peer, put("small", "k", 9, b"12345"), b"12345", FailureCode::TooLarge).await;
}
