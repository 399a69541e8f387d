//! How two maps find out where they differ, and exchange that and nothing else.
//!
//! The keys' hashes form a trie with 16 branches at each node. "Is your part under this prefix the same?"
//! is a [`Branch`]; "this is all that I hold there" a [`Leaf`]. A side answers
//!
//! | to | if | with |
//! |---|---|---|
//! | a branch | the digests are equal | nothing |
//! | | it holds few entries there | a leaf |
//! | | the other holds nothing there | its values |
//! | | else | 16 branches, one nibble longer |
//! | a leaf | it has something newer, or else | the values |
//! | | the other has something newer, or else | the keys, as wanted |
//! | wanted keys | | the values |
//! | values | merging gave more than was sent | the merged values |
//!
//! An opening is the branch at the root. Values that are news go with it, and with the answer, unasked: while a
//! change spreads, that is most often all that differs, and spares the descent.
//!
//! What does not fit into a message - values, leaves, or 16 more branches - is asked for again by a branch, so
//! the conversation goes on. The first question of a message is always answered by more than itself, so it ends.
//! Questions beyond [`PARTS_MAX`](MapMessage::PARTS_MAX) are dropped, and wait for the next exchange.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::ops::RangeInclusive;

use crate::map::{Merged, hash};
use crate::{Digest, Versioned, VersionedMap};

/// Up to so many entries are listed rather than divided.
const LEAF: usize = 16;

/// The first nibbles of a hash: a node of the trie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The nibbles, from the top; the rest is 0.
    path: u64,
    /// How many there are: 0 to 16.
    nibbles: u8,
}

impl Prefix {
    pub(crate) const ROOT: Self = Self { path: 0, nibbles: 0 };
    const NIBBLES_MAX: u8 = 16;

    /// The prefix of the first `nibbles` nibbles (at most 16) of `path`; the rest of `path` is ignored.
    #[must_use]
    pub fn new(path: u64, nibbles: u8) -> Self {
        let nibbles = nibbles.min(Self::NIBBLES_MAX);
        let rest = u64::MAX.checked_shr(4 * u32::from(nibbles)).unwrap_or(0);
        Self { path: path & !rest, nibbles }
    }

    /// Its nibbles, from the top bits of the number.
    #[must_use]
    pub fn path(self) -> u64 {
        self.path
    }

    /// How many nibbles it has.
    #[must_use]
    pub fn nibbles(self) -> u8 {
        self.nibbles
    }

    /// The hashes that begin with it.
    pub(crate) fn range(self) -> RangeInclusive<u128> {
        let first = u128::from(self.path) << 64;
        first..=first | u128::MAX >> (4 * u32::from(self.nibbles))
    }

    fn is_deepest(self) -> bool {
        self.nibbles == Self::NIBBLES_MAX
    }

    /// The 16 prefixes that are one nibble longer. Not for the deepest.
    fn children(self) -> impl Iterator<Item = Self> {
        let shift = 60 - 4 * u32::from(self.nibbles);
        (0..16).map(move |nibble| Self { path: self.path | nibble << shift, nibbles: self.nibbles + 1 })
    }
}

/// The nibbles in hexadecimal, followed by `*`.
impl std::fmt::Debug for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{:016x}", self.path);
        write!(f, "{}*", &digits[..usize::from(self.nibbles)])
    }
}

/// "Is your part under this prefix the same?"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Which part.
    pub prefix: Prefix,
    /// The sender's digest of it.
    pub digest: Digest,
}

/// "This is all that I hold under this prefix."
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leaf<K, R> {
    /// Which part.
    pub prefix: Prefix,
    /// Keys and versions.
    pub held: Vec<(K, R)>,
}

/// A message between two [`VersionedMap`]s (or two [`GrowSet`](crate::GrowSet)s): `K` keys, `V` values, `R` their
/// versions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapMessage<K, V, R> {
    /// Parts to compare. At most [`PARTS_MAX`](Self::PARTS_MAX).
    pub branches: Vec<Branch>,
    /// Parts listed. At most [`PARTS_MAX`](Self::PARTS_MAX).
    pub leaves: Vec<Leaf<K, R>>,
    /// Keys whose values the sender would like. At most [`WANTED_MAX`](Self::WANTED_MAX).
    pub wanted: Vec<K>,
    /// Values to merge. At most [`VALUES_MAX`](Self::VALUES_MAX).
    pub values: Vec<(K, V)>,
}

