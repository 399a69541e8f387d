//! Trees made anew while their stores are written to.

use dynkv_merkle::{Rebuild, Span, Tree};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{Side, changes, entries, keys, span, store};

proptest! {
    #[test]
    fn a_rebuilt_tree_is_the_tree(
        (span, store, batches) in span().prop_flat_map(|span| {
            (Just(span), store(span, 150), vec(changes(span, 12), 1..8))
        }),
        (depth, before) in (0..9u8, 0..9u8),
        page in 0..40usize,
    ) {
        let mut side = Side::new(span, before, store);
        let mut rebuild = Rebuild::new(span, depth);
        let mut batches = batches.iter().cycle();
        for _ in 0..10_000 {
            for (position, new) in batches.next().unwrap() {
                rebuild.update(*position, side.store.get(position).copied(), *new).unwrap();
                side.put(*position, *new);
            }
            if rebuild.read(&side.store, page).unwrap() {
                break;
            }
            prop_assert!(rebuild.clone().finish().is_none());
        }
        for (position, new) in batches.next().unwrap() {
            rebuild.update(*position, side.store.get(position).copied(), *new).unwrap();
            side.put(*position, *new);
        }
        let rebuilt = rebuild.finish().unwrap();
        prop_assert_eq!(&rebuilt, &Tree::from_entries(span, depth, entries(&side.store)).unwrap());
        prop_assert_eq!(rebuilt.root(), side.tree.root());
    }
}

#[test]
fn a_tree_that_has_drifted_is_found_out() {
    let mut side = Side::new(Span::ALL, 5, keys(Span::ALL, 500));
    side.store.pop_first();
    let mut rebuild = Rebuild::new(Span::ALL, 5);
    while !rebuild.read(&side.store, 100).unwrap() {}
    assert_ne!(rebuild.finish().unwrap().root(), side.tree.root());
}

#[test]
fn positions_elsewhere_are_refused() {
    let span = Span::new(4, 7).unwrap();
    let mut rebuild = Rebuild::new(span, 3);
    assert!(rebuild.update(span.first() - 1, None, Some(1)).is_err());
    assert!(rebuild.update(span.last() + 1, None, Some(1)).is_err());
    assert!(rebuild.update(span.last(), None, Some(1)).is_ok());
}
