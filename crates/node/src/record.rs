//! Records: what a node stores for one key.
//!
//! ```text
//!  key     0           2        3            3+B
//!          +-----------+--------+------------+-----------+
//!          | partition | B: u8  | bucket     | key       |
//!          +-----------+--------+------------+-----------+
//!            u16
//!
//!  value   0        1                9                17              25
//!          +--------+----------------+----------------+---------------+-------------------+
//!          | format | incarnation    | birth          | checksum      | State::encode     |
//!          +--------+----------------+----------------+---------------+-------------------+
//!            1        local actor, u64 each; 0, 0: none  xxh3-64 of everything else but the values
//! ```
//!
//! Numbers are big-endian. A bucket's keys within a partition are neighbours, in byte order: that is what listings scan.
//! The local actor is the one field that never leaves the node: under it this node mints for this key. The values
//! have hashes of their own, inside the state's header.

use bytes::{BufMut, Bytes, BytesMut};
use dynkv_proto::{Actor, DecodeError, Digest, State};
use dynkv_ring::PartitionId;
use xxhash_rust::xxh3::Xxh3;

use crate::storage::StorageError;

const FORMAT: u8 = 1;
const STATE_AT: usize = 25;

/// Where the record of a key is stored.
pub(crate) fn record_key(partition: PartitionId, bucket: &str, key: &[u8]) -> Bytes {
    let mut out = bucket_prefix(partition, bucket);
    out.put_slice(key);
    out.freeze()
}

/// The bucket and the key of a record key; `None` for anything else.
pub(crate) fn parse_record_key(record_key: &Bytes) -> Option<(String, Bytes)> {
    let &len = record_key.get(2)?;
    let key_at = 3 + usize::from(len);
    let bucket = std::str::from_utf8(record_key.get(3..key_at)?).ok()?;
    Some((bucket.to_owned(), record_key.slice(key_at..)))
}

/// What the record keys of one partition begin with.
pub(crate) fn partition_prefix(partition: PartitionId) -> Bytes {
    // At most 65,536 partitions.
    Bytes::copy_from_slice(&(partition.0 as u16).to_be_bytes())
}

/// What the record keys of one bucket in one partition begin with.
pub(crate) fn bucket_prefix(partition: PartitionId, bucket: &str) -> BytesMut {
    let mut out = BytesMut::with_capacity(64 + bucket.len());
    // At most 65,536 partitions and 64 bytes of bucket name: both are checked where they enter.
    out.put_u16(partition.0 as u16);
    out.put_u8(bucket.len() as u8);
    out.put_slice(bucket.as_bytes());
    out
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Under whom this node mints for this key, if it ever did.
    pub(crate) local_actor: Option<Actor>,
    /// `State::encode`.
    pub(crate) state: Bytes,
}

impl Record {
    /// The stored bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(STATE_AT + self.state.len());
        let actor = self.local_actor.unwrap_or_default();
        out.put_u8(FORMAT);
        out.put_u64(actor.0);
        out.put_u64(actor.1);
        let sum = checksum(&out, &self.state);
        out.put_u64(sum);
        out.put_slice(&self.state);
        out.freeze()
    }

    /// Reads stored bytes; the state stays a slice of them.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] for anything that `encode` did not write.
    pub(crate) fn decode(bytes: Bytes) -> Result<Record, StorageError> {
        let damaged = |reason: &str| StorageError::Damaged { reason: reason.into() };
        let Some(head) = bytes.first_chunk::<STATE_AT>() else {
            return Err(damaged("a record is cut short"));
        };
        if head[0] != FORMAT {
            return Err(damaged("a record is of an unknown format"));
        }
        let number = |at: usize| head[at..at + 8].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        let actor = Actor(number(1), number(9));
        let state = bytes.slice(STATE_AT..);
        if checksum(&head[..17], &state) != number(17) {
            return Err(damaged("a record fails its checksum"));
        }
        Ok(Record { local_actor: (actor != Actor::default()).then_some(actor), state })
    }

    /// How many bytes it takes in the store, without its key.
    pub(crate) fn stored_bytes(&self) -> u64 {
        (STATE_AT + self.state.len()) as u64
    }

    /// The digest of the state, the same on every replica that holds it.
    pub(crate) fn digest(&self) -> Result<Digest, StorageError> {
        State::digest(&self.state).map_err(damaged)
    }

    /// The decoded state, values not verified.
    pub(crate) fn decode_state(&self) -> Result<State, StorageError> {
        State::decode(self.state.clone()).map_err(damaged)
    }
}

fn damaged(error: DecodeError) -> StorageError {
    StorageError::Damaged { reason: error.to_string() }
}

/// Covers the record's head and the state's header.
fn checksum(head: &[u8], state: &[u8]) -> u64 {
    let header = state.first_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n) as usize);
    let mut hasher = Xxh3::new();
    hasher.update(head);
    hasher.update(&state[..state.len().min(header.saturating_add(4))]);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record { local_actor: Some(Actor(7, 9)), state: State::default().encode() }
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        for local_actor in [None, Some(Actor(1, 0)), Some(Actor(u64::MAX, u64::MAX))] {
            let record = Record { local_actor, ..record() };
            assert_eq!(Record::decode(record.encode()), Ok(record));
        }
    }

    #[test]
    fn keys_of_a_bucket_sort_by_bucket_then_key() {
        let key = |bucket: &str, key: &str| record_key(PartitionId(258), bucket, key.as_bytes());
        assert_eq!(&key("b", "k")[..], b"\x01\x02\x01bk");
        assert_eq!(parse_record_key(&key("b", "k")), Some(("b".into(), "k".into())));
        assert_eq!(parse_record_key(&Bytes::from_static(b"\x01\x02\x03bk")), None);
        assert!(key("b", "a") < key("b", "b"));
        assert!(key("b", "zz").starts_with(&bucket_prefix(PartitionId(258), "b")));
        assert!(!key("bb", "").starts_with(&bucket_prefix(PartitionId(258), "b")));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..(STATE_AT + 4) * 8) {
            let mut bytes = record().encode().to_vec();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::decode(bytes.into()).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(record) = Record::decode(bytes.into()) {
                let _ = (record.digest(), record.decode_state());
            }
        }
    }
}
