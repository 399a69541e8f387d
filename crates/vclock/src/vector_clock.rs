//! The vector clock of the Dynamo paper, with its truncation.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::{Causality, Dot};

/// A vector clock as in the Dynamo paper (section 4.4): per actor a counter, and the time of its
/// last update, which only truncation looks at.
///
/// Comparison, equality, order and hash are about the counters alone: `a < b` says that `a` is an
/// ancestor of `b` and may be forgotten.
///
/// This is the plain building block. For the values of a replicated key use
/// [`Siblings`](crate::Siblings): the crate's first page shows what goes wrong with vector clocks
/// there.
///
/// ```
/// use dynkv_vclock::{Causality, VectorClock};
///
/// // Figure 3 of the paper: Sx writes D1 and D2; Sy and Sz each go on from D2.
/// let mut d2 = VectorClock::new();
/// d2.increment("Sx", 100);
/// d2.increment("Sx", 200);
/// let (mut d3, mut d4) = (d2.clone(), d2.clone());
/// d3.increment("Sy", 300);
/// d4.increment("Sz", 300);
/// assert_eq!(d2.compare(&d3), Causality::Before);
/// assert_eq!(d3.compare(&d4), Causality::Concurrent);
///
/// // A client reads both, Sx coordinates its write.
/// let mut d5 = d3.clone();
/// d5.merge(&d4);
/// d5.increment("Sx", 400);
/// assert_eq!(d5.to_string(), "{Sx:3, Sy:1, Sz:1}");
/// assert!(d3 < d5 && d4 < d5);
/// ```
#[derive(Clone, Debug)]
pub struct VectorClock<A> {
    entries: BTreeMap<A, Stamp>,
}

/// Ordered by counter, then time, so that the greater of two is the one a merge keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    counter: u64,
    time_ms: u64,
}

/// One entry of a [`VectorClock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockEntry<A> {
    /// Whose events are counted.
    pub actor: A,
    /// How many there are, at least 1.
    pub counter: u64,
    /// When the last of them happened, in milliseconds of whatever clock the caller passes in.
    pub time_ms: u64,
}

impl<A> VectorClock<A> {
    /// The number of entries the paper keeps: "a threshold (say 10)".
    pub const LEN_MAX: usize = 10;

    /// A clock without entries, before every other.
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in order of actors.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ClockEntry<&A>> {
        self.entries.iter().map(|(actor, s)| ClockEntry { actor, counter: s.counter, time_ms: s.time_ms })
    }

    fn counters(&self) -> impl Iterator<Item = (&A, u64)> {
        self.entries.iter().map(|(actor, s)| (actor, s.counter))
    }
}

impl<A: Ord> VectorClock<A> {
    /// Counts one more event of `actor`, at `time_ms`, and returns its counter.
    ///
    /// A counter of `u64::MAX` stays as it is: no actor gets there by counting.
    pub fn increment(&mut self, actor: A, time_ms: u64) -> u64 {
        let stamp = self.entries.entry(actor).or_insert(Stamp { counter: 0, time_ms });
        stamp.counter = stamp.counter.saturating_add(1);
        stamp.time_ms = time_ms;
        stamp.counter
    }

    /// The number of events of `actor`; 0 if it has no entry.
    pub fn counter(&self, actor: &A) -> u64 {
        self.entries.get(actor).map_or(0, |s| s.counter)
    }

    /// Whether the event is in this clock's past. A dot with counter 0 names no event.
    pub fn contains(&self, dot: &Dot<A>) -> bool {
        dot.counter != 0 && dot.counter <= self.counter(&dot.actor)
    }

    /// Whether `other` is equal to this clock or an ancestor of it.
    pub fn includes(&self, other: &Self) -> bool {
        other.counters().all(|(actor, counter)| counter <= self.counter(actor))
    }

