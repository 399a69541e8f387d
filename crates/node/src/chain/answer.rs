//! A member's, and a member-to-be's, side of a change.

use std::sync::Arc;

use dynkv_proto::{
    Accepted, ChainAccept, ChainAcceptReply, ChainJoin, ChainJoinReply, ChainPrepare, ChainPrepareReply,
    ChainReady, ChainReadyReply, Failure, FailureCode, Holder,
};

use super::learn;
use crate::{shared::Shared, storage::StorageError};

pub(crate) async fn prepare(node: &Shared, request: ChainPrepare) -> Result<ChainPrepareReply, Failure> {
    let ChainPrepare { partition, epoch, ballot, replaced, everybody } = request;
    if !knows(node, &replaced) {
        let message = format!("node {} has not heard of a new disk of a member", node.cluster.me.id);
        return Err(Failure::not_done(FailureCode::Stale, message));
    }
    if let Some(theirs) = everybody {
        let view = node.cluster.view();
        node.cluster.serving(&view)?;
        if view.digest != theirs {
            let message = format!("node {} has another view of the cluster", node.cluster.me.id);
            return Err(Failure { view: view.digest, ..Failure::not_done(FailureCode::Stale, message) });
        }
    }
    let vote = node.chain.prepare(partition, epoch, ballot, everybody.is_some()).await;
    vote.map(|vote| ChainPrepareReply { vote }).map_err(|error| storage_failure(node, &error))
}

/// Whether the history names these disks as those that the nodes have now.
pub(super) fn knows(node: &Shared, replaced: &[Holder]) -> bool {
    let view = node.cluster.view();
    let named = |node| view.membership.member(node).and_then(|state| state.disk);
    replaced.iter().all(|holder| named(&holder.node) == Some(holder.disk))
}

pub(crate) async fn accept(node: &Shared, request: ChainAccept) -> Result<ChainAcceptReply, Failure> {
    let ChainAccept { partition, epoch, ballot, members, everybody } = request;
    let vote = node.chain.accept(partition, epoch, Accepted { ballot, members }, everybody).await;
    vote.map(|vote| ChainAcceptReply { vote }).map_err(|error| storage_failure(node, &error))
}

pub(crate) async fn join(node: &Arc<Shared>, request: ChainJoin) -> Result<ChainJoinReply, Failure> {
    let ChainJoin { partition, epoch, sources } = request;
    learn::join(node, partition, epoch, sources).await.map(|()| ChainJoinReply { reserved: 0 }).map_err(
        |error| {
            Failure::not_done(
                FailureCode::Stale,
                format!("node {} does not join: {error}", node.cluster.me.id),
            )
        },
    )
}

pub(crate) fn ready(node: &Shared, request: &ChainReady) -> ChainReadyReply {
    let disk = node.cluster.is_admitted().then_some(node.cluster.me.disk);
    ChainReadyReply { partitions: learn::ready(node, &request.partitions), disk }
}

fn storage_failure(node: &Shared, error: &StorageError) -> Failure {
    Failure::not_done(FailureCode::Storage, format!("node {}: {error}", node.cluster.me.id))
}
