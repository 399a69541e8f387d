//! The bytes of requests and replies.
//!
//! ```text
//! request  version | kind | id: varint | bits, index: varint | salt: 8 | content
//!   kind 1, nodes     depth | step | deepest | allowance: varint | parents: ascending | sums: 8 each
//!   kind 2, entries   depth | first?: 16 | last?: 16 | leaves: varint, of each the gap and the count: varints
//!                     | fingerprints: 12 each
//!
//! reply    version | kind | id: varint | content
//!   kind 1, nodes     step | differing: ascending | sums: 8 each
//!   kind 2, shallow   depth
//!   kind 3, entries   through?: 16 | absent: ascending | changed: ascending | their digests: 16 each
//!                     | bytes of a suffix | leaves with extras: varint, of each the gap and the count: varints,
//!                       and the extras: suffix and digest: 16
//! ```
//!
//! Big-endian; one byte where nothing else is said; a position with `?` has a byte before it, 0 for none.

use crate::codec::{DecodeError, Reader, Writer};
use crate::hash::Fingerprint;
use crate::message::{
    Ask, AskEntries, AskNodes, Extra, FINGERPRINTS_MAX, FOUND_MAX, LEAVES_MAX, Leaves, Reply, Request,
    SUMS_MAX, Tell, TellEntries, TellNodes,
};
use crate::{Span, Tree};

const NODES: u8 = 1;
const ASK_ENTRIES: u8 = 2;
const SHALLOW: u8 = 2;
const TELL_ENTRIES: u8 = 3;
/// No step doubles beyond what a message may have.
const STEP_MAX: u8 = SUMS_MAX.ilog2() as u8;

const fn impossible<T>(field: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::Impossible { field })
}

impl Request {
    /// The bytes that travel, at most [`Request::BYTES_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(match self.ask {
            Ask::Nodes(_) => NODES,
            Ask::Entries(_) => ASK_ENTRIES,
        });
        out.number(self.id);
        out.byte(self.span.bits());
        out.number(self.span.index());
        out.bytes(&self.salt.to_be_bytes());
        match &self.ask {
            Ask::Nodes(ask) => {
                out.bytes(&[ask.depth, ask.step, ask.deepest]);
                out.number(ask.allowance);
                out.ascending(&ask.parents);
                out.sums(&ask.sums);
            }
            Ask::Entries(ask) => {
                let leaves = &ask.leaves;
                out.byte(leaves.depth);
                out.position(leaves.first);
                out.position(leaves.last);
                out.count(leaves.list.len());
                let mut before = None;
                for (leaf, count) in &leaves.list {
                    out.after(before, *leaf);
                    out.number(*count);
                    before = Some(*leaf);
                }
                for fingerprint in &ask.fingerprints {
                    out.bytes(&fingerprint.to_bytes());
                }
            }
        }
        out.finish()
    }

    /// Reads what [`Request::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are not a request within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, kind) = Reader::new(bytes, Self::BYTES_MAX)?;
        let id = reader.number("id")?;
        let bits = reader.byte()?;
        let span =
            Span::new(bits, reader.number("span")?).ok_or(DecodeError::Impossible { field: "span" })?;
        let salt = u64::from_be_bytes(reader.array()?);
        let ask = match kind {
            NODES => Ask::Nodes(AskNodes::read(&mut reader)?),
            ASK_ENTRIES => Ask::Entries(AskEntries::read(&mut reader, span)?),
            found => return Err(DecodeError::Kind { found }),
        };
        reader.finish()?;
        Ok(Self { id, span, salt, ask })
    }
}

impl AskNodes {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let depth = reader.byte_to(Tree::DEPTH_MAX, "depth")?;
        let step = reader.byte_to(STEP_MAX.min(Tree::DEPTH_MAX - depth), "step")?;
        let deepest = reader.byte_to(Tree::DEPTH_MAX, "deepest")?;
        if deepest < depth + step {
            return impossible("deepest");
        }
        let allowance = reader.number("allowance")?;
        let parents = reader.ascending(SUMS_MAX >> step, 1 << depth, "parents")?;
        let sums = reader.sums(parents.len() << step)?;
        Ok(Self { depth, step, deepest, allowance, parents, sums })
    }
}

