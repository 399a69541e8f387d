//! How hints are stored.
//!
//! ```text
//!  a hint     +-----+----------+------------+--------+      +----------+----------+----------+--------+
//!             | 'h' | R: u16   | record key | target |  ->  | sequence | since ms | checksum | record |
//!             +-----+----------+------------+--------+      +----------+----------+----------+--------+
//!                                                             u64        u64        u64
//!  its turn   +-----+----------+------------+----------+    +------------+----------+----------+
//!             | 'o' | T: u8    | target     | sequence | -> | bytes: u32 | since ms | hint key |
//!             +-----+----------+------------+----------+    +------------+----------+----------+
//! ```
//!
//! Numbers are big-endian. There is one hint for each key and target: later states are united into it, and it keeps its
//! turn, so that it is as old as the oldest write the target lacks. The checksum (xxh3-64) covers the two numbers before
//! it; the record has its own ([`crate::record`]).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dynkv_ring::NodeId;
use xxhash_rust::xxh3::xxh3_64;

use crate::{record::Record, storage::StorageError};

const HINT: u8 = b'h';
const TURN: u8 = b'o';
const RECORD_AT: usize = 24;

/// What every turn begins with.
pub(super) const TURNS: &[u8] = &[TURN];

/// What every hint begins with.
pub(super) const HINTS: &[u8] = &[HINT];

/// Where the hint for `target` about the key of `record_key` is stored.
pub(super) fn hint_key(record_key: &[u8], target: &NodeId) -> Bytes {
    let mut out = BytesMut::with_capacity(3 + record_key.len() + NodeId::MAX_LEN);
    out.put_u8(HINT);
    // A partition, a bucket's name and a key, each bounded where it enters: far below 64 KiB.
    out.put_u16(record_key.len() as u16);
    out.put_slice(record_key);
    out.put_slice(target.as_str().as_bytes());
    out.freeze()
}

/// The record key and the target of a hint key.
pub(super) fn parse_hint_key(hint_key: &Bytes) -> Result<(Bytes, NodeId), StorageError> {
    let record_key = record_key_of(hint_key)?;
    let target = std::str::from_utf8(&hint_key[3 + record_key.len()..]);
    match target.ok().and_then(|text| text.parse().ok()) {
        Some(target) => Ok((record_key, target)),
        None => Err(damaged("a hint is for a node of an impossible name")),
    }
}

/// The record key within a hint key.
pub(super) fn record_key_of(hint_key: &Bytes) -> Result<Bytes, StorageError> {
    let mut rest = hint_key.clone();
    if rest.len() < 3 || rest.get_u8() != HINT {
        return Err(damaged("a hint's turn names no hint"));
    }
    let len = usize::from(rest.get_u16());
    if rest.len() < len {
        return Err(damaged("a hint's turn is cut short"));
    }
    Ok(rest.split_to(len))
}

/// What the turns of `target` begin with.
pub(super) fn turn_prefix(target: &NodeId) -> BytesMut {
    let text = target.as_str().as_bytes();
    let mut out = BytesMut::with_capacity(2 + NodeId::MAX_LEN + 8);
    out.put_u8(TURN);
    out.put_u8(text.len() as u8);
    out.put_slice(text);
    out
}

/// Where the turn of a hint is stored.
pub(super) fn turn_key(target: &NodeId, sequence: u64) -> Bytes {
    let mut out = turn_prefix(target);
    out.put_u64(sequence);
    out.freeze()
}

/// The target and the sequence of a turn.
pub(super) fn parse_turn_key(key: &[u8]) -> Result<(NodeId, u64), StorageError> {
    let wrong = || damaged("a hint's turn has a key of an unknown form");
    let [TURN, len, rest @ ..] = key else { return Err(wrong()) };
    let (target, sequence) = rest.split_at_checked(usize::from(*len)).ok_or_else(wrong)?;
    let sequence = sequence.try_into().map(u64::from_be_bytes).map_err(|_| wrong())?;
    let target = std::str::from_utf8(target).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    Ok((target, sequence))
}