    /// How this clock relates to `other`: `Before` if it is an ancestor.
    pub fn compare(&self, other: &Self) -> Causality {
        Causality::from_inclusion(self.includes(other), other.includes(self))
    }

    /// Removes the oldest entries until at most `len_max` are left, and returns them, oldest
    /// first; among entries of one time the smaller actor counts as older.
    ///
    /// The paper truncates at [`LEN_MAX`](Self::LEN_MAX). It is a trade of correctness for size:
    /// a truncated clock no longer includes its ancestors, which then look concurrent. (The paper:
    /// "this problem has not surfaced in production".)
    ///
    /// ```
    /// use dynkv_vclock::{Causality, VectorClock};
    ///
    /// let mut clock = VectorClock::new();
    /// clock.increment("a", 100);
    /// let ancestor = clock.clone();
    /// clock.increment("b", 200);
    /// let removed = clock.truncate(1);
    /// assert_eq!(removed[0].actor, "a");
    /// assert_eq!(ancestor.compare(&clock), Causality::Concurrent); // it was Before
    /// ```
    pub fn truncate(&mut self, len_max: usize) -> Vec<ClockEntry<A>> {
        let mut removed = Vec::new();
        if self.entries.len() > len_max {
            let excess = self.entries.len() - len_max;
            removed = std::mem::take(self).into_iter().collect();
            removed.sort_by_key(|entry| entry.time_ms);
            self.extend(removed.drain(excess..));
        }
        removed
    }
}

impl<A: Ord + Clone> VectorClock<A> {
    /// Takes in the events of `other`: per actor the greater counter, with its time (of equal
    /// counters the later time). Commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        for (actor, theirs) in &other.entries {
            match self.entries.get_mut(actor) {
                Some(ours) => *ours = (*ours).max(*theirs),
                None => {
                    self.entries.insert(actor.clone(), *theirs);
                }
            }
        }
    }
}

impl<A> Default for VectorClock<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: PartialEq> PartialEq for VectorClock<A> {
    fn eq(&self, other: &Self) -> bool {
        self.counters().eq(other.counters())
    }
}

impl<A: Eq> Eq for VectorClock<A> {}

impl<A: std::hash::Hash> std::hash::Hash for VectorClock<A> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        for entry in self.counters() {
            entry.hash(state);
        }
    }
}

/// Ancestry; `None` for concurrent clocks.
impl<A: Ord> PartialOrd for VectorClock<A> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.compare(other).ordering()
    }
}

/// Merges the entries in; zero counters are ignored.
impl<A: Ord> Extend<ClockEntry<A>> for VectorClock<A> {
    fn extend<I: IntoIterator<Item = ClockEntry<A>>>(&mut self, entries: I) {
        for ClockEntry { actor, counter, time_ms } in entries {
            if counter > 0 {
                let stamp = Stamp { counter, time_ms };
                let ours = self.entries.entry(actor).or_insert(stamp);
                *ours = (*ours).max(stamp);
            }
        }
    }
}

impl<A: Ord> FromIterator<ClockEntry<A>> for VectorClock<A> {
    fn from_iter<I: IntoIterator<Item = ClockEntry<A>>>(entries: I) -> Self {
        let mut clock = Self::new();
        clock.extend(entries);
        clock
    }
}

/// The entries, in order of actors.
impl<A> IntoIterator for VectorClock<A> {
    type Item = ClockEntry<A>;
    type IntoIter = std::vec::IntoIter<ClockEntry<A>>;

    fn into_iter(self) -> Self::IntoIter {
        let entries = self.entries.into_iter().map(|(actor, s)| ClockEntry {
            actor,
            counter: s.counter,
            time_ms: s.time_ms,
        });
        entries.collect::<Vec<_>>().into_iter()
    }
}

/// `{a:3, b:1}`: the counters.
impl<A: fmt::Display> fmt::Display for VectorClock<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (actor, counter)) in self.counters().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{actor}:{counter}")?;
        }
        f.write_str("}")
    }
}
