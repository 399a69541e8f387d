//! Where a node keeps its records: synchronous reads, submitted writes.
//!
//! Every read-modify-write of a record goes through [`Storage::submit`]: the operations run one after the other,
//! each seeing what the ones before it wrote, so no record needs a lock. Many operations share one atomic batch
//! and one fsync (group commit).
//!
//! ```text
//!  submit(apply) --> queue --> apply(tx) --> ... --> batch --> [fsync] --> done(result)
//!                              each in turn          one for all that were queued
//! ```

mod fjall;
mod memory;
#[cfg(test)]
mod suite;

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

pub use fjall::{FjallOptions, FjallStorage};
pub use memory::MemoryStorage;

/// A key space of its own. Few: each costs memory and files whether it is used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// The records of keys (`docs/storage.md` draws them).
    Records,
    /// What the node must know about itself and the cluster.
    Meta,
    /// States kept for other nodes until they are back, and their order (`docs/storage.md`).
    Hints,
    /// The digest of each record's state, in the order of positions (`docs/storage.md`).
    Digests,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// As [`Memory`](Durability::Memory), but a crash of the machine may lose the last second: for what other nodes have as well, and give back.
    Later,
    /// When it is visible and with the operating system: a crash of the process loses nothing, a crash of the machine
    /// the last few milliseconds.
    Memory,
    /// When it is on disk.
    Disk,
}

/// What went wrong in a store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The disk or the engine failed. Whether a write that got this answer is there after a restart is unknown.
    #[error("the store failed: {reason}")]
    Failed {
        /// What the engine said.
        reason: String,
    },
    /// A record or a file fails its checksum. It was not served.
    #[error("a stored record is damaged: {reason}")]
    Damaged {
        /// What does not fit.
        reason: String,
    },
    /// The queue of writes is full; nothing was written.
    #[error("{queued} writes are waiting for the disk: try again after a pause")]
    Busy {
        /// Length of the queue.
        queued: usize,
    },
    /// The store was closed; nothing was read or written.
    #[error("the store is closed: the node is stopping")]
    Closed,
}

/// Runs after the commit, with its outcome, before any later operation runs.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// One read-modify-write. Returns what to do once the outcome is known.
pub type Apply = Box<dyn FnOnce(&mut Transaction<'_>) -> Done + Send>;

/// Sizes, for people; approximate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// Records, those of deleted keys included.
    pub records: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// Decides during a scan whether to go on.
pub type Visit<'a> = dyn FnMut(Bytes, Bytes) -> std::ops::ControlFlow<()> + 'a;

/// A store of ordered byte strings.
pub trait Storage: Send + Sync + 'static {
    /// What is committed under `key`.
    ///
    /// # Errors
    /// [`StorageError::Failed`], [`StorageError::Damaged`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Shows committed keys that begin with `prefix`, from `from` on, in byte order, until `visit` breaks.
    ///
    /// # Errors
    /// [`StorageError::Failed`], [`StorageError::Damaged`].
    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError>;

    /// Queues one operation. It never blocks: this is called from the thread that serves requests.
    ///
    /// # Errors
    /// [`StorageError::Busy`] and [`StorageError::Closed`]; `apply` is dropped without having run then.
    fn submit(&self, durability: Durability, apply: Apply) -> Result<(), StorageError>;

    /// Why no write will succeed until the store is opened again; `None`: writes may succeed.
    fn failed(&self) -> Option<StorageError> {
        None
    }

    /// Sizes.
    fn stats(&self) -> StorageStats;

    /// Finishes what is queued, syncs, and gives up its files: reads and writes are answered by [`StorageError::Closed`]
    /// from then on. May block for as long as the disk takes.
    fn close(&self);
}

/// What committed data looks like to a transaction: what a store of one's own lends to [`Transaction::new`].
pub trait Committed {
    /// What is committed under `key`.
    ///
    /// # Errors
    /// As [`Storage::get`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError>;
}

/// The writes of a batch that is still open, over the committed data.
pub struct Transaction<'a> {
    committed: &'a dyn Committed,
    overlay: &'a mut Overlay,
}

/// Writes that are not committed yet; `None` deletes. To be committed as one atomic batch.
pub type Overlay = BTreeMap<(Space, Bytes), Option<Bytes>>;

impl<'a> Transaction<'a> {
    /// A transaction that reads `committed` through `overlay` and writes into it.
    pub fn new(committed: &'a dyn Committed, overlay: &'a mut Overlay) -> Transaction<'a> {
        Transaction { committed, overlay }
    }

    /// What is under `key`, earlier operations of the open batch included.
    ///
    /// # Errors
    /// As [`Storage::get`].
    pub fn get(&self, space: Space, key: &Bytes) -> Result<Option<Bytes>, StorageError> {
        match self.overlay.get(&(space, key.clone())) {
            Some(written) => Ok(written.clone()),
            None => self.committed.get(space, key),
        }
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, space: Space, key: Bytes, value: Bytes) {
        self.overlay.insert((space, key), Some(value));
    }

    /// Deletes `key`.
    pub fn delete(&mut self, space: Space, key: Bytes) {
        self.overlay.insert((space, key), None);
    }
}

/// Submits a write of plain values and waits until it is on disk.
///
/// # Errors
/// [`StorageError`].
pub async fn write_durably(
    storage: &dyn Storage,
    writes: Vec<(Space, Bytes, Option<Bytes>)>,
) -> Result<(), StorageError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let apply: Apply = Box::new(move |tx| {
        for (space, key, value) in writes {
            match value {
                Some(value) => tx.put(space, key, value),
                None => tx.delete(space, key),
            }
        }
        // The waiter may have gone; the write stands all the same.
        Box::new(move |result| drop(sender.send(result)))
    });
    storage.submit(Durability::Disk, apply)?;
    receiver.await.unwrap_or(Err(StorageError::Closed))
}
