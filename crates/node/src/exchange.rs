//! How histories and addresses travel: each node exchanges them with one other, again and again.
//!
//! Push-pull with one random peer a second, and at once when there is news; with everybody known at the start, and quicker
//! until the node serves and knows where all members are. Digests first: equal histories cost a hash.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dynkv_net::Class;
use dynkv_proto::{Exchange, ExchangeReply, Failure, FailureCode, Frame};
use dynkv_ring::{History, NodeId};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::{
    cluster::{Cluster, View},
    shared::Shared,
};

const PERIOD: Duration = Duration::from_secs(1);
const PERIOD_STARTING: Duration = Duration::from_millis(100);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the same complaint about a seed is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Shared>, seeds: Vec<String>) {
    let mut seeds = Seeds { addresses: seeds, complained: BTreeMap::new() };
    let mut news = node.cluster.subscribe();
    // The boot under which everybody known was told where this start listens.
    let mut greeted = None;
    loop {
        news.mark_unchanged();
        let starting = !settled(&node.cluster);
        let others = others(&node.cluster);
        for &other in &others {
            let node = node.clone();
            tokio::spawn(async move { node.peers.ensure_connected(other).await });
        }
        // A node that cannot be reached may have moved while this one was down, and a seed may know where to.
        if starting || others.iter().any(|&other| !node.peers.is_connected(other)) {
            seeds.ask(&node).await;
        }
        let boot = node.cluster.own_boot();
        if starting || greeted != Some(boot) {
            join_all(others.iter().map(|&other| exchange_logged(&node, other))).await;
            greeted = Some(boot);
        } else if let Some(&other) = others.get(node.env.random_below(others.len())) {
            exchange_logged(&node, other).await;
        }
        let period = if starting { PERIOD_STARTING } else { PERIOD };
        // The sender lives in `node`: this ends with a change or with the time.
        drop(timeout(period, news.changed()).await);
    }
}

/// Whether the node serves and knows where every member is.
fn settled(cluster: &Cluster) -> bool {
    let view = cluster.view();
    cluster.serving(&view).is_ok()
        && view.membership.members().all(|state| cluster.node(&state.member.id).is_some())
}

/// Every other node that is known.
fn others(cluster: &Cluster) -> Vec<NodeId> {
    cluster.nodes().into_iter().map(|info| info.id).filter(|id| *id != cluster.me.id).collect()
}

struct Seeds {
    addresses: Vec<String>,
    complained: BTreeMap<String, Instant>,
}

impl Seeds {
    async fn ask(&mut self, node: &Shared) {
        for seed in &self.addresses {
            // A seed that has become a known node is exchanged with as one.
            if node.cluster.nodes().iter().any(|info| info.address == *seed) {
                continue;
            }
            let outcome = match node.peers.connect_seed(seed).await {
                Ok(id) if id == node.cluster.me.id => Ok(()),
                Ok(id) => exchange(node, id).await.map_err(|error| error.to_string()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                let complained = self.complained.get(seed).is_some_and(|at| at.elapsed() < COMPLAIN_EVERY);
                if !complained {
                    tracing::warn!(%seed, %error, "a seed gave no answer");
                    self.complained.insert(seed.clone(), Instant::now());
                }
            }
        }
    }
}

async fn exchange_logged(node: &Shared, other: NodeId) {
    if let Err(error) = exchange(node, other).await {
        tracing::debug!(peer = %other, %error, "no exchange");
    }
}

/// Exchanges with every known node at once: an operator's change should not wait for the next round.
pub(crate) fn tell_all(node: &Arc<Shared>) {
    for other in others(&node.cluster) {
        let node = node.clone();
        tokio::spawn(async move { exchange_logged(&node, other).await });
    }
}

/// Makes both views equal.
async fn exchange(node: &Shared, other: NodeId) -> Result<(), Failure> {
    let mut send_history = false;
    // Once to compare and take, once more if the other side lacks something.
    for _ in 0..2 {
        let view = node.cluster.view();
        let history = send_history.then(|| view.history.to_bytes().into());
        let request = Exchange { view: view.digest, history, nodes: node.cluster.nodes() };
        let frame = Frame::new(&request, bytes::Bytes::new());
        let (reply, _) = node
            .peers
            .request::<ExchangeReply>(other, Class::Background, frame, CALL_TIMEOUT)
            .await
            .map_err(|error| Failure::unknown(FailureCode::NoAnswer, error.to_string()))?;
        node.cluster.unite_nodes(reply.nodes);
        if let Some(history) = reply.history {
            unite(&node.cluster, &history).await?;
        }
        send_history = node.cluster.view().digest != reply.view;
        if !send_history {
            break;
        }
    }
    Ok(())
}

/// The other side of [`exchange`].
pub(crate) async fn answer(node: &Shared, request: Exchange) -> Result<ExchangeReply, Failure> {
    node.cluster.unite_nodes(request.nodes);
    if let Some(history) = request.history {
        unite(&node.cluster, &history).await?;
    }
    let view = node.cluster.view();
    let history = (view.digest != request.view).then(|| view.history.to_bytes().into());
    Ok(ExchangeReply { view: view.digest, history, nodes: node.cluster.nodes() })
}

/// Unites a history from elsewhere.
async fn unite(cluster: &Cluster, bytes: &[u8]) -> Result<(), Failure> {
    let refuse =
        |reason: String| Failure::not_done(FailureCode::Invalid, format!("the history is refused: {reason}"));
    let history = History::from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
    cluster.unite_history(&history).await.map_err(|error| refuse(error.to_string()))?;
    Ok(())
}

/// What a client needs to route by itself.
pub(crate) fn view_reply(
    cluster: &Cluster,
    view: &View,
    known: dynkv_proto::Digest,
) -> dynkv_proto::ViewReply {
    let history = (view.digest != known).then(|| view.history.to_bytes().into());
    dynkv_proto::ViewReply { view: view.digest, history, nodes: cluster.nodes() }
}
