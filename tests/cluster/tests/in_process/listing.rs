//! Listing the keys of a bucket.

use dynkv_client::{Client, List};
use dynkv_net::Role;
use dynkv_tests::cluster::{Cluster, id};
use tokio::task::JoinSet;

/// All keys, sorted, and whether the listing is complete.
async fn listed(mut list: List) -> (Vec<String>, bool) {
    let mut keys = Vec::new();
    while let Some(page) = list.next().await {
        let page = page.unwrap_or_else(|error| panic!("{error}"));
        assert!(page.keys.is_sorted(), "{:?}", page.keys);
        keys.extend(page.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()));
    }
    keys.sort();
    (keys, list.is_complete())
}

async fn put_many(client: &Client, bucket: &'static str, keys: &[String]) {
    for some in keys.chunks(64) {
        let mut puts = JoinSet::new();
        for key in some {
            let put = client.put(bucket, key.clone(), "v").w(3).dw(0);
            puts.spawn(async move { put.await.map(drop) });
        }
        while let Some(put) = puts.join_next().await {
            put.expect("puts do not panic").unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("k{number:04}")).collect()
}

#[tokio::test]
async fn a_listing_has_every_live_key_of_its_bucket_once() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let all = keys(100);
    put_many(&client, "b", &all).await;
    put_many(&client, "bb", &keys(3)).await;
    assert_eq!(listed(client.list("b").page_keys(3)).await, (all.clone(), true));
    assert_eq!(listed(client.list("b").prefix("k007")).await, (all[70..80].to_vec(), true));
    assert_eq!(listed(client.list("b").prefix("k0070")).await, (vec!["k0070".to_owned()], true));
    assert_eq!(listed(client.list("b").prefix("z")).await, (vec![], true));
    assert_eq!(listed(client.list("nothing")).await, (vec![], true));

    for key in &all[..50] {
        let context = client.get("b", key.clone()).await.unwrap().context;
        client.delete("b", key.clone()).context(&context).await.unwrap();
    }
    assert_eq!(listed(client.list("b")).await, (all[50..].to_vec(), true));
    // Concurrent with the delete: live again.
    client.put("b", all[0].clone(), "again").await.unwrap();
    assert_eq!(listed(client.list("b").prefix("k0000")).await, (all[..1].to_vec(), true));
}

#[tokio::test]
async fn a_partition_of_more_keys_than_fit_a_page_is_listed_to_its_end() {
    let mut cluster = Cluster::unfounded(3).await;
    cluster.set_partitions(1);
    cluster.found().await;
    let client = cluster.client(Role::Writer).await;
    let all = keys(1100);
    put_many(&client, "b", &all).await;
    // More than a node puts on a page, whatever is asked for.
    let mut list = client.list("b").page_keys(5000);
    let first = list.next().await.unwrap().unwrap();
    assert_eq!(first.keys.len(), 1000);
    assert!(!list.is_complete());
    assert_eq!(list.next().await.unwrap().unwrap().keys.len(), 100);
    assert!(list.next().await.is_none() && list.is_complete());
    assert_eq!(listed(client.list("b").page_keys(7).prefix("k10")).await, (all[1000..].to_vec(), true));
}

#[tokio::test]
async fn a_listing_says_whether_enough_replicas_answered() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(Role::Writer).await;
    let all = keys(40);
    put_many(&client, "b", &all).await;
    cluster.stop(id("n1")).await;
    // n - w + 1 = 2 of 3 are left.
    assert_eq!(listed(client.list("b")).await, (all.clone(), true));
    client.put("b", "written by two", "v").await.unwrap();
    cluster.stop(id("n2")).await;
    let (keys, complete) = listed(client.list("b")).await;
    assert!(!complete);
    assert_eq!(keys[..40], all);
}

#[tokio::test]
async fn a_key_that_one_replica_has_missed_is_listed() {
    let mut cluster = Cluster::start(3).await;
    let behind = id("n3");
    cluster.stop(behind).await;
    let client = cluster.client(Role::Writer).await;
    let deleted = client.put("b", "deleted", "v").await.unwrap();
    client.put("b", "live", "v").await.unwrap();
    cluster.restart(behind).await;
    cluster.settled().await;
    cluster.stop(id("n1")).await;
    // n2 and n3, of which one has nothing: any two of three find what two have.
    client.refresh().await.unwrap();
    assert_eq!(listed(client.list("b")).await, (vec!["deleted".to_owned(), "live".to_owned()], true));
    client.delete("b", "deleted").context(&deleted.context).await.unwrap();
    assert_eq!(listed(client.list("b")).await, (vec!["live".to_owned()], true));
}
