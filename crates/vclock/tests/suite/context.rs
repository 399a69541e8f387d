//! `CausalContext` against a set of dots.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use dynkv_vclock::{CausalContext, Causality, Dot};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{context_of, dot, dots, expand};

/// Each content has one representation: folded, nothing empty, sorted.
fn check_normal(context: &CausalContext<u8>) {
    let actors: Vec<_> = context.actors().collect();
    assert!(actors.is_sorted_by(|a, b| a < b), "{context}");
    for actor in actors {
        assert!(context.highest(actor) > 0, "{context}");
    }
    for (_, counter) in context.vector() {
        assert!(counter > 0, "{context}");
    }
    for dot in context.isolated() {
        assert!(dot.counter - 1 > context.counter(dot.actor), "{context}");
    }
    assert_eq!(context.len(), context.vector().count() + context.isolated().count());
    assert_eq!(context.is_empty(), context.actors().next().is_none());
}

fn check(context: &CausalContext<u8>, events: &BTreeSet<Dot<u8>>) {
    check_normal(context);
    assert_eq!(expand(context), *events);
    assert_eq!(*context, context_of(events));
    for actor in 0..5 {
        let of_actor: BTreeSet<u64> =
            events.iter().filter(|dot| dot.actor == actor).map(|dot| dot.counter).collect();
        assert_eq!(context.highest(&actor), of_actor.last().copied().unwrap_or(0));
        let gap = (1..).find(|n| !of_actor.contains(n)).unwrap();
        assert_eq!(context.counter(&actor), gap - 1);
        for counter in 0..12 {
            assert_eq!(context.contains(&Dot::new(actor, counter)), of_actor.contains(&counter));
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

proptest! {
    #[test]
    fn inserts_in_any_order(dots in vec(dot(), 0..30)) {
        let mut context = CausalContext::new();
        let mut events = BTreeSet::new();
        for dot in dots {
            prop_assert_eq!(context.insert(dot), events.insert(dot));
            check(&context, &events);
        }
    }

    #[test]
    fn extending_is_inserting(start in dots(), more in vec((0..6u8, 0..12u64), 0..30)) {
        let mut context = context_of(&start);
        context.extend(more.iter().copied().map(Dot::from));
        let mut events = start;
        events.extend(more.into_iter().filter(|&(_, n)| n > 0).map(Dot::from));
        check(&context, &events);
    }

    #[test]
    fn any_parts_are_normalized(
        vector in vec((0..4u8, 0..6u64), 0..8),
        isolated in vec((0..4u8, 0..12u64), 0..20),
    ) {
        let mut events: BTreeSet<Dot<u8>> =
            isolated.iter().filter(|(_, n)| *n > 0).copied().map(Dot::from).collect();
        for &(actor, counter) in &vector {
            events.extend((1..=counter).map(|n| Dot::new(actor, n)));
        }
        let context =
            CausalContext::from_parts(vector, isolated.into_iter().map(Dot::from));
        check(&context, &events);
    }

    #[test]
    fn parts_give_the_whole_back(events in dots()) {
        let context = context_of(&events);
        let vector: Vec<_> = context.vector().map(|(&a, n)| (a, n)).collect();
        let isolated: Vec<_> = context.isolated().map(|d| Dot::new(*d.actor, d.counter)).collect();
        prop_assert_eq!(&CausalContext::from_parts(vector, isolated), &context);
    }

    #[test]
    fn merge_is_union(a in dots(), b in dots()) {
        let mut merged = context_of(&a);
        let changed = merged.merge(&context_of(&b));
        prop_assert_eq!(changed, !b.is_subset(&a));
        check(&merged, &a.union(&b).copied().collect());
        prop_assert!(!merged.merge(&context_of(&b)));
    }

    #[test]
    fn comparison_is_inclusion(a in dots(), b in dots(), nested in any::<bool>()) {
        let b = if nested { a.union(&b).copied().collect() } else { b };
        let (x, y) = (context_of(&a), context_of(&b));
        let expected = match (b.is_subset(&a), a.is_subset(&b)) {
            (true, true) => Causality::Equal,
            (false, true) => Causality::Before,
            (true, false) => Causality::After,
            (false, false) => Causality::Concurrent,
        };
        prop_assert_eq!(x.includes(&y), b.is_subset(&a));
        prop_assert_eq!(x.compare(&y), expected);
        prop_assert_eq!(y.compare(&x), expected.reverse());
        prop_assert_eq!(x.partial_cmp(&y), expected.ordering());
        prop_assert_eq!(x == y, a == b);
        if a == b {
            prop_assert_eq!(hash(&x), hash(&y));
        }
    }

    #[test]
    fn an_actor_can_be_removed(mut events in dots(), actor in 0..5u8) {
        let mut context = context_of(&events);
        let had = events.iter().any(|dot| dot.actor == actor);
        prop_assert_eq!(context.remove_actor(&actor), had);
        events.retain(|dot| dot.actor != actor);
        check(&context, &events);
    }
}

#[test]
fn the_greatest_counters_neither_overflow_nor_take_time() {
    let last = u64::MAX;
    let mut context = CausalContext::from_parts([("a", last - 1)], [Dot::new("b", last)]);
    assert!(context.insert(Dot::new("a", last)));
    assert_eq!((context.counter(&"a"), context.highest(&"b")), (last, last));
    assert!(!context.insert(Dot::new("a", last)));
    let whole = CausalContext::from_parts([("a", last), ("b", last)], []);
    context.merge(&whole);
    assert_eq!(context, whole);
}

#[test]
fn a_million_dots_in_the_worst_order_fold_into_one_entry() {
    let dots = (1..=1_000_000u64).rev().map(|n| Dot::new(7u64, n));
    let context: CausalContext<u64> = dots.collect();
    assert_eq!(context.len(), 1);
}
