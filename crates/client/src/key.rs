//! What can be said of a key before anything is sent.

use dynkv_proto::{FailureCode, check_bucket_name};

use crate::Error;

/// Whether `key` of `bucket` can exist at all. Lengths are judged by the nodes: their limits may have been raised.
pub(crate) fn check_key(bucket: &str, key: &[u8]) -> Result<(), Error> {
    check_bucket(bucket)?;
    if key.is_empty() {
        return Err(Error::refused(FailureCode::Invalid, "the key is empty: name one, of at least one byte"));
    }
    Ok(())
}

pub(crate) fn check_bucket(bucket: &str) -> Result<(), Error> {
    check_bucket_name(bucket).map_err(|error| Error::refused(FailureCode::Invalid, error))
}
