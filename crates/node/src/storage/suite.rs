//! What every store must do, run against each implementation.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex, mpsc},
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Durability, FjallOptions, FjallStorage, MemoryStorage, Space, Storage, StorageError, Transaction,
};

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Submits `apply` and waits for its outcome.
fn write(
    storage: &dyn Storage,
    durability: Durability,
    apply: impl FnOnce(&mut Transaction<'_>) + Send + 'static,
) -> Result<(), StorageError> {
    let (sender, receiver) = mpsc::channel();
    storage.submit(
        durability,
        Box::new(move |tx| {
            apply(tx);
            Box::new(move |result| drop(sender.send(result)))
        }),
    )?;
    receiver.recv().expect("every operation that was taken is answered")
}

fn put(storage: &dyn Storage, at: &str, value: &str) {
    let (at, value) = (key(at), key(value));
    write(storage, Durability::Disk, move |tx| tx.put(Space::Records, at, value)).unwrap();
}

fn scan(storage: &dyn Storage, space: Space, prefix: &str, from: &str, limit: usize) -> Vec<String> {
    let mut seen = Vec::new();
    storage
        .scan(space, prefix.as_bytes(), from.as_bytes(), &mut |key, value| {
            seen.push(format!("{}={}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value)));
            if seen.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    seen
}

fn reads_what_was_written(storage: &dyn Storage) {
    assert_eq!(storage.get(Space::Records, b"a"), Ok(None));
    put(storage, "a", "1");
    put(storage, "a", "2");
    assert_eq!(storage.get(Space::Records, b"a"), Ok(Some(key("2"))));
    assert_eq!(storage.get(Space::Meta, b"a"), Ok(None), "spaces are apart");
    write(storage, Durability::Memory, |tx| tx.delete(Space::Records, key("a"))).unwrap();
    assert_eq!(storage.get(Space::Records, b"a"), Ok(None));
}

fn scans_in_order_within_a_prefix(storage: &dyn Storage) {
    for at in ["b2", "a", "b", "b10", "c"] {
        put(storage, at, "v");
    }
    write(storage, Durability::Memory, |tx| tx.put(Space::Meta, key("b"), key("m"))).unwrap();
    assert_eq!(scan(storage, Space::Records, "b", "", 9), ["b=v", "b10=v", "b2=v"]);
    assert_eq!(scan(storage, Space::Records, "b", "b1", 9), ["b10=v", "b2=v"]);
    assert_eq!(scan(storage, Space::Records, "b", "", 1), ["b=v"]);
    assert_eq!(scan(storage, Space::Records, "x", "", 9), Vec::<String>::new());
    assert_eq!(scan(storage, Space::Meta, "", "", 9), ["b=m"]);
}

/// Operations see what the ones before them wrote, whether committed or not: a counter loses no step.
fn operations_run_in_order(storage: &Arc<dyn Storage>) {
    const STEPS: u64 = 500;
    let (sender, receiver) = mpsc::channel();
    for step in 0..STEPS {
        let sender = sender.clone();
        let durability = if step % 7 == 0 { Durability::Disk } else { Durability::Memory };
        let submitted = storage.submit(
            durability,
            Box::new(move |tx| {
                let before = tx.get(Space::Records, &key("n")).expect("readable");
                let before =
                    before.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().expect("8 bytes")));
                assert_eq!(before, step);
                tx.put(Space::Records, key("n"), Bytes::copy_from_slice(&(before + 1).to_be_bytes()));
                Box::new(move |result| sender.send((step, result)).expect("the test waits"))
            }),
        );
        submitted.expect("the queue is longer than this test");
    }
    let done: BTreeMap<u64, _> = receiver.into_iter().take(STEPS as usize).collect();
    assert_eq!(done.len() as u64, STEPS);
    assert!(done.values().all(Result::is_ok));
    assert_eq!(storage.get(Space::Records, b"n").unwrap().unwrap()[..], STEPS.to_be_bytes());
}

/// What `done` does comes before the next operation: renewing the incarnation depends on it.
fn done_may_submit_again(storage: &Arc<dyn Storage>) {
    let (sender, receiver) = mpsc::channel();
    let again = storage.clone();
    let submitted = storage.submit(
        Durability::Memory,
        Box::new(move |tx| {
            tx.put(Space::Records, key("first"), key("1"));
            Box::new(move |result| {
                result.expect("a working store");
                let chained = again.submit(
                    Durability::Memory,
                    Box::new(move |tx| {
                        let first = tx.get(Space::Records, &key("first")).expect("readable");
                        Box::new(move |_| sender.send(first).expect("the test waits"))
                    }),
                );
                chained.expect("not closed");
            })
        }),
    );
    submitted.expect("not closed");
    assert_eq!(receiver.recv().unwrap(), Some(key("1")));
}

fn a_closed_store_takes_and_gives_nothing(storage: &dyn Storage) {
    put(storage, "a", "1");
    storage.close();
    let refused = write(storage, Durability::Memory, |tx| tx.put(Space::Records, key("a"), key("2")));
    assert_eq!(refused, Err(StorageError::Closed));
    assert_eq!(storage.get(Space::Records, b"a"), Err(StorageError::Closed));
    let scanned = storage.scan(Space::Records, b"", b"", &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(scanned, Err(StorageError::Closed));
    storage.close();
}

fn check(make: impl Fn() -> Arc<dyn Storage>) {
    reads_what_was_written(&*make());
    scans_in_order_within_a_prefix(&*make());
    operations_run_in_order(&make());
    done_may_submit_again(&make());
    a_closed_store_takes_and_gives_nothing(&*make());
}

fn fjall(dir: &Path) -> FjallStorage {
    FjallStorage::open(dir, &FjallOptions::default()).expect("a store opens in an empty directory")
}

#[test]
fn nodes_fill_their_memtables_at_different_times() {
    let usual = FjallOptions::default().memtable_bytes;
    let bytes = |n: u8| {
        let options = FjallOptions::of_node(&format!("n{n}").parse().expect("a letter and digits"));
        assert!((usual * 3 / 4..usual * 5 / 4).contains(&options.memtable_bytes));
        options.memtable_bytes
    };
    let mut sizes: Vec<u64> = (1..=7).map(bytes).collect();
    sizes.sort_unstable();
    // Half a percent: those of the same size would be apart after a hundred of them.
    assert!(sizes.windows(2).all(|two| two[1] - two[0] > usual / 200), "{sizes:?}");
}

#[test]
fn memory() {
    check(|| Arc::new(MemoryStorage::new()));
}

#[test]
fn on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let count = Mutex::new(0);
    check(|| {
        let mut count = count.lock().unwrap();
        *count += 1;
        Arc::new(fjall(&dir.path().join(count.to_string())))
    });
}

#[test]
fn on_disk_everything_is_there_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = fjall(dir.path());
    write(&storage, Durability::Memory, |tx| tx.put(Space::Records, key("a"), key("1"))).unwrap();
    drop(storage);
    assert_eq!(fjall(dir.path()).get(Space::Records, b"a"), Ok(Some(key("1"))));
}

#[test]
fn on_disk_a_store_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let _open = fjall(dir.path());
    let second = FjallStorage::open(dir.path(), &FjallOptions::default());
    assert!(matches!(second, Err(StorageError::Failed { .. })), "{second:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both stores and a plain map agree after any sequence of batches.
    #[test]
    fn both_agree(batches in prop::collection::vec(prop::collection::vec((0u8..6, prop::option::of(0u8..9)), 1..5), 1..8)) {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Arc<dyn Storage>; 2] = [Arc::new(MemoryStorage::new()), Arc::new(fjall(dir.path()))];
        let mut model = BTreeMap::new();
        for batch in batches {
            for storage in &stores {
                let batch = batch.clone();
                write(&**storage, Durability::Memory, move |tx| {
                    for (at, value) in batch {
                        match value {
                            Some(value) => tx.put(Space::Records, Bytes::from(vec![at]), Bytes::from(vec![value])),
                            None => tx.delete(Space::Records, Bytes::from(vec![at])),
                        }
                    }
                }).unwrap();
            }
            for (at, value) in batch {
                match value {
                    Some(value) => model.insert(vec![at], vec![value]),
                    None => model.remove(&vec![at]),
                };
            }
        }
        for storage in &stores {
            let mut seen = BTreeMap::new();
            storage.scan(Space::Records, b"", b"", &mut |key, value| {
                seen.insert(key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            }).unwrap();
            prop_assert_eq!(&seen, &model);
        }
    }
}
