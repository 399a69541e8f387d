//! The canonical bytes of entries and histories: one value, one byte string. The layout is drawn in the
//! documentation of [`History`](crate::History).

use crate::change::Founding;
use crate::{
    Change, Entry, HistoryFull, InvalidChange, InvalidNodeId, InvalidPartitionCount, Member, NodeId,
    PartitionCount,
};

/// The format of a history; the first byte of its encoding.
pub(crate) const FORMAT: u8 = 1;

/// The longest payload of this crate's own kinds: a founding with 4,096 members fits.
const MAX_OWN_LEN: usize = 1024 * 1024;

const FOUND: u16 = 1;
const JOIN: u16 = 2;
const LEAVE: u16 = 3;
const LEFT: u16 = 4;
const REMOVE: u16 = 5;
const REPLACE: u16 = 6;
const WEIGHT: u16 = 7;
const PLACE: u16 = 8;
const DISK: u16 = 9;

/// Why bytes are not an [`Entry`] or a [`History`](crate::History).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("membership bytes end at {at}, {missing} bytes short; fetch or copy them again")]
    Truncated {
        /// Where reading stopped, in bytes from the beginning.
        at: usize,
        /// How many more bytes were needed at least.
        missing: usize,
    },
    /// Bytes follow where there should be an end.
    #[error("membership bytes go on at {at} after their end; they are not of this format")]
    Trailing {
        /// Where the end should be.
        at: usize,
    },
    /// The format is not known.
    #[error("membership history has format {found}, this version reads format 1; upgrade the reader")]
    Format {
        /// The format's number.
        found: u8,
    },
    /// A text is not UTF-8.
    #[error("a name in the membership bytes, ending at {at}, is not UTF-8; the bytes are damaged")]
    Text {
        /// Where the text ends.
        at: usize,
    },
    /// A payload is longer than its kind may be.
    #[error("a change of kind {kind} claims {len} bytes, more than {limit}; the bytes are damaged")]
    TooLong {
        /// The kind.
        kind: u16,
        /// The length it claims.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A name is not a node's id.
    #[error("a change names a node that cannot exist: {0}")]
    NodeId(#[from] InvalidNodeId),
    /// A founding has an impossible number of partitions.
    #[error("a founding is impossible: {0}")]
    PartitionCount(#[from] InvalidPartitionCount),
    /// A change is outside the limits.
    #[error("a change is outside the limits: {0}")]
    Change(#[from] InvalidChange),
    /// The entries are not in strictly ascending order.
    #[error("entry {index} of the history is out of order; the bytes were not written by this crate")]
    OutOfOrder {
        /// The index of the first such entry.
        index: usize,
    },
    /// There are too many entries.
    #[error(transparent)]
    Full(#[from] HistoryFull),
}

/// Whether the change is of a kind that only a newer version of this crate understands.
#[cfg(feature = "serde")]
pub(crate) fn is_foreign(change: &Change) -> bool {
    let Change::Other { kind, payload } = change else { return false };
    *kind < Change::FIRST_OTHER_KIND && !(FOUND..=DISK).contains(kind) && payload.len() <= MAX_OWN_LEN
}

pub(crate) fn entry_to_bytes(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    write_entry(&mut out, entry);
    out
}

pub(crate) fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend(entry.time().to_be_bytes());
    write_id(out, entry.issuer());
    write_change(out, entry.change());
}

pub(crate) fn change_to_bytes(change: &Change) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    write_change(&mut out, change);
    out
}

fn write_change(out: &mut Vec<u8>, change: &Change) {
    let begin = out.len();
    // Kind and length, filled in when the payload is there.
    out.extend([0; 6]);
    let kind = match change {
        Change::Found(founding) => {
            write_text(out, &founding.cluster);
            out.extend(founding.partitions.get().to_be_bytes());
            out.push(founding.replicas);
            let count = u32::try_from(founding.members.len()).expect("at most 4,096 members are admitted");
            out.extend(count.to_be_bytes());
            for member in &founding.members {
                write_member(out, member);
            }
            FOUND
        }
        Change::Join(member) => {
            write_member(out, member);
            JOIN
        }
        Change::Leave(node) => {
            write_id(out, *node);
            LEAVE
        }
        Change::Left(node) => {
            write_id(out, *node);
            LEFT
        }
        Change::Remove(node) => {
            write_id(out, *node);
            REMOVE
        }
        Change::Replace { old, new } => {
            write_id(out, *old);
            write_member(out, new);
            REPLACE
        }
        Change::Weight { node, weight } => {
            write_id(out, *node);
            out.extend(weight.to_be_bytes());
            WEIGHT
        }
        Change::Place { node, zone, host } => {
            write_id(out, *node);
            write_text(out, zone);
            write_text(out, host);
            PLACE
        }
        Change::Disk { node, disk } => {
            write_id(out, *node);
            out.extend(disk.to_be_bytes());
            DISK
        }
        Change::Other { kind, payload } => {
            out.extend(payload);
            *kind
        }
    };
    let len = u32::try_from(out.len() - begin - 6).expect("payloads are at most 1 MiB");
    out[begin..begin + 2].copy_from_slice(&kind.to_be_bytes());
    out[begin + 2..begin + 6].copy_from_slice(&len.to_be_bytes());
}

fn write_member(out: &mut Vec<u8>, member: &Member) {
    write_id(out, member.id);
    out.extend(member.weight.to_be_bytes());
    write_text(out, &member.zone);
    write_text(out, &member.host);
}

fn write_id(out: &mut Vec<u8>, id: NodeId) {
    write_text(out, id.as_str());
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("names are at most 64 bytes"));
    out.extend(text.as_bytes());
}

pub(crate) fn entry_from_bytes(bytes: &[u8]) -> Result<Entry, DecodeError> {
    let mut reader = Reader::new(bytes);
    let entry = reader.entry()?;
    reader.finish()?;
    Ok(entry)
}

/// A cursor over untrusted bytes: reads within bounds or says where they ended.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn entry(&mut self) -> Result<Entry, DecodeError> {
        let time = u64::from_be_bytes(self.array()?);
        let issuer = self.id()?;
        let kind = u16::from_be_bytes(self.array()?);
        let len = u32::from_be_bytes(self.array()?);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let limit = if kind < Change::FIRST_OTHER_KIND { MAX_OWN_LEN } else { Change::MAX_OTHER_LEN };
        if len > limit {
            return Err(DecodeError::TooLong { kind, len, limit });
        }
        let at = self.at;
        let mut payload = Reader { rest: self.take(len)?, at };
        let change = payload.change(kind)?;
        payload.finish()?;
        Ok(Entry::decoded(time, issuer, change))
    }

    fn change(&mut self, kind: u16) -> Result<Change, DecodeError> {
        let change = match kind {
            FOUND => self.founding()?,
            JOIN => Change::Join(self.member()?),
            LEAVE => Change::Leave(self.id()?),
            LEFT => Change::Left(self.id()?),
            REMOVE => Change::Remove(self.id()?),
            REPLACE => Change::Replace { old: self.id()?, new: self.member()? },
            WEIGHT => Change::Weight { node: self.id()?, weight: u32::from_be_bytes(self.array()?) },
            PLACE => Change::Place { node: self.id()?, zone: self.text()?, host: self.text()? },
            DISK => Change::Disk { node: self.id()?, disk: u64::from_be_bytes(self.array()?) },
            // A newer version's kind is kept as it is: its bytes must survive, so that digests agree.
            _ => return Ok(Change::Other { kind, payload: self.take(self.rest.len())?.to_vec() }),
        };
        change.validate()?;
        Ok(change)
    }

    fn founding(&mut self) -> Result<Change, DecodeError> {
        let cluster = self.text()?;
        let partitions = PartitionCount::new(u32::from_be_bytes(self.array()?))?;
        let replicas = self.u8()?;
        let count = usize::try_from(u32::from_be_bytes(self.array()?)).unwrap_or(usize::MAX);
        if count > Founding::MAX_MEMBERS {
            return Err(InvalidChange::Members { count }.into());
        }
        // Not reserved from the claimed count: the bytes must be there first.
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(self.member()?);
        }
        Ok(Change::Found(Founding { cluster, partitions, replicas, members }))
    }

    fn member(&mut self) -> Result<Member, DecodeError> {
        Ok(Member {
            id: self.id()?,
            weight: u32::from_be_bytes(self.array()?),
            zone: self.text()?,
            host: self.text()?,
        })
    }

    fn id(&mut self) -> Result<NodeId, DecodeError> {
        Ok(NodeId::try_from(self.str()?)?)
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        Ok(self.str()?.to_owned())
    }

    fn str(&mut self) -> Result<&'a str, DecodeError> {
        let len = usize::from(self.u8()?);
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Text { at: self.at })
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], DecodeError> {
        Ok(self.take(LEN)?.try_into().expect("take returns what was asked for"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            let missing = len - self.rest.len();
            return Err(DecodeError::Truncated { at: self.at + self.rest.len(), missing });
        };
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { at: self.at }) }
    }
}
