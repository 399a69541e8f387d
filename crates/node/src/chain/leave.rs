//! Leaving: a node that is told to leave takes no more hints, hands over what it holds, and says that it has left when that is nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{Digest, Frame, View as ViewRequest, ViewReply};
use dynkv_ring::{Change, History, Membership, NodeId, Status};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::View,
    gossip,
    planted::{self, Bug},
    propose,
    shared::Shared,
    storage::write_durably,
};

const PERIOD: Duration = Duration::from_secs(1);

/// How long a node that is gone sees to it that the others know at most, and how often it asks.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);
const ASKED_EVERY: Duration = Duration::from_millis(250);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until the node stops, or has left.
pub(crate) async fn run(node: Arc<Shared>) {
    let mut cluster = node.cluster.subscribe();
    loop {
        let view = node.cluster.view();
        if is_leaving(&node, &view) {
            node.replica.hints.close();
            if planted::is(Bug::LeftAtOnce) || holds_nothing(&node, &view).await {
                match propose::commit(&node, &[Change::Left(node.cluster.me.id)], |_| Ok(())).await {
                    Ok(_) => return tracing::info!("this node has left the cluster"),
                    Err(error) => tracing::warn!(%error, "this node could not say that it has left"),
                }
            }
        }
        drop(timeout(PERIOD, cluster.changed()).await);
    }
}

fn is_leaving(node: &Shared, view: &View) -> bool {
    view.membership.member(&node.cluster.me.id).is_some_and(|state| state.status == Status::Leaving)
}

/// Whether nothing is here that others may lack: no partition, and no hint. No more comes in then, neither records nor hints.
async fn holds_nothing(node: &Shared, view: &View) -> bool {
    // What was on its way when the hints were closed is counted then.
    if write_durably(&*node.replica.storage, Vec::new()).await.is_err() {
        return false;
    }
    let me = node.cluster.me.id;
    let is_free = |partition: dynkv_ring::PartitionId| {
        !node.chain.holds(partition.0) && !node.chain.members(partition).homes.contains(&me)
    };
    node.replica.hints.targets().is_some_and(|targets| targets.is_empty())
        && view.membership.partitions().ids().all(is_free)
        // A process that comes back must not hold anything either.
        && node.chain.save().await.is_ok()
}

/// Waits until every member that can be reached knows that this node is gone, and one of them at least: what only its own disk says would be forgotten with it.
pub(crate) async fn until_known(node: &Arc<Shared>) {
    let until = Instant::now() + KNOWN_WITHIN;
    loop {
        let view = node.cluster.view();
        let members = view.membership.members().map(|state| state.member.id);
        let reachable: Vec<NodeId> = members.filter(|other| node.peers.is_reachable(*other)).collect();
        let known = join_all(reachable.iter().map(|other| knows(node, *other))).await;
        if !known.is_empty() && known.iter().all(|known| *known) || view.membership.members().len() == 0 {
            return;
        }
        if Instant::now() >= until {
            return tracing::warn!("not every member was seen to know that this node is gone");
        }
        gossip::tell_all(node);
        sleep(ASKED_EVERY).await;
    }
}

async fn knows(node: &Arc<Shared>, other: NodeId) -> bool {
    let frame = Frame::new(&ViewRequest { view: Digest::default() }, Bytes::new());
    let answer = node.peers.request::<ViewReply>(other, Class::Background, frame, CALL_TIMEOUT).await;
    let history = answer.ok().and_then(|(reply, _)| History::from_bytes(&reply.history?).ok());
    history.is_some_and(|history| Membership::fold(&history).departure(&node.cluster.me.id).is_some())
}
