//! Random memberships for the property tests.
// Each test binary uses a part.
#![allow(dead_code)]

use dynkv_ring::{Change, Entry, Founding, History, Member, NodeId, PartitionCount};
use proptest::prelude::*;

pub(crate) fn id(number: u8) -> NodeId {
    format!("n{number}").parse().unwrap()
}

pub(crate) fn member() -> impl Strategy<Value = Member> {
    // Few names, so that ids collide, domains are shared, and gone nodes try to come back.
    (0..24u8, 1..=8u32, 0..4u8, 0..6u8).prop_map(|(number, weight, zone, host)| {
        let zone = if zone == 0 { String::new() } else { format!("z{zone}") };
        let host = if host == 0 { String::new() } else { format!("{zone}h{host}") };
        Member { id: id(number), weight, zone, host }
    })
}

/// Members with distinct ids.
pub(crate) fn members(max: usize) -> impl Strategy<Value = Vec<Member>> {
    proptest::collection::vec(member(), 1..=max).prop_map(|mut members| {
        members.sort_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        members
    })
}

/// With up to 2^`max_bits` partitions: few where each case folds many times.
pub(crate) fn founding(max_bits: u32) -> impl Strategy<Value = Founding> {
    (members(12), 0..=max_bits, 1..=5u8).prop_map(|(members, bits, replicas)| Founding {
        cluster: "test".to_owned(),
        partitions: PartitionCount::new(1 << bits).unwrap(),
        replicas,
        members,
    })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let node = || (0..24u8).prop_map(id);
    prop_oneof![
        1 => founding(4).prop_map(Change::Found),
        8 => member().prop_map(Change::Join),
        4 => node().prop_map(Change::Leave),
        4 => node().prop_map(Change::Left),
        3 => node().prop_map(Change::Remove),
        3 => (node(), member()).prop_map(|(old, new)| Change::Replace { old, new }),
        3 => (node(), 1..=8u32).prop_map(|(node, weight)| Change::Weight { node, weight }),
        2 => (node(), "z[1-3]", "h[1-5]?").prop_map(|(node, zone, host)| Change::Place { node, zone, host }),
        2 => (node(), any::<u64>()).prop_map(|(node, disk)| Change::Disk { node, disk }),
        2 => (256..=300u16, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, payload)| Change::Other { kind, payload }),
    ]
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    // Few times and issuers, so that all three parts of the order matter.
    (1..40u64, 0..3u8, change())
        .prop_map(|(time, issuer, change)| Entry::new(time, id(issuer), change).unwrap())
}

/// A founding and up to `max` changes, in order of arrival.
pub(crate) fn arrivals(max: usize) -> impl Strategy<Value = Vec<Entry>> {
    (founding(5), proptest::collection::vec(entry(), 0..max)).prop_map(|(founding, mut entries)| {
        entries.push(Entry::new(0, id(0), Change::Found(founding)).unwrap());
        entries
    })
}

pub(crate) fn history(entries: &[Entry]) -> History {
    let mut history = History::new();
    for entry in entries {
        history.insert(entry.clone()).unwrap();
    }
    history
}
