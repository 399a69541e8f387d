//! A history is a set: the order and the number of arrivals do not matter.

mod common;

use common::{arrivals, entry, history, id};
use dynkv_ring::{Change, Entry, History, HistoryFull, Membership};
use proptest::prelude::*;

/// What two folds must agree on.
fn outcome(history: &History) -> (dynkv_ring::Ring, Vec<String>) {
    let membership = Membership::fold(history);
    let told = vec![
        format!("{:?}", membership.members().collect::<Vec<_>>()),
        format!("{:?}", membership.gone().collect::<Vec<_>>()),
        format!("{:?}", membership.others()),
        format!("{:?}", membership.ignored()),
    ];
    (membership.ring().clone(), told)
}

proptest! {
    #[test]
    fn any_order_of_arrival_gives_the_same_ring(
        (entries, shuffled) in arrivals(40).prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())),
        split in any::<prop::sample::Index>(),
    ) {
        let expected = history(&entries);
        // One by one in another order, some twice.
        let mut one_by_one = history(&shuffled);
        prop_assert!(!one_by_one.insert(shuffled[0].clone()).unwrap());
        prop_assert_eq!(&one_by_one, &expected);
        // In two halves, merged either way.
        let (left, right) = shuffled.split_at(split.index(shuffled.len()));
        let (left, right) = (history(left), history(right));
        let (mut one, mut other) = (left.clone(), right.clone());
        one.merge(&right).unwrap();
        other.merge(&left).unwrap();
        prop_assert_eq!(&one, &expected);
        prop_assert_eq!(&other, &expected);
        prop_assert_eq!(one.digest(), expected.digest());
        prop_assert_eq!(outcome(&one), outcome(&expected));
    }

    #[test]
    fn the_difference_is_all_that_must_be_sent(
        mine in proptest::collection::vec(entry(), 0..20),
        theirs in proptest::collection::vec(entry(), 0..20),
        shared in proptest::collection::vec(entry(), 0..20),
    ) {
        let mine = history(&[&mine[..], &shared].concat());
        let mut theirs = history(&[&theirs[..], &shared].concat());
        let sent = mine.missing_from(&theirs);
        prop_assert!(sent.entries().all(|entry| mine.contains(entry) && !theirs.contains(entry)));
        let before = theirs.digest();
        prop_assert_eq!(theirs.merge(&sent).unwrap(), sent.len());
        prop_assert_eq!(theirs.digest() == before, sent.is_empty());
        prop_assert!(mine.missing_from(&theirs).is_empty());
        prop_assert_eq!(theirs.merge(&mine).unwrap(), 0);
    }
}

#[test]
fn a_full_history_takes_all_or_nothing() {
    let entry = |time| Entry::new(time, id(0), Change::Leave(id(1))).unwrap();
    let mut full = History::new();
    for time in 1..History::MAX_ENTRIES as u64 {
        full.insert(entry(time)).unwrap();
    }
    let two = history(&[entry(u64::MAX), entry(u64::MAX - 1)]);
    let before = full.len();
    assert_eq!(full.merge(&two).unwrap_err().needed, History::MAX_ENTRIES + 1);
    assert_eq!(full.len(), before);
    assert!(full.insert(entry(u64::MAX)).unwrap());
    assert!(matches!(full.insert(entry(0)), Err(HistoryFull { .. })));
    // What is there already needs no room.
    assert!(!full.insert(entry(7)).unwrap());
    assert_eq!(full.merge(&history(&[entry(7)])).unwrap(), 0);
    assert_eq!(full.latest_time(), Some(u64::MAX));
}
