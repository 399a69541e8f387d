//! A Merkle tree for each partition that this node is a home of, over the digest index.
//!
//! # Invariants
//!
//! *The index says what the records hold.* Both are written in one atomic batch, and nowhere but in [`Trees::put_record`], [`Trees::put_digest`] and
//! [`Trees::remove_record`].
//!
//! *A tree is the index as of the transactions that have run.* It learns of a change within the transaction, from the storage thread, so in the
//! order in which later ones see it. The [`TreeChange`] that this gives is to be [committed](TreeChange::committed); one that is
//! dropped instead may or may not be on disk, and makes its tree doubtful: the tree is dropped and built anew.
//! Were the tree told after the commit, then acknowledgements, which may overtake each other (those from memory do not wait for those
//! from disk), would tell of a second change of a key before the first.
//!
//! *A page of a tree that is built is the index as of the same transactions.* A scan sees only what is committed, or perhaps
//! just being committed. So each change that is on its way is kept with what it leads to, until it is committed and no page
//! is being read, and laid over the page ([`build`]).
//!
//! *A saved tree is on disk only while its partition's index is as it was.* The first change of the partition deletes it, in the same
//! batch. So there is no mark to be set or removed at a start or a stop, and a crash at any time leaves either a tree
//! that is right or none.
//!
//! No lock is held while the store is asked for anything: a store may run transactions under a lock of its own.

pub(crate) mod admin;
mod build;
pub(crate) mod index;
mod scrub;
#[cfg(test)]
mod tests;
mod upkeep;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use dynkv_merkle::{Roots, RootsError, Span, Tree};
use dynkv_proto::{Digest, TreePosition};
use dynkv_ring::PartitionId;
use tokio::sync::{Notify, oneshot};

use self::build::Building;
use self::index::{Entered, index_key, index_value, parse_value, place_of};
pub(crate) use self::upkeep::run as keep_up;
use self::verify::Verification;
use crate::{
    chain::Chain,
    cluster::View,
    key::RecordAt,
    metrics::Metrics,
    planted::{self, Bug},
    record::Record,
    settle::compact::Unsettled,
    storage::{Apply, Done, Durability, Space, Storage, StorageError, Transaction},
};

/// What the keys of saved trees in [`Space::Meta`] begin with.
const SAVED: &[u8] = b"tree/";

/// Waits this long for a place in the queue of writes when trees are saved.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// All trees of a node.
pub(crate) struct Trees {
    pub(crate) storage: Arc<dyn Storage>,
    metrics: Arc<Metrics>,
    book: Mutex<Book>,
    /// Told when a tree is to be built, or a verification begins.
    wake: Notify,
    /// The verification that an operator has ordered.
    pub(crate) verification: Verification,
}

#[derive(Default)]
struct Book {
    /// Leading bits of a place that say its partition.
    bits: u8,
    held: BTreeMap<u32, Held>,
    /// Partitions of which a tree is on disk, or may be.
    saved: BTreeSet<u32>,
    /// Trees that were found on disk, until it is known which partitions are held.
    loaded: BTreeMap<u32, Tree>,
    /// Changes that may be on disk or not, and those that a page being read may have or not.
    writing: BTreeMap<u128, Writing>,
    /// Whether a page is being read.
    reading: bool,
}

/// The tree of a partition.
#[derive(Default)]
struct Held {
    /// None until it is built.
    tree: Option<Arc<Tree>>,
    /// The one that will replace it.
    building: Option<Building>,
}

/// A partition, and its tree if there is one.
type OfPartition = (u32, Option<Arc<Tree>>);

/// A place that is being written to.
struct Writing {
    /// What the latest transaction has put there.
    latest: Option<Digest>,
    uncommitted: u32,
    /// Whether a change failed after `latest` was noted.
    broken: bool,
}

