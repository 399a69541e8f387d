//! Which keys have something to settle, by the digest index: no record is read.

use dynkv_merkle::Span;
use dynkv_proto::{SettleKey, TreePosition};

use super::answer::KEYS_MAX;
use crate::{
    cluster::View,
    record::parse_record_key,
    settle::compact::Unsettled,
    shared::Shared,
    storage::StorageError,
    trees::index::{self, Indexed},
};

/// Entries of the index looked at in one go: as many as a round has keys.
const PAGE: usize = KEYS_MAX;

/// Bytes of names in a round.
const BYTES_MAX: usize = 256 * 1024;

/// A walk through the index of one partition.
pub(super) struct Walk {
    partition: u32,
    next: u128,
    last: u128,
}

impl Walk {
    /// From the beginning of `partition`; `None` when there is no such partition.
    pub(super) fn new(view: &View, partition: u32) -> Option<Walk> {
        let bits = view.membership.partitions().bits() as u8;
        let span = Span::new(bits, partition)?;
        Some(Walk { partition, next: span.first(), last: span.last() })
    }

    pub(super) fn partition(&self) -> u32 {
        self.partition
    }

    /// The next keys with something to settle that has rested for as long as their bucket demands. Says whether there may be
    /// more.
    pub(super) fn page(
        &mut self,
        node: &Shared,
        view: &View,
    ) -> Result<(Vec<SettleKey>, bool), StorageError> {
        let (first, last) = (TreePosition(self.next), TreePosition(self.last));
        let (page, complete) = index::page(&*node.replica.storage, first, last, PAGE)?;
        let now_ms = node.env.wall_ms();
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let mut more = !complete;
        for Indexed { place, entered, record } in page {
            if keys.len() == KEYS_MAX || bytes >= BYTES_MAX {
                more = true;
                break;
            }
            self.next = place.0.saturating_add(1);
            // Most have nothing: their names need not be read.
            if entered.unsettled.since_ms == 0 {
                continue;
            }
            let Some((bucket, key)) = parse_record_key(&record) else { continue };
            if is_due(view, &bucket, entered.unsettled, now_ms) {
                bytes += bucket.len() + key.len();
                keys.push(SettleKey { bucket, key: key.into(), digest: entered.digest });
            }
        }
        Ok((keys, more && self.next <= self.last))
    }
}

/// Whether there is something to settle, and it has rested for as long as the bucket demands.
pub(super) fn is_due(view: &View, bucket: &str, unsettled: Unsettled, now_ms: u64) -> bool {
    let Unsettled { since_ms, .. } = unsettled;
    since_ms > 0 && since_ms.saturating_add(view.buckets.get(bucket).grace_ms) <= now_ms
}
