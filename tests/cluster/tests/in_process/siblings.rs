//! Concurrent writers: siblings, contexts, deletes, last-writer-wins.

use dynkv_client::Context;
use dynkv_net::Role;
use dynkv_proto::FailureCode;
use dynkv_tests::{
    cluster::{Cluster, bucket_change},
    wait::LONG,
};

use crate::support::{assert_refused, read, values};

#[tokio::test]
async fn concurrent_blind_puts_become_siblings_until_a_put_with_their_context() {
    let cluster = Cluster::start(3).await;
    let (ada, bob) = (cluster.client(Role::Writer).await, cluster.client(Role::Writer).await);
    let (milk, eggs) = tokio::join!(ada.put("carts", "k", "milk"), bob.put("carts", "k", "eggs"));
    let (milk, eggs) = (milk.unwrap(), eggs.unwrap());
    assert_ne!(milk.dot, eggs.dot);

    let both = ada.get("carts", "k").await.unwrap();
    assert_eq!(values(&both), ["eggs", "milk"]);
    assert_eq!(both.value(), None);

    bob.put("carts", "k", "eggs and milk").context(&both.context).await.unwrap();
    assert_eq!(read(&ada, "carts", "k").await, ["eggs and milk"]);
}

#[tokio::test]
async fn interleaved_writers_never_have_more_than_two_siblings() {
    let cluster = Cluster::start(3).await;
    let (ada, bob) = (cluster.client(Role::Writer).await, cluster.client(Role::Writer).await);
    let mut contexts: [Option<Context>; 2] = [None, None];
    for round in 0..20 {
        for (writer, client) in [&ada, &bob].into_iter().enumerate() {
            // Each goes on from its own last write: it never reads the other's.
            let mut put = client.put("b", "k", format!("{writer}.{round}"));
            if let Some(context) = &contexts[writer] {
                put = put.context(context);
            }
            contexts[writer] = Some(put.await.unwrap().context);
        }
        let now = ada.get("b", "k").await.unwrap();
        assert_eq!(values(&now), [format!("0.{round}"), format!("1.{round}")]);
    }
}

#[tokio::test]
async fn the_context_of_a_put_does_not_cover_siblings_its_writer_has_not_read() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    client.put("b", "k", "unseen").await.unwrap();
    let mine = client.put("b", "k", "mine").await.unwrap();
    client.put("b", "k", "mine, too").context(&mine.context).await.unwrap();
    assert_eq!(read(&client, "b", "k").await, ["mine, too", "unseen"]);
}

#[tokio::test]
async fn a_deleted_key_is_absent_and_can_be_put_again() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let first = client.put("b", "k", "one").await.unwrap();
    client.delete("b", "k").context(&first.context).await.unwrap();
    let absent = client.get("b", "k").await.unwrap();
    assert!(absent.is_absent());
    assert_eq!(absent.replicas, 2);
    client.put("b", "k", "two").context(&absent.context).await.unwrap();
    assert_eq!(read(&client, "b", "k").await, ["two"]);
    // The tombstone is gone: its writer's context says so, too.
    client.put("b", "k", "three").context(&first.context).await.unwrap();
    assert_eq!(read(&client, "b", "k").await, ["three", "two"]);
}

#[tokio::test]
async fn a_tombstone_beside_a_value_is_one_value() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let first = client.put("b", "k", "one").await.unwrap();
    client.delete("b", "k").context(&first.context).await.unwrap();
    // Concurrent with the delete.
    client.put("b", "k", "two").context(&first.context).await.unwrap();
    let seen = client.get("b", "k").await.unwrap();
    assert_eq!(seen.value().map(|value| &value[..]), Some(&b"two"[..]));
    // The context covers the tombstone as well.
    client.delete("b", "k").context(&seen.context).await.unwrap();
    assert!(client.get("b", "k").await.unwrap().is_absent());
}

