//! Trees against what is stored, whatever becomes of writes, and whenever pages are read.

use std::collections::VecDeque;

use dynkv_merkle::Rebuild;
use dynkv_ring::Position;
use proptest::prelude::*;

use super::{
    build::{Progress, ToCheck},
    index::{Ahead, Index},
    *,
};
use crate::{
    record::record_key,
    storage::{Committed, Overlay, StorageStats, Visit},
};

/// Two partitions, both held.
const BITS: u8 = 1;
const KEYS: u8 = 12;

type Map = BTreeMap<(Space, Bytes), Bytes>;

/// A store that does nothing by itself: the test says when a batch is run, what becomes of it, and when it is synced, also in the
/// midst of a scan.
#[derive(Default)]
struct Stepwise {
    map: Mutex<Map>,
    queue: Mutex<VecDeque<(Durability, Apply)>>,
    unsynced: Mutex<Vec<Done>>,
    /// What happens during the next scan: before it looks, and after it has.
    around_scan: Mutex<VecDeque<(Step, Step)>>,
}

struct Reader(Map);

impl Committed for Reader {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.get(&(space, Bytes::copy_from_slice(key))).cloned())
    }
}

fn failed() -> StorageError {
    StorageError::Failed { reason: "as the test wants".into() }
}

impl Stepwise {
    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap()
    }

    fn run_batch(&self, operations: usize, fate: Fate) {
        let batch: Vec<_> = {
            let mut queue = self.queue.lock().unwrap();
            let count = operations.min(queue.len());
            queue.drain(..count).collect()
        };
        let (reader, mut overlay) = (Reader(self.map().clone()), Overlay::new());
        let (mut in_memory, mut on_disk): (Vec<Done>, Vec<Done>) = (Vec::new(), Vec::new());
        for (durability, apply) in batch {
            let done = apply(&mut Transaction::new(&reader, &mut overlay));
            match durability {
                Durability::Memory | Durability::Later => in_memory.push(done),
                Durability::Disk => on_disk.push(done),
            }
        }
        if fate != Fate::Fails {
            for (key, value) in overlay {
                match value {
                    Some(value) => self.map().insert(key, value),
                    None => self.map().remove(&key),
                };
            }
        }
        self.saved_trees_are_right();
        match fate {
            Fate::Works => {
                in_memory.into_iter().for_each(|done| done(Ok(())));
                self.unsynced.lock().unwrap().append(&mut on_disk);
            }
            Fate::Fails | Fate::LandsAndFails => {
                in_memory.into_iter().chain(on_disk).for_each(|done| done(Err(failed())));
            }
        }
    }

    fn sync(&self, works: bool) {
        let unsynced = std::mem::take(&mut *self.unsynced.lock().unwrap());
        for done in unsynced {
            done(if works { Ok(()) } else { Err(failed()) });
        }
    }

    /// If the process ended here, the next one could use every tree there is.
    fn saved_trees_are_right(&self) {
        let saved: Vec<_> = self
            .map()
            .iter()
            .filter(|((space, _), _)| *space == Space::Meta)
            .map(|(_, v)| v.clone())
            .collect();
        for bytes in saved {
            let saved = Tree::from_bytes(&bytes).unwrap();
            let stored = self.built(saved.span().index());
            assert_eq!((saved.root(), saved.len()), (stored.root(), stored.len()));
        }
    }

    /// The tree of what is stored.
    fn built(&self, partition: u32) -> Tree {
        let mut rebuild = Rebuild::new(Span::new(BITS, partition).unwrap(), 0);
        let quiet = Stepwise { map: Mutex::new(self.map().clone()), ..Stepwise::default() };
        while !rebuild.read(&Index(&quiet), 1000).unwrap() {}
        rebuild.finish().unwrap()
    }

    fn carry_out(&self, step: Step) {
        match step {
            Step::Batch(operations, fate) => self.run_batch(operations, fate),
            Step::Sync(works) => self.sync(works),
            Step::Nothing => {}
        }
    }
}

impl Storage for Stepwise {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.map().get(&(space, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let (before, after) =
            self.around_scan.lock().unwrap().pop_front().unwrap_or((Step::Nothing, Step::Nothing));
        self.carry_out(before);
        let map = self.map().clone();
        let start = (space, Bytes::copy_from_slice(prefix.max(from)));
        for ((found, key), value) in map.range(start..) {
            if *found != space
                || !key.starts_with(prefix)
                || visit(key.clone(), value.clone()) == ControlFlow::Break(())
            {
                break;
            }
        }
        self.carry_out(after);
        Ok(())
    }

    fn submit(&self, durability: Durability, apply: Apply) -> Result<(), StorageError> {
        self.queue.lock().unwrap().push_back((durability, apply));
        Ok(())
    }

    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }

