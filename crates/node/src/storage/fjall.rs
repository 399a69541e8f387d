//! The store on disk: fjall behind one writing thread.
//!
//! fjall's journal lock is held during an fsync, and a full memtable makes the *caller* sleep: so all writing is done
//! by one thread, which takes everything queued, commits it as one batch and syncs once.

use std::{
    fmt,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dynkv_ring::NodeId;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Apply, Committed, Done, Durability, Overlay, Space, Storage, StorageError, StorageStats, Transaction,
    Visit,
};

/// Writes that may wait for the disk before `submit` refuses more.
const QUEUE_MAX: usize = 8192;

/// Operations in one batch: bounds the overlay and the time until the first of them is acknowledged.
const BATCH_MAX: usize = 1024;

/// Writes acknowledged from memory reach the disk at most this much later.
const SYNC_DELAY: Duration = Duration::from_millis(5);

/// Those that may wait, at most this much later; with the next sync if there is one before.
const SYNC_LATER_DELAY: Duration = Duration::from_secs(1);

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct FjallOptions {
    /// Memory for cached blocks, in bytes.
    pub cache_bytes: u64,
    /// Memory for the writes of one key space until they become a file, in bytes.
    pub memtable_bytes: u64,
    /// Journal kept at most, in bytes; bounds the time to open after a crash.
    pub journal_bytes_max: u64,
}

impl Default for FjallOptions {
    fn default() -> FjallOptions {
        let mib = 1024 * 1024;
        FjallOptions { cache_bytes: 64 * mib, memtable_bytes: 32 * mib, journal_bytes_max: 128 * mib }
    }
}

impl FjallOptions {
    /// The defaults, with memtables of a size that is this node's own: between three and five quarters of the usual.
    ///
    /// While the engine notes that a memtable has become a file it lets nobody read, for as long as four syncs take beside the writing of that file (15 to 100 ms were seen). Replicas of the
    /// same keys fill their memtables equally fast. Were these equally large, all would write them out, and have no time for anybody, at the same moment.
    pub fn of_node(node: &NodeId) -> FjallOptions {
        let usual = FjallOptions::default();
        let half = u128::from(usual.memtable_bytes / 2);
        let part = ((half * u128::from(xxh3_64(node.as_str().as_bytes()))) >> 64) as u64;
        FjallOptions { memtable_bytes: usual.memtable_bytes * 3 / 4 + part, ..usual }
    }
}

/// A store in a directory.
pub struct FjallStorage {
    directory: PathBuf,
    /// None once closed: whoever still holds the storage must not keep the directory locked.
    engine: RwLock<Option<Engine>>,
    queue: SyncSender<Submitted>,
    writer: Mutex<Option<JoinHandle<()>>>,
    closing: Arc<AtomicBool>,
    failed: Arc<OnceLock<StorageError>>,
}

enum Submitted {
    Write(Durability, Apply),
    Close,
}

#[derive(Clone)]
struct Engine {
    database: Database,
    records: Keyspace,
    meta: Keyspace,
    hints: Keyspace,
    digests: Keyspace,
}

impl fmt::Debug for FjallStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallStorage").finish_non_exhaustive()
    }
}

impl FjallStorage {
    /// Opens the store in `directory`, or makes it.
    ///
    /// # Errors
    /// [`StorageError::Failed`] when the engine cannot open it.
    pub fn open(directory: &Path, options: &FjallOptions) -> Result<FjallStorage, StorageError> {
        let database = Database::builder(directory)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max)
            // With more than one, fjall's first worker keeps itself free for flushes by putting compactions back
            // into the queue: it spins for as long as another compacts. One worker alone flushes a little later.
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let keyspace = |name: &str, memtable_bytes: u64| {
            database
                .keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes))
                .map_err(failed)
        };
        let engine = Engine {
            records: keyspace("records", options.memtable_bytes)?,
            meta: keyspace("meta", 1024 * 1024)?,
            hints: keyspace("hints", options.memtable_bytes / 4)?,
            digests: keyspace("digests", options.memtable_bytes / 4)?,
            database: database.clone(),
        };
        let (queue, submitted) = sync_channel(QUEUE_MAX);
        let failed = Arc::new(OnceLock::new());
        let writer = {
            let (engine, health) = (engine.clone(), Health { first: None, failed: failed.clone() });
            std::thread::Builder::new()
                .name("dynkv-storage".into())
                .spawn(move || write_until_closed(&engine, &submitted, health))
                .map_err(|error| StorageError::Failed {
                    reason: format!("no thread for the store: {error}"),
                })?
        };
        let closing = Arc::new(AtomicBool::new(false));
        let engine = RwLock::new(Some(engine));
        let directory = directory.to_owned();
        Ok(FjallStorage { directory, engine, queue, writer: Mutex::new(Some(writer)), closing, failed })
    }

    fn with_engine<T>(
        &self,
        call: impl FnOnce(&Engine) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        // Only ever replaced as a whole: a poisoned lock still guards a whole engine.
        match &*self.engine.read().unwrap_or_else(PoisonError::into_inner) {
            Some(engine) => call(engine),
            None => Err(StorageError::Closed),
        }
    }
}

