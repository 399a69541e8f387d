//! Histories: arbitrary bytes are survived, and what was read folds and encodes to the same again.
#![no_main]

use dynkv_ring::{History, Membership};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(history) = History::from_bytes(data) {
        assert_eq!(History::from_bytes(&history.to_bytes()).as_ref(), Ok(&history));
        let _ = Membership::fold(&history);
    }
});
