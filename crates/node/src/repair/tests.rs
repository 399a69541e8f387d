//! What becomes of records, their digests and their trees, on a store in memory.

use std::{ops::ControlFlow, sync::Mutex};

use dynkv_merkle::{Rebuild, Span};
use dynkv_proto::{Actor, ContextToken, Marks, PutId, State, Version, value_hash};
use dynkv_ring::PartitionCount;
use dynkv_vclock::{CausalContext, HybridTime};
use proptest::prelude::*;

use super::*;
use crate::{
    chain::Chain,
    env::Env,
    hints::{Hints, Place},
    metrics::Metrics,
    put_ids::Attempt,
    replica::Mint,
    settle::marks::MarksBook,
    storage::MemoryStorage,
    trees::{
        Trees,
        index::{Ahead, Index, place_of},
    },
};

pub(crate) fn replica() -> Arc<Replica> {
    let (storage, metrics) = (Arc::new(MemoryStorage::default()), Arc::new(Metrics::new()));
    let hints = Hints::load(storage.clone(), metrics.clone(), 1000).expect("an empty store");
    let trees = Trees::load(storage.clone(), metrics.clone()).expect("an empty store");
    let marks = Arc::new(MarksBook::load(storage.clone()).expect("an empty store"));
    Replica::new(
        storage.clone(),
        Arc::new(hints),
        Arc::new(trees),
        marks,
        Chain::alone(storage),
        Arc::new(Env::fixed(5)),
        metrics,
    )
}

pub(crate) fn key(name: u8) -> Key {
    Key::new("b".into(), vec![name].into(), PartitionCount::MIN)
}

fn version(value: &[u8]) -> Version {
    Version {
        time: HybridTime::from_u64(1),
        put_id: PutId(u128::from(value[0])),
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        hash: value_hash(value),
        value: Bytes::copy_from_slice(value),
    }
}

/// A version of each of these actors, and nothing else.
fn state(actors: &[u8]) -> Incoming {
    let mut state = State::default();
    for actor in actors {
        let value = version(&[*actor, 1, 2, 3]);
        let actor = Actor(u64::from(*actor) + 1000, 0);
        state.put(actor, &CausalContext::new(), value, Conflict::Siblings).expect("a new actor");
    }
    Incoming::verify(state.encode(), Marks::default()).expect("just made")
}

/// The outcome of what a store in memory has done when it returns.
fn outcome<T: Send + 'static>(
    begin: impl FnOnce(Box<dyn FnOnce(Result<T, TakeError>) + Send>) -> Result<(), StorageError>,
) -> Result<T, TakeError> {
    let told = Arc::new(Mutex::new(None));
    let tell = told.clone();
    begin(Box::new(move |outcome| *tell.lock().expect("nobody panics") = Some(outcome)))?;
    let outcome = told.lock().expect("nobody panics").take();
    outcome.expect("this store is done when it returns")
}

pub(crate) fn unite(replica: &Arc<Replica>, key: &Key, incoming: Incoming) -> Result<(), TakeError> {
    outcome(|done| replica.unite(key, incoming, Conflict::Siblings, Durability::Memory, done)).map(drop)
}

fn settle(replica: &Arc<Replica>, key: &Key, incoming: Option<Incoming>) -> Result<Option<Bytes>, TakeError> {
    outcome(|done| replica.settle(key, incoming, Conflict::Siblings, done))
}

fn heal(replica: &Arc<Replica>, key: &Key, healthy: Incoming, everybody: bool) -> Result<bool, TakeError> {
    outcome(|done| replica.heal(key, healthy, everybody, Conflict::Siblings, done))
}

