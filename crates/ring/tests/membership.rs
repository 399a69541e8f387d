//! What a history amounts to.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{arrivals, history, id};
use dynkv_ring::IgnoredReason::{
    AlreadyFounded, AlreadyLeaving, AlreadyMember, Gone, LastNode, NotFounded, NotLeaving, UnknownNode,
};
use dynkv_ring::{
    Change, Departure, Entry, Founding, History, IgnoredReason, Member, Membership, PartitionCount, Status,
};
use proptest::prelude::*;

fn founding(nodes: &[u8]) -> Change {
    Change::Found(Founding {
        cluster: "shop".into(),
        partitions: PartitionCount::new(64).unwrap(),
        replicas: 3,
        members: nodes.iter().map(|node| Member::new(id(*node))).collect(),
    })
}

fn fold(changes: impl IntoIterator<Item = Change>) -> Membership {
    let mut history = History::new();
    for (time, change) in (1..).zip(changes) {
        history.insert(Entry::new(time, id(0), change).unwrap()).unwrap();
    }
    Membership::fold(&history)
}

/// Founds with nodes 1 and 2, applies the changes, and tells which were ignored why, by index.
fn ignored(changes: impl IntoIterator<Item = Change>) -> Vec<(usize, IgnoredReason)> {
    let membership = fold(std::iter::once(founding(&[1, 2])).chain(changes));
    membership.ignored().iter().map(|i| (i.entry.time() as usize - 2, i.reason)).collect()
}

fn join(node: u8) -> Change {
    Change::Join(Member::new(id(node)))
}

fn replace(old: u8, new: u8) -> Change {
    Change::Replace { old: id(old), new: Member::new(id(new)) }
}

#[test]
fn before_the_founding_there_is_nothing() {
    let other = Change::Other { kind: 256, payload: vec![] };
    let membership = fold([join(1), other, Change::Disk { node: id(1), disk: 1 }]);
    assert!(!membership.founded());
    assert_eq!(membership.cluster(), "");
    assert!(membership.ring().is_empty());
    assert_eq!(membership.members().len(), 0);
    assert_eq!(membership.others().len(), 1);
    assert!(membership.ignored().iter().all(|ignored| ignored.reason == NotFounded));
    for partition in membership.partitions().ids() {
        assert!(membership.ring().owner(partition).is_none());
        assert!(membership.ring().homes(partition).is_empty());
        assert_eq!(membership.ring().preference(partition).count(), 0);
    }
}

#[test]
fn what_makes_no_sense_is_ignored_with_its_reason() {
    let check = |changes: &[Change], expected: &[(usize, IgnoredReason)]| {
        assert_eq!(ignored(changes.iter().cloned()), expected, "{changes:?}");
    };
    let (leave, left, remove) =
        (|n| Change::Leave(id(n)), |n| Change::Left(id(n)), |n| Change::Remove(id(n)));
    check(&[founding(&[3])], &[(0, AlreadyFounded)]);
    check(&[join(1)], &[(0, AlreadyMember)]);
    check(&[join(3), join(3)], &[(1, AlreadyMember)]);
    check(&[leave(9), left(9), remove(9), replace(9, 3)], &[0, 1, 2, 3].map(|i| (i, UnknownNode)));
    check(
        &[Change::Weight { node: id(9), weight: 1 }, Change::Disk { node: id(9), disk: 1 }],
        &[(0, UnknownNode), (1, UnknownNode)],
    );
    check(&[leave(1), leave(1), join(1)], &[(1, AlreadyLeaving), (2, AlreadyMember)]);
    check(&[left(1)], &[(0, NotLeaving)]);
    check(&[leave(1), left(1), left(1), join(1), remove(1)], &[2, 3, 4].map(|i| (i, Gone)));
    check(&[remove(1), join(1), replace(2, 1)], &[(1, Gone), (2, Gone)]);
    check(&[replace(1, 3), join(1), replace(3, 2)], &[(1, Gone), (2, AlreadyMember)]);
    check(&[replace(1, 1)], &[(0, AlreadyMember)]);
    check(
        &[leave(1), leave(2), remove(2), left(2), leave(1)],
        &[(1, LastNode), (2, LastNode), (3, NotLeaving), (4, AlreadyLeaving)],
    );
    // The last node may be replaced, and a leaving one removed.
    check(&[leave(1), remove(1), replace(2, 3)], &[]);
}

