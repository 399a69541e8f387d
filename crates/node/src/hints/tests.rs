//! The store of hints by itself, in memory.

use dynkv_proto::{Actor, Conflict, PutId, State, Version, value_hash};
use dynkv_vclock::{CausalContext, HybridTime};

use super::{
    check::{Checked, check_page},
    *,
};
use crate::storage::{MemoryStorage, write_durably};

const LIMIT_BYTES: u64 = 1000;

fn store(storage: &Arc<MemoryStorage>) -> Arc<Hints> {
    let storage: Arc<dyn Storage> = storage.clone();
    Arc::new(Hints::load(storage, Arc::new(Metrics::new()), LIMIT_BYTES).expect("the store can be read"))
}

fn target() -> NodeId {
    "n3".parse().expect("a good id")
}

/// Bytes that stand for a state: this store does not look into them.
fn state(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Writes a hint, in place of what is there.
fn put(hints: &Arc<Hints>, key: &'static str, state: Bytes) -> Result<(), HintError> {
    let (outcome, store) = (Arc::new(Mutex::new(None)), hints.clone());
    let told = outcome.clone();
    let apply: Apply = Box::new(move |tx| {
        let before = store.get(tx, key.as_bytes(), &target()).expect("the store can be read");
        let record = Record { local_actor: None, state };
        match store.put(tx, key.as_bytes(), target(), before.as_ref(), record, 5) {
            Ok(delta) => Box::new(move |_| {
                delta.committed();
                *told.lock().expect("nobody panics") = Some(Ok(()));
            }),
            Err(error) => Box::new(move |_| *told.lock().expect("nobody panics") = Some(Err(error))),
        }
    });
    hints.storage.submit(Durability::Disk, apply).expect("the store takes writes");
    let outcome = outcome.lock().expect("nobody panics").take();
    outcome.expect("this store is done when it returns")
}

/// The target has `delivered` on disk: whether the hint is gone.
fn delivered(hints: &Arc<Hints>, queued: &Queued, delivered: Bytes) -> bool {
    let gone = Arc::new(Mutex::new(None));
    let told = gone.clone();
    let done =
        move |outcome: Result<bool, StorageError>| *told.lock().expect("nobody panics") = Some(outcome);
    hints.remove_delivered(target(), queued, Some(delivered), done).expect("the store takes writes");
    let gone = gone.lock().expect("nobody panics").take();
    gone.expect("this store is done when it returns").expect("the store can be read")
}

fn queue(hints: &Hints) -> Vec<Queued> {
    hints.page(&target(), None, 10, u64::MAX).expect("the store can be read").0
}

fn totals(hints: &Hints) -> (u64, u64) {
    let totals = hints.totals().get(&target()).copied().unwrap_or_default();
    (totals.hints, totals.bytes)
}

#[test]
fn a_hint_that_changed_while_it_was_delivered_stays_in_its_place() {
    let hints = store(&Arc::default());
    put(&hints, "k", state("one")).expect("there is room");
    put(&hints, "l", state("two")).expect("there is room");
    let on_its_way = queue(&hints);
    assert_eq!(on_its_way.iter().map(|queued| &queued.record_key[..]).collect::<Vec<_>>(), [b"k", b"l"]);
    put(&hints, "k", state("one and more")).expect("there is room");
    assert!(!delivered(&hints, &on_its_way[0], state("one")));
    assert!(delivered(&hints, &on_its_way[1], state("two")));
    assert_eq!(totals(&hints), (1, 12));

    // Still the oldest, as old as the first write that the target lacks.
    put(&hints, "m", state("three")).expect("there is room");
    let queued = queue(&hints);
    assert_eq!((queued[0].sequence, &queued[0].record_key[..]), (on_its_way[0].sequence, &b"k"[..]));
    assert!(delivered(&hints, &queued[0], state("one and more")));
    assert!(delivered(&hints, &queued[1], state("three")));
    assert_eq!((totals(&hints), queue(&hints)), ((0, 0), vec![]));
    // What an earlier attempt has delivered is not delivered again.
    assert!(!delivered(&hints, &queued[1], state("three")));
    assert_eq!(totals(&hints), (0, 0));
}

#[test]
fn a_restart_counts_what_is_there_and_goes_on_behind_it() {
    let storage = Arc::default();
    let hints = store(&storage);
    put(&hints, "k", state("one")).expect("there is room");
    put(&hints, "l", state("two!")).expect("there is room");
    let before = queue(&hints);
    let hints = store(&storage);
    assert_eq!((totals(&hints), queue(&hints)), ((2, 7), before.clone()));
    put(&hints, "m", state("three")).expect("there is room");
    assert!(queue(&hints)[2].sequence > before[1].sequence);
    let (page, more) = hints.page(&target(), Some(before[0].sequence), 1, u64::MAX).expect("it can be read");
    assert_eq!((&page[..], more), (&before[1..], true));
}

#[test]
fn a_full_store_takes_what_makes_a_hint_no_longer() {
    let hints = store(&Arc::default());
    let long = |bytes: u64| Bytes::from(vec![b'x'; bytes as usize]);
    put(&hints, "k", long(LIMIT_BYTES - 10)).expect("there is room");
    let refused = put(&hints, "l", long(11)).expect_err("there is no room");
    assert!(matches!(refused, HintError::Full { bytes: 990, limit: LIMIT_BYTES }), "{refused}");
    put(&hints, "l", long(10)).expect("there is room for as much");
    put(&hints, "k", long(LIMIT_BYTES)).expect_err("there is no room for it to grow");
    // A delete, say, or a value in place of siblings.
    put(&hints, "k", long(500)).expect("it takes less than before");
    assert_eq!((totals(&hints), hints.metrics.hints_refused_full.get()), ((2, 510), 2));
}

#[test]
fn a_damaged_turn_is_counted_and_holds_up_no_other() {
    let storage = Arc::<MemoryStorage>::default();
    let hints = store(&storage);
    put(&hints, "k", state("one")).expect("there is room");
    put(&hints, "l", state("two")).expect("there is room");
    let first = turn_key(&target(), queue(&hints)[0].sequence);
    let damage: Apply = Box::new(move |tx| {
        tx.put(Space::Hints, first, state("junk"));
        Box::new(|_| {})
    });
    storage.submit(Durability::Memory, damage).expect("the store takes writes");
    let hints = store(&storage);
    assert_eq!((totals(&hints), hints.metrics.hints_damaged.get()), ((1, 3), 1));
    assert_eq!(queue(&hints).iter().map(|queued| &queued.record_key[..]).collect::<Vec<_>>(), [b"l"]);
}

#[test]
fn the_totals_do_not_depend_on_the_order_of_acknowledgements() {
    let hints = store(&Arc::default());
    // A hint that is delivered while it waits for this node's disk: its removal, which does not, is acknowledged first.
    let begun = Delta::new(&hints, target(), 1, 5);
    let ended = Delta::new(&hints, target(), -1, -5);
    ended.committed();
    begun.committed();
    assert_eq!((totals(&hints), hints.totals().len()), ((0, 0), 0));
    // And one whose outcome is not known is counted again.
    put(&hints, "k", state("one")).expect("there is room");
    drop(Delta::new(&hints, target(), 1, 7));
    hints.recount_if_stale().expect("the store can be read");
    assert_eq!(totals(&hints), (1, 3));
}

/// A real state, with a value.
fn real_state() -> Bytes {
    let version = Version {
        time: HybridTime::from_u64(1),
        put_id: PutId(1),
        tombstone: false,
        content_type: String::new(),
        meta: BTreeMap::new(),
        hash: value_hash(b"value"),
        value: Bytes::from_static(b"value"),
    };
    let mut state = State::default();
    state.put(Actor(1, 1), &CausalContext::new(), version, Conflict::Siblings).expect("a new actor");
    state.encode()
}

/// Checks everything, two entries at a time.
fn checked(storage: &MemoryStorage) -> Checked {
    let (mut all, mut from) = (Checked::default(), Bytes::new());
    loop {
        let (page, next) = check_page(storage, &from, 2, u64::MAX).expect("the store can be read");
        assert!(page.seen <= 2);
        all.seen += page.seen;
        all.hints += page.hints;
        all.bytes += page.bytes;
        all.damaged.extend(page.damaged);
        let Some(next) = next else { return all };
        from = next;
    }
}

/// Each way in which a hint may be damaged, with what the check says then.
#[tokio::test]
async fn whatever_is_wrong_with_a_hint_is_found() {
    let flip_last = |bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        Some(Bytes::from(bytes))
    };
    let (hint, turn) = (hint_key(b"k", &target()), turn_key(&target(), 1));
    let flip_first = |bytes: Bytes| Some(Bytes::from([&[bytes[0] ^ 1], &bytes[1..]].concat()));
    type Change<'a> = (&'a Bytes, &'a dyn Fn(Bytes) -> Option<Bytes>, &'a [&'a str]);
    let table: [Change<'_>; 6] = [
        (&hint, &Some, &[]),
        (&hint, &flip_last, &["a value in a hint fails its checksum"]),
        (&hint, &flip_first, &["a hint fails its checksum"]),
        (&hint, &|_| None, &["a hint's turn names a hint that is not there"]),
        (&turn, &|_| None, &["a hint has no turn: it would never be delivered"]),
        (
            &turn,
            &flip_last,
            // Its key ends with the target's name.
            &["a hint has no turn: it would never be delivered"],
        ),
    ];
    for (key, change, expected) in table {
        let storage = Arc::<MemoryStorage>::default();
        let hints = store(&storage);
        put(&hints, "k", real_state()).expect("there is room");
        put(&hints, "l", real_state()).expect("there is room");
        let stored = storage.get(Space::Hints, key).expect("it can be read").expect("it is there");
        write_durably(&*storage, vec![(Space::Hints, key.clone(), change(stored))]).await.expect("it works");
        let found = checked(&storage);
        assert_eq!(found.damaged, expected, "{key:?}");
        assert!(found.bytes > 0 && found.hints >= 1, "{found:?}");
    }
}
