//! States that come from other nodes.

use bytes::Bytes;
use dynkv_proto::{Actor, DecodeError, Digest, Marks, PutId, State};
use dynkv_vclock::Dot;

/// A state from elsewhere, decoded and verified.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) bytes: Bytes,
    pub(crate) state: State,
    /// The settlement marks under which it was read from storage.
    pub(crate) marks: Marks,
}

impl Incoming {
    /// Decodes `bytes` and verifies every value.
    ///
    /// # Errors
    /// [`DecodeError`] when they are no state or a value fails its checksum.
    pub(crate) fn verify(bytes: Bytes, marks: Marks) -> Result<Incoming, DecodeError> {
        let state = State::decode(bytes.clone())?;
        if !state.is_intact() {
            return Err(DecodeError::Body { reason: "a value fails its checksum".into() });
        }
        Ok(Incoming { bytes, state, marks })
    }

    /// The digest of the state.
    pub(crate) fn digest(&self) -> Result<Digest, DecodeError> {
        State::digest(&self.bytes)
    }

    pub(crate) fn puts(&self) -> impl Iterator<Item = (PutId, Dot<Actor>)> {
        self.state.siblings().iter().map(|(dot, version)| (version.put_id, *dot))
    }
}