impl Drop for FjallStorage {
    fn drop(&mut self) {
        self.close();
    }
}

impl Storage for FjallStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.with_engine(|engine| engine.get(space, key))
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        self.with_engine(|engine| {
            for entry in engine.keyspace(space).range(prefix.max(from)..) {
                let (key, value) = entry.into_inner().map_err(failed)?;
                if !key.starts_with(prefix) || visit(key.into(), value.into()) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn submit(&self, durability: Durability, apply: Apply) -> Result<(), StorageError> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(StorageError::Closed);
        }
        self.queue.try_send(Submitted::Write(durability, apply)).map_err(|error| match error {
            TrySendError::Full(_) => StorageError::Busy { queued: QUEUE_MAX },
            TrySendError::Disconnected(_) => StorageError::Closed,
        })
    }

    fn failed(&self) -> Option<StorageError> {
        self.failed.get().cloned()
    }

    fn stats(&self) -> StorageStats {
        let stats = self.with_engine(|engine| {
            Ok(StorageStats {
                records: engine.records.approximate_len() as u64,
                // The engine's own figure counts journals, which are allocated beforehand as holes, at their full length.
                disk_bytes: occupied_bytes(&self.directory),
            })
        });
        stats.unwrap_or_default()
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // Fails only when the thread has ended already.
            drop(self.queue.send(Submitted::Close));
            drop(writer.join());
        }
        // The engine's own lock on the directory goes with its last handle.
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Engine {
    fn keyspace(&self, space: Space) -> &Keyspace {
        match space {
            Space::Records => &self.records,
            Space::Meta => &self.meta,
            Space::Hints => &self.hints,
            Space::Digests => &self.digests,
        }
    }

    fn commit(&self, overlay: Overlay) -> fjall::Result<()> {
        // The default durability of a batch is fjall's `Buffer`: with the operating system when this returns.
        let mut batch = self.database.batch();
        for ((space, key), value) in overlay {
            match value {
                Some(value) => batch.insert(self.keyspace(space), key, value),
                None => batch.remove(self.keyspace(space), key),
            }
        }
        batch.commit()
    }

    fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncAll)
    }
}

impl Committed for Engine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.keyspace(space).get(key).map_err(failed)?.map(Into::into))
    }
}

