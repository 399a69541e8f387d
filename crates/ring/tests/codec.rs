//! The canonical bytes: one history, one byte string, and no byte string does harm.

mod common;

use std::cmp::Ordering;

use common::{arrivals, entry, history, id};
use dynkv_ring::{
    Change, DecodeError, Entry, Founding, History, InvalidChange, Member, Membership, PartitionCount,
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn what_is_written_is_read(entries in arrivals(30)) {
        let written = history(&entries);
        let bytes = written.to_bytes();
        let read = History::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&read, &written);
        prop_assert_eq!(read.to_bytes(), bytes);
        prop_assert_eq!(read.digest(), written.digest());
        for entry in &written {
            prop_assert_eq!(&Entry::from_bytes(&entry.to_bytes()).unwrap(), entry);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(read) = History::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes.clone());
        }
        if let Ok(read) = Entry::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }

    /// Random bytes seldom get past the first field; damaged ones do.
    #[test]
    fn damaged_bytes_are_refused_or_canonical(
        entries in arrivals(6),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = history(&entries).to_bytes();
        let mut bytes = whole.clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        for bytes in [&whole[..cut.index(whole.len())], &bytes[..]] {
            if let Ok(read) = History::from_bytes(bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
                // Whatever was read, nothing that follows may panic either.
                prop_assert!(Membership::fold(&read).ignored().len() <= read.len());
            }
        }
    }

    #[test]
    fn entries_are_totally_ordered(one in entry(), other in entry(), third in entry()) {
        prop_assert_eq!(one.cmp(&other), other.cmp(&one).reverse());
        prop_assert_eq!(one.cmp(&other) == Ordering::Equal, one == other);
        prop_assert_eq!(one == other, one.to_bytes() == other.to_bytes());
        if one <= other && other <= third {
            prop_assert!(one <= third);
        }
    }
}

