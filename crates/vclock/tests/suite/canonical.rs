//! The canonical bytes: pinned, because they outlive a release, and unambiguous.

use dynkv_vclock::{Canonical, CausalContext, Dot, Siblings};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{context_of, dots};

fn bytes<T: Canonical + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.canonical_into(&mut |part| bytes.extend_from_slice(part));
    bytes
}

fn digest<V>(state: &Siblings<u8, V>) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.digest_into(&mut |part| bytes.extend_from_slice(part));
    bytes
}

#[test]
fn the_bytes_are_these() {
    assert_eq!(bytes(&0x0102u16), [1, 2]);
    assert_eq!(bytes(&-2i32), [0xff, 0xff, 0xff, 0xfe]);
    assert_eq!(bytes("ab"), [0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
    assert_eq!(bytes(&"ab".to_owned()), bytes("ab"));
    assert_eq!(bytes(&b"ab".to_vec()), bytes("ab"));
    assert_eq!(bytes(&[1u8, 2, 3]), [1, 2, 3]);
    assert_eq!(bytes(&(1u8, 2u16)), [1, 0, 2]);

    let context = CausalContext::from_parts([(3u8, 2)], [Dot::new(3, 5), Dot::new(4, 9)]);
    let state = Siblings::from_parts(context, [(Dot::new(4, 9), "value")]);
    let u64s = |value: u64| value.to_be_bytes().to_vec();
    let expected = [
        u64s(2), // actors
        [vec![3], u64s(2), u64s(1), u64s(5)].concat(),
        [vec![4], u64s(0), u64s(1), u64s(9)].concat(),
        u64s(1), // values
        [vec![4], u64s(9)].concat(),
    ];
    assert_eq!(digest(&state), expected.concat());
}

proptest! {
    #[test]
    fn contexts_have_equal_bytes_if_and_only_if_equal(a in dots(), b in dots()) {
        let (x, y) = (context_of(&a), context_of(&b));
        prop_assert_eq!(bytes(&x) == bytes(&y), a == b);
    }

    #[test]
    fn order_of_arrival_does_not_show(events in dots().prop_map(Vec::from_iter).prop_shuffle()) {
        let mut context = CausalContext::new();
        for &dot in &events {
            context.insert(dot);
        }
        prop_assert_eq!(bytes(&context), bytes(&events.into_iter().collect::<CausalContext<_>>()));
    }

    #[test]
    fn no_encoding_is_the_beginning_of_another(
        a in vec((".{0,3}", vec(any::<u8>(), 0..3)), 1..3),
        b in vec((".{0,3}", vec(any::<u8>(), 0..3)), 1..3),
    ) {
        for (x, y) in a.iter().flat_map(|x| b.iter().map(move |y| (x, y))) {
            prop_assert_eq!(bytes(x).starts_with(&bytes(y)), x == y);
        }
    }
}
