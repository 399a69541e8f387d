//! What a comparison may cost.

use dynkv_merkle::{Roots, Span, Tree};

use crate::exchange::Exchange;
use crate::{Side, Store, differences, keys, mix, spread};

const KIB: usize = 1024;
/// What a side would send that sent all its digests: position and digest.
const ENTRY: usize = 32;

/// Makes `count` differences of all kinds.
fn differ(side: &mut Side, keys: u64, count: u64) {
    for i in 0..count {
        match i % 3 {
            0 => side.put(spread(side.tree.span(), mix(i) % keys), None),
            1 => side.put(spread(side.tree.span(), mix(i) % keys), Some(u128::MAX)),
            _ => side.put(spread(side.tree.span(), u64::MAX - i), Some(1)),
        }
    }
}

#[test]
fn bytes_follow_the_differences_and_never_exceed_all_digests() {
    let check = |here: &Side, there: &Side| {
        for under_way_max in [1, usize::MAX] {
            let exchange = here.compare(there, under_way_max);
            let found = exchange.differences.len();
            assert_eq!(found, differences(&here.store, &there.store).len());
            // All that the other side has; and one request, after which it is known that listing does not pay.
            let all = ENTRY * there.store.len() + 14 * here.store.len().min(1024);
            let bound = all.min(64 * KIB + KIB * found);
            let keys = (here.store.len(), there.store.len());
            assert!(exchange.bytes <= bound, "{keys:?}, {found}: {} of {bound}", exchange.bytes);
        }
    };
    let span = Span::new(8, 77).unwrap();
    for keys_count in [100, 3_000, 30_000] {
        let depth = Tree::depth_for(keys_count);
        let here = Side::new(span, depth, keys(span, keys_count));
        for count in [1, 10, 100, 1_000, 10_000, 30_000] {
            let mut there = here.clone();
            differ(&mut there, keys_count, count);
            check(&here, &there);
            check(&there, &here);
        }
        // Nothing in common.
        let other = |position| span.first() + (span.last() - position);
        let other = here.store.iter().map(|(position, digest)| (other(*position), *digest)).collect();
        check(&here, &Side::new(span, depth, other));
    }
}

/// A tree as deep as that of 10^8 keys, though with fewer.
#[test]
fn round_trips_follow_the_depth() {
    let depth = Tree::depth_for(100_000_000);
    assert_eq!(depth, 22);
    let here = Side::new(Span::ALL, depth, keys(Span::ALL, 3_000));
    // Without the one that compares the roots.
    for (count, rounds) in [(1, 2), (100, 4), (3_000, 4)] {
        let mut there = here.clone();
        differ(&mut there, 3_000, count);
        let exchange = here.compare(&there, usize::MAX);
        assert!(exchange.rounds <= rounds, "{count}: {}", exchange.rounds);
        assert!(count > 1 || exchange.bytes < 64 * KIB);
    }
}

/// A difference in each of many trees that are compared at once costs no more than many in one tree.
#[test]
fn trees_compared_together_share_the_first_cost() {
    let bits = 6;
    let (mut bytes, mut found) = (0, 0);
    let sides: Vec<[Side; 2]> = (0..1 << bits)
        .map(|index| {
            let span = Span::new(bits, index).unwrap();
            let here = Side::new(span, 12, keys(span, 1_000));
            let mut there = here.clone();
            there.put(spread(span, 500), None);
            [here, there]
        })
        .collect();
    let [here, there] = [0, 1].map(|at| Roots::new(bits, sides.iter().map(|sides| &sides[at].tree)).unwrap());
    let request = here.request(1);
    let reply = there.answer(&request).unwrap();
    bytes += request.to_bytes().len() + reply.to_bytes().len();
    let differing = here.compare(&request, &reply).unwrap().differing;
    for (span, depth) in &differing {
        let [here, there] = &sides[span.index() as usize];
        let exchange = Exchange::new(&here.tree, *depth, 1, differing.len()).run(
            (&here.tree, &here.store),
            (&there.tree, &there.store),
            8,
        );
        bytes += exchange.bytes;
        found += exchange.differences.len();
    }
    assert_eq!(found, 64);
    assert!(bytes <= 64 * KIB + KIB * found, "{bytes}");
}

#[test]
fn equal_trees_are_done_after_one_reply() {
    let here = Side::new(Span::ALL, 9, keys(Span::ALL, 5_000));
    let exchange = here.compare(&here, 8);
    assert_eq!((exchange.rounds, exchange.differences.len()), (1, 0));
    let empty = Side::new(Span::ALL, 0, Store::new());
    assert_eq!(empty.compare(&empty, 8).rounds, 1);
}