impl<K, V, R> MapMessage<K, V, R> {
    /// The greatest number of branches, and of leaves.
    pub const PARTS_MAX: usize = 64;
    /// The greatest number of entries in one leaf.
    pub const HELD_MAX: usize = LEAF;
    /// The greatest number of keys wanted.
    pub const WANTED_MAX: usize = 256;
    /// The greatest number of values; their bytes are bounded by
    /// [`Limits::message_bytes_max`](crate::Limits::message_bytes_max).
    pub const VALUES_MAX: usize = 256;

    fn is_empty(&self) -> bool {
        self.branches.is_empty() && self.leaves.is_empty() && self.wanted.is_empty() && self.values.is_empty()
    }
}

/// What became of a message.
pub(crate) struct Handled<K, M> {
    pub(crate) answer: Option<M>,
    /// The keys whose values are others now, in the order of the message.
    pub(crate) changed: Vec<K>,
}

type Message<K, V> = MapMessage<K, V, <V as Versioned>::Version>;

/// The first message of a conversation: the digest of all, and the news.
pub(crate) fn open<K: Hash + Clone + Eq, V: Versioned>(map: &mut VersionedMap<K, V>) -> Message<K, V> {
    let root = Branch { prefix: Prefix::ROOT, digest: map.digest() };
    MapMessage { branches: vec![root], leaves: Vec::new(), wanted: Vec::new(), values: map.news() }
}

/// Merges what a message brings and says what to answer. Nothing is wanted under keys that are not `welcome`.
///
/// More parts than a message may have are ignored, and all of them if a value was refused.
pub(crate) fn handle<K: Hash + Clone + Eq, V: Versioned>(
    map: &mut VersionedMap<K, V>,
    message: Message<K, V>,
    welcome: impl Fn(&K) -> bool,
) -> Handled<K, Message<K, V>> {
    let mut changed = Vec::new();
    let mut better = Vec::new();
    let mut received = BTreeSet::new();
    let mut refused = false;
    for (key, value) in message.values.into_iter().take(Message::<K, V>::VALUES_MAX) {
        let sent = value.version();
        match map.merge(key.clone(), value) {
            Merged::Refused => {
                map.count_refused();
                refused = true;
                continue;
            }
            Merged::Changed => changed.push(key.clone()),
            Merged::Known => {}
        }
        let at = hash(&key);
        received.insert(at);
        if map.slot(at).is_some_and(|slot| slot.value.version() != sent) {
            better.push(at);
        }
    }
    // To somebody who begins a conversation and is not equal, what is new here may be all that is missing.
    let different = |branch: &Branch| branch.prefix == Prefix::ROOT && branch.digest != map.digest();
    let news = if message.branches.iter().any(different) { map.news() } else { Vec::new() };

    let mut answer = Answer::new(map);
    for at in better {
        answer.value_or_ask(at);
    }
    for (key, value) in &news {
        let at = hash(key);
        if !received.contains(&at) {
            answer.value(at, key, value);
        }
    }
    for key in message.wanted.iter().take(Message::<K, V>::WANTED_MAX) {
        answer.value_or_ask(hash(key));
    }
    // Questions about what was refused would be answered with the same values again, and so on.
    let (leaves, branches) =
        if refused { (&[][..], &[][..]) } else { (&message.leaves[..], &message.branches[..]) };
    for leaf in leaves.iter().take(Message::<K, V>::PARTS_MAX) {
        answer.compare(leaf.prefix, &leaf.held, &welcome);
    }
    let branches = &branches[..branches.len().min(Message::<K, V>::PARTS_MAX)];
    for (at, branch) in branches.iter().enumerate() {
        answer.divide(*branch, branches.len() - at - 1, &welcome);
    }
    let answer = answer.message();
    Handled { answer: (!answer.is_empty()).then_some(answer), changed }
}

