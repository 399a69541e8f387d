//! The settlement marks of each partition: as of the transactions that have run, by which states are taken or refused, and as they
//! are on disk, under which states are sent.
//!
//! The two differ while a batch is being written, and after one has failed. Taking goes by the first: what a later transaction of the
//! same batch takes in would otherwise get past a yes that is about to be said. Sending goes by the second: a promise that a
//! crash may still undo must not be what others rely on.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use dynkv_proto::{Marks, Round, Stamp};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::TakeError;
use crate::storage::{Apply, Done, Durability, Space, Storage, StorageError, Transaction};

/// What the keys of marks in [`Space::Meta`] begin with; the partition (u16) follows.
const MARKS: &[u8] = b"marks/";

/// A member that has said yes takes no part in comparisons until the round is over, or for so long: the others would give back to it what it
/// drops, or it to them. Nothing but work depends on it.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// The marks of all partitions.
pub(crate) struct MarksBook {
    storage: Arc<dyn Storage>,
    cells: Mutex<BTreeMap<u32, Cell>>,
    /// Whether this node's disk has turned out to be an old one.
    old: AtomicBool,
    /// Told when it has.
    pub(super) found_old: Notify,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    /// As of the transactions that have run.
    written: Marks,
    /// As they are on disk for certain.
    durable: Marks,
    /// The round that this run of the node has said yes to, while nothing was taken from anybody who had not.
    pending: Option<Round>,
    /// Until when not to compare.
    quiet_until: Option<Instant>,
}

/// A write of marks, until its outcome is known.
#[must_use]
pub(crate) struct Written {
    book: Arc<MarksBook>,
    partition: u32,
    marks: Marks,
}

impl Written {
    /// The transaction is on disk.
    pub(crate) fn synced(self) {
        let mut cells = self.book.cells();
        let durable = &mut cells.entry(self.partition).or_default().durable;
        // Writes of one batch are told in any order.
        durable.promise = durable.promise.max(self.marks.promise);
        durable.agreed = durable.agreed.max(self.marks.agreed);
        durable.decided = durable.decided.max(self.marks.decided);
    }
}

fn marks_key(partition: u32) -> Bytes {
    let mut out = BytesMut::from(MARKS);
    // At most 65,536 partitions.
    out.put_u16(partition as u16);
    out.freeze()
}

/// The partition of a record key.
pub(crate) fn partition_of(record: &[u8]) -> u32 {
    record.first_chunk().map_or(0, |partition| u32::from(u16::from_be_bytes(*partition)))
}

