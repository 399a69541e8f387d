//! Disks: what a crash loses, operations that fail, no room, old copies.
//!
//! A batch is visible when it is committed and durable when it is synced. A crash keeps what was synced and some prefix of what
//! was not: a journal is written in order, and the operating system may or may not have got to it.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use dynkv_node::storage::{
    Apply, Committed, Done, Durability, Overlay, Space, Storage, StorageError, StorageStats, Transaction,
    Visit,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::Notify;

use crate::gate::Gate;

type Map = BTreeMap<(Space, Bytes), Bytes>;

/// A disk. It outlives the nodes that use it.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    /// What the data directory says of itself, beside the store.
    label: Label,
    /// What a reader sees.
    current: Map,
    /// What is safe.
    synced: Map,
    /// Committed batches that are not safe yet, in order.
    unsynced: Vec<Overlay>,
    /// Who may use the disk now; earlier mounts are dead.
    mount: u64,
    /// A cell, since reads change it, too.
    trouble: Cell<Option<Trouble>>,
    full: bool,
    speed: Speed,
}

/// Who a data directory is: copied with it, and gone with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Random, drawn when the directory was made.
    pub id: u64,
    /// How often a node was started on it.
    pub boots: u64,
}

/// What a disk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads of records, those before a write among them.
    Read,
    /// Commits of batches.
    Write,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write => "write",
        })
    }
}

/// Operations that will fail: counted down, so that every one gets to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which.
    pub operation: Operation,
    /// This many succeed before.
    pub after: u32,
    /// This many fail then.
    pub times: u32,
}

/// How long a disk takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// For a commit to memory.
    pub commit: Duration,
    /// For a sync.
    pub sync: Duration,
}

impl Speed {
    /// A disk in good health.
    pub const USUAL: Speed = Speed { commit: Duration::from_micros(20), sync: Duration::from_micros(500) };
}

/// A copy of a disk's durable content.
#[derive(Clone)]
pub struct Snapshot(Label, Map);

