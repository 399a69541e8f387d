//! What operators see of trees.

use bytes::Bytes;
use dynkv_proto::{Digest, Failure, FailureCode, TreeStatus, Trees, TreesReply};

pub(crate) use super::verify::{start as verify, status as verify_status, stop as stop_verify};
use crate::shared::Shared;

/// Trees in one page at most: keeps a reply far below the longest header.
const PAGE_TREES_MAX: u32 = 4096;

/// Answers with a page of this node's trees.
pub(crate) fn list(node: &Shared, request: &Trees) -> Result<(TreesReply, Bytes), Failure> {
    let trees = &node.replica.trees;
    let me = node.cluster.me.id;
    let (page, more) = match request.partition {
        Some(partition) if trees.holds(partition) => (vec![(partition, trees.ready(partition))], false),
        Some(partition) => {
            let message = format!("node {me} is no home of partition {partition}: see `dyn ring locate`");
            return Err(Failure::not_done(FailureCode::Invalid, message));
        }
        None => trees.page(request.after, request.limit.clamp(1, PAGE_TREES_MAX) as usize),
    };
    let status = |(partition, tree): super::OfPartition| TreeStatus {
        partition,
        root: tree.as_ref().map(|tree| Digest(tree.root())),
        entries: tree.as_ref().map_or(0, |tree| tree.len()),
        depth: tree.as_ref().map_or(0, |tree| tree.depth()),
    };
    let (partitions, building) = trees.counts();
    let reply = TreesReply {
        node: me,
        view: node.cluster.view().digest,
        trees: page.into_iter().map(status).collect(),
        more,
        partitions,
        building,
    };
    Ok((reply, Bytes::new()))
}
