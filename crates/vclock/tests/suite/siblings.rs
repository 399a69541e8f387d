//! `Siblings` on states of any shape, reachable or not; see `histories` for whole runs.

use std::collections::{BTreeMap, BTreeSet};

use dynkv_vclock::{CausalContext, Dot, PutError, Siblings};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{context_of, dot, dots, expand};

type State = Siblings<u8, Dot<u8>>;

/// Any context, any part of it live. The value is the dot: one dot, one value.
fn state() -> impl Strategy<Value = State> {
    (dots(), dots()).prop_map(|(seen, live)| {
        let live: BTreeSet<_> = seen.intersection(&live).copied().collect();
        Siblings::from_parts(context_of(&seen), live.into_iter().map(|dot| (dot, dot)))
    })
}

fn live<V>(state: &Siblings<u8, V>) -> BTreeSet<Dot<u8>> {
    state.iter().map(|(dot, _)| *dot).collect()
}

fn synced(mut a: State, b: &State) -> State {
    a.sync(b.clone());
    a
}

proptest! {
    #[test]
    fn sync_follows_the_rule(a in state(), b in state()) {
        let (seen_a, seen_b) = (expand(a.context()), expand(b.context()));
        let both = live(&a).intersection(&live(&b)).copied().collect::<BTreeSet<_>>();
        let expected: BTreeSet<_> = both
            .into_iter()
            .chain(live(&a).difference(&seen_b).copied())
            .chain(live(&b).difference(&seen_a).copied())
            .collect();
        let mut result = a.clone();
        let changed = result.sync(b);
        prop_assert_eq!(live(&result), expected);
        prop_assert_eq!(expand(result.context()), seen_a.union(&seen_b).copied().collect());
        prop_assert_eq!(changed, result != a);
        for (dot, value) in &result {
            prop_assert_eq!(dot, value);
        }
    }

    #[test]
    fn sync_is_commutative_associative_and_idempotent(a in state(), b in state(), c in state()) {
        let ab = synced(a.clone(), &b);
        prop_assert_eq!(&ab, &synced(b.clone(), &a));
        prop_assert_eq!(synced(ab.clone(), &c), synced(a.clone(), &synced(b.clone(), &c)));
        prop_assert_eq!(&synced(a.clone(), &a), &a);
        prop_assert_eq!(&synced(ab.clone(), &b), &ab);
    }

    #[test]
    fn put_replaces_exactly_what_the_context_contains(
        state in state(), context in dots(), actor in 0..5u8,
    ) {
        let context = context_of(&context);
        let mut after = state.clone().map(|dot, _| Some(*dot));
        let written = after.put(actor, &context, None).unwrap();

        let counter = 1 + state.context().highest(&actor).max(context.highest(&actor));
        prop_assert_eq!(written.dot, Dot::new(actor, counter));
        let mut expected = live(&state);
        expected.retain(|dot| !context.contains(dot));
        expected.insert(written.dot);
        prop_assert_eq!(live(&after), expected);
        prop_assert_eq!(after.get(&written.dot), Some(&None));

        let mut own = expand(&context);
        own.insert(written.dot);
        prop_assert_eq!(expand(&written.context), own.clone());
        own.extend(expand(state.context()));
        prop_assert_eq!(expand(after.context()), own);
    }

    #[test]
    fn discard_drops_what_the_context_contains(state in state(), context in dots()) {
        let mut after = state.clone();
        let changed = after.discard(&context_of(&context));
        prop_assert_eq!(live(&after), live(&state).difference(&context).copied().collect());
        prop_assert_eq!(expand(after.context()), expand(state.context()).union(&context).copied().collect());
        prop_assert_eq!(changed, after != state);
    }

    #[test]
    fn what_retain_dropped_goes_everywhere(state in state(), kept in dot()) {
        let mut after = state.clone();
        after.retain(|dot, _| *dot <= kept);
        prop_assert_eq!(after.context(), state.context());
        prop_assert!(after.iter().all(|(dot, _)| *dot <= kept));
        prop_assert_eq!(after.len(), state.iter().filter(|(dot, _)| **dot <= kept).count());
        let mut elsewhere = state.clone();
        prop_assert_eq!(elsewhere.sync(after.clone()), after != state);
        prop_assert_eq!(elsewhere, after);
    }

    #[test]
    fn any_parts_are_normalized(
        context in dots(),
        entries in vec(((0..4u8, 0..9u64).prop_map(Dot::from), any::<u32>()), 0..12),
    ) {
        let mut first = BTreeMap::new();
        for &(dot, value) in entries.iter().filter(|(dot, _)| dot.counter > 0) {
            first.entry(dot).or_insert(value);
        }
        let state = Siblings::from_parts(context_of(&context), entries);
        prop_assert!(state.iter().eq(&first));
        for (dot, value) in &first {
            prop_assert_eq!(state.get(dot), Some(value));
        }
        let mut seen = context;
        seen.extend(first.into_keys());
        prop_assert_eq!(expand(state.context()), seen);

        let (context, entries) = state.clone().into_parts();
        prop_assert_eq!(Siblings::from_parts(context, entries), state);
    }

    #[test]
    fn compaction_keeps_the_actors_of_live_dots(state in state(), pinned in 0..5u8) {
        let mut after = state.clone();
        let forgotten = after.compact_with(|actor| *actor == pinned);
        let (before, after_context) = (state.context(), after.context());
        prop_assert_eq!(live(&after), live(&state));
        for actor in before.actors() {
            let stays = *actor == pinned || state.iter().any(|(dot, _)| dot.actor == *actor);
            prop_assert_eq!(forgotten.contains(actor), !stays);
            let highest = if stays { before.highest(actor) } else { 0 };
            prop_assert_eq!(after_context.highest(actor), highest);
        }
        prop_assert!(after_context <= before);
        after.compact();
        prop_assert!(after.context().actors().all(|a| after.iter().any(|(dot, _)| dot.actor == *a)));
    }

    /// The safe use of compaction: all copies were equal, and all compact alike.
    #[test]
    fn replicas_that_compact_one_state_alike_go_on_as_before(state in state()) {
        let (mut x, mut y) = (state.clone(), state);
        x.compact();
        y.compact();
        prop_assert_eq!(&x, &y);
        let read = x.context().clone();
        let dot = x.put(9, &read, Dot::new(9, 1)).unwrap().dot;
        y.sync(x.clone());
        prop_assert_eq!(&x, &y);
        prop_assert_eq!(live(&y), BTreeSet::from([dot]));
    }
}

