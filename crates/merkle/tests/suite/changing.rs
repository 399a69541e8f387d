//! Comparisons of sides that change meanwhile: a position that nobody touches is judged as if nothing had changed.

use std::collections::BTreeSet;

use dynkv_merkle::{Difference, Span};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::exchange::Exchange;
use crate::{Side, changes, differences, digest, position, store};

#[derive(Debug, Clone)]
enum Change {
    Here(u128, Option<u128>),
    There(u128, Option<u128>),
    ResizeHere(u8),
    ResizeThere(u8),
}

fn change(span: Span) -> impl Strategy<Value = Change> {
    prop_oneof![
        10 => (position(span), prop::option::of(digest())).prop_map(|(position, new)| Change::Here(position, new)),
        10 => (position(span), prop::option::of(digest())).prop_map(|(position, new)| Change::There(position, new)),
        1 => (0..10u8).prop_map(Change::ResizeHere),
        1 => (0..10u8).prop_map(Change::ResizeThere),
    ]
}

fn apply(here: &mut Side, there: &mut Side, changes: &[Change], touched: &mut BTreeSet<u128>) {
    for change in changes {
        match change {
            Change::Here(position, new) => here.put(*position, *new),
            Change::There(position, new) => there.put(*position, *new),
            Change::ResizeHere(depth) => here.resize(*depth),
            Change::ResizeThere(depth) => there.resize(*depth),
        }
        if let Change::Here(position, _) | Change::There(position, _) = change {
            touched.insert(*position);
        }
    }
}

const SPAN: Span = Span::ALL;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_nobody_touches_is_judged_exactly(
        store in store(SPAN, 400),
        (mine, yours) in (changes(SPAN, 60), changes(SPAN, 60)),
        (one, two) in (0..10u8, 0..10u8),
        under_way_max in 1..5usize,
        meanwhile in vec(vec(change(SPAN), 0..6), 1..12),
    ) {
        let (mut here, mut there) = (Side::new(SPAN, one, store.clone()), Side::new(SPAN, two, store));
        for (position, new) in mine {
            here.put(position, new);
        }
        for (position, new) in yours {
            there.put(position, new);
        }
        let mut exchange = Exchange::new(&here.tree, there.tree.depth(), 1, 1);
        let mut touched = BTreeSet::new();
        // Changes come between any two steps.
        let mut meanwhile = meanwhile.iter().cycle();
        let mut steps = 0;
        loop {
            let more = exchange.ask(&here.tree, &here.store, under_way_max);
            apply(&mut here, &mut there, meanwhile.next().unwrap(), &mut touched);
            exchange.answer(&there.tree, &there.store);
            apply(&mut here, &mut there, meanwhile.next().unwrap(), &mut touched);
            exchange.take(&here.tree);
            apply(&mut here, &mut there, meanwhile.next().unwrap(), &mut touched);
            if !more {
                break;
            }
            steps += 1;
            prop_assert!(steps < 5000, "it ends");
        }
        let untouched = |found: Vec<Difference>| {
            let mut found: Vec<_> = found.into_iter().filter(|found| !touched.contains(&found.position)).collect();
            found.sort_unstable();
            found
        };
        let expected = untouched(differences(&here.store, &there.store));
        prop_assert_eq!(untouched(exchange.differences), expected);
    }
}
