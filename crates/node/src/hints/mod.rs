//! Hints: states kept for homes that are out of reach (paper, section 4.6), in a space of their own.
//!
//! Invariant: a hint leaves the store only after its target has acknowledged, from disk, exactly the state that the hint
//! then still holds. The interleavings that would lose a write: the target acknowledges from memory and loses its power
//! after the hint is gone; a later write is united into the hint between its delivery and the acknowledgement. Hence
//! delivery asks for the disk, and [`Hints::remove_delivered`] compares within the store's transaction.
//!
//! `layout` draws the bytes, `delivery` hands hints over, `replica` is what a fallback does with them.

pub(crate) mod admin;
pub(crate) mod check;
mod delivery;
mod layout;
mod replica;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use dynkv_ring::NodeId;
use thiserror::Error;
use tokio::sync::Notify;

pub(crate) use self::layout::Hint;
use self::layout::{TURNS, Turn, hint_key, parse_turn_key, record_key_of, turn_key, turn_prefix};
pub(crate) use self::{
    delivery::run as deliver,
    replica::{Kept, Place},
};
use crate::{
    metrics::Metrics,
    planted::{self, Bug},
    record::Record,
    settle::TakeError,
    storage::{Apply, Done, Durability, Space, Storage, StorageError, Transaction},
};

/// Why a hint was not kept. Nothing of it was stored.
#[derive(Clone, Debug, Error)]
pub(crate) enum HintError {
    #[error("{bytes} bytes of hints are kept, the limit is {limit}: another node must keep this one")]
    Full { bytes: u64, limit: u64 },
    #[error("this node is leaving and keeps no more hints: another node must keep this one")]
    Leaving,
    #[error(transparent)]
    Refused(TakeError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<TakeError> for HintError {
    fn from(error: TakeError) -> HintError {
        match error {
            TakeError::Storage(error) => HintError::Storage(error),
            refused => HintError::Refused(refused),
        }
    }
}

/// What is kept for one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) hints: u64,
    pub(crate) bytes: u64,
}

/// A change of the totals that a transaction makes, until its outcome is known. One that is dropped instead of
/// [committed](Delta::committed) may or may not be on disk: the store is counted again then.
///
/// It is counted at once, for writes are acknowledged in another order than they are made: one that waits for the disk after
/// later ones that do not. The removal of a hint would be counted before its begin, and leave a hint that is not there.
#[must_use]
pub(crate) struct Delta {
    store: Arc<Hints>,
    /// Whether there was nothing for the target before.
    first: bool,
    committed: bool,
}

impl Delta {
    fn new(store: &Arc<Hints>, target: NodeId, hints: i64, bytes: i64) -> Delta {
        store.writes_under_way.fetch_add(1, Ordering::SeqCst);
        let first = store.count(target, hints, bytes);
        Delta { store: store.clone(), first, committed: false }
    }

