//! Many spans at once.

use std::collections::BTreeMap;

use dynkv_merkle::{Roots, RootsDifference, RootsError, RootsReply, RootsRequest, Span, Tree};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

const BITS: u8 = 6;

fn span_of(index: u32) -> Span {
    Span::new(BITS, index).unwrap()
}

/// Trees by index, each with one entry at most, of any depth.
fn trees(content: &BTreeMap<u32, (u8, Option<u8>)>) -> Vec<Tree> {
    let tree = |(index, (depth, digest)): (&u32, &(u8, Option<u8>))| {
        let mut tree = Tree::with_depth(span_of(*index), *depth);
        tree.update(span_of(*index).first(), None, digest.map(u128::from)).unwrap();
        tree
    };
    content.iter().map(tree).collect()
}

fn content() -> impl Strategy<Value = BTreeMap<u32, (u8, Option<u8>)>> {
    btree_map(0..1u32 << BITS, (0..3u8, prop::option::of(0..2u8)), 0..64)
}

proptest! {
    #[test]
    fn exactly_what_differs_is_found((here, there, salt) in (content(), content(), any::<u64>())) {
        let (mine, yours) = (trees(&here), trees(&there));
        let mine = Roots::new(BITS, mine.iter().rev()).unwrap();
        let yours = Roots::new(BITS, &yours).unwrap();
        let request = RootsRequest::from_bytes(&mine.request(salt).to_bytes()).unwrap();
        let reply = RootsReply::from_bytes(&yours.answer(&request).unwrap().to_bytes()).unwrap();
        let found = mine.compare(&request, &reply).unwrap();

        let only = |one: &BTreeMap<_, _>, two: &BTreeMap<_, _>| {
            one.keys().filter(|index| !two.contains_key(*index)).copied().map(span_of).collect()
        };
        let differing = |(index, (_, digest)): (&u32, &(u8, Option<u8>))| {
            let (depth, other) = there.get(index)?;
            (digest != other).then(|| (span_of(*index), *depth))
        };
        prop_assert_eq!(found, RootsDifference {
            differing: here.iter().filter_map(differing).collect(),
            only_here: only(&here, &there),
            only_there: only(&there, &here),
        });
        prop_assert_eq!(mine.answer(&request).unwrap().to_bytes().len(), 3);
        prop_assert_eq!(mine.compare(&request, &mine.answer(&request).unwrap()).unwrap(), RootsDifference::default());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..60), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let trees: Vec<Tree> = (0..9).map(|index| Tree::new(span_of(7 * index))).collect();
        let here = Roots::new(BITS, &trees).unwrap();
        let mut request = here.request(7);
        let mut reply = Roots::new(BITS, []).unwrap().answer(&request).unwrap();
        for mut bytes in [bytes, request.to_bytes(), here.answer(&Roots::new(BITS, []).unwrap().request(7)).unwrap().to_bytes()] {
            for (at, byte) in &flips {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            if let Ok(read) = RootsRequest::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes.clone());
                request = read;
            }
            if let Ok(read) = RootsReply::from_bytes(&bytes) {
                prop_assert_eq!(RootsReply::from_bytes(&read.to_bytes()), Ok(read.clone()));
                reply = read;
            }
        }
        let _ = here.answer(&request);
        let _ = here.compare(&request, &reply);
    }
}

#[test]
fn an_idle_pair_moves_little() {
    let trees: Vec<Tree> = (0..1 << 16).map(|index| Tree::new(Span::new(16, index).unwrap())).collect();
    let mut roots = Roots::new(16, &trees).unwrap();
    let request = roots.request(1);
    assert_eq!(request.to_bytes().len(), RootsRequest::BYTES_MAX);
    assert_eq!(roots.answer(&request).unwrap().to_bytes().len(), 3);
    // And one that is not idle is within the limit at the greatest number of trees.
    roots = Roots::new(16, &trees[1..]).unwrap();
    let reply = roots.answer(&request).unwrap().to_bytes();
    assert_eq!(reply.len(), 3 + 3 + 10 * 65_535);
    assert!(reply.len() <= RootsReply::BYTES_MAX);
    assert!(RootsReply::from_bytes(&reply).is_ok());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let trees = [1, 2].map(|index| Tree::new(span_of(index)));
    let roots = Roots::new(BITS, &trees).unwrap();
    let bits = |bits, found| RootsError::Bits { bits, found };
    assert_eq!(Roots::new(7, &trees), Err(bits(7, BITS)));
    assert_eq!(Roots::new(BITS, trees.iter().chain(&trees)), Err(RootsError::Twice { span: span_of(1) }));
    let many: Vec<Tree> = (0..=1 << 16).map(|index| Tree::new(Span::new(17, index).unwrap())).collect();
    assert_eq!(Roots::new(17, &many), Err(RootsError::TooMany));

    let other = Roots::new(7, []).unwrap();
    let request = other.request(1);
    assert_eq!(roots.answer(&request), Err(bits(BITS, 7)));
    assert_eq!(roots.compare(&request, &other.answer(&request).unwrap()), Err(bits(BITS, 7)));
}
