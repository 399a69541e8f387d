//! Tests of messages that nobody sends who uses this crate: made from their parts, one wrong at a time.

use std::collections::BTreeMap;

use crate::hash::Fingerprint;
use crate::message::{
    Ask, AskEntries, AskNodes, Extra, FOUND_MAX, Leaves, Reply, Request, Tell, TellEntries, TellNodes,
};
use crate::{Comparison, DecodeError, Difference, Entry, Refused, Span, Tree};

const LEAF: u128 = 1 << 124;
const ID: u32 = 0;

type Store = BTreeMap<u128, u128>;

fn tree(store: &Store) -> Tree {
    let entries = store.iter().map(|(&position, &digest)| Entry { position, digest });
    Tree::from_entries(Span::ALL, 4, entries).unwrap()
}

/// Entries 10, 20, ..., 50 in leaves 1, 2, and 5 of 16.
fn store() -> Store {
    [1, 2, 5].into_iter().flat_map(|leaf| (1..=5).map(move |i| (leaf * LEAF + 10 * i, i))).collect()
}

/// A comparison that has asked for the entries of those leaves: their places are 0 to 4, 5 to 9, and 10 to 14.
fn comparison() -> (Comparison, Tree) {
    let (store, empty) = (store(), Store::new());
    let (here, there) = (tree(&store), tree(&empty));
    let mut comparison = Comparison::new(&here, 4, 1, 1);
    let request = comparison.next_request(&here, &store).unwrap().unwrap();
    let reply = there.answer(&request, &empty).unwrap();
    comparison.handle(&here, &reply, &mut Vec::new()).unwrap();
    let request = comparison.next_request(&here, &store).unwrap().unwrap();
    assert!(matches!(&request.ask, Ask::Entries(ask) if ask.leaves.list == [(1, 5), (2, 5), (5, 5)]));
    (comparison, here)
}

fn nothing() -> TellEntries {
    TellEntries { through: None, absent: vec![], changed: vec![], suffix_bytes: 16, extra: vec![] }
}

fn extra(leaf: u32, suffix: u128) -> Extra {
    Extra { leaf, suffix, digest: 9 }
}

/// The reply comes through the decoder, and is refused, or understood as differences at these positions.
fn check(tell: TellEntries, expected: Result<&[u128], Refused>) {
    let (mut comparison, tree) = comparison();
    let reply = Reply { id: ID + 1, tell: Tell::Entries(tell) };
    assert_eq!(Reply::from_bytes(&reply.to_bytes()), Ok(reply.clone()));
    let mut found = Vec::new();
    let outcome = comparison.handle(&tree, &reply, &mut found);
    assert_eq!(outcome, expected.map(|_| ()), "{reply:?}");
    assert_eq!(comparison.under_way(), usize::from(expected.is_err()));
    found.sort_unstable();
    let positions: Vec<u128> = found.iter().map(|found: &Difference| found.position).collect();
    assert_eq!(positions, expected.unwrap_or_default(), "{reply:?}");
}

#[test]
fn replies_with_entries() {
    let tell = nothing;
    check(tell(), Ok(&[]));
    check(
        TellEntries { absent: vec![14], changed: vec![(1, 9)], extra: vec![extra(1, 15)], ..tell() },
        Ok(&[LEAF + 20, 2 * LEAF + 15, 5 * LEAF + 50]),
    );
    // Places that the request does not have, or one for two things.
    check(TellEntries { absent: vec![15], ..tell() }, Err(Refused::Place));
    check(TellEntries { changed: vec![(15, 9)], ..tell() }, Err(Refused::Place));
    check(TellEntries { extra: vec![extra(3, 15)], ..tell() }, Err(Refused::Place));
    check(TellEntries { absent: vec![1], changed: vec![(1, 9)], ..tell() }, Err(Refused::Place));
    // Entry 1 of the first leaf has digest 2.
    check(TellEntries { changed: vec![(1, 2)], ..tell() }, Err(Refused::Same));
    // Where the request had one, in another leaf, out of order, twice, in another form.
    check(TellEntries { extra: vec![extra(0, 20)], ..tell() }, Err(Refused::Position));
    check(TellEntries { extra: vec![extra(0, LEAF + 15)], ..tell() }, Err(Refused::Position));
    check(TellEntries { extra: vec![extra(0, 15), extra(0, 14)], ..tell() }, Err(Refused::Position));
    check(TellEntries { extra: vec![extra(0, 15), extra(0, 15)], ..tell() }, Err(Refused::Position));
    check(TellEntries { suffix_bytes: 15, ..tell() }, Err(Refused::Position));
}

#[test]
fn replies_that_break_off() {
    let extras = |count: usize| (0..count as u128).map(|i| extra(0, 100 + i)).collect::<Vec<_>>();
    let through = |suffix| Some(LEAF + suffix);
    let full = TellEntries { extra: extras(FOUND_MAX), ..nothing() };
    let positions: Vec<u128> = (0..FOUND_MAX as u128).map(|i| LEAF + 100 + i).collect();
    // The absent one is further on, where it was not looked for.
    check(TellEntries { through: through(5_000), absent: vec![5], ..full.clone() }, Ok(&positions));
    let short = TellEntries { through: through(5_000), extra: extras(FOUND_MAX - 1), ..nothing() };
    check(short, Err(Refused::BreaksOff));
    // Before the first position, at the last, and before what it has brought.
    check(TellEntries { through: Some(LEAF - 1), ..full.clone() }, Err(Refused::BreaksOff));
    check(TellEntries { through: Some(6 * LEAF - 1), ..full.clone() }, Err(Refused::BreaksOff));
    check(TellEntries { through: through(500), ..full.clone() }, Err(Refused::Position));
    let changed = TellEntries { extra: extras(FOUND_MAX - 1), changed: vec![(7, 9)], ..nothing() };
    check(TellEntries { through: through(5_000), ..changed }, Err(Refused::Position));
}

