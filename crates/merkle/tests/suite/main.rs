//! What the crate promises, held against plain maps.

mod changing;
mod cost;
mod differences;
#[path = "../../examples/cost/exchange.rs"]
mod exchange;
mod hostile;
mod rebuild;
mod roots;
mod saved;
#[cfg(feature = "serde")]
mod serde;
mod tree;

use std::collections::BTreeMap;

use dynkv_merkle::{Difference, Entry, Span, Tree};
use exchange::Exchange;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type Store = BTreeMap<u128, u128>;

/// A tree and its store.
#[derive(Debug, Clone)]
struct Side {
    tree: Tree,
    store: Store,
}

impl Side {
    fn new(span: Span, depth: u8, store: Store) -> Self {
        let tree = Tree::from_entries(span, depth, entries(&store)).unwrap();
        Self { tree, store }
    }

    fn put(&mut self, position: u128, new: Option<u128>) {
        let old = match new {
            Some(digest) => self.store.insert(position, digest),
            None => self.store.remove(&position),
        };
        self.tree.update(position, old, new).unwrap();
    }

    /// Gives the tree another depth.
    fn resize(&mut self, depth: u8) {
        self.tree = Tree::from_entries(self.tree.span(), depth, entries(&self.store)).unwrap();
    }

    fn compare(&self, there: &Self, under_way_max: usize) -> Exchange {
        Exchange::new(&self.tree, there.tree.depth(), 0x5a17, 1).run(
            (&self.tree, &self.store),
            (&there.tree, &there.store),
            under_way_max,
        )
    }
}

fn entries(store: &Store) -> impl Iterator<Item = Entry> {
    store.iter().map(|(position, digest)| Entry { position: *position, digest: *digest })
}

/// By comparing everything.
fn differences(here: &Store, there: &Store) -> Vec<Difference> {
    let mut positions: Vec<u128> = here.keys().chain(there.keys()).copied().collect();
    positions.sort_unstable();
    positions.dedup();
    let difference = |position| Difference {
        position,
        here: here.get(&position).copied(),
        there: there.get(&position).copied(),
    };
    positions.into_iter().map(difference).filter(|found| found.here != found.there).collect()
}

/// Of SplitMix64 (Steele, Lea, Flood 2014): many positions from a small seed.
fn mix(number: u64) -> u64 {
    let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// The position of the `i`-th key, evenly spread over the span.
fn spread(span: Span, i: u64) -> u128 {
    let number = u128::from(mix(i)) << 64 | u128::from(mix(!i));
    span.first() | number.checked_shr(span.bits().into()).unwrap_or(0)
}

/// `count` keys.
fn keys(span: Span, count: u64) -> Store {
    (0..count).map(|i| (spread(span, i), u128::from(i))).collect()
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![
        Just(Span::ALL),
        (0..256u32).prop_map(|index| Span::new(8, index).unwrap()),
        (0..=Span::BITS_MAX, any::<u32>()).prop_map(|(bits, number)| {
            Span::new(bits, number.checked_shr(32 - u32::from(bits)).unwrap_or(0)).unwrap()
        }),
    ]
}

/// Positions of a span: spread, crowded at its ends and its middle, so that single leaves hold many.
fn position(span: Span) -> impl Strategy<Value = u128> {
    let all = span.last() - span.first();
    prop_oneof![
        4 => any::<u128>().prop_map(move |number| span.first() + (number & all)),
        1 => (0..50u128).prop_map(move |low| span.first() + low),
        1 => (0..50u128).prop_map(move |low| span.last() - low),
        1 => (0..50u128).prop_map(move |low| span.first() + all / 2 + low),
    ]
}

fn digest() -> impl Strategy<Value = u128> {
    prop_oneof![0..3u128, any::<u128>()]
}

fn store(span: Span, len_max: usize) -> impl Strategy<Value = Store> {
    btree_map(position(span), digest(), 0..=len_max)
}

fn changes(span: Span, len_max: usize) -> impl Strategy<Value = Vec<(u128, Option<u128>)>> {
    vec((position(span), prop::option::of(digest())), 0..=len_max)
}
