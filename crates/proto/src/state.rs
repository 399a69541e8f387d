//! The state of one key, as replicas keep it and send it to each other.
//!
//! ```text
//!  0        4                    4+H
//!  +--------+--------------------+---------+---------+
//!  | H: u32 | header, CBOR       | value 0 | value 1 | ...
//!  +--------+--------------------+---------+---------+
//!  header = [ context, [ [actor, counter, time, put id, flags, content type, meta, length, hash], ... ] ]
//! ```
//!
//! The header is canonical: equal states have equal bytes, so its digest tells whether two replicas agree. The
//! hash of each value is in the header; the digest need not read values.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dynkv_vclock::{CausalContext, Dot, HybridTime, PutError, Siblings, Written};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::{
    Actor, Conflict, DecodeError, Digest, PutId,
    array::array,
    frame::{HEADER_BYTES_MAX, from_cbor, to_cbor},
};

/// One version of a key: a value or a tombstone, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was written; orders versions in `lww` buckets, and only there.
    pub time: HybridTime,
    /// The put that made it.
    pub put_id: PutId,
    /// Whether it is a delete.
    pub tombstone: bool,
    /// MIME type as the writer gave it, or empty.
    pub content_type: String,
    /// Small metadata of the writer's.
    pub meta: BTreeMap<String, String>,
    /// The value; empty for a tombstone.
    pub value: Bytes,
    /// xxh3-64 of the value, computed by the client that wrote it.
    pub hash: u64,
}

impl Version {
    /// Whether the value is still what its writer hashed.
    pub fn is_intact(&self) -> bool {
        value_hash(&self.value) == self.hash
    }
}

/// The hash that travels with every value: xxh3-64.
pub fn value_hash(value: &[u8]) -> u64 {
    xxh3_64(value)
}

array! {
    /// What a header says of one version; the value itself is behind the header.
    pub VersionHeader {
        /// Who minted the version.
        actor: Actor,
        /// The dot's counter.
        counter: u64,
        /// When it was written.
        time: HybridTime,
        /// The put that made it.
        put_id: PutId,
        /// Bit 0: tombstone. Others are zero.
        flags: u8,
        /// MIME type, or empty.
        content_type: String,
        /// The writer's metadata.
        meta: BTreeMap<String, String>,
        /// Length of the value, in bytes.
        len: u64,
        /// xxh3-64 of the value.
        hash: u64,
    }
}

const TOMBSTONE: u8 = 1;

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Whether the state is another one now.
    pub changed: bool,
    /// Versions that an `lww` bucket discarded for a later one.
    pub discarded: usize,
}

impl VersionHeader {
    /// The header of `version` under `dot`.
    pub fn new(dot: &Dot<Actor>, version: &Version) -> VersionHeader {
        VersionHeader {
            actor: dot.actor,
            counter: dot.counter,
            time: version.time,
            put_id: version.put_id,
            flags: if version.tombstone { TOMBSTONE } else { 0 },
            content_type: version.content_type.clone(),
            meta: version.meta.clone(),
            len: version.value.len() as u64,
            hash: version.hash,
        }
    }

    /// The version, with its value cut off the front of `body`.
    ///
    /// # Errors
    /// [`DecodeError::Body`] when `body` is shorter than the header says.
    pub fn into_version(self, body: &mut Bytes) -> Result<(Dot<Actor>, Version), DecodeError> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        if len > body.len() {
            return Err(DecodeError::Body {
                reason: format!("a value of {len} bytes, {} are left", body.len()),
            });
        }
        let version = Version {
            time: self.time,
            put_id: self.put_id,
            tombstone: self.flags & TOMBSTONE != 0,
            content_type: self.content_type,
            meta: self.meta,
            value: body.split_to(len),
            hash: self.hash,
        };
        Ok((Dot { actor: self.actor, counter: self.counter }, version))
    }
}

array! {
    /// The header of a [`State`].
    StateHeader {
        context: CausalContext<Actor>,
        versions: Vec<VersionHeader>,
    }
}

/// A key's siblings and the causal context they stand in.
///
/// ```
/// use dynkv_proto::{Actor, Conflict, PutId, State, Version, value_hash};
/// use dynkv_vclock::{CausalContext, HybridTime};
///
/// let version = |text: &'static str, n| Version {
///     time: HybridTime::from_u64(n), put_id: PutId(n.into()), tombstone: false, content_type: String::new(),
///     meta: Default::default(), value: text.into(), hash: value_hash(text.as_bytes()),
/// };
/// let mut state = State::default();
/// let blind = CausalContext::new();
/// let (first, _) = state.put(Actor(1, 0), &blind, version("milk", 1), Conflict::Siblings)?;
/// state.put(Actor(1, 0), &blind, version("eggs", 2), Conflict::Siblings)?;
/// assert_eq!(state.siblings().len(), 2); // neither writer had read the other
/// state.put(Actor(1, 0), &first.context, version("oats", 3), Conflict::Siblings)?;
/// assert_eq!(state.siblings().len(), 2); // the third had read the first
///
/// let again = State::decode(state.encode())?;
/// assert_eq!(again, state);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    siblings: Siblings<Actor, Version>,
}

impl State {
    /// The siblings, tombstones among them.
    pub fn siblings(&self) -> &Siblings<Actor, Version> {
        &self.siblings
    }

