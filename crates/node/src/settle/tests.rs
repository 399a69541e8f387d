//! Marks against a table, and what becomes of states.

use std::sync::Arc;

use bytes::Bytes;
use dynkv_proto::{Actor, Conflict, Digest, Marks, PutId, Round, State, Version, value_hash};
use dynkv_vclock::{CausalContext, HybridTime};
use proptest::prelude::*;

use super::{
    TakeError,
    answer::{Asked, Changes},
    compact::{Unsettled, settled, settled_record, unsettled},
    marks::{MarksBook, Written},
    together,
};
use crate::{
    incoming::Incoming,
    record::Record,
    repair::tests as repair,
    storage::{Done, Durability, MemoryStorage, Space, Storage, Transaction},
};

const P: u32 = 3;

fn round(counter: u64) -> Round {
    Round(counter, 0)
}

/// Marks as three counters.
fn marks(promise: u64, agreed: u64, decided: u64) -> Marks {
    Marks { promise: round(promise), agreed: round(agreed), decided: round(decided) }
}

struct Member {
    storage: Arc<MemoryStorage>,
    book: Arc<MarksBook>,
}

impl Member {
    fn new() -> Member {
        Member::on(Arc::default())
    }

    fn on(storage: Arc<MemoryStorage>) -> Member {
        let book = Arc::new(MarksBook::load(storage.clone()).expect("readable"));
        Member { storage, book }
    }

    /// Says whether it was done. `synced`: whether its outcome is known.
    fn write(
        &self,
        synced: bool,
        work: impl FnOnce(&Arc<MarksBook>, &mut Transaction<'_>) -> Result<Written, Marks> + Send + 'static,
    ) -> bool {
        let (book, done) = (self.book.clone(), Arc::new(std::sync::Mutex::new(false)));
        let tell = done.clone();
        let apply = Box::new(move |tx: &mut Transaction<'_>| {
            let written = work(&book, tx);
            *tell.lock().expect("nobody panics") = written.is_ok();
            Box::new(move |_| {
                if let (Ok(written), true) = (written, synced) {
                    written.synced();
                }
            }) as Done
        });
        self.storage.submit(Durability::Disk, apply).expect("a store in memory");
        *done.lock().expect("nobody panics")
    }

    fn agree(&self, counter: u64) -> bool {
        self.write(true, move |book, tx| book.agree(tx, P, round(counter), Round::default()))
    }

    fn decide(&self, counter: u64) -> bool {
        self.write(true, move |book, tx| book.decide(tx, P, round(counter)))
    }

    fn promise(&self, counter: u64) {
        self.book.submit_promise(P, round(counter), |_| {}).expect("a store in memory");
    }