/// What the files below `directory` occupy. A few hundred files at most per 10 GB: for status requests, not for every put.
fn occupied_bytes(directory: &Path) -> u64 {
    // A file may vanish between listing and looking: it occupies nothing then.
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => occupied_bytes(&entry.path()),
        Ok(metadata) => file_bytes(&metadata),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[cfg(unix)]
fn file_bytes(metadata: &std::fs::Metadata) -> u64 {
    // Always in units of 512 bytes, whatever the file system's block size.
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn file_bytes(metadata: &std::fs::Metadata) -> u64 {
    metadata.len()
}

fn failed(error: fjall::Error) -> StorageError {
    match error {
        fjall::Error::Storage(fjall::LsmError::ChecksumMismatch { .. }) => {
            StorageError::Damaged { reason: "a block of the store fails its checksum".into() }
        }
        fjall::Error::Io(error) => StorageError::Failed { reason: error.to_string() },
        fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            StorageError::Failed { reason: error.to_string() }
        }
        fjall::Error::Locked => StorageError::Failed { reason: "it is open in another process".into() },
        other => StorageError::Failed { reason: format!("{other:?}") },
    }
}

/// What has become of writes. The engine takes none any more once one has failed, and does not say why.
struct Health {
    first: Option<String>,
    failed: Arc<OnceLock<StorageError>>,
}

impl Health {
    fn note(&mut self, outcome: fjall::Result<()>) -> Result<(), StorageError> {
        match outcome {
            Ok(()) => {
                self.first = None;
                Ok(())
            }
            Err(fjall::Error::Poisoned) => {
                let first = self.first.as_deref().unwrap_or("an earlier write failed");
                let reason = format!("{first}; it takes no more: restart the node");
                Err(self.failed.get_or_init(|| StorageError::Failed { reason }).clone())
            }
            Err(error) => {
                let error = failed(error);
                if let StorageError::Failed { reason } = &error {
                    self.first.get_or_insert_with(|| reason.clone());
                }
                Err(error)
            }
        }
    }
}

/// The writing thread.
fn write_until_closed(engine: &Engine, submitted: &Receiver<Submitted>, mut health: Health) {
    // By when what was acknowledged from memory is to be on disk.
    let mut sync_by: Option<Instant> = None;
    let mut sync_took = Duration::ZERO;
    loop {
        let next = match sync_by {
            Some(by) => submitted.recv_timeout(by.saturating_duration_since(Instant::now())),
            None => submitted.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut batch = Batch::default();
        match next {
            Ok(first) => batch.apply_queued(engine, submitted, first, &mut health),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // Several wait for the disk, so more are likely to come: one sync for all of them is worth a part of what a sync
        // takes. One that is alone does not wait.
        if batch.on_disk.len() > 1 {
            let until = Instant::now() + sync_took / 2;
            while let Ok(next) = submitted.recv_timeout(until.saturating_duration_since(Instant::now())) {
                batch.apply_queued(engine, submitted, next, &mut health);
                if batch.closed || batch.on_disk.len() >= BATCH_MAX {
                    break;
                }
            }
        }
        let by = batch.sync_after.map(|delay| Instant::now() + delay);
        sync_by = sync_by.into_iter().chain(by).min();
        let due = sync_by.is_some_and(|by| by <= Instant::now());
        if due || !batch.on_disk.is_empty() {
            let begun = Instant::now();
            let synced = health.note(engine.sync());
            sync_took = begun.elapsed();
            sync_by = None;
            if let Err(error) = &synced {
                // The engine is poisoned: every later commit fails and says so.
                tracing::error!(%error, "acknowledged writes may not be on disk");
            }
            for done in batch.on_disk {
                done(synced.clone());
            }
        }
        if batch.closed {
            break;
        }
    }
    if let Err(error) = health.note(engine.sync()) {
        tracing::error!(%error, "the last sync of the store failed");
    }
}

/// What one round of the writing thread has taken on.
#[derive(Default)]
struct Batch {
    /// Committed, and waiting for the sync.
    on_disk: Vec<Done>,
    /// When what was committed is to be synced, if anything was.
    sync_after: Option<Duration>,
    closed: bool,
}

impl Batch {
    /// Runs and commits what is queued, as one atomic batch; acknowledges what memory is enough for.
    fn apply_queued(
        &mut self,
        engine: &Engine,
        submitted: &Receiver<Submitted>,
        first: Submitted,
        health: &mut Health,
    ) {
        let mut overlay = Overlay::new();
        let (mut in_memory, mut on_disk): (Vec<Done>, Vec<Done>) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        let mut sync_after = None;
        while let Some(item) = next {
            match item {
                Submitted::Write(durability, apply) => {
                    let done = apply(&mut Transaction::new(engine, &mut overlay));
                    let delay = if durability == Durability::Later { SYNC_LATER_DELAY } else { SYNC_DELAY };
                    sync_after = sync_after.into_iter().chain([delay]).min();
                    match durability {
                        Durability::Memory | Durability::Later => in_memory.push(done),
                        Durability::Disk => on_disk.push(done),
                    }
                }
                Submitted::Close => {
                    self.closed = true;
                    break;
                }
            }
            if in_memory.len() + on_disk.len() >= BATCH_MAX {
                break;
            }
            next = submitted.try_recv().ok();
        }
        let committed = health.note(engine.commit(overlay));
        for done in in_memory {
            done(committed.clone());
        }
        match committed {
            Ok(()) => {
                self.sync_after = self.sync_after.into_iter().chain(sync_after).min();
                self.on_disk.append(&mut on_disk);
            }
            Err(_) => on_disk.into_iter().for_each(|done| done(committed.clone())),
        }
    }
}