    /// The causal context: every dot this state has seen.
    pub fn context(&self) -> &CausalContext<Actor> {
        self.siblings.context()
    }

    /// The versions a reader sees: no tombstones, and one per put id (a put that was minted twice is one value).
    pub fn visible(&self) -> impl Iterator<Item = (&Dot<Actor>, &Version)> {
        self.siblings.iter().enumerate().filter_map(move |(i, (dot, version))| {
            let twin = |(_, earlier): (_, &Version)| earlier.put_id == version.put_id;
            (!version.tombstone && !self.siblings.iter().take(i).any(twin)).then_some((dot, version))
        })
    }

    /// Whether nothing was ever written, or all of it is deleted.
    pub fn is_absent(&self) -> bool {
        self.visible().next().is_none()
    }

    /// The greatest time among the versions.
    pub fn latest_time(&self) -> HybridTime {
        self.siblings.values().map(|version| version.time).max().unwrap_or_default()
    }

    /// The dot of the version that the put `id` made, if it is here.
    pub fn find_put(&self, id: PutId) -> Option<&Dot<Actor>> {
        self.siblings.iter().find(|(_, version)| version.put_id == id).map(|(dot, _)| dot)
    }

    /// Replaces what `context` contains by `version` under a new dot of `actor`. Returns what was written and how many
    /// versions that the context did not contain an `lww` bucket discarded.
    ///
    /// # Errors
    /// [`PutError`] when the actor's counter is used up; nothing is changed then.
    pub fn put(
        &mut self,
        actor: Actor,
        context: &CausalContext<Actor>,
        version: Version,
        conflict: Conflict,
    ) -> Result<(Written<Actor>, usize), PutError> {
        let written = self.siblings.put(actor, context, version)?;
        Ok((written, self.settle_conflict(conflict)))
    }

    /// Unites with another replica's state.
    pub fn merge(&mut self, other: State, conflict: Conflict) -> Merge {
        let changed = self.siblings.sync(other.siblings);
        Merge { changed, discarded: self.settle_conflict(conflict) }
    }

    /// In `lww` buckets only the greatest (time, dot) stays. Its context keeps the others' dots, so that they go
    /// everywhere; tombstones compete alike.
    fn settle_conflict(&mut self, conflict: Conflict) -> usize {
        if conflict == Conflict::Siblings || self.siblings.len() < 2 {
            return 0;
        }
        let before = self.siblings.len();
        let winner =
            self.siblings.iter().map(|(dot, version)| (version.time, *dot)).max().map(|(_, dot)| dot);
        self.siblings.retain(|dot, _| Some(*dot) == winner);
        before - self.siblings.len()
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Bytes {
        let header = to_cbor(&StateHeader {
            context: self.siblings.context().clone(),
            versions: self.siblings.iter().map(|(dot, version)| VersionHeader::new(dot, version)).collect(),
        });
        let values: usize = self.siblings.values().map(|version| version.value.len()).sum();
        let mut out = BytesMut::with_capacity(4 + header.len() + values);
        // Contexts are bounded (see the limits of a node) far below 4 GiB.
        out.put_u32(header.len() as u32);
        out.put_slice(&header);
        for version in self.siblings.values() {
            out.put_slice(&version.value);
        }
        out.freeze()
    }

    /// Reads what [`State::encode`] wrote. Values stay slices of `bytes`: nothing of them is copied.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(bytes: Bytes) -> Result<State, DecodeError> {
        let (header, mut body) = split(bytes)?;
        let header: StateHeader = from_cbor(&header)?;
        let mut versions = Vec::with_capacity(header.versions.len());
        for version in header.versions {
            versions.push(version.into_version(&mut body)?);
        }
        if !body.is_empty() {
            return Err(DecodeError::Body { reason: format!("{} bytes behind the last value", body.len()) });
        }
        Ok(State { siblings: Siblings::from_parts(header.context, versions) })
    }

    /// The digest of an encoded state: xxh3-128 of its header, which contains the hash of every value.
    ///
    /// # Errors
    /// [`DecodeError`] when `encoded` is too short to hold its header.
    pub fn digest(encoded: &Bytes) -> Result<Digest, DecodeError> {
        Ok(Digest(xxh3_128(&encoded[4..header_end(encoded)?])))
    }

    /// Whether every value is what its writer hashed.
    pub fn is_intact(&self) -> bool {
        self.siblings.values().all(Version::is_intact)
    }
}

impl From<State> for Siblings<Actor, Version> {
    fn from(state: State) -> Siblings<Actor, Version> {
        state.siblings
    }
}

impl From<Siblings<Actor, Version>> for State {
    fn from(siblings: Siblings<Actor, Version>) -> State {
        State { siblings }
    }
}

fn split(mut bytes: Bytes) -> Result<(Bytes, Bytes), DecodeError> {
    let mut header = bytes.split_to(header_end(&bytes)?);
    header.advance(4);
    Ok((header, bytes))
}

/// Where the header of an encoded state ends; it begins behind its length.
fn header_end(bytes: &[u8]) -> Result<usize, DecodeError> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Err(DecodeError::HeaderLength { header: 4, available: bytes.len() });
    };
    let (header, available) = (u32::from_be_bytes(*length) as usize, bytes.len() - 4);
    if header > available || header > HEADER_BYTES_MAX {
        return Err(DecodeError::HeaderLength { header, available });
    }
    Ok(4 + header)
}