impl Held {
    fn update(&mut self, place: TreePosition, old: Option<Digest>, new: Option<Digest>) {
        const FOUND: &str = "the tree was found by the partition of the place";
        let (old, new) = (old.map(|digest| digest.0), new.map(|digest| digest.0));
        if let Some(tree) = &mut self.tree {
            Arc::make_mut(tree).update(place.0, old, new).expect(FOUND);
        }
        if let Some(building) = &mut self.building {
            building.rebuild.update(place.0, old, new).expect(FOUND);
        }
    }
}

impl Book {
    fn partition_of(&self, place: TreePosition) -> u32 {
        // A shift by 128, where there is one partition, gives 0; more than 16 bits there are not.
        place.0.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) as u32
    }

    fn gauge(&self, metrics: &Metrics) {
        let ready = self.held.values().filter(|held| held.tree.is_some()).count();
        metrics.trees_ready.set(ready as i64);
        metrics.trees_building.set((self.held.len() - ready) as i64);
    }
}

/// A change that a transaction makes, from then on until its outcome is known.
#[must_use]
pub(crate) struct TreeChange {
    trees: Arc<Trees>,
    place: TreePosition,
    committed: bool,
}

impl TreeChange {
    /// Says that the transaction is committed.
    pub(crate) fn committed(mut self) {
        self.committed = true;
    }
}

impl Drop for TreeChange {
    fn drop(&mut self) {
        self.trees.ended(self.place, self.committed);
    }
}

fn saved_key(partition: u32) -> Bytes {
    let mut out = BytesMut::from(SAVED);
    // At most 65,536 partitions.
    out.put_u16(partition as u16);
    out.freeze()
}

