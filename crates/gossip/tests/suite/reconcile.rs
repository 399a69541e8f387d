//! Sets and maps find out where they differ.

use std::collections::{BTreeMap, BTreeSet};

use dynkv_gossip::{
    GrowSet, Incarnation, Latest, Limits, MapMessage, NodeState, Payload, Stamp, Versioned, VersionedMap,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// Lets two payloads talk until one has nothing to say, and returns the messages.
fn talk<P: Payload>(a: &mut P, b: &mut P) -> Vec<P::Message>
where
    P::Message: Clone,
{
    let mut log = vec![a.open()];
    while log.len() < 10_000 {
        let listener = if log.len() % 2 == 1 { &mut *b } else { &mut *a };
        let Some(answer) = listener.handle(log.last().unwrap().clone()).answer else { return log };
        log.push(answer);
    }
    panic!("a conversation without end");
}

/// Makes what it has old, by opening conversations with nobody.
fn aged<P: Payload>(mut payload: P) -> P {
    for _ in 0..200 {
        payload.open();
    }
    payload
}

fn small(message_bytes_max: usize) -> Limits {
    let mut limits = Limits::default();
    limits.message_bytes_max = message_bytes_max;
    limits
}

fn set(of: &BTreeSet<u32>, limits: Limits) -> GrowSet<u32> {
    let mut set = GrowSet::with_limits(limits);
    for number in of {
        set.insert(*number).unwrap();
    }
    aged(set)
}

fn check_bounds<K, V: Versioned>(message: &MapMessage<K, V, V::Version>, limits: Limits) {
    type Any = MapMessage<(), (), ()>;
    assert!(message.branches.len() <= Any::PARTS_MAX && message.leaves.len() <= Any::PARTS_MAX);
    assert!(message.leaves.iter().all(|leaf| leaf.held.len() <= Any::HELD_MAX));
    assert!(message.wanted.len() <= Any::WANTED_MAX && message.values.len() <= Any::VALUES_MAX);
    let bytes: usize = message.values.iter().map(|(_, value)| value.size_bytes()).sum();
    assert!(bytes <= limits.message_bytes_max || message.values.len() == 1);
}

proptest! {
    #[test]
    fn a_conversation_unites_sets(
        common in btree_set(any::<u32>(), 0..400),
        only_a in btree_set(any::<u32>(), 0..60),
        only_b in btree_set(any::<u32>(), 0..60),
        bytes_max in 1..500usize,
    ) {
        let [of_a, of_b] = [only_a, only_b].map(|only| &only | &common);
        let limits = small(bytes_max);
        let (mut a, mut b) = (set(&of_a, limits), set(&of_b, limits));
        // One conversation, or two if too many parts differ for one message.
        for _ in 0..3 {
            for message in talk(&mut a, &mut b) {
                check_bounds(&message, limits);
            }
        }
        let union: BTreeSet<u32> = &of_a | &of_b;
        prop_assert_eq!(&a, &b);
        prop_assert_eq!(a.iter().copied().collect::<BTreeSet<_>>(), union.clone());
        prop_assert_eq!(b.iter().copied().collect::<BTreeSet<_>>(), union);
        prop_assert_eq!(talk(&mut a, &mut b).len(), 1);
    }

    #[test]
    fn in_a_map_the_greatest_version_wins(
        of_a in vec((0..200u16, 0..50u64), 0..150),
        of_b in vec((0..200u16, 0..50u64), 0..150),
    ) {
        let map = |of: &[(u16, u64)]| {
            let mut map = VersionedMap::new();
            for (key, version) in of {
                map.insert(*key, Latest { version: *version, value: format!("{key} {version}") }).unwrap();
            }
            map
        };
        let mut oracle = BTreeMap::<u16, u64>::new();
        for (key, version) in of_a.iter().chain(&of_b) {
            let known = oracle.entry(*key).or_default();
            *known = (*version).max(*known);
        }
        let (mut a, mut b) = (map(&of_a), map(&of_b));
        talk(&mut a, &mut b);
        prop_assert_eq!(&a, &b);
        for map in [&a, &b] {
            let entries: BTreeMap<_, _> = map.iter().map(|(key, latest)| (*key, latest.version)).collect();
            prop_assert_eq!(&entries, &oracle);
            for (key, latest) in map.iter() {
                prop_assert_eq!(&latest.value, &format!("{} {}", key, latest.version));
            }
        }
    }

    #[test]
    fn only_the_difference_travels(common in btree_set(any::<u32>(), 500..2_000), news: u32) {
        let mut a = set(&common, Limits::default());
        let mut b = a.clone();
        prop_assume!(b.insert(news).unwrap());
        for [one, two] in [[a.clone(), b.clone()], [b.clone(), a.clone()]] {
            let (mut one, mut two) = (aged(one), aged(two));
            let log = talk(&mut one, &mut two);
            prop_assert!(log.len() <= 7);
            let entries = |count: fn(&MapMessage<_, _, ()>) -> usize| log.iter().map(count).sum::<usize>();
            prop_assert_eq!(entries(|message| message.values.len()), 1);
            prop_assert!(entries(|message| message.branches.len()) <= 1 + 3 * 16);
            prop_assert!(entries(|message| message.leaves.iter().map(|leaf| leaf.held.len()).sum()) <= 16);
            prop_assert_eq!(&one, &two);
        }
        // As long as it is news, it travels unasked.
        prop_assert_eq!(talk(&mut b.clone(), &mut a.clone()).len(), 1);
        prop_assert_eq!(talk(&mut a, &mut b).len(), 2);
        prop_assert!(a.contains(&news));
    }

    #[test]
    fn states_merge_in_any_order(states in vec(state(), 1..8), order in vec(any::<prop::sample::Index>(), 0..20)) {
        let merged = |of: &mut dyn Iterator<Item = &NodeState>| {
            of.cloned().reduce(|mut a, b| { a.merge(b); a }).unwrap()
        };
        let expected = merged(&mut states.iter());
        prop_assert_eq!(&merged(&mut states.iter().rev()), &expected);
        let mut again = expected.clone();
        for index in &order {
            again.merge(index.get(&states).clone());
        }
        prop_assert_eq!(&again, &expected);
        // A merge is at least as new as both sides.
        for one in &states {
            prop_assert!(one.stamp <= expected.stamp);
            // The one that is as new is the same.
            prop_assert!(one.stamp != expected.stamp || one == &expected);
        }
    }
}

/// Few incarnations and versions; equal versions have equal bytes.
fn state() -> impl Strategy<Value = NodeState> {
    let incarnation = || (0..2u64, 0..2u64).prop_map(|(boot, nonce)| Incarnation { boot, nonce });
    (incarnation(), 0..4u64, prop::option::of(incarnation())).prop_map(|(incarnation, version, rejects)| {
        let bytes = format!("{incarnation} {version}").into_bytes();
        NodeState { stamp: Stamp { incarnation, version, rejects }, bytes }
    })
}

#[test]
fn large_elements_travel_alone() {
    let limits = small(1_000);
    let mut a: GrowSet<Vec<u8>> = GrowSet::with_limits(limits);
    let mut b = GrowSet::with_limits(limits);
    for byte in 0..20 {
        a.insert(vec![byte; 5_000]).unwrap();
    }
    let log = talk(&mut a, &mut b);
    assert!(log.iter().all(|message| message.values.len() <= 1));
    assert_eq!(b.len(), 20);
}

#[test]
fn a_full_set_refuses_and_the_conversation_ends() {
    // Five values in a message: what is refused is not all there is to send.
    let mut limits = small(20);
    limits.entries_max = 100;
    let numbers = |range: std::ops::Range<u32>| range.collect::<BTreeSet<u32>>();
    let mut a = set(&numbers(0..100), limits);
    let mut b = set(&numbers(50..150), limits);
    assert!(talk(&mut a, &mut b).len() < 100);
    assert_eq!((a.len(), b.len()), (100, 100));
    assert!(a.refused() + b.refused() > 0);
    let error = a.insert(1_000).unwrap_err();
    assert!(error.to_string().contains("100"), "{error}");
    assert!(!a.insert(7).unwrap(), "what is there needs no room");

    // One that has room gets everything, whatever the others refuse.
    let mut c = set(&numbers(200..250), Limits::default());
    for _ in 0..5 {
        talk(&mut c, &mut a);
        talk(&mut b, &mut c);
    }
    assert_eq!(c.len(), 200);
}

#[test]
fn elements_under_a_wrong_digest_are_refused() {
    let mut honest: GrowSet<u32> = GrowSet::new();
    let mut liar: GrowSet<u32> = GrowSet::new();
    liar.insert(1).unwrap();
    let mut lie = talk(&mut honest.clone(), &mut liar).pop().unwrap();
    assert_eq!(lie.values.len(), 1);
    lie.values[0].1 = 2.into();
    assert!(!honest.handle(lie).changed);
    assert!(honest.is_empty() && honest.refused() == 1);
}

#[test]
fn tuples_carry_each_part() {
    let sets = |a: u32, b: u32| {
        let one = |number| set(&BTreeSet::from([number]), Limits::default());
        (one(a), one(b), one(7), ())
    };
    let (mut a, mut b) = (sets(1, 1), sets(1, 2));
    let log = talk(&mut a, &mut b);
    assert_eq!(a, b);
    assert_eq!((a.0.len(), a.1.len(), a.2.len()), (1, 2, 1));
    // After the opening only what differs has anything to say.
    assert!(log[1..].iter().all(|message| message.0.is_none() && message.2.is_none() && message.3.is_none()));
}

#[test]
fn one_difference_in_many_takes_few_messages() {
    let numbers: BTreeSet<u32> = (0..99_999).collect();
    let mut a = set(&numbers, Limits::default());
    let mut b = a.clone();
    a.insert(1_000_000).unwrap();
    let log = talk(&mut a, &mut b);
    assert!(log.len() <= 8, "{}", log.len());
    assert_eq!(a, b);
}

#[test]
fn old_news_is_answered_with_newer() {
    let map = |version| {
        let mut map = VersionedMap::new();
        map.insert(1u8, Latest { version, value: 0u8 }).unwrap();
        map
    };
    let (mut old, mut new) = (map(1), aged(map(2)));
    let log = talk(&mut old, &mut new);
    assert_eq!(log[1].values, [(1, Latest { version: 2, value: 0 })]);
    assert_eq!(old, new);
}

#[test]
fn two_keys_with_one_hash_are_not_mixed_up() {
    #[derive(Clone, PartialEq, Eq)]
    struct Key(u8);

    impl std::hash::Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            0u8.hash(state);
        }
    }

    let mut map = VersionedMap::new();
    map.insert(Key(1), Latest { version: 1, value: 1u8 }).unwrap();
    assert!(map.insert(Key(2), Latest { version: 2, value: 2 }).is_err());
    assert_eq!(map.get(&Key(1)).unwrap().value, 1);
    assert!(map.get(&Key(2)).is_none());
}