    /// It is in the store, if not on disk yet.
    pub(crate) fn committed(mut self) {
        self.committed = true;
        if self.first {
            self.store.wake.notify_one();
        }
    }
}

impl Drop for Delta {
    fn drop(&mut self) {
        if !self.committed {
            self.store.stale.store(true, Ordering::SeqCst);
        }
        self.store.writes.fetch_add(1, Ordering::SeqCst);
        self.store.writes_under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A hint's place in the order of delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) sequence: u64,
    pub(crate) since_ms: u64,
    pub(crate) bytes: u64,
    pub(crate) record_key: Bytes,
}

/// The store of hints.
pub(crate) struct Hints {
    storage: Arc<dyn Storage>,
    metrics: Arc<Metrics>,
    book: Mutex<BTreeMap<NodeId, Totals>>,
    /// Whether a write failed, so that the book may be wrong.
    stale: AtomicBool,
    /// Writes whose outcome is not known yet, and those that had one.
    writes_under_way: AtomicU64,
    writes: AtomicU64,
    next_sequence: AtomicU64,
    /// Hints whose turn cannot be read: for whom they are is not known.
    unreadable: AtomicU64,
    /// Whether no more are taken.
    closed: AtomicBool,
    pub(crate) limit_bytes: u64,
    /// Told when there is a first hint for some target, or when an operator wants them delivered now.
    pub(crate) wake: Notify,
    /// What came of the latest attempts to deliver.
    outcomes: Mutex<BTreeMap<NodeId, String>>,
}

impl Hints {
    /// Counts what is stored.
    pub(crate) fn load(
        storage: Arc<dyn Storage>,
        metrics: Arc<Metrics>,
        limit_bytes: u64,
    ) -> Result<Hints, StorageError> {
        let hints = Hints {
            storage,
            metrics,
            book: Mutex::default(),
            stale: AtomicBool::new(true),
            writes_under_way: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            next_sequence: AtomicU64::new(1),
            unreadable: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            limit_bytes,
            wake: Notify::new(),
            outcomes: Mutex::default(),
        };
        hints.recount_if_stale()?;
        Ok(hints)
    }

