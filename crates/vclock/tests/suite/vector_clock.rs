//! `VectorClock` against a map of counters.

use std::collections::BTreeMap;

use dynkv_vclock::{Causality, ClockEntry, Dot, VectorClock};
use proptest::collection::vec;
use proptest::prelude::*;

fn clock() -> impl Strategy<Value = VectorClock<u8>> {
    vec((0..5u8, 0..4u64, 0..6u64), 0..8).prop_map(|entries| {
        entries.into_iter().map(|(actor, counter, time_ms)| ClockEntry { actor, counter, time_ms }).collect()
    })
}

fn entries(clock: &VectorClock<u8>) -> Vec<ClockEntry<u8>> {
    clock.clone().into_iter().collect()
}

fn merged(mut a: VectorClock<u8>, b: &VectorClock<u8>) -> VectorClock<u8> {
    a.merge(b);
    a
}

proptest! {
    #[test]
    fn increments_count(events in vec((0..5u8, any::<u64>()), 0..30)) {
        let mut clock = VectorClock::new();
        let mut counts: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        for (actor, time_ms) in events {
            let count = counts.entry(actor).or_default();
            *count = (count.0 + 1, time_ms);
            let before = clock.clone();
            prop_assert_eq!(clock.increment(actor, time_ms), count.0);
            prop_assert_eq!(before.compare(&clock), Causality::Before);
        }
        let got = clock.iter().map(|e| (*e.actor, (e.counter, e.time_ms)));
        prop_assert!(got.eq(counts));
    }

    #[test]
    fn comparison_is_by_counters(a in clock(), b in clock()) {
        let below = |x: &VectorClock<u8>, y: &VectorClock<u8>| {
            (0..5).all(|actor| x.counter(&actor) <= y.counter(&actor))
        };
        prop_assert_eq!(b.includes(&a), below(&a, &b));
        let expected = match (below(&a, &b), below(&b, &a)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::Before,
            (false, true) => Causality::After,
            (false, false) => Causality::Concurrent,
        };
        prop_assert_eq!(a.compare(&b), expected);
        prop_assert_eq!(a == b, expected == Causality::Equal);
        prop_assert_eq!(a.partial_cmp(&b), expected.ordering());
        for actor in 0..6 {
            for counter in 0..5 {
                let in_past = (1..=a.counter(&actor)).contains(&counter);
                prop_assert_eq!(a.contains(&Dot::new(actor, counter)), in_past);
            }
        }
    }

    #[test]
    fn merge_is_the_least_clock_above_both_and_keeps_times(a in clock(), b in clock(), c in clock()) {
        let ab = merged(a.clone(), &b);
        for actor in 0..5 {
            prop_assert_eq!(ab.counter(&actor), a.counter(&actor).max(b.counter(&actor)));
        }
        // Compared with their times, which `==` on clocks leaves out.
        prop_assert_eq!(entries(&ab), entries(&merged(b.clone(), &a)));
        let left = merged(ab.clone(), &c);
        prop_assert_eq!(entries(&left), entries(&merged(a.clone(), &merged(b, &c))));
        prop_assert_eq!(entries(&merged(a.clone(), &a)), entries(&a));
    }

    #[test]
    fn truncation_removes_the_oldest(clock in clock(), len_max in 0..6usize) {
        let mut cut = clock.clone();
        let removed = cut.truncate(len_max);
        prop_assert_eq!(cut.len(), clock.len().min(len_max));
        prop_assert_eq!(removed.len(), clock.len() - cut.len());
        let mut all = entries(&cut);
        all.extend(&removed);
        all.sort();
        prop_assert_eq!(all, entries(&clock));
        let age = |e: &ClockEntry<u8>| (e.time_ms, e.actor);
        prop_assert!(removed.is_sorted_by_key(age));
        for kept in entries(&cut) {
            prop_assert!(removed.iter().all(|gone| age(gone) < age(&kept)));
        }
    }
}

#[test]
fn the_paper_keeps_ten_entries() {
    let mut clock = VectorClock::new();
    for actor in 0..12u64 {
        clock.increment(actor, 100 + actor);
        clock.truncate(VectorClock::<u64>::LEN_MAX);
    }
    assert!(clock.iter().map(|e| *e.actor).eq(2..12));
}
