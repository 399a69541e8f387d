//! The digest index: what each record's state is, without its values, in the order of positions.
//!
//! ```text
//!  key    0          8                16               value  0               16                24
//!         +----------+----------------+------------+          +---------------+-----------------+
//!         | MD5      | xxh3-64        | record key |          | state digest  | unsettled       |
//!         +----------+----------------+------------+          +---------------+-----------------+
//!           first 8 bytes of the position               xxh3-128 of the state's header, and 1 + 7 bytes:
//!                      of the record key behind the partition       255 or 0, and ms since 1970
//! ```
//!
//! The last field says since when the record has a tombstone or old context entries, so that settlement need not read records to find
//! them, and whether settlement would leave nothing of it: then its first byte is 255, otherwise 0, so that a single bit cannot make the
//! one of the other. Replicas with one state say the same; it is not part of what is compared.
//!
//! The first 16 bytes are the place in the tree. Were they the whole position, an MD5, then anybody who may write could make two
//! keys with one place within seconds. Should it happen all the same, both keys have an entry of their own here, the
//! tree sums both, and whoever reads places sees the sum of their digests.

use std::ops::{ControlFlow, RangeInclusive};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dynkv_merkle::{Entries, Entry};
use dynkv_proto::{Digest, TreePosition};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    key::RecordAt,
    settle::compact::Unsettled,
    storage::{Space, Storage, StorageError},
};

const PLACE_BYTES: usize = 16;

/// Places that [`Ahead`] reads at once.
const AHEAD_MIN: usize = 4;
const AHEAD_MAX: usize = 64;

/// Where the record's digest stands.
pub(crate) fn place_of(at: &RecordAt) -> TreePosition {
    let high = at.position.0 >> 64 << 64;
    // Behind the partition, so that it does not depend on how many there are.
    TreePosition(high | u128::from(xxh3_64(at.record.get(2..).unwrap_or_default())))
}

/// The key of the index's entry.
pub(crate) fn index_key(place: TreePosition, record: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PLACE_BYTES + record.len());
    out.put_u128(place.0);
    out.put_slice(record);
    out.freeze()
}

const VALUE_BYTES: usize = 24;

/// The first byte of the last field where nothing would be left. The other seven are enough for two million years.
const LEAVES_NOTHING: u8 = 255;
const SINCE_BYTES: usize = 7;
const SINCE_MS_MAX: u64 = u64::MAX >> 8;

/// What the index says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    /// The digest of its state.
    pub(crate) digest: Digest,
    pub(crate) unsettled: Unsettled,
}

/// The value of the index's entry.
pub(crate) fn index_value(entered: Entered) -> Bytes {
    let mut out = BytesMut::with_capacity(VALUE_BYTES);
    let Unsettled { since_ms, leaves_nothing } = entered.unsettled;
    out.put_u128(entered.digest.0);
    out.put_u8(if leaves_nothing { LEAVES_NOTHING } else { 0 });
    out.put_uint(since_ms.min(SINCE_MS_MAX), SINCE_BYTES);
    out.freeze()
}

/// Reads [`index_value`].
pub(crate) fn parse_value(mut value: &[u8]) -> Result<Entered, StorageError> {
    if value.len() != VALUE_BYTES {
        return Err(damaged());
    }
    let (digest, leaves_nothing) = (Digest(value.get_u128()), value.get_u8() == LEAVES_NOTHING);
    Ok(Entered { digest, unsettled: Unsettled { since_ms: value.get_uint(SINCE_BYTES), leaves_nothing } })
}

fn damaged() -> StorageError {
    StorageError::Damaged { reason: "an entry of the digest index is of an unknown form".into() }
}

/// An entry of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) place: TreePosition,
    pub(crate) entered: Entered,
    /// The record's key.
    pub(crate) record: Bytes,
}