#[tokio::test]
async fn an_absent_key_has_a_context_that_a_put_can_use() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let absent = client.get("b", "never").await.unwrap();
    assert!(absent.is_absent() && !absent.context.as_bytes().is_empty());
    client.put("b", "never", "now").context(&absent.context).await.unwrap();
    assert_eq!(read(&client, "b", "never").await, ["now"]);
}

#[tokio::test]
async fn lww_buckets_keep_the_later_write_whatever_was_read_before() {
    let cluster = Cluster::start(3).await;
    cluster.set_bucket("sessions", "conflict=lww").await;
    let (ada, bob) = (cluster.client(Role::Writer).await, cluster.client(Role::Writer).await);
    // On all three, so that whoever takes the next one knows what it must be later than.
    let first = ada.put("sessions", "k", "first").w(3).await.unwrap();
    bob.put("sessions", "k", "second").w(3).await.unwrap();
    assert_eq!(read(&ada, "sessions", "k").await, ["second"]);
    // Its context covers less than what is there; it is later all the same.
    ada.put("sessions", "k", "third").context(&first.context).await.unwrap();
    assert_eq!(read(&bob, "sessions", "k").await, ["third"]);
}

#[tokio::test]
async fn tombstones_compete_alike_in_lww_buckets() {
    let cluster = Cluster::start(3).await;
    cluster.set_bucket("sessions", "conflict=lww").await;
    let client = cluster.client(Role::Writer).await;
    client.put("sessions", "k", "first").w(3).await.unwrap();
    // Blind, and later.
    client.delete("sessions", "k").w(3).await.unwrap();
    assert!(client.get("sessions", "k").await.unwrap().is_absent());
    client.put("sessions", "k", "second").await.unwrap();
    assert_eq!(read(&client, "sessions", "k").await, ["second"]);
}

#[tokio::test]
async fn at_the_sibling_limit_only_a_put_that_adds_none_passes() {
    let cluster = Cluster::start(3).await;
    cluster.set_bucket("b", "siblings_max=3").await;
    let client = cluster.client(Role::Writer).await;
    for value in ["one", "two", "three"] {
        client.put("b", "k", value).await.unwrap();
    }
    let error = assert_refused(client.put("b", "k", "four").await, FailureCode::SiblingLimit);
    assert!(error.to_string().contains("get it, merge them, and put"), "{error}");
    let all = client.get("b", "k").await.unwrap();
    assert_eq!(values(&all), ["one", "three", "two"]);
    client.put("b", "k", "merged").context(&all.context).await.unwrap();
    assert_eq!(read(&client, "b", "k").await, ["merged"]);
}

#[tokio::test]
async fn siblings_that_no_message_could_carry_are_refused() {
    let cluster = Cluster::start(3).await;
    cluster.set_bucket("b", "value_bytes_max=8000000 siblings_max=1000").await;
    let client = cluster.client(Role::Writer).await;
    // Unoptimized, megabytes take their time.
    let put = |bytes| client.put("b", "k", vec![0; bytes]).timeout(LONG);
    for bytes in [6_000_000, 6_000_001] {
        put(bytes).await.unwrap();
    }
    let error = assert_refused(put(6_000_002).await, FailureCode::SiblingLimit);
    assert!(error.to_string().contains("get it, merge them, and put"), "{error}");
    let both = client.get("b", "k").timeout(LONG).await.unwrap();
    assert_eq!(both.siblings.len(), 2);
    put(8_000_000).context(&both.context).await.unwrap();
}

#[tokio::test]
async fn the_conflict_policy_is_fixed_when_a_bucket_is_first_set() {
    let cluster = Cluster::start(3).await;
    cluster.set_bucket("b", "conflict=siblings").await;
    let admin = cluster.client(Role::Admin).await;
    let change = bucket_change("b", "conflict=lww").to_change();
    let error = assert_refused(admin.propose(change, Vec::new()).await, FailureCode::Invalid);
    assert!(error.to_string().contains("keeps conflict = siblings"), "{error}");
    // Other properties go on changing.
    cluster.set_bucket("b", "conflict=siblings r=1").await;
    assert_eq!(admin.refresh().await.unwrap().buckets().get("b").r, 1);
}