fn mint(replica: &Arc<Replica>, key: &Key, context: CausalContext<Actor>, id: u128) -> bool {
    let value = Bytes::from_static(b"minted");
    let mint = Mint {
        context: ContextToken { context, ..ContextToken::blind(key.position) },
        put_id: PutId(id << 64),
        attempt: Attempt { number: 0, is_first: true },
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        hash: value_hash(&value),
        value,
        conflict: Conflict::Siblings,
        siblings_max: 100,
    };
    let mut minting =
        replica.mint(key, Place::Home, mint, Durability::Memory).expect("the store takes writes");
    matches!(minting.minted.try_recv(), Ok(Ok(_)))
}

/// Changes what is stored, and nothing that should change with it.
pub(crate) fn tamper(
    replica: &Replica,
    space: Space,
    at: Bytes,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) {
    let before = replica.storage.get(space, &at).expect("readable").unwrap_or_default();
    let after = change(before.to_vec()).map(Bytes::from);
    let apply: Apply = Box::new(move |tx| {
        match after {
            Some(after) => tx.put(space, at, after),
            None => tx.delete(space, at),
        }
        Box::new(drop)
    });
    replica.storage.submit(Durability::Memory, apply).expect("the store takes writes");
}

fn flip(at_from_end: usize) -> impl FnOnce(Vec<u8>) -> Option<Vec<u8>> {
    move |mut bytes| {
        let at = bytes.len() - at_from_end;
        bytes[at] ^= 1;
        Some(bytes)
    }
}

pub(crate) fn damage_header(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    bytes[20] ^= 1;
    Some(bytes)
}

/// The index says what each record holds, and names no other.
pub(crate) fn the_index_is_right(replica: &Replica) {
    let mut records = Vec::new();
    let mut add = |at: Bytes, record: Bytes| {
        let digest = Record::decode(record).and_then(|record| record.digest()).expect("intact");
        let at = RecordAt { position: dynkv_ring::Position::of("b", &at[4..]), record: at };
        records.push((place_of(&at), digest));
        ControlFlow::Continue(())
    };
    replica.storage.scan(Space::Records, b"", b"", &mut add).expect("readable");
    for (place, digest) in &records {
        assert_eq!(Ahead::new(&*replica.storage).digest_at(*place), Ok(Some(*digest)));
    }
    let mut entries = 0;
    let mut count = |_, _| {
        entries += 1;
        ControlFlow::Continue(())
    };
    replica.storage.scan(Space::Digests, b"", b"", &mut count).expect("readable");
    assert_eq!(entries, records.len());
}

#[derive(Clone, Debug)]
enum Action {
    Unite(u8, Vec<u8>),
    Settle(u8, Vec<u8>),
    Mint(u8, bool),
    /// The index is wrong, or lacks the entry, until the record is settled.
    Drift(u8, Option<u8>),
}