#[test]
fn a_leaving_node_is_a_member_without_tokens() {
    let membership =
        fold([founding(&[1, 2, 3]), Change::Leave(id(2)), Change::Weight { node: id(2), weight: 9 }]);
    let state = membership.member(&id(2)).unwrap();
    assert_eq!((state.status, state.member.weight), (Status::Leaving, 9));
    assert!(membership.ring().member(&id(2)).is_none());
    assert_eq!(membership.ring().members().len(), 2);
    let replaced = fold([founding(&[1, 2]), Change::Leave(id(2)), replace(2, 3)]);
    assert_eq!(replaced.departure(&id(2)), Some(Departure::Replaced(id(3))));
    assert_eq!(replaced.ring().token_count(&id(3)), 32);
}

#[test]
fn a_replacement_takes_exactly_the_tokens() {
    let before = fold([founding(&[1, 2, 3, 4, 5])]);
    let after = fold([founding(&[1, 2, 3, 4, 5]), replace(3, 20)]);
    let diff = before.ring().diff(after.ring()).unwrap();
    assert_eq!(diff.token_moves() as u32, before.ring().token_count(&id(3)));
    assert!(before.ring().tokens(&id(3)).eq(after.ring().tokens(&id(20))));
}

#[test]
fn disks_and_places_are_the_latest() {
    let place = |zone: &str| Change::Place { node: id(1), zone: zone.into(), host: "h".into() };
    let disk = |disk| Change::Disk { node: id(1), disk };
    let membership = fold([founding(&[1, 2, 3]), disk(7), place("a"), disk(8), place("b")]);
    let state = membership.member(&id(1)).unwrap();
    assert_eq!((state.first_disk, state.disk, state.member.zone.as_str()), (Some(7), Some(8), "b"));
    assert_eq!(membership.ring().member(&id(1)).unwrap(), &state.member);
    let tokens = |m: &Membership| m.ring().tokens(&id(1)).collect::<Vec<_>>();
    assert_eq!(tokens(&membership), tokens(&fold([founding(&[1, 2, 3])])));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_gone_id_never_returns(entries in arrivals(40)) {
        let whole = history(&entries);
        let mut gone = BTreeMap::new();
        for end in 0..=whole.len() {
            let prefix: Vec<Entry> = whole.entries().take(end).cloned().collect();
            let membership = Membership::fold(&history(&prefix));
            for (node, departure) in &gone {
                prop_assert_eq!(membership.departure(node), Some(*departure));
            }
            gone = membership.gone().collect();
            prop_assert!(membership.members().all(|state| !gone.contains_key(&state.member.id)));
            // The ring is the active members', with what the history says of them.
            let active: Vec<&Member> =
                membership.members().filter(|s| s.status == Status::Active).map(|s| &s.member).collect();
            prop_assert_eq!(membership.ring().members().iter().collect::<Vec<_>>(), active);
            prop_assert_eq!(membership.ring().is_empty(), !membership.founded());
        }
    }

    #[test]
    fn following_is_folding(entries in arrivals(40), known in 0..40_usize, late in any::<bool>()) {
        let whole = history(&entries);
        // What was known may be the beginning, or anything else: then entries come in between, or are not there at all.
        let known: Vec<Entry> = match late {
            true => whole.entries().rev().take(known).cloned().collect(),
            false => whole.entries().take(known).cloned().collect(),
        };
        let before = Membership::fold(&history(&known));
        for next in [&whole, &history(&[]), &history(&entries[..entries.len() / 2])] {
            let (followed, folded) = (before.follow(next), Membership::fold(next));
            prop_assert_eq!(format!("{followed:?}"), format!("{folded:?}"));
        }
    }

    #[test]
    fn every_entry_is_accounted_for(entries in arrivals(40)) {
        let whole = history(&entries);
        let membership = Membership::fold(&whole);
        let ignored: BTreeSet<&Entry> = membership.ignored().iter().map(|ignored| &ignored.entry).collect();
        let others = whole.entries().filter(|entry| matches!(entry.change(), Change::Other { .. }));
        prop_assert!(membership.others().iter().eq(others));
        // Without the ignored entries the outcome is the same.
        let effective: Vec<Entry> = whole.entries().filter(|entry| !ignored.contains(entry)).cloned().collect();
        let again = Membership::fold(&history(&effective));
        prop_assert_eq!(again.ignored().len(), 0);
        prop_assert_eq!(again.ring(), membership.ring());
        prop_assert!(again.gone().eq(membership.gone()));
    }
}
