//! Saving and loading.

use dynkv_merkle::{LoadError, Span, Tree};
use proptest::collection::vec;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::{Side, keys, span, store};

proptest! {
    #[test]
    fn what_was_saved_is_loaded(
        (span, store) in span().prop_flat_map(|span| (Just(span), store(span, 60))),
        depth in 0..9u8,
    ) {
        let tree = Side::new(span, depth, store).tree;
        let saved = tree.to_bytes();
        prop_assert_eq!(saved.len(), 32 + (16 << depth));
        prop_assert_eq!(Tree::from_bytes(&saved), Ok(tree));
    }

    #[test]
    fn damage_is_noticed(at in any::<prop::sample::Index>(), flip in 1..=255u8, cut in any::<prop::sample::Index>()) {
        let saved = Side::new(Span::ALL, 4, keys(Span::ALL, 100)).tree.to_bytes();
        let mut damaged = saved.clone();
        damaged[at.index(saved.len())] ^= flip;
        prop_assert!(Tree::from_bytes(&damaged).is_err());
        prop_assert!(Tree::from_bytes(&saved[..cut.index(saved.len())]).is_err());
    }

    /// With a right checksum, so that the rest is read, too.
    #[test]
    fn no_bytes_make_loading_panic(head in vec(any::<u8>(), 0..20), sums in 0..40usize, flip in any::<[u8; 3]>()) {
        let _ = Tree::from_bytes(&head);
        let mut bytes = vec![1, flip[0], flip[1], flip[2]];
        bytes.extend(&head);
        bytes.resize(bytes.len() + 4 * sums, 7);
        bytes.extend(xxh3_128(&bytes).to_be_bytes());
        let _ = Tree::from_bytes(&bytes);
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let saved = Tree::with_depth(Span::ALL, 2).to_bytes();
    let change = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = saved[..saved.len() - 16].to_vec();
        change(&mut bytes);
        bytes.extend(xxh3_128(&bytes).to_be_bytes());
        Tree::from_bytes(&bytes).unwrap_err()
    };
    assert_eq!(Tree::from_bytes(&[]), Err(LoadError::Length { len: 0 }));
    assert_eq!(change(&|bytes| bytes[0] = 2), LoadError::Format { found: 2 });
    // The span's bits, its index, the depth, the byte that is zero: each impossible.
    assert_eq!(change(&|bytes| bytes[1] = 33), LoadError::Damaged);
    assert_eq!(change(&|bytes| bytes[7] = 1), LoadError::Damaged);
    assert_eq!(change(&|bytes| bytes[2] = 27), LoadError::Damaged);
    assert_eq!(change(&|bytes| bytes[3] = 1), LoadError::Damaged);
    // Too many leaves, too few, and a part of one.
    assert_eq!(change(&|bytes| bytes[2] = 1), LoadError::Length { len: 96 });
    assert_eq!(change(&|bytes| bytes[2] = 26), LoadError::Length { len: 96 });
    assert_eq!(change(&|bytes| bytes.push(0)), LoadError::Length { len: 97 });
    assert_eq!(Tree::from_bytes(&saved[..saved.len() - 1]), Err(LoadError::Damaged));
}
