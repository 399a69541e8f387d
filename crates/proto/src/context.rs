//! Context tokens: what a `get` hands out and a `put` gives back.

use dynkv_ring::{NodeId, Position};
use dynkv_vclock::{CausalContext, HybridTime};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Actor,
    array::array,
    frame::{from_cbor, to_cbor},
};

/// The longest token accepted, in bytes: ten thousand actors, far more than a healthy key ever has.
pub const CONTEXT_BYTES_MAX: usize = 512 * 1024;

const VERSION: u8 = 1;

array! {
    /// The causal past a client has read of one key.
    ///
    /// Clients carry it as opaque bytes: a version byte, CBOR, and eight bytes of xxh3-64 over both. The checksum catches
    /// truncation and flipped bits; the key's position inside catches a token given back with another key.
    pub ContextToken {
        /// High half of the key's position: binds the token to its key.
        key: u64,
        /// The dots read.
        context: CausalContext<Actor>,
        /// The greatest time among the versions read: a later write in an `lww` bucket must exceed it.
        time: HybridTime,
        /// The home that answered the read fastest, where the next put had best go.
        fastest: Option<NodeId>,
    }
}

/// Why a context token is refused. The put it came with certainly did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContextError {
    /// Not a token at all, cut short, or changed on the way.
    #[error(
        "the context is damaged (truncated or altered): get the key again and use the context of that answer"
    )]
    Damaged,
    /// Longer than any token.
    #[error(
        "the context has {bytes} bytes, the limit is {CONTEXT_BYTES_MAX}: get the key again and use the context of that answer"
    )]
    TooLong {
        /// Its length, in bytes.
        bytes: usize,
    },
    /// A good token of another key.
    #[error("the context belongs to another key: use the one that get returned for this key")]
    OtherKey,
    /// Written by a newer version.
    #[error(
        "the context is of format {version}, this node knows {VERSION}: upgrade the node, or get the key again from it"
    )]
    Version {
        /// The version byte.
        version: u8,
    },
}

impl ContextToken {
    /// A token for the key at `position`.
    pub fn new(
        position: Position,
        context: CausalContext<Actor>,
        time: HybridTime,
        fastest: Option<NodeId>,
    ) -> ContextToken {
        ContextToken { key: bind(position), context, time, fastest }
    }

    /// The token of someone who has read nothing.
    pub fn blind(position: Position) -> ContextToken {
        ContextToken::new(position, CausalContext::new(), HybridTime::default(), None)
    }

    /// The opaque bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&to_cbor(self));
        out.extend_from_slice(&xxh3_64(&out).to_be_bytes());
        out
    }

    /// Reads opaque bytes without asking which key they are for (clients look for the fastest replica).
    ///
    /// # Errors
    /// [`ContextError`], except [`ContextError::OtherKey`].
    pub fn decode(bytes: &[u8]) -> Result<ContextToken, ContextError> {
        if bytes.len() > CONTEXT_BYTES_MAX {
            return Err(ContextError::TooLong { bytes: bytes.len() });
        }
        let (covered, checksum) = bytes.split_last_chunk::<8>().ok_or(ContextError::Damaged)?;
        if xxh3_64(covered) != u64::from_be_bytes(*checksum) {
            return Err(ContextError::Damaged);
        }
        match covered.split_first() {
            Some((&VERSION, cbor)) => from_cbor(cbor).map_err(|_| ContextError::Damaged),
            Some((&version, _)) => Err(ContextError::Version { version }),
            None => Err(ContextError::Damaged),
        }
    }

    /// Reads opaque bytes given with the key at `position`; no bytes at all are the context of a blind put.
    ///
    /// # Errors
    /// [`ContextError`].
    pub fn decode_for(bytes: &[u8], position: Position) -> Result<ContextToken, ContextError> {
        if bytes.is_empty() {
            return Ok(ContextToken::blind(position));
        }
        let token = ContextToken::decode(bytes)?;
        if token.key == bind(position) { Ok(token) } else { Err(ContextError::OtherKey) }
    }
}

fn bind(position: Position) -> u64 {
    (position.0 >> 64) as u64
}