#[test]
fn replies_about_nodes() {
    let store = store();
    let here = tree(&store);
    let check = |tell: Tell, expected| {
        let mut comparison = Comparison::new(&here, 3, 1, 1);
        // Two levels of three, with four sums.
        let request = comparison.next_request(&here, &store).unwrap().unwrap();
        assert!(matches!(&request.ask, Ask::Nodes(ask) if (ask.step, ask.deepest) == (2, 3)));
        let reply = Reply { id: ID, tell };
        assert_eq!(Reply::from_bytes(&reply.to_bytes()), Ok(reply.clone()));
        assert_eq!(comparison.handle(&here, &reply, &mut Vec::new()), expected, "{reply:?}");
        assert_eq!(comparison.under_way(), usize::from(expected.is_err()));
    };
    let nodes = |step: u8, differing: Vec<u32>| {
        let sums = if step == 0 { vec![] } else { vec![0; differing.len() << step] };
        Tell::Nodes(TellNodes { step, differing, sums })
    };
    check(nodes(1, vec![0, 3]), Ok(()));
    check(nodes(0, vec![3]), Ok(()));
    check(nodes(2, vec![0]), Err(Refused::TooDeep));
    check(nodes(0, vec![4]), Err(Refused::Place));
    check(Tell::Shallow(1), Ok(()));
    check(Tell::Shallow(2), Err(Refused::TooDeep));
    check(Tell::Entries(nothing()), Err(Refused::Kind));
}

/// A request comes back from its bytes, or something of it is impossible.
fn decode(ask: Ask) -> Result<Request, DecodeError> {
    let request = Request { id: ID, span: Span::ALL, salt: 1, ask };
    let read = Request::from_bytes(&request.to_bytes())?;
    assert_eq!(read, request);
    Ok(read)
}

fn impossible(ask: Ask, field: &'static str) {
    assert_eq!(decode(ask), Err(DecodeError::Impossible { field }));
}

#[test]
fn requests_about_nodes() {
    let ask = |depth, step, deepest, parents: Vec<u32>| {
        let sums = vec![7; parents.len() << step];
        Ask::Nodes(AskNodes { depth, step, deepest, allowance: u32::MAX, parents, sums })
    };
    assert!(decode(ask(4, 2, 6, vec![0, 15])).is_ok());
    impossible(ask(4, 2, 6, vec![16]), "parents");
    impossible(ask(4, 2, 5, vec![]), "deepest");
    impossible(ask(27, 0, 27, vec![]), "depth");
    impossible(ask(20, 7, 27, vec![]), "step");
    impossible(ask(0, 13, 26, vec![]), "step");
    impossible(ask(20, 0, 27, vec![]), "deepest");
    impossible(ask(13, 2, 26, (0..1025).collect()), "parents");
}

#[test]
fn requests_with_entries() {
    let ask = |depth, first, last, list: Vec<(u32, u32)>| {
        let fingerprints = list.iter().map(|(_, count)| *count as usize).sum();
        let fingerprints = vec![Fingerprint { position: 1, entry: 2 }; fingerprints];
        Ask::Entries(AskEntries { leaves: Leaves { depth, first, last, list }, fingerprints })
    };
    assert!(decode(ask(4, Some(LEAF), Some(3 * LEAF - 1), vec![(1, 1000), (2, 24)])).is_ok());
    assert!(decode(ask(4, Some(LEAF + 9), Some(LEAF + 9), vec![(1, 0)])).is_ok());
    impossible(ask(4, None, None, vec![(1, 1000), (2, 25)]), "fingerprints");
    impossible(ask(4, None, None, vec![(16, 0)]), "leaf");
    impossible(ask(4, None, None, vec![]), "leaves");
    impossible(ask(8, None, None, (0..129).map(|leaf| (leaf, 0)).collect()), "leaves");
    impossible(ask(27, None, None, vec![(0, 0)]), "depth");
    impossible(ask(4, Some(2 * LEAF), None, vec![(1, 0), (2, 0)]), "clip");
    impossible(ask(4, Some(LEAF - 1), None, vec![(1, 0), (2, 0)]), "clip");
    impossible(ask(4, None, Some(2 * LEAF - 1), vec![(1, 0), (2, 0)]), "clip");
    impossible(ask(4, None, Some(3 * LEAF), vec![(1, 0), (2, 0)]), "clip");
    impossible(ask(4, Some(LEAF + 9), Some(LEAF + 8), vec![(1, 0)]), "clip");
}

/// Nobody lists entries in another order than that of their positions, or one twice; it is answered all the same.
#[test]
fn fingerprints_in_disorder_are_answered() {
    let mut store = store();
    let entries = store.iter().map(|(&position, &digest)| Entry { position, digest });
    let mut fingerprints: Vec<Fingerprint> = entries.take(5).map(|entry| Fingerprint::of(entry, 1)).collect();
    fingerprints.reverse();
    fingerprints[4] = fingerprints[3];
    for digest in store.values_mut() {
        *digest = 99;
    }
    let leaves = Leaves { depth: 4, first: None, last: None, list: vec![(1, 5)] };
    let request = decode(Ask::Entries(AskEntries { leaves, fingerprints })).unwrap();
    let reply = tree(&store).answer(&request, &store).unwrap();
    let Tell::Entries(tell) = &reply.tell else { panic!("entries") };
    assert_eq!(tell.changed, [(0, 99), (1, 99), (2, 99), (3, 99)]);
    assert_eq!((&tell.absent, tell.extra.len()), (&vec![4], 1));
    assert_eq!(Reply::from_bytes(&reply.to_bytes()), Ok(reply));
}