    /// Counts what is stored, if the book may be wrong. Only while nothing is written, for a write that is under way
    /// may be seen or not; it is tried again later then.
    pub(crate) fn recount_if_stale(&self) -> Result<(), StorageError> {
        if !self.stale.load(Ordering::SeqCst) {
            return Ok(());
        }
        let writes = self.writes.load(Ordering::SeqCst);
        if self.writes_under_way.load(Ordering::SeqCst) > 0 {
            return Ok(());
        }
        let mut counted: BTreeMap<NodeId, Totals> = BTreeMap::new();
        let (mut next_sequence, mut unreadable) = (1, 0);
        self.storage.scan(Space::Hints, TURNS, &[], &mut |key, value| {
            match parse_turn_key(&key).and_then(|key| Ok((key, Turn::decode(value)?))) {
                Ok(((target, sequence), turn)) => {
                    let totals = counted.entry(target).or_default();
                    totals.hints += 1;
                    totals.bytes += u64::from(turn.bytes);
                    next_sequence = next_sequence.max(sequence.saturating_add(1));
                }
                Err(_) => unreadable += 1,
            }
            ControlFlow::Continue(())
        })?;
        let mut book = self.book();
        let quiet =
            self.writes_under_way.load(Ordering::SeqCst) == 0 && self.writes.load(Ordering::SeqCst) == writes;
        if !quiet {
            return Ok(());
        }
        self.unreadable.store(unreadable, Ordering::SeqCst);
        if unreadable > 0 {
            tracing::error!(
                unreadable,
                "hints cannot be read and will not be delivered: reads will repair their keys"
            );
            self.metrics.hints_damaged.inc_by(unreadable);
        }
        self.next_sequence.fetch_max(next_sequence, Ordering::SeqCst);
        self.gauge(&counted);
        *book = counted;
        self.stale.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<NodeId, Totals>> {
        // Counting is plain arithmetic: a panic elsewhere leaves nothing half done.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more hints from here on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// What is kept for each target.
    pub(crate) fn totals(&self) -> BTreeMap<NodeId, Totals> {
        self.book().clone()
    }

    /// The hint for `target` about a key, as committed.
    pub(crate) fn read(&self, record_key: &[u8], target: &NodeId) -> Result<Option<Hint>, StorageError> {
        // Most nodes keep no hints most of the time.
        if !self.book().contains_key(target) {
            return Ok(None);
        }
        decode(self.storage.get(Space::Hints, &hint_key(record_key, target))?)
    }

    /// The same within a transaction.
    pub(crate) fn get(
        &self,
        tx: &Transaction<'_>,
        record_key: &[u8],
        target: &NodeId,
    ) -> Result<Option<Hint>, StorageError> {
        decode(tx.get(Space::Hints, &hint_key(record_key, target))?)
    }

    /// All targets for which something is kept, as of the transactions that have run; `None` while that is not known.
    pub(crate) fn targets(&self) -> Option<Vec<NodeId>> {
        let known = !self.stale.load(Ordering::SeqCst) && self.unreadable.load(Ordering::SeqCst) == 0;
        known.then(|| self.book().keys().copied().collect())
    }

    /// Writes `record` in place of `hint`: what is left of it once it is settled.
    pub(crate) fn shorten(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        record_key: &[u8],
        target: NodeId,
        hint: &Hint,
        record: Record,
    ) -> Delta {
        let bytes = record.state.len() as i64 - hint.record.state.len() as i64;
        self.write(
            tx,
            record_key,
            &target,
            Hint { record, sequence: hint.sequence, since_ms: hint.since_ms },
        );
        Delta::new(self, target, 0, bytes)
    }

    fn write(&self, tx: &mut Transaction<'_>, record_key: &[u8], target: &NodeId, hint: Hint) {
        let key = hint_key(record_key, target);
        // A state is bounded by the length of a frame, 64 MiB.
        let bytes = hint.record.state.len() as u32;
        let turn = Turn { bytes, since_ms: hint.since_ms, hint_key: key.clone() };
        tx.put(Space::Hints, turn_key(target, hint.sequence), turn.encode());
        tx.put(Space::Hints, key, hint.encode());
    }

    /// Removes a hint that is settled.
    pub(crate) fn remove(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        record_key: &[u8],
        target: NodeId,
        hint: &Hint,
    ) -> Delta {
        tx.delete(Space::Hints, hint_key(record_key, &target));
        tx.delete(Space::Hints, turn_key(&target, hint.sequence));
        Delta::new(self, target, -1, -(hint.record.state.len() as i64))
    }

    /// Writes `record` as the hint for `target`, in place of `before`.
    fn put(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        record_key: &[u8],
        target: NodeId,
        before: Option<&Hint>,
        record: Record,
        now_ms: u64,
    ) -> Result<Delta, HintError> {
        let (sequence, since_ms) = match before {
            Some(hint) => (hint.sequence, hint.since_ms),
            None => (self.next_sequence.fetch_add(1, Ordering::Relaxed), now_ms),
        };
        if before.is_none() && self.closed.load(Ordering::SeqCst) {
            return Err(HintError::Leaving);
        }
        let old_bytes = before.map_or(0, |hint| hint.record.state.len() as i64);
        let bytes = record.state.len() as i64;
        let kept: u64 = self.book().values().map(|totals| totals.bytes).sum();
        if bytes > old_bytes && kept.saturating_add_signed(bytes - old_bytes) > self.limit_bytes {
            self.metrics.hints_refused_full.inc();
            return Err(HintError::Full { bytes: kept, limit: self.limit_bytes });
        }
        self.write(tx, record_key, &target, Hint { sequence, since_ms, record });
        Ok(Delta::new(self, target, i64::from(before.is_none()), bytes - old_bytes))
    }

    /// Says whether there was nothing for `target` before.
    fn count(&self, target: NodeId, hints: i64, bytes: i64) -> bool {
        let mut book = self.book();
        let totals = book.entry(target).or_default();
        let first = totals.hints == 0;
        totals.hints = totals.hints.saturating_add_signed(hints);
        totals.bytes = totals.bytes.saturating_add_signed(bytes);
        if totals.hints == 0 {
            book.remove(&target);
        }
        self.gauge(&book);
        first
    }

    fn gauge(&self, book: &BTreeMap<NodeId, Totals>) {
        self.metrics.hints.set(book.values().map(|totals| totals.hints as i64).sum());
        self.metrics.hint_bytes.set(book.values().map(|totals| totals.bytes as i64).sum());
    }

    /// A page of the hints for `target`, oldest first, behind `after`; ends after `limit` hints or the one with which
    /// `bytes_max` is reached. Says whether there are more.
    pub(crate) fn page(
        &self,
        target: &NodeId,
        after: Option<u64>,
        limit: usize,
        bytes_max: u64,
    ) -> Result<(Vec<Queued>, bool), StorageError> {
        let prefix = turn_prefix(target).freeze();
        let from = after.map(|after| turn_key(target, after.saturating_add(1))).unwrap_or_default();
        let (mut page, mut more, mut bytes) = (Vec::new(), false, 0);
        self.storage.scan(Space::Hints, &prefix, &from, &mut |key, value| {
            let entry = parse_turn_key(&key).and_then(|(_, sequence)| {
                let turn = Turn::decode(value)?;
                let record_key = record_key_of(&turn.hint_key)?;
                Ok(Queued { sequence, since_ms: turn.since_ms, bytes: u64::from(turn.bytes), record_key })
            });
            if page.len() == limit || bytes >= bytes_max {
                more = true;
                return ControlFlow::Break(());
            }
            // Unreadable ones were counted when the store was opened.
            if let Ok(entry) = entry {
                bytes += entry.bytes;
                page.push(entry);
            }
            ControlFlow::Continue(())
        })?;
        Ok((page, more))
    }

    /// When the oldest hint of all was begun, by this node's wall clock.
    pub(crate) fn oldest_since_ms(&self) -> Result<Option<u64>, StorageError> {
        let mut oldest = None;
        for target in self.totals().into_keys() {
            let (first, _) = self.page(&target, None, 1, u64::MAX)?;
            oldest = oldest.into_iter().chain(first.first().map(|queued| queued.since_ms)).min();
        }
        Ok(oldest)
    }

    /// Removes the hint that `queued` names, if it still holds `delivered`, which its target has on disk; `None` removes
    /// whatever is there, because it cannot be read. `done` learns whether it is gone.
    fn remove_delivered(
        self: &Arc<Self>,
        target: NodeId,
        queued: &Queued,
        delivered: Option<Bytes>,
        done: impl FnOnce(Result<bool, StorageError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let hints = self.clone();
        let Queued { sequence, bytes, record_key, .. } = queued.clone();
        let apply: Apply = Box::new(move |tx| {
            let held = hints.get(tx, &record_key, &target);
            let (same, sequence, bytes) = match (held, &delivered) {
                (Ok(Some(hint)), Some(delivered)) => {
                    let same = hint.record.state == *delivered || planted::is(Bug::HintRemovedThoughChanged);
                    // Its own turn: the one that was queued may be settled, and this one be begun since.
                    (same, hint.sequence, hint.record.state.len() as u64)
                }
                (Err(StorageError::Damaged { .. }), None) => (true, sequence, bytes),
                (Ok(_), _) => (false, 0, 0),
                (Err(error), _) => return Box::new(move |_| done(Err(error))) as Done,
            };
            if !same {
                return Box::new(move |_| done(Ok(false)));
            }
            tx.delete(Space::Hints, hint_key(&record_key, &target));
            tx.delete(Space::Hints, turn_key(&target, sequence));
            let delta = Delta::new(&hints, target, -1, -(bytes as i64));
            Box::new(move |result| {
                if result.is_ok() {
                    delta.committed();
                }
                done(result.map(|()| true));
            })
        });
        // Losing the removal costs a second delivery, which brings nothing new.
        self.storage.submit(Durability::Memory, apply)
    }

    fn note_outcome(&self, target: NodeId, outcome: Option<String>) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Some(error) => drop(outcomes.insert(target, error)),
            None => drop(outcomes.remove(&target)),
        }
    }

    /// What came of the latest attempt to deliver to `target`; empty when all went well.
    pub(crate) fn outcome(&self, target: &NodeId) -> String {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.get(target).cloned().unwrap_or_default()
    }
}

fn decode(stored: Option<Bytes>) -> Result<Option<Hint>, StorageError> {
    stored.map(Hint::decode).transpose()
}