/// An entry with this kind and payload, by the layout as documented.
fn raw(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 9, 2, b'n', b'1'];
    bytes.extend(kind.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn the_layout_is_the_documented_one() {
    let check = |change: Change, kind, payload: &[u8]| {
        let entry = Entry::new(9, id(1), change).unwrap();
        assert_eq!(entry.to_bytes(), raw(kind, payload));
        assert_eq!(Entry::from_bytes(&raw(kind, payload)).unwrap(), entry);
    };
    let member = Member { id: id(2), weight: 3, zone: "z".into(), host: String::new() };
    let n2 = b"\x02n2";
    let n2_bytes: &[u8] = b"\x02n2\0\0\0\x03\x01z\0";
    check(Change::Join(member.clone()), 2, n2_bytes);
    check(Change::Leave(id(2)), 3, n2);
    check(Change::Left(id(2)), 4, n2);
    check(Change::Remove(id(2)), 5, n2);
    check(Change::Replace { old: id(7), new: member.clone() }, 6, &[b"\x02n7", n2_bytes].concat());
    check(Change::Weight { node: id(2), weight: 100 }, 7, b"\x02n2\0\0\0\x64");
    check(Change::Place { node: id(2), zone: "a".into(), host: "b".into() }, 8, b"\x02n2\x01a\x01b");
    check(Change::Disk { node: id(2), disk: 258 }, 9, b"\x02n2\0\0\0\0\0\0\x01\x02");
    check(Change::Other { kind: 256, payload: b"opaque".to_vec() }, 256, b"opaque");
    let founding = Founding {
        cluster: "c".into(),
        partitions: PartitionCount::new(256).unwrap(),
        replicas: 3,
        members: vec![member],
    };
    check(Change::Found(founding), 1, &[b"\x01c\0\0\x01\0\x03\0\0\0\x01", n2_bytes].concat());
}

#[test]
fn kinds_of_newer_versions_survive() {
    let mut bytes = vec![1];
    bytes.extend(raw(200, b"from the future"));
    let history = History::from_bytes(&bytes).unwrap();
    assert_eq!(history.to_bytes(), bytes);
    assert_eq!(Membership::fold(&history).others().len(), 1);
    let change = Change::Other { kind: 200, payload: Vec::new() };
    assert_eq!(Entry::new(1, id(1), change), Err(InvalidChange::ReservedKind { kind: 200 }));
}

#[test]
fn each_fault_has_its_name() {
    let entry = |bytes: &[u8]| Entry::from_bytes(bytes).unwrap_err();
    assert_eq!(entry(&raw(3, b"\x02n2")[..16]), DecodeError::Truncated { at: 16, missing: 1 });
    assert_eq!(entry(&raw(3, b"\x02n2\0")), DecodeError::Trailing { at: 20 });
    assert_eq!(entry(&raw(8, b"\x02n2\x01\xff\0")), DecodeError::Text { at: 22 });
    assert!(matches!(entry(&raw(3, b"\x02N2")), DecodeError::NodeId(_)));
    assert!(matches!(entry(&raw(7, b"\x02n2\0\0\0\0")), DecodeError::Change(InvalidChange::Member(_))));
    assert!(matches!(entry(&raw(1, b"\x01c\0\0\x01\x01\x03\0\0\0\0")), DecodeError::PartitionCount(_)));
    let mut long = raw(256, b"");
    let end = long.len();
    long[end - 4..].copy_from_slice(&65_537u32.to_be_bytes());
    assert_eq!(entry(&long), DecodeError::TooLong { kind: 256, len: 65_537, limit: 65_536 });

    let history = |bytes: &[u8]| History::from_bytes(bytes).unwrap_err();
    assert_eq!(history(b""), DecodeError::Truncated { at: 0, missing: 1 });
    assert_eq!(history(b"\x02"), DecodeError::Format { found: 2 });
    let twice = [&[1][..], &raw(3, b"\x02n2"), &raw(3, b"\x02n2")].concat();
    assert_eq!(history(&twice), DecodeError::OutOfOrder { index: 1 });
}

#[test]
fn everything_at_its_limit_still_fits() {
    let longest = |number: usize| Member {
        id: format!("{number:032}").parse().unwrap(),
        weight: 100,
        zone: "z".repeat(64),
        host: "h".repeat(64),
    };
    let founding = Founding {
        cluster: "c".repeat(64),
        partitions: PartitionCount::MAX,
        replicas: 16,
        members: (0..Founding::MAX_MEMBERS).map(longest).collect(),
    };
    let entry = Entry::new(u64::MAX, longest(0).id, Change::Found(founding)).unwrap();
    assert_eq!(Entry::from_bytes(&entry.to_bytes()).unwrap(), entry);
    let payload = vec![7; Change::MAX_OTHER_LEN];
    let entry = Entry::new(0, id(0), Change::Other { kind: u16::MAX, payload }).unwrap();
    assert_eq!(Entry::from_bytes(&entry.to_bytes()).unwrap(), entry);
}

#[cfg(feature = "serde")]
mod serde {
    use super::*;

    proptest! {
        #[test]
        fn entries_survive_json(entry in entry()) {
            let json = serde_json::to_string(&entry).unwrap();
            prop_assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry);
        }
    }

    #[test]
    fn limits_hold_in_json_too() {
        let json = r#"{"time":1,"issuer":"n1","change":{"weight":{"node":"n2","weight":0}}}"#;
        assert!(serde_json::from_str::<Entry>(json).is_err());
        assert!(serde_json::from_str::<dynkv_ring::NodeId>("\"No\"").is_err());
        assert!(serde_json::from_str::<PartitionCount>("3").is_err());
        // Of a newer version: kept, as by the canonical bytes.
        let json = r#"{"time":1,"issuer":"n1","change":{"other":{"kind":200,"payload":[1]}}}"#;
        assert!(serde_json::from_str::<Entry>(json).is_ok());
        let json = r#"{"time":1,"issuer":"n1","change":{"other":{"kind":2,"payload":[1]}}}"#;
        assert!(serde_json::from_str::<Entry>(json).is_err());
    }
}
