//! A map in which the greatest version of each value wins.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::ops::RangeInclusive;

use crate::reconcile::{MapMessage, Prefix};
use crate::{Digest, Payload, Reply, Versioned, reconcile};

/// How much a [`VersionedMap`] or a [`GrowSet`](crate::GrowSet) holds and sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Limits {
    /// The greatest number of entries; what others send beyond it is refused, and counted. Default:
    /// 100,000.
    pub entries_max: usize,
    /// The greatest number of bytes of values in a message, by
    /// [`Versioned::size_bytes`]; a single value may exceed it, and then travels alone. Default: 64 KiB.
    pub message_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries_max: 100_000, message_bytes_max: 64 * 1024 }
    }
}

/// A map that nodes merge: under each key the greatest [version](Versioned) wins. Keys are never taken out.
///
/// Two maps find out where they differ by comparing digests of ever smaller parts of the key space (a trie over
/// the keys' hashes, 16 branches at each step), so a single difference among a million keys is found in
/// six messages of some hundred bytes. Only values that the other side lacks travel.
///
/// # Examples
///
/// ```
/// use dynkv_gossip::{Latest, Payload, VersionedMap};
///
/// // The configuration of each partition: the highest epoch wins.
/// let config = |epoch, members: &str| Latest { version: epoch, value: members.to_owned() };
/// let mut a = VersionedMap::new();
/// let mut b = VersionedMap::new();
/// a.insert(7u16, config(1, "n1 n2 n3"))?;
/// b.insert(7, config(2, "n1 n2 n4"))?;
/// b.insert(8, config(1, "n2 n3 n4"))?;
///
/// // The conversation that gossip carries, here by hand.
/// let mut message = Some(a.open());
/// while let Some(question) = message {
///     let Some(answer) = b.handle(question).answer else { break };
///     message = a.handle(answer).answer;
/// }
/// assert_eq!(a.digest(), b.digest());
/// assert_eq!(a.get(&7).unwrap().value, "n1 n2 n4");
/// # Ok::<(), dynkv_gossip::MapFull>(())
/// ```
#[derive(Clone)]
pub struct VersionedMap<K, V> {
    /// By the hash of the key: evenly spread, whatever the keys.
    slots: BTreeMap<u128, Slot<K, V>>,
    /// Of all slots; compared in every round.
    digest: Digest,
    /// Hashes of what changed last, newest last, and how many more messages shall tell of it unasked.
    news: VecDeque<(u128, u8)>,
    limits: Limits,
    refused: u64,
}

/// How many messages tell of a change unasked: one often meets a node that knows, but two that do are rare while a
/// change is young.
const TELLS: u8 = 2;
/// Changes remembered as news; of more, the oldest are left to the comparison of digests.
const NEWS_MAX: usize = 32;
/// Bytes of news in a message.
const NEWS_BYTES_MAX: usize = 1024;

#[derive(Clone)]
pub(crate) struct Slot<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    digest: Digest,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The map has something new.
    Changed,
    /// The map had it, or better.
    Known,
    /// There was no room.
    Refused,
}

impl<K, V> VersionedMap<K, V> {
    /// All entries, in the order of their keys' hashes: the same everywhere, and of no meaning.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.slots.values().map(|slot| (&slot.key, &slot.value))
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The digest of all keys and their versions.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many values others sent that were refused for want of room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl<K: Hash + Clone + Eq, V: Versioned> VersionedMap<K, V> {
    /// An empty map with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty map.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { slots: BTreeMap::new(), digest: Digest::EMPTY, news: VecDeque::new(), limits, refused: 0 }
    }

    /// Merges a value into what is under the key; `false` if that was as new already.
    ///
    /// # Errors
    ///
    /// If the key is new and the map is full - or has another key with the same hash, which takes somebody who
    /// builds one. Nothing has changed then.
    pub fn insert(&mut self, key: K, value: V) -> Result<bool, MapFull> {
        match self.merge(key, value) {
            Merged::Changed => Ok(true),
            Merged::Known => Ok(false),
            Merged::Refused => Err(MapFull { entries_max: self.limits.entries_max }),
        }
    }

    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(&hash(key)).filter(|slot| slot.key == *key).map(|slot| &slot.value)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.limits.entries_max
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn count_refused(&mut self) {
        self.refused += 1;
    }

