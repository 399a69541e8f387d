//! The membership history: a set of entries that only grows.

use std::cmp::Ordering;
use std::collections::{BTreeSet, btree_set};
use std::fmt;
use std::sync::OnceLock;

use md5::{Digest, Md5};

use crate::codec::{self, Reader};
use crate::{DecodeError, Entry};

/// All changes of a cluster's membership (section 4.8.1 of the Dynamo paper): a grow-only set, read in order.
///
/// Histories merge by union, so merging is commutative, associative and idempotent: nodes that exchange
/// theirs, in whatever order, end up with the same one, and [`Membership::fold`](crate::Membership::fold)
/// makes the same ring of it everywhere. Nothing is ever edited or taken out. At most
/// [`History::MAX_ENTRIES`] entries fit.
///
/// # Bytes
///
/// The encoding is canonical - equal histories have equal bytes. Numbers are big-endian.
///
/// ```text
/// history   +--------+-------+-------+ ...      entries strictly ascending, to the end of the bytes
///           | 1 (u8) | entry | entry |
///           +--------+-------+-------+ ...
///
/// entry     +------------+--------+------------+-----------+---------+
///           | time (u64) | issuer | kind (u16) | len (u32) | payload |
///           |            | (text) |            |           | (len B) |
///           +------------+--------+------------+-----------+---------+
///
/// text      +----------+-------+          member   +------+--------------+------+------+
///           | len (u8) | UTF-8 |                   | id   | weight (u32) | zone | host |
///           +----------+-------+                   | text |              | text | text |
///                                                  +------+--------------+------+------+
///
/// kind      payload                                                             at most
///   1 found    cluster (text), partitions (u32), replicas (u8), count (u32), members   1 MiB
///   2 join     member
///   3 leave    id (text)
///   4 left     id (text)
///   5 remove   id (text)
///   6 replace  old id (text), new member
///   7 weight   id (text), weight (u32)
///   8 place    id (text), zone (text), host (text)
///   9 disk     id (text), disk (u64)
///   0, 10..=255    of a newer version: kept unchanged                            1 MiB
///   256..=65535    of the application: kept unchanged                            64 KiB
/// ```
///
/// # Examples
///
/// ```
/// use dynkv_ring::{Change, Entry, History, Member};
///
/// let entry = |time, node: &str| -> Result<Entry, Box<dyn std::error::Error>> {
///     Ok(Entry::new(time, "n1".parse()?, Change::Join(Member::new(node.parse()?)))?)
/// };
/// let (mut here, mut there) = (History::new(), History::new());
/// assert!(here.insert(entry(1, "n2")?)?);
/// assert!(there.insert(entry(2, "n3")?)?);
///
/// there.merge(&here.missing_from(&there))?;
/// here.merge(&there)?;
/// assert_eq!(here.digest(), there.digest());
/// assert_eq!(here.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct History {
    entries: BTreeSet<Entry>,
    // Compared on every gossip round, so computed once per change.
    digest: OnceLock<[u8; 16]>,
}

impl History {
    /// The greatest number of entries.
    pub const MAX_ENTRIES: usize = 100_000;

    /// The empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; `false` if it was there already.
    ///
    /// # Errors
    ///
    /// If the entry is new and the history is full; it is unchanged then.
    pub fn insert(&mut self, entry: Entry) -> Result<bool, HistoryFull> {
        if self.entries.contains(&entry) {
            return Ok(false);
        }
        room_for(self.len() + 1)?;
        self.digest.take();
        Ok(self.entries.insert(entry))
    }

    /// Adds all entries of another history and returns how many were new.
    ///
    /// # Errors
    ///
    /// If not all of them fit; nothing has been added then.
    pub fn merge(&mut self, other: &Self) -> Result<usize, HistoryFull> {
        // Collected first: a union that does not fit must leave nothing behind.
        let missing: Vec<Entry> = other.entries.difference(&self.entries).cloned().collect();
        room_for(self.len() + missing.len())?;
        if !missing.is_empty() {
            self.digest.take();
        }
        let added = missing.len();
        self.entries.extend(missing);
        Ok(added)
    }

    /// The entries of this history that `other` has not: what to send to its holder.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> Self {
        Self { entries: self.entries.difference(&other.entries).cloned().collect(), digest: OnceLock::new() }
    }

    /// The entries in order.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries(self.entries.iter())
    }

    /// Whether the entry is in the history.
    #[must_use]
    pub fn contains(&self, entry: &Entry) -> bool {
        self.entries.contains(entry)
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The time of the last entry. The next entry's time should be greater.
    #[must_use]
    pub fn latest_time(&self) -> Option<u64> {
        self.entries.last().map(Entry::time)
    }

    /// The MD5 of [`to_bytes`](Self::to_bytes). It is kept until the history changes.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        *self.digest.get_or_init(|| digest(self.entries()))
    }

    /// The digest of the history of the first `count` entries, if there are so many.
    pub(crate) fn digest_of_first(&self, count: usize) -> Option<[u8; 16]> {
        match count.cmp(&self.len()) {
            Ordering::Less => Some(digest(self.entries().take(count))),
            Ordering::Equal => Some(self.digest()),
            Ordering::Greater => None,
        }
    }

    /// The canonical bytes, as drawn above.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![codec::FORMAT];
        for entry in &self.entries {
            codec::write_entry(&mut out, entry);
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Allocates no more than in proportion to `bytes`.
    ///
    /// # Errors
    ///
    /// If the bytes are not exactly one canonical history within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8()?;
        if found != codec::FORMAT {
            return Err(DecodeError::Format { found });
        }
        let mut entries = BTreeSet::new();
        while !reader.is_empty() {
            room_for(entries.len() + 1)?;
            let entry = reader.entry()?;
            if entries.last().is_some_and(|last| *last >= entry) {
                return Err(DecodeError::OutOfOrder { index: entries.len() });
            }
            entries.insert(entry);
        }
        Ok(Self { entries, digest: OnceLock::new() })
    }
}

fn digest<'a>(entries: impl Iterator<Item = &'a Entry>) -> [u8; 16] {
    let mut hasher = Md5::new_with_prefix([codec::FORMAT]);
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.clear();
        codec::write_entry(&mut bytes, entry);
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

pub(crate) fn room_for(len: usize) -> Result<(), HistoryFull> {
    if len > History::MAX_ENTRIES { Err(HistoryFull { needed: len }) } else { Ok(()) }
}

impl PartialEq for History {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for History {}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.entries).finish()
    }
}

impl<'a> IntoIterator for &'a History {
    type Item = &'a Entry;
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.entries()
    }
}

/// The entries of a [`History`] in order.
#[derive(Debug, Clone)]
pub struct Entries<'a>(btree_set::Iter<'a, Entry>);

impl<'a> Iterator for Entries<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Entries<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// A history has no room: nothing has been added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the membership history would have {needed} entries, the limit is 100000; nothing was added - move the data to a new cluster"
)]
#[non_exhaustive]
pub struct HistoryFull {
    /// How many entries there would have been.
    pub needed: usize,
}
