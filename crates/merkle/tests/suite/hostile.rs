//! Messages that no honest side sends.

use dynkv_merkle::{Comparison, Entries, Entry, Refused, Reply, Request, Span};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{Side, keys};

const SPAN: Span = Span::ALL;
/// Differences that one reply may tell of.
const TOLD_MAX: usize = 2048;

fn sides() -> (Side, Side) {
    let (mut here, there) = (Side::new(SPAN, 7, keys(SPAN, 2_000)), Side::new(SPAN, 8, keys(SPAN, 2_200)));
    here.put(7, Some(7));
    (here, there)
}

/// All messages of an honest comparison.
fn honest() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (here, there) = sides();
    let mut comparison = Comparison::new(&here.tree, 8, 1, 1);
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    while let Some(request) = comparison.next_request(&here.tree, &here.store).unwrap() {
        let reply = there.tree.answer(&request, &there.store).unwrap();
        comparison.handle(&here.tree, &reply, &mut Vec::new()).unwrap();
        requests.push(request.to_bytes());
        replies.push(reply.to_bytes());
    }
    (requests, replies)
}

type Flips = Vec<(prop::sample::Index, u8)>;

/// Mostly near the beginning, where the structure is.
fn flips() -> impl Strategy<Value = Flips> {
    vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

fn flip(bytes: &mut [u8], flips: &Flips, near: bool) {
    for (at, byte) in flips {
        let len = if near { bytes.len().min(24) } else { bytes.len() };
        if len > 0 {
            bytes[at.index(len)] = *byte;
        }
    }
}

/// A store that counts what is asked of it.
struct Counting<'a>(&'a Side, std::cell::Cell<usize>);

impl Entries for Counting<'_> {
    type Error = std::convert::Infallible;

    fn entries(&self, first: u128, last: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Self::Error> {
        let before = page.len();
        self.0.store.entries(first, last, max, page)?;
        self.1.set(self.1.get() + page.len() - before);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn requests_cost_a_bounded_answer(
        noise in vec(any::<u8>(), 0..80),
        which in any::<prop::sample::Index>(),
        flips in flips(),
        near in any::<bool>(),
    ) {
        let (_, there) = sides();
        let (requests, _) = honest();
        let mut bytes = requests[which.index(requests.len())].clone();
        flip(&mut bytes, &flips, near);
        let head = [vec![1, 1 + noise.first().map_or(0, |byte| byte & 1)], noise].concat();
        for bytes in [bytes, head] {
            let Ok(request) = Request::from_bytes(&bytes) else { continue };
            prop_assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request.clone()));
            let store = Counting(&there, 0.into());
            let Ok(reply) = there.tree.answer(&request, &store) else {
                prop_assert_ne!(request.span(), SPAN);
                continue;
            };
            prop_assert!(store.1.get() <= 2049);
            let bytes = reply.to_bytes();
            prop_assert!(bytes.len() <= Reply::BYTES_MAX);
            prop_assert_eq!(Reply::from_bytes(&bytes), Ok(reply));
        }
    }

    /// A comparison with a side whose replies are damaged, or of another kind, or noise.
    #[test]
    fn replies_are_understood_or_refused(lies in vec((any::<prop::sample::Index>(), flips(), any::<bool>(), 0..4u8), 1..30)) {
        let (here, there) = sides();
        let (_, replies) = honest();
        let mut comparison = Comparison::new(&here.tree, 8, 1, 1);
        for (which, flips, near, kind) in lies {
            let Some(request) = comparison.next_request(&here.tree, &here.store).unwrap() else { break };
            let answer = there.tree.answer(&request, &there.store).unwrap();
            let mut bytes = match kind {
                0 | 1 => answer.to_bytes(),
                _ => replies[which.index(replies.len())].clone(),
            };
            // Under the right number, so that the rest is read.
            if let Some(id) = bytes.get_mut(2) {
                *id = request.to_bytes()[2];
            }
            flip(&mut bytes[3..], &flips, near);
            let mut told = Vec::new();
            if let Ok(reply) = Reply::from_bytes(&bytes) {
                prop_assert_eq!(Reply::from_bytes(&reply.to_bytes()), Ok(reply.clone()));
                let under_way = comparison.under_way();
                let outcome = comparison.handle(&here.tree, &reply, &mut told);
                prop_assert!(told.len() <= TOLD_MAX);
                prop_assert!(told.iter().all(|told| told.here != told.there));
                prop_assert_eq!(comparison.under_way(), under_way - usize::from(outcome.is_ok()));
                prop_assert!(outcome.is_ok() || told.is_empty());
                if outcome.is_ok() {
                    continue;
                }
            }
            // The honest answer is still taken.
            prop_assert_eq!(comparison.handle(&here.tree, &answer, &mut told), Ok(()));
        }
    }
}

/// The other side says that everything differs, always, or that its tree is less deep each time; and then that nothing does.
#[test]
fn a_liar_is_heard_out_and_no_longer() {
    const NODES: u8 = 1;
    let here = Side::new(SPAN, 10, keys(SPAN, 20_000));
    for everything in [true, false] {
        let mut comparison = Comparison::new(&here.tree, 10, 1, 1);
        let (mut requests, mut told, mut shallow) = (0, Vec::new(), 11);
        while let Some(request) = comparison.next_request(&here.tree, &here.store).unwrap() {
            requests += 1;
            assert!(requests < 2_000);
            // Version, kind, the number in one or two bytes, two of the span, eight of salt, depth.
            let bytes = request.to_bytes();
            let id = if bytes[2] < 128 { &bytes[2..3] } else { &bytes[2..4] };
            let (kind, depth, step) = (bytes[1], bytes[12 + id.len()], bytes[13 + id.len()]);
            let content = if kind != NODES {
                // Nothing broken off, absent, or changed; bytes of a suffix; nothing extra.
                vec![3, 0, 0, 0, (128 - depth).div_ceil(8), 0]
            } else if everything {
                // 32 sums, of which every request has as many at least, are others.
                [vec![1, 0, 32], vec![0; 32]].concat()
            } else {
                assert!(depth + step < shallow, "asked no deeper than said");
                shallow = depth + step;
                vec![2, shallow - 1]
            };
            let reply = [&[1, content[0]], id, &content[1..]].concat();
            comparison.handle(&here.tree, &Reply::from_bytes(&reply).unwrap(), &mut told).unwrap();
        }
        assert!(comparison.is_done());
        assert!(told.is_empty());
    }
}

#[test]
fn replies_to_nothing_are_refused() {
    let (here, there) = sides();
    let mut comparison = Comparison::new(&here.tree, 8, 1, 1);
    let request = comparison.next_request(&here.tree, &here.store).unwrap().unwrap();
    let reply = there.tree.answer(&request, &there.store).unwrap();
    let mut told = Vec::new();
    comparison.handle(&here.tree, &reply, &mut told).unwrap();
    assert_eq!(comparison.handle(&here.tree, &reply, &mut told), Err(Refused::Unasked { id: 0 }));
}

#[test]
fn a_request_for_another_span_is_refused() {
    let (here, _) = sides();
    let other = Side::new(Span::new(1, 0).unwrap(), 3, Default::default());
    let mut comparison = Comparison::new(&here.tree, 8, 1, 1);
    let request = comparison.next_request(&here.tree, &here.store).unwrap().unwrap();
    assert!(other.tree.answer(&request, &other.store).is_err());
}
