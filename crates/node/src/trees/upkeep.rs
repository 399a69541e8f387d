//! Builds the trees that are missing, and goes through all records again and again, slowly, to see whether tree, index,
//! records and values still fit together.

use std::{sync::Arc, time::Duration};

use dynkv_merkle::Tree;
use tokio::time::{Instant, sleep, timeout};

use super::build::Progress;
use crate::{background::Work, key::Key, record::parse_record_key, shared::Shared, storage::StorageError};

/// Entries in a page of a tree that is missing, and the pause after one: reading takes a fifth of the time at most.
const PAGE: usize = 256;
const PAGE_PAUSE: Duration = Duration::from_millis(1);

/// Records looked at in one go, and how often: a million in four hours and a half.
const CHECKED: usize = 64;
/// Partitions begun in one go, where they hold few.
const PARTITIONS_CHECKED: usize = 16;
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// After an error of the store, or of a write.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let trees = &node.replica.trees;
    let mut news = node.cluster.subscribe();
    let mut checked = None;
    let mut check_at = Instant::now() + CHECK_PERIOD;
    loop {
        trees.follow(&node.cluster.view(), &node.cluster.me.id);
        build_missing(&node).await;
        if Instant::now() >= check_at {
            let mut budget = CHECKED;
            for _ in 0..PARTITIONS_CHECKED {
                checked = check_some(&node, checked, &mut budget).await;
            }
            check_at = Instant::now() + CHECK_PERIOD;
        }
        tokio::select! {
            biased;
            () = news.changed() => {}
            _ = timeout(check_at - Instant::now(), trees.wake.notified()) => {}
        }
    }
}

async fn build_missing(node: &Arc<Shared>) {
    let trees = &node.replica.trees;
    if trees.urgent(0).is_none() {
        return;
    }
    // A guess: one that is wrong is built once more.
    let depth = Tree::depth_for(trees.storage.stats().records / trees.roots().len().max(1) as u64);
    while let Some(partition) = trees.urgent(depth) {
        let turn = node.background.turn(Work::TreeUpkeep).await;
        let progress = trees.build_page(partition, PAGE);
        drop(turn);
        match progress {
            Ok((Progress::More | Progress::Done, _)) => sleep(PAGE_PAUSE).await,
            Ok((Progress::Disturbed, _)) => sleep(RETRY_PAUSE).await,
            Err(error) => {
                tracing::warn!(partition, %error, "the digest index cannot be read");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Checks the next few records of the partition that is being checked. Returns the last one that was done with.
async fn check_some(node: &Arc<Shared>, done: Option<u32>, budget: &mut usize) -> Option<u32> {
    let trees = &node.replica.trees;
    if *budget == 0 {
        return done;
    }
    let partition = trees.to_check(done)?;
    let Some(_turn) = node.background.turn(Work::TreeUpkeep).await else { return done };
    let (progress, page) = match trees.build_page(partition, *budget) {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(partition, %error, "the digest index cannot be read");
            return Some(partition);
        }
    };
    *budget = budget.saturating_sub(page.len());
    let partitions = node.cluster.view().membership.partitions();
    for entry in page {
        let Some((bucket, key)) = parse_record_key(&entry.record) else { continue };
        let key = Key::new(bucket, key, partitions);
        let fits = match node.replica.read_intact(&key) {
            Ok(Some(record)) => record.digest().is_ok_and(|digest| digest == entry.digest),
            Ok(None) => false,
            // Noted, and healed from the others.
            Err(StorageError::Damaged { .. }) => true,
            Err(_) => return done,
        };
        // Written to meanwhile, most likely; otherwise the index is set right.
        if !fits {
            node.replica.check(&key);
        }
    }
    match progress {
        Progress::Done => Some(partition),
        _ => done,
    }
}