#[test]
fn an_exhausted_counter_is_an_error_that_changes_nothing() {
    let mut state = Siblings::new();
    state.put("a", &CausalContext::new(), 1).unwrap();
    let before = state.clone();

    let ahead = CausalContext::from_parts([("a", 1)], [Dot::new("a", u64::MAX)]);
    assert_eq!(state.put("a", &ahead, 2), Err(PutError::CounterExhausted));
    assert_eq!(state, before);

    assert_eq!(state.put("b", &ahead, 2).unwrap().dot, Dot::new("b", 1));
    let before = state.clone();
    assert_eq!(state.put("a", &CausalContext::new(), 3), Err(PutError::CounterExhausted));
    assert_eq!(state, before);
}

#[test]
fn a_store_behind_its_readers_mints_no_dot_twice() {
    let mut full = Siblings::new();
    for n in 0..3 {
        full.put("a", &CausalContext::new(), n).unwrap();
    }
    let mut behind = Siblings::new();
    assert_eq!(behind.put("a", full.context(), 9).unwrap().dot, Dot::new("a", 4));
}

#[test]
fn iterators_agree() {
    let mut state = Siblings::new();
    for actor in ["b", "a", "c"] {
        state.put(actor, &CausalContext::new(), actor).unwrap();
    }
    assert!(state.values().eq(&["a", "b", "c"]));
    assert_eq!(state.iter().len(), 3);
    assert!(state.iter().rev().map(|(dot, _)| dot.actor).eq(["c", "b", "a"]));
    assert!((&state).into_iter().map(|(dot, _)| *dot).eq(["a", "b", "c"].map(|a| Dot::new(a, 1))));
    assert!(state.clone().into_iter().map(|(_, value)| value).eq(["a", "b", "c"]));
    assert!(state.into_values().eq(["a", "b", "c"]));
}
