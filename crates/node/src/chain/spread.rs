//! Making configurations known: told at once to those whom they concern, and carried by gossip to everybody.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{ChainTell, ChainTellReply, Configuration, Frame, Round};
use dynkv_ring::{NodeId, PartitionId};
use futures_util::future::join_all;

use crate::shared::Shared;

const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes over what is later than what this node knows, and has gossip carry it.
pub(crate) async fn adopt(node: &Arc<Shared>, configurations: Vec<Configuration>) {
    match node.chain.adopt(configurations).await {
        Ok(adopted) => adopted.into_iter().for_each(|configuration| carry(node, configuration)),
        // It is heard of again.
        Err(error) => tracing::warn!(%error, "a configuration was not stored"),
    }
}

/// Takes over what this node's own proposal under `ballot` has decided. Only then others may hear of it: see docs/architecture.md, "No majority is left".
pub(super) async fn adopt_own(node: &Arc<Shared>, decided: Configuration, ballot: Round) -> bool {
    match node.chain.adopt_own(decided.clone(), ballot).await {
        Ok(true) => {
            carry(node, decided);
            true
        }
        Ok(false) => false,
        Err(error) => {
            tracing::warn!(%error, "a configuration was decided, but not stored");
            false
        }
    }
}

fn carry(node: &Shared, configuration: Configuration) {
    tracing::debug!(
        partition = configuration.partition,
        epoch = configuration.epoch,
        "a partition has another configuration"
    );
    node.metrics.configurations_adopted.inc();
    node.gossip.carry_configuration(configuration);
}

/// Tells `nodes` of a configuration.
pub(super) async fn tell(node: &Arc<Shared>, mut nodes: Vec<NodeId>, configuration: Configuration) {
    nodes.sort_unstable();
    nodes.dedup();
    let told = nodes.into_iter().filter(|other| *other != node.cluster.me.id).map(|other| {
        let configurations = vec![configuration.clone()];
        async move { exchange(node, other, configurations).await }
    });
    join_all(told).await;
}

/// This node and `other` know the later of the two configurations that they knew of a partition, if `other` answers.
pub(crate) async fn agree(node: &Arc<Shared>, other: NodeId, partition: PartitionId) {
    let mine = node.chain.members(partition).to_configuration(partition.0);
    exchange(node, other, vec![mine]).await;
}

async fn exchange(node: &Arc<Shared>, other: NodeId, configurations: Vec<Configuration>) {
    let frame = Frame::new(&ChainTell { configurations }, Bytes::new());
    match node.peers.request::<ChainTellReply>(other, Class::Foreground, frame, CALL_TIMEOUT).await {
        Ok((reply, _)) => adopt(node, reply.configurations).await,
        Err(error) => tracing::debug!(%other, %error, "a node was not told of a configuration"),
    }
}

/// Answers [`ChainTell`].
pub(crate) async fn told(node: &Arc<Shared>, request: ChainTell) -> ChainTellReply {
    let asked: Vec<(u32, u64)> = request
        .configurations
        .iter()
        .map(|configuration| (configuration.partition, configuration.epoch))
        .collect();
    adopt(node, request.configurations).await;
    let mine = asked
        .into_iter()
        .map(|(partition, epoch)| (node.chain.members(PartitionId(partition)), partition, epoch));
    let later = mine.filter(|(members, _, epoch)| members.epoch > *epoch);
    ChainTellReply {
        configurations: later.map(|(members, partition, _)| members.to_configuration(partition)).collect(),
    }
}
