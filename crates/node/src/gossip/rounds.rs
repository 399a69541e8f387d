//! Exchanges: a round about once a second, and at once when there is news.
//!
//! Once there are members only those are asked. Whoever is none asks for itself, and is answered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::{Class, Connection};
use dynkv_proto::{Failure, FailureCode, Frame, Gossip, GossipReply, NodeInfo};
use dynkv_ring::NodeId;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use crate::{cluster::Cluster, peers::PeerError, shared::Shared};

/// Until the node knows who the members are and where.
pub(super) const PERIOD_STARTING: Duration = Duration::from_millis(100);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until the node stops, or has nothing to say any more.
pub(crate) async fn run(node: Arc<Shared>) {
    tokio::join!(rounds(&node), store(&node));
}

async fn rounds(node: &Arc<Shared>) {
    let mut news = node.cluster.subscribe();
    // The boot under which everybody known was told where this start listens.
    let mut greeted = None;
    while !node.gossip.is_silent() {
        let news_came = news.has_changed();
        news.mark_unchanged();
        let starting = !settled(&node.cluster);
        let others = ids(&others(&node.cluster));
        let boot = node.cluster.own_boot();
        if starting || greeted != Some(boot) {
            join_all(others.iter().map(|&other| exchange_logged(node, other))).await;
            greeted = Some(boot);
        } else if news_came && let Some(&other) = others.get(node.env.random_below(others.len())) {
            spawn_exchange(node, other);
        }
        node.gossip.review(|| {
            let stats = node.replica.storage.stats();
            (node.replica.trees.records().unwrap_or(stats.records), stats.disk_bytes)
        });
        // A suspected peer that is connected has to be asked: nobody else would find out that it is well again.
        for &other in &others {
            if node.peers.is_suspected(other) && node.peers.is_connected(other) {
                spawn_exchange(node, other);
            }
        }
        if others.is_empty() && !starting {
            // Alone in its cluster: nobody else could tell it of another run.
            node.gossip.contacted();
        }
        let (due, next) = node.gossip.round(|id| others.binary_search(id).is_ok());
        for (other, opening) in due {
            let node = node.clone();
            tokio::spawn(async move { log(other, converse(&node, other, None, opening).await) });
        }
        let next = if starting { next.min(Instant::now() + PERIOD_STARTING) } else { next };
        tokio::select! {
            biased;
            () = news.until_changed() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Stores entries that were heard of, and puts them in force. Those that come meanwhile wait for the next time, all
/// together: a long history arrives in many messages.
async fn store(node: &Shared) {
    loop {
        node.gossip.grown.notified().await;
        let entries = node.gossip.news_for(&node.cluster.view().history);
        if let Err(error) = node.cluster.unite_history(&entries).await {
            // Tried again in the next round.
            tracing::warn!(%error, "entries of the membership history were not stored");
        }
    }
}

/// Whether the node knows who the members are and where.
pub(super) fn settled(cluster: &Cluster) -> bool {
    let view = cluster.view();
    view.membership.founded()
        && view.membership.members().all(|state| cluster.node(&state.member.id).is_some())
}

/// The other members; before there are any, every other node that is known.
pub(crate) fn others(cluster: &Cluster) -> Vec<NodeInfo> {
    let view = cluster.view();
    let concerned = |id: &NodeId| !view.membership.founded() || view.membership.member(id).is_some();
    cluster.nodes().into_iter().filter(|info| info.id != cluster.me.id && concerned(&info.id)).collect()
}

/// In order, as they come.
fn ids(nodes: &[NodeInfo]) -> Vec<NodeId> {
    nodes.iter().map(|info| info.id).collect()
}

/// Exchanges with all others at once: an operator's change should not wait for the next round.
pub(crate) fn tell_all(node: &Arc<Shared>) {
    for other in ids(&others(&node.cluster)) {
        spawn_exchange(node, other);
    }
}

pub(super) fn spawn_exchange(node: &Arc<Shared>, other: NodeId) {
    let node = node.clone();
    tokio::spawn(async move { exchange_logged(&node, other).await });
}

async fn exchange_logged(node: &Shared, other: NodeId) {
    log(other, exchange(node, other).await);
}

fn log(other: NodeId, outcome: Result<(), PeerError>) {
    if let Err(error) = outcome {
        tracing::debug!(peer = %other, %error, "no exchange");
    }
}

/// An exchange with `other` from its opening to its end.
pub(super) async fn exchange(node: &Shared, other: NodeId) -> Result<(), PeerError> {
    converse(node, other, None, node.gossip.open()).await
}

/// An exchange over a certain connection: with whoever is behind it now, even if `other` is believed to be elsewhere.
pub(super) async fn exchange_over(
    node: &Shared,
    other: NodeId,
    connection: &Connection,
) -> Result<(), PeerError> {
    converse(node, other, Some(connection), node.gossip.open()).await
}

/// The number of messages is bounded by the gossip.
async fn converse(
    node: &Shared,
    other: NodeId,
    over: Option<&Connection>,
    opening: Bytes,
) -> Result<(), PeerError> {
    let mut message = opening;
    while !node.gossip.is_silent() {
        let frame = Frame::new(&Gossip { reserved: 0 }, message);
        node.metrics.gossip_sent(frame.wire_len());
        let answer = match over {
            Some(connection) => connection.call(Class::Background, frame, CALL_TIMEOUT).await?,
            None => node.peers.call(other, Class::Background, frame, CALL_TIMEOUT).await?,
        };
        answer.message::<GossipReply>()?;
        if answer.body.is_empty() {
            break;
        }
        match node.gossip.handle(other, &answer.body)? {
            Some(next) => message = next,
            None => break,
        }
    }
    if other != node.cluster.me.id {
        node.gossip.contacted();
    }
    Ok(())
}

/// The other side of an exchange: a message of `from`, and what to say to it.
pub(crate) fn answer(node: &Shared, from: NodeId, message: &[u8]) -> Result<(GossipReply, Bytes), Failure> {
    let answer = node.gossip.handle(from, message);
    let answer = answer.map_err(|error| Failure::not_done(FailureCode::Invalid, error.to_string()))?;
    let (reply, body) = (GossipReply { reserved: 0 }, answer.unwrap_or_default());
    node.metrics.gossip_sent(Frame::new(&reply, body.clone()).wire_len());
    Ok((reply, body))
}
