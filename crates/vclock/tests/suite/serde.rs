//! The `serde` feature: what is written comes back, and whatever comes in is normalized.

use std::fmt::Debug;

use dynkv_vclock::{CausalContext, ClockEntry, Dot, HybridTime, Siblings, VectorClock};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::{context_of, dots};

fn cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(ciborium::from_reader::<T, _>(cbor(value).as_slice()).unwrap(), *value);
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value);
}

/// Reads arbitrary bytes; what passes for a value must be in normal form, so that it survives
/// being taken apart and put together.
fn check_hostile(bytes: &[u8]) {
    let _ = ciborium::from_reader::<Dot<u64>, _>(bytes);
    let _ = ciborium::from_reader::<HybridTime, _>(bytes);
    let _ = ciborium::from_reader::<VectorClock<u64>, _>(bytes);
    if let Ok(state) = ciborium::from_reader::<Siblings<u64, u8>, _>(bytes) {
        let (context, entries) = state.clone().into_parts();
        assert_eq!(Siblings::from_parts(context, entries), state);
    }
    if let Ok(context) = ciborium::from_reader::<CausalContext<u64>, _>(bytes) {
        let vector: Vec<_> = context.vector().map(|(&actor, n)| (actor, n)).collect();
        let isolated: Vec<_> = context.isolated().map(|d| Dot::new(*d.actor, d.counter)).collect();
        assert_eq!(CausalContext::from_parts(vector, isolated), context);
    }
}

#[test]
fn the_shapes_are_short_sequences() {
    let context = CausalContext::from_parts([("a", 2)], [Dot::new("b", 4)]);
    let state = Siblings::from_parts(context, [(Dot::new("b", 4), "value")]);
    assert_eq!(
        serde_json::to_value(&state).unwrap(),
        json!([[[["a", 2]], [["b", 4]]], [[["b", 4], "value"]]])
    );
    let mut clock = VectorClock::new();
    clock.increment("a", 100);
    assert_eq!(serde_json::to_value(&clock).unwrap(), json!([["a", 1, 100]]));
    assert_eq!(serde_json::to_value(HybridTime::from_parts(1, 2)).unwrap(), json!(65_538));
}

#[test]
fn odd_input_is_normalized_or_refused() {
    let context: CausalContext<String> =
        serde_json::from_value(json!([[["b", 0], ["a", 1], ["a", 2]], [["a", 3], ["a", 1]]])).unwrap();
    assert_eq!(context.to_string(), "{a:3}");

    let state: Siblings<String, u32> =
        serde_json::from_value(json!([[[], []], [[["b", 1], 5], [["a", 1], 6], [["b", 1], 7]]])).unwrap();
    assert_eq!(state.context().to_string(), "{a:1, b:1}");
    assert!(state.values().eq(&[6, 5]));

    let clock: VectorClock<String> =
        serde_json::from_value(json!([["a", 1, 9], ["a", 3, 5], ["b", 0, 1]])).unwrap();
    assert_eq!(clock.to_string(), "{a:3}");

    let error = serde_json::from_value::<Dot<String>>(json!(["a", 0])).unwrap_err();
    assert_eq!(error.to_string(), "invalid value: integer `0`, expected a counter from 1");
    assert!(serde_json::from_value::<Siblings<String, u32>>(json!([[[], []], [[["a", 0], 5]]])).is_err());
}

#[test]
fn a_length_that_is_a_lie_is_not_believed() {
    // Arrays that claim 2^64 - 1 elements, at every depth of `[[[[...`.
    for depth in 0..5 {
        let mut bytes = vec![0x82; depth];
        bytes.extend([0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(ciborium::from_reader::<Siblings<u64, u8>, _>(bytes.as_slice()).is_err());
        check_hostile(&bytes);
    }
}

proptest! {
    #[test]
    fn all_come_back(
        seen in dots(),
        live in dots(),
        entries in vec((any::<u8>(), 1..u64::MAX, any::<u64>()), 0..5),
        time in any::<u64>(),
    ) {
        check(&context_of(&seen));
        check(&Siblings::from_parts(context_of(&seen), live.iter().map(|dot| (*dot, dot.counter))));
        live.iter().for_each(check);
        check(&HybridTime::from_u64(time));
        let clock: VectorClock<u8> = entries
            .into_iter()
            .map(|(actor, counter, time_ms)| ClockEntry { actor, counter, time_ms })
            .collect();
        check(&clock);
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..64)) {
        check_hostile(&bytes);
    }

    /// Closer to the real thing: a good encoding with some bytes changed and the end cut off.
    #[test]
    fn no_damage_does_harm(
        seen in dots(),
        live in dots(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let state = Siblings::from_parts(context_of(&seen), live.iter().map(|dot| (*dot, 7)));
        let mut bytes = cbor(&state);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        check_hostile(&bytes);
        check_hostile(&bytes[..end.index(bytes.len())]);
        check_hostile(&cbor(state.context()));
    }
}