fn action() -> impl Strategy<Value = Action> {
    let actors = || prop::collection::vec(0u8..6, 1..3);
    prop_oneof![
        4 => (0u8..5, actors()).prop_map(|(key, actors)| Action::Unite(key, actors)),
        2 => (0u8..5, actors()).prop_map(|(key, actors)| Action::Settle(key, actors)),
        4 => (0u8..5, any::<bool>()).prop_map(|(key, reads)| Action::Mint(key, reads)),
        1 => (0u8..5, any::<Option<u8>>()).prop_map(|(key, digest)| Action::Drift(key, digest)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn records_digests_and_trees_stay_together(actions in prop::collection::vec(action(), 1..40)) {
        let replica = replica();
        replica.trees.hold_all();
        for (count, action) in (1..).zip(actions) {
            match action {
                Action::Unite(name, actors) => unite(&replica, &key(name), state(&actors)).unwrap(),
                Action::Settle(name, actors) => {
                    let settled = settle(&replica, &key(name), Some(state(&actors))).unwrap();
                    prop_assert_eq!(settled, replica.read(&key(name)).unwrap().map(|record| record.state));
                }
                Action::Mint(name, reads) => {
                    let read = replica.read(&key(name)).unwrap().filter(|_| reads);
                    let context = read.map_or_else(CausalContext::new, |record| {
                        record.decode_state().unwrap().context().clone()
                    });
                    prop_assert!(mint(&replica, &key(name), context, count));
                }
                Action::Drift(name, digest) => {
                    let key = key(name);
                    if let Some(record) = replica.read(&key).unwrap() {
                        let entry = crate::trees::index::index_key(place_of(&key.at()), &key.record);
                        tamper(&replica, Space::Digests, entry, |_| digest.map(|digest| vec![digest; 24]));
                        prop_assert_eq!(settle(&replica, &key, None).unwrap(), Some(record.state));
                        replica.trees.hold_all();
                    }
                }
            }
        }
        the_index_is_right(&replica);
        let mut rebuild = Rebuild::new(Span::ALL, 0);
        rebuild.read(&Index(&*replica.storage), 1000).unwrap();
        let tree = replica.trees.ready(0).unwrap();
        prop_assert_eq!(tree.root(), rebuild.finish().unwrap().root());
    }
}

#[test]
fn a_damaged_value_is_taken_from_whoever_has_it() {
    let (replica, key) = (replica(), key(1));
    assert!(mint(&replica, &key, CausalContext::new(), 1));
    unite(&replica, &key, state(&[1, 2])).unwrap();
    let whole = replica.read(&key).unwrap().unwrap();
    // The last value is that of actor 2; what this node has minted lies before it.
    tamper(&replica, Space::Records, key.record.clone(), flip(1));
    assert!(matches!(replica.read_intact(&key), Err(StorageError::Damaged { .. })));
    assert_eq!(replica.damaged.all(), std::slice::from_ref(&key.record));
    // Nothing is minted that would carry it to the others.
    assert!(!mint(&replica, &key, CausalContext::new(), 2));

    assert_eq!(heal(&replica, &key, state(&[1]), true), Ok(false), "nobody has it");
    assert!(replica.read_intact(&key).is_err());
    assert_eq!(heal(&replica, &key, state(&[2]), false), Ok(true));
    assert_eq!(replica.read_intact(&key), Ok(Some(whole)), "with the field under which this node mints");
    the_index_is_right(&replica);
}

#[test]
fn the_same_state_heals_a_value_on_its_way() {
    let (replica, key) = (replica(), key(1));
    unite(&replica, &key, state(&[1])).unwrap();
    tamper(&replica, Space::Records, key.record.clone(), flip(1));
    unite(&replica, &key, state(&[1])).unwrap();
    assert!(replica.read_intact(&key).is_ok());
    assert_eq!(replica.metrics.records_healed.get(), 1);
}

#[test]
fn a_damaged_header_is_replaced_once_everybody_has_answered() {
    for gone in [false, true] {
        let (replica, key) = (replica(), key(1));
        assert!(mint(&replica, &key, CausalContext::new(), 1));
        let change = move |bytes| if gone { None } else { damage_header(bytes) };
        tamper(&replica, Space::Records, key.record.clone(), change);
        assert!(matches!(
            settle(&replica, &key, Some(state(&[1]))),
            Err(TakeError::Storage(StorageError::Damaged { .. }))
        ));
        assert_eq!(replica.damaged.all(), std::slice::from_ref(&key.record));
        assert_eq!(heal(&replica, &key, state(&[1]), false), Ok(false));
        assert_eq!(heal(&replica, &key, state(&[1, 2]), true), Ok(true));
        let healed = replica.read_intact(&key).unwrap().unwrap();
        assert_eq!((healed.local_actor, healed.state), (None, state(&[1, 2]).bytes));
        the_index_is_right(&replica);
        // Meanwhile somebody wrote it: nothing is lost of that.
        unite(&replica, &key, state(&[3])).unwrap();
        assert_eq!(heal(&replica, &key, state(&[1]), true), Ok(true));
        assert_eq!(replica.read_intact(&key).unwrap().unwrap().decode_state().unwrap().siblings().len(), 3);
    }
}
