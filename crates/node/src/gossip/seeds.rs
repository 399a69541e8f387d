//! Addresses that somebody wrote down: how a node finds the others at first, and again when they have moved.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dynkv_proto::NodeInfo;
use dynkv_ring::NodeId;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::rounds::{PERIOD_STARTING, exchange, exchange_over, others, settled};
use crate::shared::Shared;

const PERIOD: Duration = Duration::from_secs(1);

/// How often the same complaint about a seed is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Asks seeds for as long as somebody is missed. A member that is not connected may have moved while this node was down or
/// cut off, and a seed may know where to; so two halves of a cluster find each other. While everybody is connected there is
/// no island to be found.
pub(crate) async fn run(node: Arc<Shared>, seeds: Vec<String>) {
    let mut seeds = Seeds::new(seeds);
    let mut news = node.cluster.subscribe();
    while !node.gossip.is_silent() {
        news.mark_unchanged();
        let starting = !settled(&node.cluster);
        if starting || others(&node.cluster).iter().any(|info| !node.peers.is_connected(info.id)) {
            seeds.ask(&node).await;
        }
        let period = if starting { PERIOD_STARTING } else { PERIOD };
        // The sender lives in `node`: this ends with a change or with the time.
        drop(timeout(period, news.changed()).await);
    }
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
        let asked = seeds.iter().map(|seed| ask_one(node, seed, &others));
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

/// Exchanges with whoever is at `seed`, and says who that is.
async fn ask_one(node: &Shared, seed: &str, others: &[NodeInfo]) -> Result<NodeId, String> {
    let (id, connection) = node.peers.connect_seed(seed, others).await?;
    let outcome = match connection {
        // It bears this node's own name: this node, under another address - or another run of it, which is to be told.
        Some(connection) if id == node.cluster.me.id => exchange_over(node, id, &connection).await,
        _ => exchange(node, id).await,
    };
    outcome.map(|()| id).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::info;

    fn id(text: &str) -> NodeId {
        text.parse().expect("a good id")
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