/// An answer in the making.
struct Answer<'a, K, V: Versioned> {
    map: &'a VersionedMap<K, V>,
    message: Message<K, V>,
    /// Hashes of the values in the message.
    sent: BTreeSet<u128>,
    bytes: usize,
}

impl<'a, K: Hash + Clone + Eq, V: Versioned> Answer<'a, K, V> {
    fn new(map: &'a VersionedMap<K, V>) -> Self {
        let message =
            MapMessage { branches: Vec::new(), leaves: Vec::new(), wanted: Vec::new(), values: Vec::new() };
        Self { map, message, sent: BTreeSet::new(), bytes: 0 }
    }

    fn message(self) -> Message<K, V> {
        self.message
    }

    /// Adds a value if there is room, which for the first there always is.
    fn value(&mut self, at: u128, key: &K, value: &V) -> bool {
        if self.sent.contains(&at) {
            return true;
        }
        let bytes = self.bytes.saturating_add(value.size_bytes());
        let fits = self.sent.is_empty()
            || self.sent.len() < Message::<K, V>::VALUES_MAX && bytes <= self.map.limits().message_bytes_max;
        if fits {
            self.bytes = bytes;
            self.sent.insert(at);
            self.message.values.push((key.clone(), value.clone()));
        }
        fits
    }

    /// Adds a value, or else a question about its neighbourhood, so that the other side asks again.
    fn value_or_ask(&mut self, at: u128) {
        if let Some(slot) = self.map.slot(at)
            && !self.value(at, &slot.key, &slot.value)
        {
            self.ask(Prefix::new((at >> 64) as u64, 4));
        }
    }

    /// Adds a branch if there is room.
    fn ask(&mut self, prefix: Prefix) {
        let branches = &mut self.message.branches;
        if branches.len() < Message::<K, V>::PARTS_MAX && !branches.iter().any(|asked| asked.prefix == prefix)
        {
            branches.push(Branch { prefix, digest: self.map.digest_of(prefix) });
        }
    }

    /// The other side holds exactly `held` under `prefix`.
    fn compare(&mut self, prefix: Prefix, held: &[(K, V::Version)], welcome: impl Fn(&K) -> bool) {
        let range = prefix.range();
        let held: BTreeMap<u128, &(K, V::Version)> = held
            .iter()
            .take(Message::<K, V>::HELD_MAX)
            .map(|entry| (hash(&entry.0), entry))
            .filter(|(at, _)| range.contains(at))
            .collect();
        for (at, (key, version)) in &held {
            let ours = self.map.slot(*at).map(|slot| slot.value.version());
            let newer = ours.map_or(!self.map.is_full(), |ours| ours < *version);
            if newer && self.message.wanted.len() < Message::<K, V>::WANTED_MAX && welcome(key) {
                self.message.wanted.push(key.clone());
            }
        }
        for (at, slot) in self.map.range(range) {
            let ours = slot.value.version();
            let as_new = held.get(&at).is_some_and(|(_, theirs)| ours <= *theirs);
            if !as_new && !self.value(at, &slot.key, &slot.value) {
                self.ask(prefix);
                break;
            }
        }
    }

    /// The other side has another digest under a prefix, or the same. `more` questions follow this one.
    fn divide(&mut self, theirs: Branch, more: usize, welcome: impl Fn(&K) -> bool) {
        let Branch { prefix, digest } = theirs;
        if self.map.digest_of(prefix) == digest {
            return;
        }
        if digest == Digest::EMPTY {
            self.compare(prefix, &[], welcome);
            return;
        }
        let few = self.map.range(prefix.range()).take(LEAF + 1).count() <= LEAF;
        let asked = self.message.branches.len();
        if few || prefix.is_deepest() {
            if self.message.leaves.len() < Message::<K, V>::PARTS_MAX {
                let held = self.map.range(prefix.range()).take(LEAF);
                let held = held.map(|(_, slot)| (slot.key.clone(), slot.value.version())).collect();
                self.message.leaves.push(Leaf { prefix, held });
            } else {
                self.ask(prefix);
            }
        } else if asked == 0 || asked + 16 + more <= Message::<K, V>::PARTS_MAX {
            prefix.children().for_each(|child| self.ask(child));
        } else {
            self.ask(prefix);
        }
    }
}