impl MarksBook {
    /// Reads what is stored.
    pub(crate) fn load(storage: Arc<dyn Storage>) -> Result<MarksBook, StorageError> {
        let mut cells = BTreeMap::new();
        let mut damaged = false;
        storage.scan(Space::Meta, MARKS, &[], &mut |key, value| {
            let partition = key.get(MARKS.len()..).and_then(|tail| <[u8; 2]>::try_from(tail).ok());
            match (partition, Marks::from_bytes(&value)) {
                (Some(partition), Some(marks)) => {
                    let cell = Cell { written: marks, durable: marks, ..Cell::default() };
                    cells.insert(u32::from(u16::from_be_bytes(partition)), cell);
                }
                _ => damaged = true,
            }
            ControlFlow::Continue(())
        })?;
        if damaged {
            return Err(StorageError::Damaged { reason: "the settlement marks of a partition".into() });
        }
        let (old, found_old) = (AtomicBool::new(false), Notify::new());
        Ok(MarksBook { storage, cells: Mutex::new(cells), old, found_old })
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<u32, Cell>> {
        // Assignments of plain values: a panic elsewhere leaves nothing half done.
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, partition: u32) -> Cell {
        self.cells().get(&partition).copied().unwrap_or_default()
    }

    /// The marks under which a state of `partition` may be sent that is read from here on.
    pub(crate) fn durable(&self, partition: u32) -> Marks {
        self.cell(partition).durable
    }

    /// The same as a stamp.
    pub(crate) fn stamp(&self, partition: u32) -> Stamp {
        Stamp(0, self.durable(partition))
    }

    /// The marks as of the transactions that have run, of every partition that has any.
    pub(super) fn all_written(&self) -> Vec<(u32, Marks)> {
        self.cells().iter().map(|(partition, cell)| (*partition, cell.written)).collect()
    }

    /// The promise as of the transactions that have run.
    pub(super) fn promised(&self, partition: u32) -> Round {
        self.cell(partition).written.promise
    }

    /// Whether a state that was read under `sender` may be taken. Within the transaction that takes it.
    pub(crate) fn take(&self, partition: u32, sender: &Marks) -> Result<(), TakeError> {
        let mut cells = self.cells();
        let Some(cell) = cells.get_mut(&partition) else {
            // Nothing was ever promised here.
            return match sender.decided == Round::default() {
                true => Ok(()),
                false => Err(self.found_old(*sender)),
            };
        };
        if *sender == cell.written {
            return Ok(());
        }
        if sender.promise < cell.written.promise || sender.agreed < cell.written.decided {
            return Err(TakeError::Behind(cell.told()));
        }
        if cell.durable.agreed < sender.decided {
            return Err(self.found_old(*sender));
        }
        // Whoever has not said yes to the round may bring what it is about: it must not be decided any more.
        if cell.pending.is_some_and(|round| sender.agreed < round) {
            cell.pending = None;
        }
        Ok(())
    }

    /// Whether marks of another member say that this disk is an old one.
    pub(crate) fn heed(&self, partition: u32, theirs: &Marks) -> Result<(), TakeError> {
        match self.durable(partition).agreed < theirs.decided {
            true => Err(self.found_old(*theirs)),
            false => Ok(()),
        }
    }

    fn found_old(&self, theirs: Marks) -> TakeError {
        if !self.old.swap(true, Ordering::SeqCst) {
            self.found_old.notify_one();
        }
        TakeError::OldDisk(theirs)
    }

    fn write(self: &Arc<Self>, tx: &mut Transaction<'_>, partition: u32, marks: Marks) -> Written {
        tx.put(Space::Meta, marks_key(partition), marks.to_bytes().into());
        Written { book: self.clone(), partition, marks }
    }

    /// What others are told.
    pub(crate) fn told(&self, partition: u32) -> Marks {
        self.cell(partition).told()
    }

    /// Raises the promise to `round` and agrees to it, unless that or more was promised before, or this disk has missed what is
    /// `decided`.
    pub(super) fn agree(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        partition: u32,
        round: Round,
        decided: Round,
    ) -> Result<Written, Marks> {
        let told = Marks { decided, ..Marks::default() };
        if self.heed(partition, &told).is_err() {
            return Err(self.told(partition));
        }
        let marks = {
            let mut cells = self.cells();
            let cell = cells.entry(partition).or_default();
            if round <= cell.written.promise {
                return Err(cell.told());
            }
            cell.written.promise = round;
            cell.written.agreed = round;
            cell.pending = Some(round);
            cell.quiet_until = Some(Instant::now() + QUIET_MAX);
            cell.written
        };
        Ok(self.write(tx, partition, marks))
    }

    /// Notes that `round` is decided, if this run of the node has agreed to it and nothing has come since that it does not
    /// cover.
    pub(super) fn decide(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        partition: u32,
        round: Round,
    ) -> Result<Written, Marks> {
        let marks = {
            let mut cells = self.cells();
            let cell = cells.entry(partition).or_default();
            if cell.pending != Some(round) || cell.written.promise != round || cell.durable.agreed != round {
                return Err(cell.told());
            }
            cell.written.decided = round;
            cell.written
        };
        Ok(self.write(tx, partition, marks))
    }

    /// Whether what `round` has decided may be dropped.
    pub(super) fn may_drop(&self, partition: u32, round: Round) -> bool {
        let written = self.cell(partition).written;
        written.promise == round && written.decided == round
    }

    /// The round is over, as far as this node is concerned.
    pub(super) fn over(&self, partition: u32, round: Round) {
        if let Some(cell) = self.cells().get_mut(&partition)
            && cell.written.promise == round
        {
            cell.quiet_until = None;
        }
    }

    /// Whether another member has promised more.
    pub(crate) fn is_behind(&self, partition: u32, theirs: &Marks) -> bool {
        self.promised(partition) < theirs.promise
    }

    /// Whether a partition is not to be compared for now.
    pub(crate) fn is_quiet(&self, partition: u32) -> bool {
        let until = self.cell(partition).quiet_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// What a newly admitted disk begins with.
    pub(super) fn begin_with(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        partition: u32,
        marks: Marks,
    ) -> Written {
        self.cells().entry(partition).or_default().written = marks;
        self.write(tx, partition, marks)
    }

    /// Promises what another member has promised, durably: what is read from here on may be sent to it.
    ///
    /// # Errors
    /// [`TakeError::OldDisk`] when the other's marks say so.
    pub(crate) async fn promise(self: &Arc<Self>, partition: u32, theirs: &Marks) -> Result<(), TakeError> {
        self.heed(partition, theirs)?;
        // Also when that was promised already: what was submitted before this can be read afterwards.
        let (sender, written) = oneshot::channel();
        self.submit_promise(partition, theirs.promise, move |outcome| drop(sender.send(outcome)))?;
        Ok(written.await.unwrap_or(Err(StorageError::Closed))?)
    }

    /// The same, without waiting for it.
    pub(crate) fn submit_promise(
        self: &Arc<Self>,
        partition: u32,
        round: Round,
        done: impl FnOnce(Result<(), StorageError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let book = self.clone();
        let apply: Apply = Box::new(move |tx| {
            let marks = {
                let mut cells = book.cells();
                let cell = cells.entry(partition).or_default();
                cell.written.promise = cell.written.promise.max(round);
                cell.written
            };
            let written = book.write(tx, partition, marks);
            Box::new(move |outcome: Result<(), StorageError>| {
                if outcome.is_ok() {
                    written.synced();
                }
                done(outcome);
            }) as Done
        });
        self.storage.submit(Durability::Disk, apply)
    }
}

impl Cell {
    /// What others are told of when they are refused.
    fn told(&self) -> Marks {
        // Agreeing is not agreed before it is on disk.
        Marks { agreed: self.durable.agreed, ..self.written }
    }
}
