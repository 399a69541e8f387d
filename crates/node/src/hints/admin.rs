//! What operators see of hints, and may have done with them.

use std::sync::Arc;

use bytes::Bytes;
use dynkv_proto::{
    DrainHints, DrainHintsReply, Failure, FailureCode, HintEntry, HintTotals, Hints, HintsReply,
};

use crate::{record::parse_record_key, shared::Shared, storage::StorageError};

/// Hints in one page at most: keeps a reply far below the longest header.
const PAGE_HINTS_MAX: u32 = 1000;

/// Answers what this node keeps.
pub(crate) fn list(node: &Shared, request: &Hints) -> Result<(HintsReply, Bytes), Failure> {
    let hints = &node.replica.hints;
    let now_ms = node.env.wall_ms();
    let failed = |error: StorageError| {
        Failure::not_done(FailureCode::Storage, format!("node {}: {error}", node.cluster.me.id))
    };
    let mut totals = Vec::new();
    for (target, kept) in hints.totals() {
        let (oldest, _) = hints.page(&target, None, 1, u64::MAX).map_err(failed)?;
        let reachable = node.peers.is_reachable(target);
        let of_connection = node.peers.status(target).last_error;
        totals.push(HintTotals {
            target,
            hints: kept.hints,
            bytes: kept.bytes,
            oldest_ms: oldest.first().map_or(0, |oldest| now_ms.saturating_sub(oldest.since_ms)),
            reachable,
            // Nothing is delivered to a target out of reach: what failed is the connection.
            last_error: match of_connection {
                error if !reachable && !error.is_empty() => error,
                _ => hints.outcome(&target),
            },
        });
    }
    let (mut entries, mut more) = (Vec::new(), false);
    if let Some(target) = request.target {
        let limit = request.limit.clamp(1, PAGE_HINTS_MAX) as usize;
        let (page, rest) = hints.page(&target, request.after, limit, u64::MAX).map_err(failed)?;
        more = rest;
        for queued in page {
            // One that is stored under another form was counted as damaged when the store was opened.
            let Some((bucket, key)) = parse_record_key(&queued.record_key) else { continue };
            entries.push(HintEntry {
                sequence: queued.sequence,
                bucket,
                key: Bytes::copy_from_slice(&key).into(),
                bytes: queued.bytes,
                age_ms: now_ms.saturating_sub(queued.since_ms),
            });
        }
    }
    let reply = HintsReply {
        node: node.cluster.me.id,
        totals,
        hints: entries,
        more,
        limit_bytes: hints.limit_bytes,
        refused_full: node.metrics.hints_refused_full.get(),
    };
    Ok((reply, Bytes::new()))
}

/// Has delivery begin now, with a new attempt to connect to targets that are out of reach.
pub(crate) fn drain(node: &Arc<Shared>, request: &DrainHints) -> DrainHintsReply {
    let mut hints = 0;
    for (target, kept) in node.replica.hints.totals() {
        if request.target.is_none_or(|only| only == target) {
            hints += kept.hints;
            // An attempt takes seconds, for which neither the answer nor the other targets are to wait.
            let node = node.clone();
            tokio::spawn(async move {
                node.peers.ensure_connected(target).await;
                node.replica.hints.wake.notify_one();
            });
        }
    }
    DrainHintsReply { hints }
}