/// A hint's place in the order of delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Bytes of the hint's record.
    pub(super) bytes: u32,
    /// Wall clock of the holder when the hint was begun.
    pub(super) since_ms: u64,
    pub(super) hint_key: Bytes,
}

impl Turn {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(12 + self.hint_key.len());
        out.put_u32(self.bytes);
        out.put_u64(self.since_ms);
        out.put_slice(&self.hint_key);
        out.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Turn, StorageError> {
        if bytes.len() < 12 {
            return Err(damaged("a hint's turn is cut short"));
        }
        Ok(Turn { bytes: bytes.get_u32(), since_ms: bytes.get_u64(), hint_key: bytes })
    }
}

/// A stored hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// Orders the hints of one holder by age.
    pub(super) sequence: u64,
    /// Wall clock of the holder when the hint was begun.
    pub(super) since_ms: u64,
    /// The state, and under whom this node mints in this hint: a field of its own, apart from that of the node's own
    /// record of the key, should it have one.
    pub(crate) record: Record,
}

impl Hint {
    pub(super) fn encode(&self) -> Bytes {
        let record = self.record.encode();
        let mut out = BytesMut::with_capacity(RECORD_AT + record.len());
        out.put_u64(self.sequence);
        out.put_u64(self.since_ms);
        let sum = xxh3_64(&out);
        out.put_u64(sum);
        out.put_slice(&record);
        out.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Hint, StorageError> {
        if bytes.len() < RECORD_AT {
            return Err(damaged("a hint is cut short"));
        }
        let record = Record::decode(bytes.split_off(RECORD_AT))?;
        let sum = xxh3_64(&bytes[..16]);
        let (sequence, since_ms) = (bytes.get_u64(), bytes.get_u64());
        if bytes.get_u64() != sum {
            return Err(damaged("a hint fails its checksum"));
        }
        Ok(Hint { sequence, since_ms, record })
    }
}

fn damaged(reason: &str) -> StorageError {
    StorageError::Damaged { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use dynkv_proto::{Actor, State};
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().expect("a good id")
    }

    #[test]
    fn a_hint_and_its_turn_survive_the_round_trip() {
        let record = Record { local_actor: Some(Actor(3, 4)), state: State::default().encode() };
        let hint = Hint { sequence: 7, since_ms: 1 << 41, record };
        assert_eq!(Hint::decode(hint.encode()), Ok(hint));
        let key = hint_key(b"\x00\x01\x01bk", &id("n2"));
        let turn = Turn { bytes: 9, since_ms: 5, hint_key: key.clone() };
        assert_eq!(Turn::decode(turn.encode()), Ok(turn));
        assert_eq!(parse_hint_key(&key), Ok((Bytes::from_static(b"\x00\x01\x01bk"), id("n2"))));
        assert_eq!(parse_turn_key(&turn_key(&id("n2"), 258)), Ok((id("n2"), 258)));
    }

    #[test]
    fn turns_of_one_target_sort_by_age_and_targets_do_not_mix() {
        assert!(turn_key(&id("n1"), 255) < turn_key(&id("n1"), 256));
        assert!(!turn_key(&id("n10"), 1).starts_with(&turn_prefix(&id("n1"))));
        // A key that goes on where another one ends is another key, whatever the targets are called.
        assert_ne!(hint_key(b"k", &id("n1")), hint_key(b"kn", &id("1")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let bytes = Bytes::from(bytes);
            let _ = (Hint::decode(bytes.clone()), Turn::decode(bytes.clone()));
            let _ = (parse_turn_key(&bytes), parse_hint_key(&bytes));
        }

        #[test]
        fn any_flipped_bit_of_a_hint_is_noticed(bit in 0usize..(RECORD_AT + 29) * 8) {
            let record = Record { local_actor: None, state: State::default().encode() };
            let mut bytes = Hint { sequence: 1, since_ms: 2, record }.encode().to_vec();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Hint::decode(bytes.into()).is_err());
        }
    }
}
