//! Leaving: a node that is told to leave takes no more hints, hands over what it holds, and says that it has left when that is nothing.

use std::{sync::Arc, time::Duration};

use dynkv_ring::{Change, Status};
use tokio::time::timeout;

use crate::{
    cluster::View,
    planted::{self, Bug},
    propose,
    shared::Shared,
    storage::write_durably,
};

const PERIOD: Duration = Duration::from_secs(1);

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
}
