//! A member's, and a member-to-be's, side of a change.

use std::sync::Arc;

use dynkv_proto::{
    Accepted, ChainAccept, ChainAcceptReply, ChainJoin, ChainJoinReply, ChainPrepare, ChainPrepareReply, ChainReady,
    ChainReadyReply, Failure, FailureCode,
};

use super::learn;
use crate::{
    shared::Shared,
    storage::StorageError,
};

pub(crate) async fn prepare(node: &Shared, request: ChainPrepare) -> Result<ChainPrepareReply, Failure> {
    let ChainPrepare { partition, epoch, ballot } = request;
    let vote = node.chain.prepare(partition, epoch, ballot).await;
    vote.map(|vote| ChainPrepareReply { vote }).map_err(|error| storage_failure(node, &error))
}

pub(crate) async fn accept(node: &Shared, request: ChainAccept) -> Result<ChainAcceptReply, Failure> {
    let ChainAccept { partition, epoch, ballot, members } = request;
    let vote = node.chain.accept(partition, epoch, Accepted { ballot, members }).await;
    vote.map(|vote| ChainAcceptReply { vote }).map_err(|error| storage_failure(node, &error))
}

pub(crate) async fn join(node: &Arc<Shared>, request: ChainJoin) -> Result<ChainJoinReply, Failure> {
    let ChainJoin { partition, epoch, sources } = request;
    learn::join(node, partition, epoch, sources).await.map(|()| ChainJoinReply { reserved: 0 }).map_err(|error| {
        Failure::not_done(FailureCode::Stale, format!("node {} does not join: {error}", node.cluster.me.id))
    })
}

pub(crate) fn ready(node: &Shared, request: &ChainReady) -> ChainReadyReply {
    let disk = node.chain.is_confirmed().then_some(node.cluster.me.disk);
    ChainReadyReply { partitions: learn::ready(node, &request.partitions), disk }
}

fn storage_failure(node: &Shared, error: &StorageError) -> Failure {
    Failure::not_done(FailureCode::Storage, format!("node {}: {error}", node.cluster.me.id))
}