    pub(crate) fn merge(&mut self, key: K, value: V) -> Merged {
        let at = hash(&key);
        let full = self.is_full();
        let Some(slot) = self.slots.get_mut(&at) else {
            if full {
                return Merged::Refused;
            }
            let digest = Digest::of(&(&key, value.version()));
            self.digest = self.digest.plus(digest);
            self.slots.insert(at, Slot { key, value, digest });
            self.remember(at);
            return Merged::Changed;
        };
        if slot.key != key {
            // Two keys with one hash: somebody has built them.
            return Merged::Refused;
        }
        slot.value.merge(value);
        let digest = Digest::of(&(&key, slot.value.version()));
        if digest == slot.digest {
            return Merged::Known;
        }
        self.digest = self.digest.minus(slot.digest).plus(digest);
        slot.digest = digest;
        self.remember(at);
        Merged::Changed
    }

    fn remember(&mut self, at: u128) {
        self.news.retain(|(known, _)| *known != at);
        if self.news.len() == NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back((at, TELLS));
    }

    /// What changed lately and was not told often enough yet, the latest first.
    pub(crate) fn news(&mut self) -> Vec<(K, V)> {
        let mut told = Vec::new();
        let bytes_max = self.limits.message_bytes_max.min(NEWS_BYTES_MAX);
        let mut bytes = 0;
        for (at, tells) in self.news.iter_mut().rev() {
            // What is gone, or too large for any message, is no news.
            let size = self.slots.get(at).map_or(usize::MAX, |slot| slot.value.size_bytes());
            if size > bytes_max {
                *tells = 0;
            } else if let Some(slot) = self.slots.get(at)
                && bytes + size <= bytes_max
            {
                bytes += size;
                *tells -= 1;
                told.push((slot.key.clone(), slot.value.clone()));
            }
        }
        self.news.retain(|(_, tells)| *tells > 0);
        told
    }

    /// Takes an entry out, which only lasts if nobody sends it again.
    pub(crate) fn remove(&mut self, key: &K) {
        if self.get(key).is_some()
            && let Some(slot) = self.slots.remove(&hash(key))
        {
            self.digest = self.digest.minus(slot.digest);
        }
    }

    pub(crate) fn slot(&self, at: u128) -> Option<&Slot<K, V>> {
        self.slots.get(&at)
    }

    pub(crate) fn range(&self, range: RangeInclusive<u128>) -> impl Iterator<Item = (u128, &Slot<K, V>)> {
        self.slots.range(range).map(|(at, slot)| (*at, slot))
    }

    pub(crate) fn digest_of(&self, prefix: Prefix) -> Digest {
        if prefix == Prefix::ROOT {
            return self.digest;
        }
        self.range(prefix.range()).fold(Digest::EMPTY, |sum, (_, slot)| sum.plus(slot.digest))
    }
}

/// Where a key is in the trie.
pub(crate) fn hash<K: Hash>(key: &K) -> u128 {
    Digest::of(key).as_u128()
}

impl<K: Hash + Clone + Eq, V: Versioned> Payload for VersionedMap<K, V> {
    type Message = MapMessage<K, V, V::Version>;

    fn open(&mut self) -> Self::Message {
        reconcile::open(self)
    }

    fn handle(&mut self, message: Self::Message) -> Reply<Self::Message> {
        let handled = reconcile::handle(self, message, |_| true);
        Reply { answer: handled.answer, changed: !handled.changed.is_empty() }
    }
}

impl<K: Hash + Clone + Eq, V: Versioned> Default for VersionedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the maps have the same keys at the same versions.
impl<K, V> PartialEq for VersionedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<K, V> Eq for VersionedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for VersionedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A map or a set has no room: nothing has been added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of {entries_max} entries is reached; nothing was added - raise `Limits::entries_max` on every node"
)]
#[non_exhaustive]
pub struct MapFull {
    /// The limit.
    pub entries_max: usize,
}
