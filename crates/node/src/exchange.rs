//! How histories and addresses travel: each node exchanges them with one other, again and again.
//!
//! Push-pull with one random peer a second, and at once when there is news; with everybody known at the start, and quicker
//! until the cluster is founded and the node knows where all members are. Digests first: equal histories cost a hash.
//!
//! Once there are members only those are asked. Whoever is none asks for itself, and is answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dynkv_net::Class;
use dynkv_proto::{Exchange, ExchangeReply, Failure, FailureCode, Frame, NodeInfo};
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
    let mut seeds = Seeds::new(seeds);
    let mut news = node.cluster.subscribe();
    // The boot under which everybody known was told where this start listens.
    let mut greeted = None;
    loop {
        news.mark_unchanged();
        let starting = !settled(&node.cluster);
        let others = ids(&others(&node.cluster));
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

/// Whether the node knows who the members are and where.
fn settled(cluster: &Cluster) -> bool {
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

fn ids(nodes: &[NodeInfo]) -> Vec<NodeId> {
    nodes.iter().map(|info| info.id).collect()
}

/// Addresses that somebody wrote down, and what came of them.
struct Seeds {
    addresses: Vec<String>,
    /// Who answered there last. A name need not look like the address that its node tells.
    answered: BTreeMap<String, NodeId>,
    complained: BTreeMap<String, Instant>,
}

impl Seeds {
    fn new(addresses: Vec<String>) -> Seeds {
        Seeds { addresses, answered: BTreeMap::new(), complained: BTreeMap::new() }
    }

    /// The seeds that may tell something: behind those left out is this node, one that is dialled anyway, or one that
    /// stands connected.
    fn to_ask(&self, me: &NodeInfo, others: &[NodeInfo], connected: impl Fn(NodeId) -> bool) -> Vec<String> {
        let idle = |seed: &String| {
            let dialled = others.iter().chain([me]).any(|info| info.address == *seed);
            let known = |id: NodeId| id == me.id || connected(id) && others.iter().any(|info| info.id == id);
            dialled || self.answered.get(seed).is_some_and(|&id| known(id))
        };
        self.addresses.iter().filter(|seed| !idle(seed)).cloned().collect()
    }

    /// Asks them all at once: a dead one must not hold up the others.
    async fn ask(&mut self, node: &Shared) {
        let others = others(&node.cluster);
        let seeds = self.to_ask(&node.cluster.me, &others, |id| node.peers.is_connected(id));
        let asked = seeds.iter().map(|seed| async {
            let id = node.peers.connect_seed(seed, &others).await?;
            if id != node.cluster.me.id {
                exchange(node, id).await.map_err(|error| error.to_string())?;
            }
            Ok(id)
        });
        let outcomes: Vec<Result<NodeId, String>> = join_all(asked).await;
        for (seed, outcome) in seeds.into_iter().zip(outcomes) {
            match outcome {
                Ok(id) => {
                    self.answered.insert(seed, id);
                }
                Err(error) => self.complain(seed, &error),
            }
        }
    }

    fn complain(&mut self, seed: String, error: &str) {
        if self.complained.get(&seed).is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            tracing::warn!(%seed, %error, "a seed gave no answer");
            self.complained.insert(seed, Instant::now());
        }
    }
}

async fn exchange_logged(node: &Shared, other: NodeId) {
    if let Err(error) = exchange(node, other).await {
        tracing::debug!(peer = %other, %error, "no exchange");
    }
}

/// Exchanges with all others at once: an operator's change should not wait for the next round.
pub(crate) fn tell_all(node: &Arc<Shared>) {
    for other in ids(&others(&node.cluster)) {
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

#[cfg(test)]
mod tests {
    use dynkv_ring::{Change, Entry, Founding, Member, PartitionCount};

    use super::*;
    use crate::cluster::tests::{info, load};

    fn id(text: &str) -> NodeId {
        text.parse().expect("a good id")
    }

    #[tokio::test]
    async fn once_there_are_members_nobody_else_is_dialled() {
        let cluster = load(&Arc::default(), info("n1", 1, 1, "a:1"));
        cluster.unite_nodes(vec![info("n2", 1, 2, "b:1"), info("n3", 1, 3, "c:1")]);
        assert_eq!(ids(&others(&cluster)), [id("n2"), id("n3")]);
        assert!(!settled(&cluster));
        let founding = Founding {
            cluster: "test".into(),
            partitions: PartitionCount::new(8).expect("a power of two"),
            replicas: 2,
            members: vec![Member::new(id("n2")), Member::new(id("n4"))],
        };
        let entry = Entry::new(1, id("n2"), Change::Found(founding)).expect("a good founding");
        cluster.add_entry(entry).await.expect("room for one");
        assert_eq!(ids(&others(&cluster)), [id("n2")]);
        assert!(!settled(&cluster), "nobody knows yet where n4 is");
        cluster.unite_nodes(vec![info("n4", 1, 4, "d:1")]);
        assert_eq!(ids(&others(&cluster)), [id("n2"), id("n4")]);
        // Refused as a member: it knows all there is to know.
        assert!(settled(&cluster));
    }

    #[test]
    fn a_seed_behind_which_a_connected_node_was_found_is_not_asked_again() {
        let me = info("n1", 1, 1, "10.0.0.1:7");
        let others = [info("n2", 1, 2, "10.0.0.2:7"), info("n3", 1, 3, "three:7")];
        let written = ["10.0.0.1:7", "one:7", "two:7", "three:7", "four:7"].map(String::from);
        let mut seeds = Seeds::new(written.to_vec());
        assert_eq!(seeds.to_ask(&me, &others, |_| true), ["one:7", "two:7", "four:7"]);
        seeds.answered.insert("one:7".into(), me.id);
        seeds.answered.insert("two:7".into(), id("n2"));
        assert_eq!(seeds.to_ask(&me, &others, |node| node == id("n2")), ["four:7"]);
        // It may have moved, and its name with it.
        assert_eq!(seeds.to_ask(&me, &others, |_| false), ["two:7", "four:7"]);
    }
}
