//! A comparison finds exactly what differs.

use std::collections::BTreeMap;

use dynkv_merkle::{Span, Tree};
use proptest::prelude::*;

use crate::exchange::Exchange;
use crate::{Side, Store, changes, differences, keys, span, spread, store};

fn check(here: &Side, there: &Side, under_way_max: usize) -> Exchange {
    let mut exchange = here.compare(there, under_way_max);
    exchange.differences.sort_unstable();
    let expected = differences(&here.store, &there.store);
    assert_eq!(exchange.differences.len(), expected.len());
    assert_eq!(exchange.differences, expected);
    assert!(exchange.largest <= 64 * 1024);
    exchange
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn exactly_the_differences_are_found(
        (span, store, mine, yours) in span().prop_flat_map(|span| {
            (Just(span), store(span, 300), changes(span, 40), changes(span, 40))
        }),
        here in 0..11u8,
        there in 0..11u8,
        under_way_max in 1..6usize,
    ) {
        let mut here = Side::new(span, here, store.clone());
        let mut there = Side::new(span, there, store);
        for (position, new) in mine {
            here.put(position, new);
        }
        for (position, new) in yours {
            there.put(position, new);
        }
        check(&here, &there, under_way_max);
    }

    #[test]
    fn unrelated_stores_are_told_apart(
        (span, mine, yours) in span().prop_flat_map(|span| (Just(span), store(span, 120), store(span, 120))),
        here in 0..9u8,
        there in 0..9u8,
    ) {
        check(&Side::new(span, here, mine), &Side::new(span, there, yours), 3);
    }
}

#[test]
fn one_side_may_be_empty() {
    for span in [Span::ALL, Span::new(8, 200).unwrap()] {
        let full = Side::new(span, 7, keys(span, 3000));
        for depth in [0, 3, 7] {
            let empty = Side::new(span, depth, Store::new());
            check(&full, &empty, 4);
            check(&empty, &full, 4);
            check(&empty, &empty, 4);
        }
    }
}

#[test]
fn leaves_may_hold_more_than_a_message_does() {
    // All in one leaf, and more than a request or a reply may have, on either side or both.
    let crowd = |from: u128, count: u128| (from..from + count).map(|low| (5 << 100 | low, low));
    for (mine, yours) in [
        (crowd(0, 5000), crowd(0, 5000)),
        (crowd(0, 5000), crowd(0, 10)),
        (crowd(0, 10), crowd(0, 5000)),
        (crowd(0, 3000), crowd(2000, 3000)),
        (crowd(2000, 3000), crowd(0, 3000)),
        (crowd(4000, 1000), crowd(0, 1000)),
    ] {
        let mut mine: Store = mine.collect();
        mine.extend(keys(Span::ALL, 200));
        let mut yours: Store =
            yours.map(|(position, digest)| (position, digest | (position & 1) << 99)).collect();
        yours.extend(keys(Span::ALL, 210));
        for (here, there) in [(0, 0), (0, 6), (6, 6), (20, 1)] {
            for under_way_max in [1, 8] {
                let here = Side::new(Span::ALL, here, mine.clone());
                check(&here, &Side::new(Span::ALL, there, yours.clone()), under_way_max);
            }
        }
    }
}

#[test]
fn neighbours_and_ends_are_told_apart() {
    let edges = [0, 1, u128::MAX / 2, u128::MAX / 2 + 1, u128::MAX - 1, u128::MAX];
    for depth in [0, 1, 5, 11] {
        for position in edges {
            let mut here = Side::new(Span::ALL, depth, edges.map(|edge| (edge, 7)).into());
            let there = here.clone();
            here.put(position, Some(8));
            check(&here, &there, 1);
            here.put(position, None);
            check(&here, &there, 1);
            check(&there, &here, 1);
        }
    }
}

#[test]
fn depths_that_were_told_wrong_do_no_harm() {
    let here = Side::new(Span::ALL, 8, keys(Span::ALL, 4000));
    let mut there = Side::new(Span::ALL, 5, here.store.clone());
    for i in 0..40 {
        there.put(spread(Span::ALL, 100 * i), None);
        there.put(spread(Span::ALL, 10_000 + i), Some(0));
    }
    for told in [0, 3, 5, 7, 8, 20, Tree::DEPTH_MAX] {
        let exchange = Exchange::new(&here.tree, told, 1, 1);
        let mut found = exchange.run((&here.tree, &here.store), (&there.tree, &there.store), 2).differences;
        found.sort_unstable();
        assert_eq!(found, differences(&here.store, &there.store), "{told}");
    }
}

#[test]
fn repairing_what_was_found_makes_equal() {
    let mut here = Side::new(Span::ALL, 6, keys(Span::ALL, 2000));
    let mut there = Side::new(Span::ALL, 7, keys(Span::ALL, 2100));
    let mut found = BTreeMap::new();
    for difference in check(&here, &there, 8).differences {
        found.insert(difference.position, difference);
        let both = difference.here.max(difference.there);
        here.put(difference.position, both);
        there.put(difference.position, both);
    }
    assert_eq!(found.len(), 100);
    assert_eq!(here.tree.root(), there.tree.root());
}