/// The entries with places from `first` to `last`: those of the first `max` places. Says whether that is all of them.
pub(crate) fn page(
    storage: &dyn Storage,
    first: TreePosition,
    last: TreePosition,
    max: usize,
) -> Result<(Vec<Indexed>, bool), StorageError> {
    let (mut found, mut places, mut complete, mut failed) = (Vec::<Indexed>::new(), 0, true, None);
    storage.scan(Space::Digests, &[], &first.0.to_be_bytes(), &mut |key, value| {
        let entry = key.first_chunk::<PLACE_BYTES>().ok_or_else(damaged).and_then(|place| {
            let place = TreePosition(u128::from_be_bytes(*place));
            Ok(Indexed { place, entered: parse_value(&value)?, record: key.slice(PLACE_BYTES..) })
        });
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        if entry.place > last {
            return ControlFlow::Break(());
        }
        if found.last().is_none_or(|before| before.place != entry.place) {
            if places == max {
                complete = false;
                return ControlFlow::Break(());
            }
            places += 1;
        }
        found.push(entry);
        ControlFlow::Continue(())
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok((found, complete)),
    }
}

/// What a tree makes of entries that are in order: each place once.
pub(crate) fn to_entries(indexed: &[Indexed]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(indexed.len());
    for Indexed { place, entered: Entered { digest, .. }, .. } in indexed {
        match entries.last_mut() {
            Some(before) if before.position == place.0 => {
                before.digest = before.digest.wrapping_add(digest.0);
            }
            _ => entries.push(Entry { position: place.0, digest: digest.0 }),
        }
    }
    entries
}

/// The index, as a comparison reads it.
pub(crate) struct Index<'a>(pub(crate) &'a dyn Storage);

impl Index<'_> {
    /// All there is at one place.
    pub(crate) fn at(&self, place: TreePosition) -> Result<Vec<Indexed>, StorageError> {
        page(self.0, place, place, 1).map(|(found, _)| found)
    }
}

/// The index at ascending places, of which some are read ahead: a scan costs several times what it finds at one place. Places in any other
/// order are found, too, with a scan each.
pub(crate) struct Ahead<'a> {
    storage: &'a dyn Storage,
    /// All there is from the first place to the last.
    read: Vec<Indexed>,
    covered: RangeInclusive<u128>,
    /// So many places were read at once, and so many of them were asked for since.
    places: usize,
    asked: usize,
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(storage: &'a dyn Storage) -> Ahead<'a> {
        Ahead { storage, read: Vec::new(), covered: RangeInclusive::new(1, 0), places: 0, asked: 0 }
    }

    /// All there is at one place.
    pub(crate) fn at(&mut self, place: TreePosition) -> Result<Vec<Indexed>, StorageError> {
        if !self.covered.contains(&place.0) {
            // Where some places in between were not wanted, most are not.
            self.places = match self.asked {
                0 => AHEAD_MIN,
                asked if asked < self.places => AHEAD_MIN,
                _ => (4 * self.places).min(AHEAD_MAX),
            };
            self.asked = 0;
            let (read, complete) = page(self.storage, place, TreePosition(u128::MAX), self.places)?;
            let last = read.last().filter(|_| !complete).map_or(u128::MAX, |last| last.place.0);
            self.covered = place.0..=last;
            self.read = read;
        }
        let begin = self.read.partition_point(|entry| entry.place < place);
        let found: Vec<Indexed> =
            self.read[begin..].iter().take_while(|entry| entry.place == place).cloned().collect();
        self.asked += usize::from(!found.is_empty());
        Ok(found)
    }

    /// The digest at one place.
    pub(crate) fn digest_at(&mut self, place: TreePosition) -> Result<Option<Digest>, StorageError> {
        let entries = to_entries(&self.at(place)?);
        Ok(entries.first().map(|entry| Digest(entry.digest)))
    }
}

impl Entries for Index<'_> {
    type Error = StorageError;

    fn entries(
        &self,
        first: u128,
        last: u128,
        max: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StorageError> {
        let (found, _) = page(self.0, TreePosition(first), TreePosition(last), max)?;
        entries.extend(to_entries(&found));
        Ok(())
    }
}