    /// What becomes of a state that was read under `sender`.
    fn take(&self, sender: Marks) -> &'static str {
        match self.book.take(P, &sender) {
            Ok(()) => "taken",
            Err(TakeError::Behind(_)) => "behind",
            Err(TakeError::OldDisk(_)) => "old",
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_round_from_beginning_to_end() {
    let member = Member::new();
    assert_eq!(member.take(marks(0, 0, 0)), "taken");
    assert!(member.agree(5));
    assert_eq!(member.book.durable(P), marks(5, 5, 0));
    // What was read before the sender's promise.
    assert_eq!(member.take(marks(0, 0, 0)), "behind");
    assert_eq!(member.take(marks(4, 4, 0)), "behind");
    assert_eq!(member.take(marks(5, 5, 0)), "taken");
    assert!(!member.book.may_drop(P, round(5)));
    assert!(member.decide(5));
    assert!(member.book.may_drop(P, round(5)));
    // Whoever has not agreed to what is decided, has been away, whatever it has promised.
    assert_eq!(member.take(marks(5, 4, 0)), "behind");
    assert_eq!(member.take(marks(6, 4, 0)), "behind");
    assert_eq!(member.take(marks(5, 5, 5)), "taken");
    assert_eq!(member.take(marks(6, 5, 5)), "taken");
    // They have decided what this one does not know of.
    assert_eq!(member.take(marks(6, 6, 6)), "old");
    assert_eq!(member.book.durable(7), Marks::default(), "another partition");
    let again = Member::on(member.storage.clone());
    assert_eq!(again.book.durable(P), marks(5, 5, 5));
}

#[test]
fn an_old_disk_is_found_out_before_it_agrees_to_anything() {
    let member = Member::new();
    assert!(member.agree(5));
    let behind = |book: &Arc<MarksBook>, tx: &mut Transaction<'_>| book.agree(tx, P, round(9), round(7));
    assert!(!member.write(true, behind));
    assert_eq!(member.book.durable(P), marks(5, 5, 0));
    assert!(member.write(true, |book, tx| book.agree(tx, P, round(9), round(5))));
}

#[test]
fn yes_is_said_when_the_promise_is_raised_or_never() {
    let member = Member::new();
    assert!(member.agree(5));
    assert!(!member.agree(5), "asked twice");
    assert!(!member.agree(4), "a later round is promised");
    member.promise(7);
    // What it held may be on its way, under that promise.
    assert!(!member.agree(7));
    assert_eq!(member.book.durable(P), marks(7, 5, 0));
    assert!(!member.decide(5), "another round is promised");
    assert!(member.agree(8));
}

#[test]
fn a_yes_is_void_once_something_came_from_somebody_who_had_not_said_it() {
    let member = Member::new();
    assert!(member.agree(5));
    assert_eq!(member.take(marks(5, 0, 0)), "taken");
    assert!(!member.decide(5));
    // In the other order it is refused.
    assert!(member.agree(6) && member.decide(6));
    assert_eq!(member.take(marks(6, 5, 0)), "behind");
    // A process that does not remember what has come since.
    assert!(member.agree(9));
    assert!(!Member::on(member.storage.clone()).decide(9));
}

#[test]
fn what_is_not_on_disk_is_promised_but_not_relied_on() {
    let member = Member::new();
    assert!(member.write(false, |book, tx| book.agree(tx, P, round(5), Round::default())));
    assert_eq!(member.book.durable(P), Marks::default());
    assert_eq!(member.take(marks(0, 0, 0)), "behind");
    assert!(!member.decide(5), "nobody was told yes");
    assert!(!member.agree(5));
}

#[test]
fn marks_of_a_union_are_the_least_of_its_parts() {
    assert_eq!(together(marks(5, 5, 3), marks(4, 3, 2)), Some(marks(4, 3, 3)));
    assert_eq!(together(marks(5, 5, 4), marks(5, 3, 2)), None, "one of the two has missed a decision");
}

fn version(value: &'static str, time_ms: u64, tombstone: bool) -> Version {
    Version {
        time: HybridTime::from_parts(time_ms, 0),
        put_id: PutId(u128::from(time_ms)),
        tombstone,
        content_type: String::new(),
        meta: Default::default(),
        value: Bytes::from_static(value.as_bytes()),
        hash: value_hash(value.as_bytes()),
    }
}

/// Writes in turn: under an actor, after what has been read of the versions before or nothing, a value or a delete.
fn history() -> impl Strategy<Value = Vec<(u64, bool, bool)>> {
    prop::collection::vec((1u64..4, any::<bool>(), any::<bool>()), 0..8)
}

fn state(history: &[(u64, bool, bool)]) -> State {
    let mut state = State::default();
    for (time, (actor, blind, delete)) in (1..).zip(history) {
        let context = if *blind { CausalContext::new() } else { state.context().clone() };
        let version = version(if *delete { "" } else { "v" }, time, *delete);
        state.put(Actor(*actor, 0), &context, version, Conflict::Siblings).expect("few are written");
    }
    state
}

type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;

/// What a member says of a key, and what its record and the index come to when it is dropped.
fn dropped(state: &State, damage: Option<Damage>) -> (bool, Option<usize>, bool) {
    let (replica, key) = (repair::replica(), repair::key(1));
    let incoming = Incoming::verify(state.encode(), Marks::default()).expect("just made");
    repair::unite(&replica, &key, incoming).expect("there is nothing yet");
    let digest = State::digest(&state.encode()).expect("just made");
    if let Some(damage) = damage {
        repair::tamper(&replica, Space::Records, key.record.clone(), damage);
    }
    let said = Arc::new(std::sync::Mutex::new(false));
    let (tell, to, asked) = (said.clone(), replica.clone(), Asked { at: key.at(), digest });
    let apply = Box::new(move |tx: &mut Transaction<'_>| {
        let other = Asked { at: asked.at.clone(), digest: Digest(digest.0 ^ 1) };
        assert!(!to.has_only(tx, &other, &[]), "it was asked about another state");
        *tell.lock().expect("nobody panics") = to.has_only(tx, &asked, &[]);
        let mut changes = Changes::default();
        to.drop_record(tx, &other, &mut changes).expect("nothing to do");
        assert_eq!(changes.trees.len(), 0);
        to.drop_record(tx, &asked, &mut changes).expect("readable");
        Box::new(move |_| {
            changes.committed(&to);
        }) as Done
    });
    replica.storage.submit(Durability::Memory, apply).expect("a store in memory");
    let left = replica.storage.get(Space::Records, &key.record).expect("readable");
    let versions = left.map(|record| {
        Record::decode(record).map_or(99, |record| record.decode_state().unwrap().siblings().len())
    });
    let indexed = replica.trees.entered_now(&key.at()).expect("readable").is_some();
    let said = *said.lock().expect("nobody panics");
    (said, versions, indexed)
}

#[test]
fn a_damaged_record_is_what_the_index_says() {
    let deleted = state(&[(1, false, false), (1, false, true)]);
    let live = state(&[(1, false, false), (2, true, true)]);
    assert_eq!(dropped(&deleted, None), (true, None, false));
    assert_eq!(dropped(&live, None), (true, Some(1), true));
    // Damaged, or gone.
    for damage in [repair::damage_header, |_| None] {
        assert_eq!(dropped(&deleted, Some(damage)), (true, None, false));
        // Something would be left of it, and is not known: whatever is there stays, to be healed.
        let left = damage(vec![0; 100]).map(|_| 99);
        assert_eq!(dropped(&live, Some(damage)), (true, left, true));
    }
}

proptest! {
    #[test]
    fn a_settled_state_shows_the_same_and_has_nothing_left_to_settle(history in history()) {
        let before = state(&history);
        let visible = |state: &State| state.visible().map(|(dot, _)| *dot).collect::<Vec<_>>();
        match settled(before.clone()) {
            None => prop_assert!(before.is_absent()),
            Some(after) => {
                prop_assert_eq!(visible(&before), visible(&after));
                prop_assert_eq!(unsettled(&after), Unsettled::default());
                for actor in after.context().actors() {
                    prop_assert!(after.siblings().iter().any(|(dot, _)| dot.actor == *actor));
                    prop_assert_eq!(after.context().highest(actor), before.context().highest(actor));
                }
                // Who has not dropped it yet gives it back, and shows nothing else.
                let mut again = after;
                again.merge(before.clone(), Conflict::Siblings);
                prop_assert_eq!(visible(&again), visible(&before));
            }
        }
    }

    #[test]
    fn nobody_counts_again_from_one(history in history(), actor in 1u64..4) {
        let state = state(&history);
        let record = Record { local_actor: Some(Actor(actor, 0)), state: state.encode() };
        if let Some((left, state)) = settled_record(&record).expect("whole") {
            let kept = state.context().actors().any(|kept| *kept == Actor(actor, 0));
            prop_assert_eq!(left.local_actor.is_some(), kept);
        }
    }

    #[test]
    fn there_is_something_to_settle_unless_settling_changes_nothing(history in history()) {
        let before = state(&history);
        let Unsettled { since_ms, leaves_nothing } = unsettled(&before);
        prop_assert_eq!(since_ms == 0, settled(before.clone()) == Some(before.clone()));
        prop_assert_eq!(leaves_nothing, settled(before.clone()).is_none());
        prop_assert!(since_ms == 0 || since_ms == before.latest_time().wall_ms().max(1));
    }
}