impl AskEntries {
    fn read(reader: &mut Reader<'_>, span: Span) -> Result<Self, DecodeError> {
        let depth = reader.byte_to(Tree::DEPTH_MAX, "depth")?;
        let first = reader.position("first")?;
        let last = reader.position("last")?;
        let count = reader.count(LEAVES_MAX, "leaves")?;
        let (mut list, mut before, mut sum) = (Vec::with_capacity(count), None, 0);
        for _ in 0..count {
            let leaf = reader.after(before, 1 << depth, "leaf")?;
            let count = reader.count(FINGERPRINTS_MAX - sum, "fingerprints")?;
            sum += count;
            list.push((leaf, count as u32));
            before = Some(leaf);
        }
        let (Some((begin, _)), Some((end, _))) = (list.first(), list.last()) else {
            return impossible("leaves");
        };
        for (clip, leaf) in [(first, *begin), (last, *end)] {
            let (begin, end) = span.node(depth, leaf);
            if clip.is_some_and(|clip| !(begin..=end).contains(&clip)) {
                return impossible("clip");
            }
        }
        if begin == end && first.zip(last).is_some_and(|(first, last)| first > last) {
            return impossible("clip");
        }
        let (fingerprints, _) = reader.take(Fingerprint::LEN * sum)?.as_chunks();
        let fingerprints = fingerprints.iter().map(Fingerprint::from_bytes).collect();
        Ok(Self { leaves: Leaves { depth, first, last, list }, fingerprints })
    }
}

impl Reply {
    /// The bytes that travel, at most [`Reply::BYTES_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(match self.tell {
            Tell::Nodes(_) => NODES,
            Tell::Shallow(_) => SHALLOW,
            Tell::Entries(_) => TELL_ENTRIES,
        });
        out.number(self.id);
        match &self.tell {
            Tell::Nodes(tell) => {
                out.byte(tell.step);
                out.ascending(&tell.differing);
                out.sums(&tell.sums);
            }
            Tell::Shallow(depth) => out.byte(*depth),
            Tell::Entries(tell) => tell.write(&mut out),
        }
        out.finish()
    }

    /// Reads what [`Reply::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are not a reply within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, kind) = Reader::new(bytes, Self::BYTES_MAX)?;
        let id = reader.number("id")?;
        let tell = match kind {
            NODES => {
                let step = reader.byte_to(STEP_MAX, "step")?;
                let differing = reader.ascending(SUMS_MAX >> step, SUMS_MAX as u64, "differing")?;
                let sums = if step == 0 { Vec::new() } else { reader.sums(differing.len() << step)? };
                Tell::Nodes(TellNodes { step, differing, sums })
            }
            SHALLOW => Tell::Shallow(reader.byte_to(Tree::DEPTH_MAX, "depth")?),
            TELL_ENTRIES => Tell::Entries(TellEntries::read(&mut reader)?),
            found => return Err(DecodeError::Kind { found }),
        };
        reader.finish()?;
        Ok(Self { id, tell })
    }
}

impl TellEntries {
    fn write(&self, out: &mut Writer) {
        out.position(self.through);
        out.ascending(&self.absent);
        out.count(self.changed.len());
        let mut before = None;
        for (at, _) in &self.changed {
            out.after(before, *at);
            before = Some(*at);
        }
        for (_, digest) in &self.changed {
            out.bytes(&digest.to_be_bytes());
        }
        out.byte(self.suffix_bytes);
        let leaves = || self.extra.chunk_by(|one, two| one.leaf == two.leaf);
        out.count(leaves().count());
        let mut before = None;
        for extras in leaves() {
            out.after(before, extras[0].leaf);
            before = Some(extras[0].leaf);
            out.count(extras.len());
            for extra in extras {
                out.bytes(&extra.suffix.to_be_bytes()[16 - usize::from(self.suffix_bytes)..]);
                out.bytes(&extra.digest.to_be_bytes());
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let through = reader.position("through")?;
        let absent = reader.ascending(FINGERPRINTS_MAX, FINGERPRINTS_MAX as u64, "absent")?;
        let at = reader.ascending(FOUND_MAX, FINGERPRINTS_MAX as u64, "changed")?;
        let mut changed = Vec::with_capacity(at.len());
        for at in at {
            changed.push((at, u128::from_be_bytes(reader.array()?)));
        }
        let suffix_bytes = reader.byte_to(16, "suffix")?;
        let (mut extra, mut before) = (Vec::new(), None);
        for _ in 0..reader.count(LEAVES_MAX, "leaves")? {
            let leaf = reader.after(before, LEAVES_MAX as u64, "leaf")?;
            before = Some(leaf);
            let count = reader.count(FOUND_MAX - changed.len() - extra.len(), "extras")?;
            if count == 0 {
                return impossible("extras");
            }
            for _ in 0..count {
                let suffix = reader.take(suffix_bytes.into())?;
                let suffix = suffix.iter().fold(0, |suffix, byte| suffix << 8 | u128::from(*byte));
                extra.push(Extra { leaf, suffix, digest: u128::from_be_bytes(reader.array()?) });
            }
        }
        Ok(Self { through, absent, changed, suffix_bytes, extra })
    }
}
