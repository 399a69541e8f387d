//! Importing: where entries come from, and how they are written or compared, several at a time.

pub(crate) mod ndjson;
pub(crate) mod pass;
pub(crate) mod source;
pub(crate) mod tally;

/// What an import may write, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) bucket: String,
    pub(crate) key_bytes_max: u64,
    pub(crate) value_bytes_max: u64,
}

/// One thing found in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where, for messages: a path or a line.
    pub(crate) place: String,
    /// How far the source has been read with it, in bytes.
    pub(crate) read_bytes: u64,
    pub(crate) entry: Result<Entry, ItemError>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Why something found in the source is not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ItemError {
    #[error("the key is empty")]
    EmptyKey,
    #[error("the key has {bytes} bytes, the limit is {limit}")]
    Key { bytes: u64, limit: u64 },
    #[error("the value has {bytes} bytes, the limit is {limit}")]
    Value { bytes: u64, limit: u64 },
    #[error("the line is longer than any entry within the limits ({limit} bytes)")]
    Line { limit: u64 },
    #[error("cannot be read ({reason})")]
    Read { reason: String },
    #[error("is no file but a {kind}")]
    NoFile { kind: &'static str },
    #[error(
        "is no entry ({reason}): write {{\"key\": ..., \"value\": ...}} or {{\"key\": ..., \"value_base64\": ...}}"
    )]
    Syntax { reason: String },
}

impl Target {
    /// Checks an entry against the limits.
    fn check(&self, key: &[u8], value_bytes: u64) -> Result<(), ItemError> {
        let key_bytes = key.len() as u64;
        if key.is_empty() {
            return Err(ItemError::EmptyKey);
        }
        if key_bytes > self.key_bytes_max {
            return Err(ItemError::Key { bytes: key_bytes, limit: self.key_bytes_max });
        }
        if value_bytes > self.value_bytes_max {
            return Err(ItemError::Value { bytes: value_bytes, limit: self.value_bytes_max });
        }
        Ok(())
    }
}