    fn close(&self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Works,
    Fails,
    LandsAndFails,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Nothing,
    Batch(usize, Fate),
    Sync(bool),
}

#[derive(Clone, Debug)]
enum Action {
    Write(u8, u128, Durability),
    Step(Step),
    Page(Step, Step),
    CheckPage(Step, Step),
    Save,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![8 => Just(Fate::Works), 1 => Just(Fate::Fails), 1 => Just(Fate::LandsAndFails)];
    prop_oneof![
        2 => Just(Step::Nothing),
        4 => (1usize..4, fate).prop_map(|(operations, fate)| Step::Batch(operations, fate)),
        2 => prop::bool::weighted(0.9).prop_map(Step::Sync),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let durability = prop_oneof![Just(Durability::Memory), Just(Durability::Disk)];
    prop_oneof![
        8 => (0..KEYS, 0u128..4, durability).prop_map(|(key, digest, durability)| Action::Write(key, digest, durability)),
        4 => step().prop_map(Action::Step),
        6 => (step(), step()).prop_map(|(before, after)| Action::Page(before, after)),
        3 => (step(), step()).prop_map(|(before, after)| Action::CheckPage(before, after)),
        1 => Just(Action::Save),
        1 => Just(Action::Restart),
    ]
}

fn open(storage: &Arc<Stepwise>) -> Arc<Trees> {
    let trees = Trees::load(storage.clone(), Arc::new(Metrics::new())).unwrap();
    let mut book = trees.book();
    book.bits = BITS;
    for partition in 0..1 << BITS {
        let tree = book.loaded.remove(&partition).map(Arc::new);
        book.held.insert(partition, Held { tree, building: None });
    }
    drop(book);
    Arc::new(trees)
}

fn at(key: u8) -> RecordAt {
    let position = Position::of("b", &[key]);
    RecordAt { record: record_key(PartitionId((position.0 >> 127) as u32), "b", &[key]), position }
}

fn entered(digest: u128) -> Entered {
    Entered { digest: Digest(digest), unsettled: Unsettled::default() }
}

/// Writes a record's digest; 0 removes it.
fn write(trees: &Arc<Trees>, key: u8, digest: u128, durability: Durability) {
    let (trees, storage) = (trees.clone(), trees.storage.clone());
    let apply: Apply = Box::new(move |tx| {
        let old = trees.indexed(tx, &at(key)).unwrap();
        let change = match (digest, old) {
            (0, None) => None,
            (0, Some(old)) => Some(trees.remove_record(tx, &at(key), old)),
            _ => Some(trees.put_digest(tx, &at(key), old, entered(digest))),
        };
        Box::new(move |outcome| {
            if let (Some(change), Ok(())) = (change, outcome) {
                change.committed();
            }
        })
    });
    storage.submit(durability, apply).unwrap();
}

impl Trees {
    /// Holds the only partition of all, and builds what is to be built. No write is under way.
    pub(crate) fn hold_all(&self) {
        self.book().held.entry(0).or_default();
        while let Some(partition) = self.urgent(0, 0) {
            self.build_page(partition, 1000).expect("readable");
        }
    }
}

/// Lets everything end, and builds what is to be built.
fn settle(storage: &Stepwise, trees: &Trees) {
    storage.around_scan.lock().unwrap().clear();
    storage.run_batch(usize::MAX, Fate::Works);
    storage.sync(true);
    let mut pages = 0;
    while let Some(partition) = trees.urgent(0, 0) {
        assert_ne!(trees.build_page(partition, 3).unwrap().0, Progress::Disturbed, "nothing disturbs it");
        pages += 1;
        assert!(pages < 100, "building does not end");
    }
}

fn check(storage: &Stepwise, trees: &Trees) {
    for partition in 0..1 << BITS {
        let (tree, stored) = (trees.ready(partition).unwrap(), storage.built(partition));
        assert_eq!((tree.root(), tree.len()), (stored.root(), stored.len()));
    }
    assert!(trees.book().writing.is_empty());
    // Whatever was checked meanwhile: nothing has drifted.
    assert_eq!(trees.metrics.tree_drifts.get(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn trees_are_what_is_stored(actions in prop::collection::vec(action(), 1..80)) {
        let storage = Arc::new(Stepwise::default());
        let mut trees = open(&storage);
        for action in actions {
            match action {
                Action::Write(key, digest, durability) => write(&trees, key, digest, durability),
                Action::Step(step) => storage.carry_out(step),
                Action::Page(before, after) => {
                    if let Some(partition) = trees.urgent(0, 0) {
                        storage.around_scan.lock().unwrap().push_back((before, after));
                        trees.build_page(partition, 2).unwrap();
                    }
                }
                Action::CheckPage(before, after) => {
                    if let ToCheck::Partition(partition) = trees.to_check(None) {
                        storage.around_scan.lock().unwrap().push_back((before, after));
                        trees.build_page(partition, 2).unwrap();
                    }
                }
                Action::Save => {
                    for partition in 0..1 << BITS {
                        trees.submit_saving(partition, drop).unwrap();
                    }
                }
                Action::Restart => {
                    // As it stands: what was queued or not synced is gone, or there.
                    storage.queue.lock().unwrap().clear();
                    storage.unsynced.lock().unwrap().clear();
                    trees = open(&storage);
                }
            }
        }
        settle(&storage, &trees);
        check(&storage, &trees);
    }
}

/// One write of each fate, and what remains to be done after it.
#[test]
fn a_failed_write_has_its_tree_built_anew_and_no_other() {
    let storage = Arc::new(Stepwise::default());
    let trees = open(&storage);
    settle(&storage, &trees);
    let partition = (at(1).position.0 >> 127) as u32;
    for (fate, digest) in [(Fate::Works, 1), (Fate::Fails, 2), (Fate::LandsAndFails, 3)] {
        write(&trees, 1, digest, Durability::Memory);
        storage.run_batch(1, fate);
        assert_eq!(trees.ready(partition).is_some(), fate == Fate::Works, "{fate:?}");
        assert!(trees.ready(1 - partition).is_some(), "{fate:?}");
        settle(&storage, &trees);
        check(&storage, &trees);
    }
}

#[test]
fn trees_that_were_saved_are_used_until_something_changes() {
    let storage = Arc::new(Stepwise::default());
    let trees = open(&storage);
    (0..KEYS).for_each(|key| write(&trees, key, 7, Durability::Memory));
    settle(&storage, &trees);
    for partition in 0..1 << BITS {
        trees.submit_saving(partition, drop).unwrap();
    }
    storage.run_batch(9, Fate::Works);
    for _ in 0..2 {
        let trees = open(&storage);
        assert_eq!(trees.urgent(0, 0), None);
        check(&storage, &trees);
    }
    let trees = open(&storage);
    write(&trees, 1, 8, Durability::Memory);
    storage.run_batch(1, Fate::Works);
    check(&storage, &trees);
    let partition = (at(1).position.0 >> 127) as u32;
    assert_eq!(open(&storage).urgent(0, 0), Some(partition));
}

#[test]
fn a_tree_grows_with_its_entries() {
    let storage = Arc::new(Stepwise::default());
    let trees = open(&storage);
    settle(&storage, &trees);
    for key in 0..200 {
        write(&trees, key, 7, Durability::Memory);
        storage.run_batch(1, Fate::Works);
        // While one of another size is being built.
        if let Some(partition) = trees.urgent(0, 0) {
            trees.build_page(partition, 5).unwrap();
        }
    }
    settle(&storage, &trees);
    assert!((0..1 << BITS).all(|partition| trees.ready(partition).unwrap().depth() >= 2));
    check(&storage, &trees);
}

#[test]
fn a_tree_that_drifted_is_noticed_and_replaced() {
    let storage = Arc::new(Stepwise::default());
    let trees = open(&storage);
    (0..KEYS).for_each(|key| write(&trees, key, 7, Durability::Memory));
    settle(&storage, &trees);
    // Behind the tree's back.
    let place = place_of(&at(3));
    storage.map().insert((Space::Digests, index_key(place, &at(3).record)), index_value(entered(9)));
    let mut done = None;
    for _ in 0..2 {
        let ToCheck::Partition(partition) = trees.to_check(done) else { panic!("it has a tree") };
        while trees.build_page(partition, 3).unwrap().0 == Progress::More {}
        done = Some(partition);
    }
    assert_eq!(trees.to_check(done), ToCheck::NoMore);
    assert_eq!(trees.metrics.tree_drifts.get(), 1);
    let partition = (at(3).position.0 >> 127) as u32;
    assert_eq!(trees.ready(partition).unwrap().root(), storage.built(partition).root());
}

/// Made by hand, since nobody has found two such keys: both are in the index, and comparisons see the place once.
#[test]
fn two_keys_at_one_place_are_one_entry() {
    let storage = Arc::new(Stepwise::default());
    let place = TreePosition(5 << 64 | 7);
    for (record, digest) in [("one", 10), ("two", u128::MAX)] {
        let key = index_key(place, record.as_bytes());
        storage.map().insert((Space::Digests, key), index_value(entered(digest)));
    }
    assert_eq!(Index(&*storage).at(place).unwrap().len(), 2);
    let mut ahead = Ahead::new(&*storage);
    assert_eq!(ahead.at(place).unwrap().len(), 2);
    assert_eq!(ahead.digest_at(place).unwrap(), Some(Digest(9)));
    assert_eq!(ahead.digest_at(TreePosition(place.0 + 1)).unwrap(), None);
}

proptest! {
    #[test]
    fn reading_ahead_finds_what_a_look_finds(
        stored in prop::collection::btree_set(0u128..60, 0..40),
        mut asked in prop::collection::vec(0u128..60, 0..60),
        sorted in any::<bool>(),
    ) {
        let storage = Arc::new(Stepwise::default());
        for place in stored {
            storage.map().insert((Space::Digests, index_key(TreePosition(place), b"one")), index_value(entered(place)));
            if place % 7 == 0 {
                storage.map().insert((Space::Digests, index_key(TreePosition(place), b"two")), index_value(entered(1)));
            }
        }
        if sorted {
            asked.sort_unstable();
        }
        let mut ahead = Ahead::new(&*storage);
        for place in asked.into_iter().map(TreePosition) {
            prop_assert_eq!(ahead.at(place), Index(&*storage).at(place));
        }
    }
}
