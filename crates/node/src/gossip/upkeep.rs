//! Connections are kept up without traffic: that is how a node that is well again comes back by itself.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::rounds::{exchange_over, others, spawn_exchange};
use crate::{chain::spread, shared::Shared};

/// How often connections are looked at when nothing happens.
const PERIOD: Duration = Duration::from_millis(250);

/// Takes over configurations that were heard of, until the node stops.
pub(crate) async fn take_over(node: Arc<Shared>) {
    let mut news = node.cluster.subscribe();
    loop {
        // Those that are not later are passed over quickly.
        spread::adopt(&node, node.gossip.configurations()).await;
        tokio::select! {
            biased;
            () = node.gossip.configured.notified() => {}
            // They may have come before the founding that they follow.
            () = news.changed() => {}
        }
    }
}

/// Runs until the node stops, or has nothing to say any more.
pub(crate) async fn run(node: Arc<Shared>) {
    let mut news = node.cluster.subscribe();
    while !node.gossip.is_silent() {
        news.mark_unchanged();
        let others = others(&node.cluster);
        for info in &others {
            if let Some(old) = node.peers.leave_old_address(info) {
                // Whoever is behind it still, if anybody is, must hear that its name is used elsewhere.
                let (node, id) = (node.clone(), info.id);
                tokio::spawn(async move {
                    if let Err(error) = exchange_over(&node, id, &old).await {
                        tracing::debug!(peer = %id, %error, "nobody answers at the old address");
                    }
                });
            }
            if !node.peers.is_connected(info.id) {
                let (node, id) = (node.clone(), info.id);
                tokio::spawn(async move {
                    if node.peers.ensure_connected(id).await {
                        // Both may have news: they were apart.
                        spawn_exchange(&node, id);
                    }
                });
            }
        }
        node.peers.review(others.iter().map(|info| info.id));
        tokio::select! {
            biased;
            // The sender lives in `node`.
            () = news.changed() => {}
            () = node.peers.trouble() => {}
            () = sleep(PERIOD) => {}
        }
    }
}
