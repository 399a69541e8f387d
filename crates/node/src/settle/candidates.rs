//! Which keys have something to settle, by the digest index: no record is read.

use dynkv_merkle::Span;
use dynkv_proto::{SettleKey, TreePosition};

use super::answer::KEYS_MAX;
use crate::{
    cluster::View,
    record::parse_record_key,
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
        for Indexed { place, digest, unsettled_since_ms, record } in page {
            if keys.len() == KEYS_MAX || bytes >= BYTES_MAX {
                more = true;
                break;
            }
            self.next = place.0.saturating_add(1);
            if unsettled_since_ms == 0 {
                continue;
            }
            let Some((bucket, key)) = parse_record_key(&record) else { continue };
            let grace_ms = view.buckets.get(&bucket).grace_ms;
            if unsettled_since_ms.saturating_add(grace_ms) <= now_ms {
                bytes += bucket.len() + key.len();
                keys.push(SettleKey { bucket, key: key.into(), digest });
            }
        }
        Ok((keys, more && self.next <= self.last))
    }
}
