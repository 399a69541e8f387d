//! Builds the trees that are missing, and goes through all that is stored again and again, slowly, or as fast as an operator
//! has ordered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_merkle::Tree;
use tokio::time::{Instant, sleep, timeout};

use super::{
    build::Progress,
    scrub::{Walk, Went, Witness},
    verify::Verifier,
};
use crate::{background::Work, hints::check::Checked, shared::Shared};

/// Entries in a page of a tree that is missing, and the pause after one: reading takes a fifth of the time at most.
const PAGE: usize = 256;
const PAGE_PAUSE: Duration = Duration::from_millis(1);

/// Records looked at in one go, and how often: a million in nine hours, since each is looked at twice.
const CHECKED: usize = 64;
/// Partitions begun in one go, where they hold few.
const PIECES_CHECKED: usize = 16;
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// After an error of the store, or of a write.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let trees = &node.replica.trees;
    let mut news = node.chain.subscribe();
    let mut walk = Walk::default();
    let mut ordered: Option<Verifier> = None;
    let mut check_at = Instant::now() + CHECK_PERIOD;
    loop {
        trees.follow(&node.chain, &node.cluster.view());
        build_missing(&node).await;
        let mut next = check_at;
        if let Some(number) = trees.verification.running() {
            // That is the check, too, while it goes on: both at once would read a partition's pages in turns.
            let verifier = match &mut ordered {
                Some(verifier) if verifier.number == number => verifier,
                other => other.insert(Verifier::new(&node, number)),
            };
            next = verifier.go_on(&node, Instant::now() + CHECK_PERIOD).await;
        } else if Instant::now() >= check_at {
            check_some(&node, &mut walk).await;
            check_at = Instant::now() + CHECK_PERIOD;
            next = check_at;
        }
        tokio::select! {
            biased;
            () = news.changed() => {}
            _ = timeout(next.saturating_duration_since(Instant::now()), trees.wake.notified()) => {}
        }
    }
}

/// Goes on with the check by as much as a period allows.
async fn check_some(node: &Arc<Shared>, walk: &mut Walk) {
    let mut budget = CHECKED;
    for _ in 0..PIECES_CHECKED {
        match walk.go_on(node, budget, &mut Unasked).await {
            Went::On(seen) if seen < budget => budget -= seen,
            _ => return,
        }
    }
}

async fn build_missing(node: &Arc<Shared>) {
    let trees = &node.replica.trees;
    if trees.urgent(0, 0).is_none() {
        return;
    }
    // A guess: one that is wrong is built once more.
    let depth = Tree::depth_for(trees.storage.stats().records / trees.roots().len().max(1) as u64);
    let mut from = 0;
    while let Some(partition) = trees.urgent(depth, from) {
        // There may be 65,536: one that is dropped meanwhile is found when this is through.
        from = partition;
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

/// The witness of the check that nodes make by themselves: what it finds is in the metrics and the log.
struct Unasked;

impl Witness for Unasked {
    fn record(&mut self, _: &Bytes, _: u64, _: bool) {}

    fn listed(&mut self, _: u64, _: u64) {}

    fn hints(&mut self, checked: &Checked) {
        for reason in &checked.damaged {
            tracing::error!(%reason, "a hint is damaged; when its target is back it is given up, and comparisons bring what the target lacks");
        }
    }

    fn error(&mut self, _: String) {}
}
