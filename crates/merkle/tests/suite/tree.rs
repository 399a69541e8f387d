//! Trees by themselves.

use dynkv_merkle::{Entry, Span, Tree};
use proptest::prelude::*;

use crate::{Side, Store, changes, entries, keys, span, spread, store};

/// Every node is the sum of its two halves, every leaf stands for its entries and no others, and the root for all.
fn check(tree: &Tree, store: &Store) {
    assert_eq!(tree.len(), store.len() as u64);
    assert_eq!(tree.is_empty(), store.is_empty());
    assert_eq!(tree.node(0, 0), Some(tree.root()));
    for depth in 0..=tree.depth() {
        let mut next = Some(tree.span().first());
        for index in 0..1 << depth {
            let range = tree.range(depth, index).unwrap();
            assert_eq!(Some(*range.start()), next);
            next = range.end().checked_add(1);
            let held: Vec<Entry> = entries(store).filter(|entry| range.contains(&entry.position)).collect();
            assert!(tree.verify(depth, index, held.iter().copied()));
            if let Some((_, fewer)) = held.split_first() {
                assert!(!tree.verify(depth, index, fewer.iter().copied()));
            }
            if depth < tree.depth() {
                let half = |low| tree.node(depth + 1, 2 * index + low).unwrap();
                assert_eq!(tree.node(depth, index), Some(half(0).wrapping_add(half(1))));
            }
        }
        assert_eq!(next, tree.span().last().checked_add(1));
        assert_eq!((tree.node(depth, 1 << depth), tree.range(depth, 1 << depth)), (None, None));
    }
    assert_eq!(tree.node(tree.depth() + 1, 0), None);
    assert!(!tree.verify(tree.depth() + 1, 0, []));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn updates_lead_where_building_does_whatever_their_order(
        (span, first, second) in span().prop_flat_map(|span| (Just(span), changes(span, 60), changes(span, 60))),
        depth in 0..9u8,
    ) {
        let mut one = Side::new(span, depth, Store::new());
        for (position, new) in first.iter().chain(&second) {
            one.put(*position, *new);
        }
        check(&one.tree, &one.store);
        prop_assert_eq!(&Tree::from_entries(span, depth, entries(&one.store)).unwrap(), &one.tree);

        // The other way around, and what is left then, changed to the same: the same.
        let mut two = Side::new(span, depth, Store::new());
        for (position, new) in second.iter().chain(&first) {
            two.put(*position, *new);
        }
        for difference in crate::differences(&one.store, &two.store) {
            two.put(difference.position, difference.here);
        }
        prop_assert_eq!(&two.tree, &one.tree);
    }

    #[test]
    fn the_root_does_not_depend_on_the_depth(
        (span, store) in span().prop_flat_map(|span| (Just(span), store(span, 80))),
        one in 0..12u8,
        two in 0..12u8,
    ) {
        let [one, two] = [one, two].map(|depth| Tree::from_entries(span, depth, entries(&store)).unwrap());
        for depth in 0..=one.depth().min(two.depth()) {
            for index in 0..1 << depth {
                prop_assert_eq!(one.node(depth, index), two.node(depth, index));
            }
        }
    }
}

#[test]
fn a_position_elsewhere_is_refused() {
    let span = Span::new(8, 3).unwrap();
    let mut tree = Tree::with_depth(span, 4);
    let before = tree.clone();
    for position in [0, span.first() - 1, span.last() + 1, u128::MAX] {
        let error = tree.update(position, None, Some(1)).unwrap_err();
        assert_eq!((error.position, error.span), (position, span));
        assert!(Tree::from_entries(span, 4, [Entry { position, digest: 1 }]).is_err());
    }
    assert_eq!(tree, before);
    assert!(!tree.verify(0, 0, [Entry { position: 0, digest: 1 }]));
}

#[test]
fn leaves_stay_small_and_sizes_settle() {
    assert_eq!([0, 32, 33, 64, 65, u64::MAX].map(Tree::depth_for), [0, 0, 1, 1, 2, Tree::DEPTH_MAX]);
    let mut side = Side::new(Span::ALL, 0, Store::new());
    let mut resized = 0;
    let mut follow = |side: &mut Side| {
        if let Some(depth) = side.tree.resize() {
            side.resize(depth);
            resized += 1;
            assert_eq!(side.tree.resize(), None);
            // Far from the next: a quarter of the entries may come or go.
            let leaves = 1 << side.tree.depth();
            assert!(side.tree.len() <= 24 * leaves);
            assert!(side.tree.depth() == 0 || side.tree.len() >= 10 * leaves);
        }
        assert!(side.tree.len() <= 32 << side.tree.depth());
    };
    for (position, digest) in keys(Span::ALL, 3000) {
        side.put(position, Some(digest));
        follow(&mut side);
    }
    assert_eq!(side.tree.depth(), 7);
    for position in keys(Span::ALL, 3000).into_keys() {
        side.put(position, None);
        follow(&mut side);
    }
    assert_eq!((side.tree.depth(), side.tree.root()), (0, 0));
    assert_eq!(resized, 14);
}

#[test]
fn memory_is_what_is_promised() {
    assert_eq!(Tree::new(Span::ALL).heap_bytes(), 16);
    assert!(size_of::<Tree>() <= 48);
    for depth in 5..16 {
        let leaves = 16 << depth;
        assert!(Tree::with_depth(Span::ALL, depth).heap_bytes() <= leaves + leaves / 31 + 32, "{depth}");
    }
}

#[test]
fn sums_are_of_a_fixed_form() {
    // Saved trees and peers of other versions depend on it.
    let mut tree = Tree::with_depth(Span::ALL, 3);
    for i in 0..100 {
        tree.update(spread(Span::ALL, i), None, Some(i.into())).unwrap();
    }
    assert_eq!(format!("{:032x}", tree.root()), "0874b26eaa8236a3edd4ea9e77f52163");
}
