//! States, context tokens and changes of buckets and features: arbitrary bytes are survived, and a state that was read is canonical.
#![no_main]

use bytes::Bytes;
use dynkv_proto::{BucketChange, Conflict, ContextToken, FeatureChange, State};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let _ = State::digest(&bytes);
    let _ = ContextToken::decode(data);
    let _ = BucketChange::from_payload(data);
    let _ = FeatureChange::from_payload(data);
    if let Ok(state) = State::decode(bytes) {
        let again = State::decode(state.encode()).expect("what was encoded");
        assert_eq!(again, state);
        let mut merged = state.clone();
        merged.merge(again, Conflict::Siblings);
        assert_eq!(merged, state);
    }
});