impl Trees {
    /// Reads the trees that were saved. None is in use before [`Trees::follow`].
    pub(crate) fn load(storage: Arc<dyn Storage>, metrics: Arc<Metrics>) -> Result<Trees, StorageError> {
        let mut book = Book::default();
        storage.scan(Space::Meta, SAVED, &[], &mut |key, value| {
            if let Some(partition) = key.get(SAVED.len()..).and_then(|tail| <[u8; 2]>::try_from(tail).ok()) {
                let partition = u32::from(u16::from_be_bytes(partition));
                book.saved.insert(partition);
                match Tree::from_bytes(&value) {
                    Ok(tree) => drop(book.loaded.insert(partition, tree)),
                    Err(error) => tracing::warn!(partition, %error, "a saved tree is not used"),
                }
            }
            ControlFlow::Continue(())
        })?;
        let book = Mutex::new(book);
        Ok(Trees { storage, metrics, book, wake: Notify::new(), verification: Verification::default() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Updates are arithmetic on places that are looked up: a panic elsewhere leaves nothing half done.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps trees of the partitions that this node holds, and of no others.
    pub(crate) fn follow(&self, chain: &Chain, view: &View) {
        let membership = &view.membership;
        if !membership.founded() {
            return;
        }
        let partitions = membership.partitions();
        let homes: BTreeSet<u32> = partitions
            .ids()
            .map(|partition| partition.0)
            .filter(|partition| chain.holds(*partition))
            .collect();
        let mut book = self.book();
        book.bits = partitions.bits() as u8;
        book.held.retain(|partition, _| homes.contains(partition));
        let bits = book.bits;
        let mut loaded = std::mem::take(&mut book.loaded);
        for partition in homes {
            let found =
                loaded.remove(&partition).filter(|tree| Some(tree.span()) == Span::new(bits, partition));
            let new = || Held { tree: found.map(Arc::new), building: None };
            book.held.entry(partition).or_insert_with(new);
        }
        book.gauge(&self.metrics);
    }

    /// Writes `record`, in place of one with the digest `old`, and its digest. `unsettled` is what
    /// [`unsettled`](crate::settle::compact::unsettled) says of its state. The only way to write a record.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when the record's state is none; nothing is written then.
    pub(crate) fn put_record(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        old: Option<Digest>,
        record: &Record,
        unsettled: Unsettled,
    ) -> Result<TreeChange, StorageError> {
        let digest = record.digest()?;
        tx.put(Space::Records, at.record.clone(), record.encode());
        Ok(self.put_digest(tx, at, old, Entered { digest, unsettled }))
    }

    /// Writes what the index says in place of `old`: to set an index right that does not say what the record holds.
    pub(crate) fn put_digest(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        old: Option<Digest>,
        new: Entered,
    ) -> TreeChange {
        let place = place_of(at);
        tx.put(Space::Digests, index_key(place, &at.record), index_value(new));
        self.changed(tx, place, old, Some(new.digest))
    }

    /// Removes a record with the digest `old`, and its entry in the index: the only way to do so.
    pub(crate) fn remove_record(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        old: Digest,
    ) -> TreeChange {
        tx.delete(Space::Records, at.record.clone());
        let place = place_of(at);
        tx.delete(Space::Digests, index_key(place, &at.record));
        let told = if planted::is(Bug::TreeNotTold) { None } else { Some(old) };
        self.changed(tx, place, told, None)
    }

    fn changed(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        place: TreePosition,
        old: Option<Digest>,
        new: Option<Digest>,
    ) -> TreeChange {
        let mut book = self.book();
        let partition = book.partition_of(place);
        if book.saved.remove(&partition) {
            book.loaded.remove(&partition);
            tx.delete(Space::Meta, saved_key(partition));
        }
        if let Some(held) = book.held.get_mut(&partition) {
            held.update(place, old, new);
        }
        let writing =
            book.writing.entry(place.0).or_insert(Writing { latest: None, uncommitted: 0, broken: false });
        writing.latest = new;
        writing.uncommitted += 1;
        writing.broken = false;
        TreeChange { trees: self.clone(), place, committed: false }
    }

    /// What the index says of a record, within a transaction.
    pub(crate) fn entered(
        &self,
        tx: &Transaction<'_>,
        at: &RecordAt,
    ) -> Result<Option<Entered>, StorageError> {
        let value = tx.get(Space::Digests, &index_key(place_of(at), &at.record))?;
        value.map(|value| parse_value(&value)).transpose()
    }

    /// The digest that the index names for a record, within a transaction.
    pub(crate) fn indexed(
        &self,
        tx: &Transaction<'_>,
        at: &RecordAt,
    ) -> Result<Option<Digest>, StorageError> {
        Ok(self.entered(tx, at)?.map(|entered| entered.digest))
    }

    /// What the index says of a record, as committed.
    pub(crate) fn entered_now(&self, at: &RecordAt) -> Result<Option<Entered>, StorageError> {
        let value = self.storage.get(Space::Digests, &index_key(place_of(at), &at.record))?;
        value.map(|value| parse_value(&value)).transpose()
    }

    /// Takes note of a change's outcome.
    fn ended(&self, place: TreePosition, committed: bool) {
        let mut guard = self.book();
        let book = &mut *guard;
        let keep = book.reading && committed;
        if let Some(writing) = book.writing.get_mut(&place.0) {
            writing.uncommitted -= 1;
            writing.broken |= !committed;
            if writing.uncommitted == 0 && !keep {
                book.writing.remove(&place.0);
            }
        }
        if committed {
            return;
        }
        let partition = book.partition_of(place);
        // Its deletion may have failed with the change.
        book.saved.insert(partition);
        self.doubt_partition(book, partition);
    }

    /// Has the tree that covers `at` built anew.
    pub(crate) fn doubt(&self, at: &RecordAt) {
        let mut book = self.book();
        let partition = book.partition_of(place_of(at));
        self.doubt_partition(&mut book, partition);
    }

    fn doubt_partition(&self, book: &mut Book, partition: u32) {
        if let Some(held) = book.held.get_mut(&partition) {
            // With the one in the making: a page that is being read finds it gone.
            *held = Held::default();
        }
        book.gauge(&self.metrics);
        self.wake.notify_one();
    }

    /// Whether this node holds a partition.
    pub(crate) fn holds(&self, partition: u32) -> bool {
        self.book().held.contains_key(&partition)
    }

    /// The tree of a partition, if there is one.
    pub(crate) fn ready(&self, partition: u32) -> Option<Arc<Tree>> {
        self.book().held.get(&partition)?.tree.clone()
    }

    /// The root of a partition's tree, if there is one.
    pub(crate) fn root(&self, partition: u32) -> Option<u128> {
        Some(self.book().held.get(&partition)?.tree.as_ref()?.root())
    }

    /// The roots of those of `partitions` that have a tree.
    pub(crate) fn roots_of(&self, partitions: &[u32]) -> Result<Roots, RootsError> {
        let book = self.book();
        let trees = partitions.iter().filter_map(|partition| book.held.get(partition)?.tree.as_deref());
        Roots::new(book.bits, trees)
    }

    /// Those of `partitions` that have no tree.
    pub(crate) fn without_tree(&self, partitions: &[u32]) -> BTreeSet<u32> {
        let book = self.book();
        let has_tree = |partition: &u32| book.held.get(partition).is_some_and(|held| held.tree.is_some());
        partitions.iter().copied().filter(|partition| !has_tree(partition)).collect()
    }

    /// How many partitions are held, and how many of those have no tree.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let book = self.book();
        let building = book.held.values().filter(|held| held.tree.is_none()).count();
        // At most 65,536.
        (book.held.len() as u32, building as u32)
    }

    /// How many places all trees together cover.
    fn entries(&self) -> u64 {
        self.book().held.values().filter_map(|held| held.tree.as_ref()).map(|tree| tree.len()).sum()
    }

    /// How many records this node holds, once every partition has a tree. The store's own estimate counts what was overwritten or dropped, too.
    pub(crate) fn records(&self) -> Option<u64> {
        let (held, building) = self.counts();
        (held > 0 && building == 0).then(|| self.entries())
    }

    /// The trees of the partitions behind `after`, at most `limit`; none where one is being built. Says whether there are more.
    fn page(&self, after: Option<u32>, limit: usize) -> (Vec<OfPartition>, bool) {
        let book = self.book();
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut held = book.held.range(behind).map(|(partition, held)| (*partition, held.tree.clone()));
        let page = held.by_ref().take(limit).collect();
        (page, held.next().is_some())
    }

    /// Every partition held, with its tree's root if there is a tree.
    pub(crate) fn roots(&self) -> Vec<(PartitionId, Option<u128>)> {
        let root = |held: &Held| held.tree.as_ref().map(|tree| tree.root());
        self.book().held.iter().map(|(partition, held)| (PartitionId(*partition), root(held))).collect()
    }

    /// Saves all trees that are not on disk: at the end of a clean stop. What is written after that deletes them again.
    pub(crate) async fn save(self: &Arc<Self>) {
        let unsaved: Vec<u32> = {
            let book = self.book();
            let ready = book.held.iter().filter(|(_, held)| held.tree.is_some());
            ready
                .map(|(partition, _)| *partition)
                .filter(|partition| !book.saved.contains(partition))
                .collect()
        };
        for partition in unsaved {
            if let Err(error) = self.save_one(partition).await {
                tracing::warn!(%error, "trees were not saved: the next start builds them anew");
                return;
            }
        }
    }

    async fn save_one(self: &Arc<Self>, partition: u32) -> Result<(), StorageError> {
        loop {
            let (sender, saved) = oneshot::channel();
            match self.submit_saving(partition, |outcome| drop(sender.send(outcome))) {
                Ok(()) => return saved.await.unwrap_or(Err(StorageError::Closed)),
                Err(StorageError::Busy { .. }) => tokio::time::sleep(QUEUE_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    fn submit_saving(
        self: &Arc<Self>,
        partition: u32,
        done: impl FnOnce(Result<(), StorageError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let trees = self.clone();
        let apply: Apply = Box::new(move |tx| {
            let mut book = trees.book();
            // As of this transaction, like the index.
            let tree = book.held.get(&partition).and_then(|held| held.tree.clone());
            if let Some(tree) = tree {
                book.saved.insert(partition);
                tx.put(Space::Meta, saved_key(partition), tree.to_bytes().into());
            }
            Box::new(done) as Done
        });
        self.storage.submit(Durability::Memory, apply)
    }
}