impl Disk {
    /// An empty disk.
    pub fn new(seed: u64) -> Disk {
        let mut random = StdRng::seed_from_u64(seed);
        let label = Label { id: random.random(), boots: 0 };
        Disk(Arc::new(Mutex::new(State {
            random,
            label,
            current: Map::new(),
            synced: Map::new(),
            unsynced: Vec::new(),
            mount: 0,
            trouble: Cell::new(None),
            full: false,
            speed: Speed::USUAL,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a node use the disk; an earlier user is cut off. `gate` pauses what the disk does for this one.
    pub fn mount(&self, gate: Gate) -> (Arc<SimStorage>, Label) {
        let mut state = self.state();
        state.mount += 1;
        state.label.boots += 1;
        let storage = Arc::new(SimStorage {
            disk: self.clone(),
            mount: state.mount,
            queue: Mutex::new(VecDeque::new()),
            queued: Notify::new(),
        });
        tokio::spawn(write_batches(Arc::downgrade(&storage), gate));
        (storage, state.label)
    }

    /// The machine stops: what was not synced is lost but for a random prefix. Returns how many batches were lost.
    pub fn crash(&self) -> usize {
        let mut state = self.state();
        state.mount += 1;
        state.trouble.set(None);
        let unsynced = std::mem::take(&mut state.unsynced);
        let kept = state.random.random_range(0..=unsynced.len());
        let lost = unsynced.len() - kept;
        for batch in unsynced.into_iter().take(kept) {
            apply(&mut state.synced, batch);
        }
        state.current = state.synced.clone();
        lost
    }

    /// The process stops: the operating system still has everything that was committed.
    pub fn kill(&self) {
        let mut state = self.state();
        state.mount += 1;
        state.trouble.set(None);
    }

    /// A new, empty disk in place of this one.
    pub fn wipe(&self) {
        let label = Label { id: self.state().random.random(), boots: 0 };
        self.restore(&Snapshot(label, Map::new()));
    }

    /// A backup.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        Snapshot(state.label, state.synced.clone())
    }

    /// Puts a backup in place of what is there.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        state.mount += 1;
        state.unsynced.clear();
        state.label = snapshot.0;
        state.synced = snapshot.1.clone();
        state.current = snapshot.1.clone();
    }

    /// Flips a bit of about one in `one_in` entries of `space`. Returns of how many.
    pub fn rot(&self, space: Space, one_in: u32) -> usize {
        self.spoil(space, one_in, |bytes, random| {
            let mut bytes = bytes.to_vec();
            let bit = random.random_range(0..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            Some(bytes.into())
        })
    }

    /// Takes about one in `one_in` entries of `space` away. Returns how many.
    pub fn forget(&self, space: Space, one_in: u32) -> usize {
        self.spoil(space, one_in, |_, _| None)
    }

    fn spoil(
        &self,
        space: Space,
        one_in: u32,
        mut change: impl FnMut(&Bytes, &mut StdRng) -> Option<Bytes>,
    ) -> usize {
        let mut state = self.state();
        let State { random, current, synced, .. } = &mut *state;
        let mut spoilt = Overlay::new();
        for (key, value) in current.iter().filter(|((of, _), _)| *of == space) {
            if random.random_range(0..one_in) == 0 {
                spoilt.insert(key.clone(), change(value, random));
            }
        }
        let count = spoilt.len();
        apply(synced, spoilt.clone());
        apply(current, spoilt);
        count
    }

    /// Lets operations fail; the next mount ends it, too.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.state().trouble.set(trouble);
    }

    /// Whether there is no room: every write fails, and certainly leaves nothing behind.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// What a reader sees in `space` under keys that begin with `prefix`.
    pub fn content(&self, space: Space, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let state = self.state();
        let found = state.current.range((space, Bytes::copy_from_slice(prefix))..);
        let found = found.take_while(|((of, key), _)| *of == space && key.starts_with(prefix));
        found.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }

    /// How many entries a reader sees in `space`.
    pub fn count(&self, space: Space) -> usize {
        self.state().current.keys().filter(|(of, _)| *of == space).count()
    }

    /// How long things take from now on.
    pub fn set_speed(&self, speed: Speed) {
        self.state().speed = speed;
    }
}

fn apply(map: &mut Map, batch: Overlay) {
    for (key, value) in batch {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

/// The store of one node between its start and its end.
pub struct SimStorage {
    disk: Disk,
    mount: u64,
    queue: Mutex<VecDeque<(Durability, Apply)>>,
    queued: Notify,
}

/// A batch that was committed, or was not: who waits for that, and who waits for the sync.
struct Committing {
    in_memory: Vec<Done>,
    on_disk: Vec<Done>,
    result: Result<(), StorageError>,
}

impl State {
    /// Whether this operation fails.
    fn fails(&self, operation: Operation) -> bool {
        let Some(trouble) = self.trouble.get().filter(|trouble| trouble.operation == operation) else {
            return false;
        };
        let (after, times) = match (trouble.after, trouble.times) {
            (0, times) => (0, times.saturating_sub(1)),
            (after, times) => (after - 1, times),
        };
        self.trouble.set(Some(Trouble { after, times, ..trouble }));
        trouble.after == 0 && trouble.times > 0
    }

    fn try_read(&self) -> Result<(), StorageError> {
        if self.fails(Operation::Read) { Err(failed("a simulated read error")) } else { Ok(()) }
    }
}

/// Entries taken at a time by a scan.
const SCANNED: usize = 64;

fn failed(reason: &str) -> StorageError {
    StorageError::Failed { reason: reason.into() }
}

impl Committed for State {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.try_read()?;
        Ok(self.current.get(&(space, Bytes::copy_from_slice(key))).cloned())
    }
}

impl SimStorage {
    /// The disk's state, unless this user was cut off.
    fn state(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let state = self.disk.state();
        if state.mount == self.mount { Ok(state) } else { Err(StorageError::Closed) }
    }

    fn take_queue(&self) -> VecDeque<(Durability, Apply)> {
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs and commits one batch. Some failures leave the batch on disk all the same: the writer cannot know.
    fn commit(&self, batch: VecDeque<(Durability, Apply)>) -> Result<Committing, StorageError> {
        let mut state = self.state()?;
        let mut overlay = Overlay::new();
        let (mut in_memory, mut on_disk) = (Vec::new(), Vec::new());
        for (durability, apply) in batch {
            let done = apply(&mut Transaction::new(&*state, &mut overlay));
            match durability {
                Durability::Memory | Durability::Later => in_memory.push(done),
                Durability::Disk => on_disk.push(done),
            }
        }
        let (full, fails) = (state.full, state.fails(Operation::Write));
        let lands = !full && (!fails || state.random.random_bool(0.5));
        if lands {
            apply(&mut state.current, overlay.clone());
            state.unsynced.push(overlay);
        }
        let result = match (full, fails) {
            (true, _) => Err(failed("no space left on the simulated disk")),
            (false, true) => Err(failed("a simulated write error")),
            (false, false) => Ok(()),
        };
        Ok(Committing { in_memory, on_disk, result })
    }

    fn sync(&self, batches: usize) -> Result<(), StorageError> {
        let mut state = self.state()?;
        let batches = batches.min(state.unsynced.len());
        for batch in state.unsynced.drain(..batches).collect::<Vec<_>>() {
            apply(&mut state.synced, batch);
        }
        Ok(())
    }
}

/// The storage thread of a real node: one batch at a time, its completions before the next one begins.
async fn write_batches(storage: std::sync::Weak<SimStorage>, gate: Gate) {
    loop {
        gate.passed().await;
        let Some(strong) = storage.upgrade() else { return };
        let batch = strong.take_queue();
        let Ok(speed) = strong.state().map(|state| state.speed) else { return };
        if batch.is_empty() {
            // Unsynced leftovers reach the disk within milliseconds, as the real store's do.
            let idle =
                tokio::time::timeout(Duration::from_millis(5), strong.queued.notified()).await.is_err();
            if idle {
                let Ok(unsynced) = strong.state().map(|state| state.unsynced.len()) else { return };
                if unsynced > 0 {
                    tokio::time::sleep(speed.sync).await;
                    gate.passed().await;
                    if strong.sync(unsynced).is_err() {
                        return;
                    }
                } else {
                    // Nothing to do until somebody writes; looked at now and then, so that a dead mount ends.
                    drop(tokio::time::timeout(Duration::from_secs(10), strong.queued.notified()).await);
                }
            }
            continue;
        }
        tokio::time::sleep(speed.commit).await;
        gate.passed().await;
        let Ok(Committing { in_memory, on_disk, result }) = strong.commit(batch) else { return };
        in_memory.into_iter().for_each(|done| done(result.clone()));
        if on_disk.is_empty() {
            continue;
        }
        let Ok(unsynced) = strong.state().map(|state| state.unsynced.len()) else { return };
        tokio::time::sleep(speed.sync).await;
        gate.passed().await;
        if strong.sync(unsynced).is_err() {
            return;
        }
        on_disk.into_iter().for_each(|done| done(result.clone()));
    }
}

impl Storage for SimStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.state()?.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        self.state()?.try_read()?;
        let mut start = Bound::Included((space, Bytes::copy_from_slice(prefix.max(from))));
        // Not under the lock, which visitors take again; and no more at a time than most of them want.
        loop {
            let entries: Vec<_> = {
                let state = self.state()?;
                let range = state.current.range((start, Bound::Unbounded));
                let wanted = range.take_while(|((found, key), _)| *found == space && key.starts_with(prefix));
                wanted.take(SCANNED).map(|((_, key), value)| (key.clone(), value.clone())).collect()
            };
            let Some((last, _)) = entries.last() else { return Ok(()) };
            start = Bound::Excluded((space, last.clone()));
            for (key, value) in entries {
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
    }

    fn submit(&self, durability: Durability, apply: Apply) -> Result<(), StorageError> {
        drop(self.state()?);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back((durability, apply));
        self.queued.notify_one();
        Ok(())
    }

    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }

    fn close(&self) {
        let mut state = self.disk.state();
        if state.mount == self.mount {
            let unsynced = std::mem::take(&mut state.unsynced);
            unsynced.into_iter().for_each(|batch| apply(&mut state.synced, batch));
            state.mount += 1;
        }
    }
}
