//! Causal contexts: sets of dots, stored as a version vector plus what does not fit into it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use crate::{Causality, Dot};

/// A set of events: a version vector plus isolated dots.
///
/// The vector's entry `(a, 3)` stands for the events 1, 2 and 3 of `a`. An event that does not
/// follow on without a gap is kept as an *isolated* dot and folded into the vector as soon as the
/// gap closes. So a context can say "this event but not the one before it", which a plain version
/// vector cannot, at the price of a vector in nearly every practical case.
///
/// One set of events has exactly one representation: equal sets are `==`, hash alike and give the
/// same [canonical bytes](Self::digest_into), whatever operations led to them. The partial order
/// (`<`, `<=`) is inclusion; [`compare`](Self::compare) names its four cases.
///
/// A context is what a reader gets with the values it reads, and what it passes to its next write
/// to say which of them the write replaces; see [`Siblings`](crate::Siblings).
///
/// ```
/// use dynkv_vclock::{CausalContext, Causality, Dot};
///
/// let mut seen: CausalContext<&str> = [Dot::new("a", 1), Dot::new("a", 3)].into_iter().collect();
/// assert!(seen.contains(&Dot::new("a", 3)));
/// assert!(!seen.contains(&Dot::new("a", 2)));
/// assert_eq!((seen.counter(&"a"), seen.highest(&"a")), (1, 3));
/// assert_eq!(seen.to_string(), "{a:1+[3]}");
///
/// let before = seen.clone();
/// seen.insert(Dot::new("a", 2)); // closes the gap
/// assert_eq!(seen.to_string(), "{a:3}");
/// assert_eq!(before.compare(&seen), Causality::Before);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CausalContext<A> {
    /// Sorted by actor, one per actor, none empty.
    // A vector, not a map: contexts have one to five actors, so a copy is one small allocation.
    entries: Vec<Entry<A>>,
}

/// The events of one actor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry<A> {
    actor: A,
    /// Events `1..=counter` are in.
    counter: u64,
    /// Further events, each above `counter + 1`: otherwise it would have been folded.
    isolated: BTreeSet<u64>,
}

impl<A> Entry<A> {
    fn contains(&self, counter: u64) -> bool {
        counter != 0 && (counter <= self.counter || self.isolated.contains(&counter))
    }

    fn highest(&self) -> u64 {
        self.isolated.last().copied().unwrap_or(self.counter)
    }

    fn includes(&self, other: &Self) -> bool {
        // The event after our counter is missing here, so no isolated dot can make up for a
        // smaller counter.
        other.counter <= self.counter && other.isolated.iter().all(|&n| self.contains(n))
    }

    /// Adds one event, of counter at least 1; says whether it was new.
    fn insert(&mut self, counter: u64) -> bool {
        if self.contains(counter) {
            return false;
        }
        if counter - 1 == self.counter {
            self.counter = counter;
            self.fold();
        } else {
            self.isolated.insert(counter);
        }
        true
    }

    /// Unites with another entry of the same actor; says whether anything was new.
    fn merge(&mut self, other: &Self) -> bool {
        if self.includes(other) {
            return false;
        }
        self.counter = self.counter.max(other.counter);
        self.isolated.extend(&other.isolated);
        self.fold();
        true
    }

    /// Moves isolated dots that the counter reaches into it.
    fn fold(&mut self) {
        while let Some(&first) = self.isolated.first()
            && first - 1 <= self.counter
        {
            self.counter = self.counter.max(first);
            self.isolated.pop_first();
        }
    }
}

impl<A> CausalContext<A> {
    /// The empty set: no event has been seen.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Whether no event has been seen.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The size of the representation: vector entries plus isolated dots (not the number of
    /// events). Takes time linear in the number of actors.
    pub fn len(&self) -> usize {
        self.entries.iter().map(|e| usize::from(e.counter > 0) + e.isolated.len()).sum()
    }

    /// The version vector: for each actor the counter up to which *all* its events are in, in
    /// order of actors. Actors with isolated dots only do not appear.
    pub fn vector(&self) -> impl Iterator<Item = (&A, u64)> {
        self.entries.iter().filter(|e| e.counter > 0).map(|e| (&e.actor, e.counter))
    }

    /// The events that the vector does not cover, as `(actor, counter)`, in order.
    pub fn isolated(&self) -> impl Iterator<Item = Dot<&A>> {
        self.entries.iter().flat_map(|e| e.isolated.iter().map(|&counter| Dot::new(&e.actor, counter)))
    }

    /// The actors of which at least one event has been seen, in order.
    pub fn actors(&self) -> impl Iterator<Item = &A> {
        self.entries.iter().map(|e| &e.actor)
    }

    /// Takes out the actors for which `keep` is false and returns them, in order.
    pub(crate) fn extract_actors(&mut self, mut keep: impl FnMut(&A) -> bool) -> Vec<A> {
        self.entries.extract_if(.., |e| !keep(&e.actor)).map(|e| e.actor).collect()
    }

    /// Number of actors, and for each its counter and isolated counters: for the canonical bytes.
    pub(crate) fn per_actor(&self) -> impl ExactSizeIterator<Item = (&A, u64, &BTreeSet<u64>)> {
        self.entries.iter().map(|e| (&e.actor, e.counter, &e.isolated))
    }
}

impl<A: Ord> CausalContext<A> {
    /// Builds a context from a version vector and isolated dots, in any order and shape.
    ///
    /// The input is normalized, never refused: it means the union of all the events it names.
    /// Zero counters name nothing; duplicates, dots that the vector covers and dots that follow on
    /// it are folded. Takes `n log n` time for `n` items, whatever their counters.
    ///
    /// ```
    /// use dynkv_vclock::{CausalContext, Dot};
    ///
    /// let messy = CausalContext::from_parts(
    ///     [("b", 0), ("a", 1), ("a", 2)],
    ///     [Dot::new("a", 3), Dot::new("a", 2), Dot::new("c", 9), Dot::new("c", 0)],
    /// );
    /// assert_eq!(messy.to_string(), "{a:3, c:0+[9]}");
    /// ```
    pub fn from_parts(
        vector: impl IntoIterator<Item = (A, u64)>,
        isolated: impl IntoIterator<Item = Dot<A>>,
    ) -> Self {
        let mut vector: Vec<(A, u64)> = vector.into_iter().filter(|&(_, n)| n > 0).collect();
        vector.sort_unstable();
        let mut entries: Vec<Entry<A>> = Vec::with_capacity(vector.len());
        for (actor, counter) in vector {
            match entries.last_mut() {
                // Sorted: a later entry of the same actor is the greater one.
                Some(last) if last.actor == actor => last.counter = counter,
                _ => entries.push(Entry { actor, counter, isolated: BTreeSet::new() }),
            }
        }
        let mut context = Self { entries };
        context.extend(isolated);
        context
    }

    fn position(&self, actor: &A) -> Result<usize, usize> {
        self.entries.binary_search_by(|e| e.actor.cmp(actor))
    }

    fn entry(&self, actor: &A) -> Option<&Entry<A>> {
        self.position(actor).ok().map(|i| &self.entries[i])
    }

    /// Whether the event has been seen.
    pub fn contains(&self, dot: &Dot<A>) -> bool {
        self.entry(&dot.actor).is_some_and(|e| e.contains(dot.counter))
    }

    /// The counter up to which *all* events of `actor` have been seen; 0 if its first has not.
    pub fn counter(&self, actor: &A) -> u64 {
        self.entry(actor).map_or(0, |e| e.counter)
    }

    /// The greatest counter of `actor` seen, isolated dots included; 0 if there is none.
    ///
    /// This, not [`counter`](Self::counter), is what a new dot of the actor has to exceed.
    pub fn highest(&self, actor: &A) -> u64 {
        self.entry(actor).map_or(0, Entry::highest)
    }

    /// Adds one event; says whether it was new. A dot with counter 0 is ignored.
    pub fn insert(&mut self, dot: Dot<A>) -> bool {
        if dot.counter == 0 {
            return false;
        }
        match self.position(&dot.actor) {
            Ok(i) => self.entries[i].insert(dot.counter),
            Err(i) => {
                let mut entry = Entry { actor: dot.actor, counter: 0, isolated: BTreeSet::new() };
                entry.insert(dot.counter);
                self.entries.insert(i, entry);
                true
            }
        }
    }

    /// Forgets every event of `actor`; says whether there were any.
    ///
    /// Whatever this context covered of that actor is no longer covered; see
    /// [`Siblings::compact`](crate::Siblings::compact) for when that is safe.
    pub fn remove_actor(&mut self, actor: &A) -> bool {
        self.position(actor).map(|i| self.entries.remove(i)).is_ok()
    }

    /// Whether every event of `other` has been seen here.
    pub fn includes(&self, other: &Self) -> bool {
        other.entries.iter().all(|theirs| self.entry(&theirs.actor).is_some_and(|ours| ours.includes(theirs)))
    }

    /// How this set of events relates to `other`: `Before` if it is a proper part of it.
    pub fn compare(&self, other: &Self) -> Causality {
        Causality::from_inclusion(self.includes(other), other.includes(self))
    }
}

impl<A: Ord + Clone> CausalContext<A> {
    /// Adds every event of `other`; says whether any was new.
    ///
    /// Set union: commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) -> bool {
        let known = self.entries.len();
        let mut changed = false;
        for theirs in &other.entries {
            match self.entries[..known].binary_search_by(|e| e.actor.cmp(&theirs.actor)) {
                Ok(i) => changed |= self.entries[i].merge(theirs),
                Err(_) => self.entries.push(theirs.clone()),
            }
        }
        if self.entries.len() > known {
            // Two sorted runs, which the standard sort merges in linear time.
            self.entries.sort_by(|a, b| a.actor.cmp(&b.actor));
            changed = true;
        }
        changed
    }
}

impl<A> Default for CausalContext<A> {
    fn default() -> Self {
        Self::new()
    }
}

/// Inclusion; `None` for concurrent contexts.
impl<A: Ord> PartialOrd for CausalContext<A> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.compare(other).ordering()
    }
}

impl<A: Ord> Extend<Dot<A>> for CausalContext<A> {
    fn extend<I: IntoIterator<Item = Dot<A>>>(&mut self, dots: I) {
        let mut dots: Vec<Dot<A>> = dots.into_iter().filter(|dot| dot.counter > 0).collect();
        dots.sort_unstable();
        let known = self.entries.len();
        for Dot { actor, counter } in dots {
            // New actors go behind the known ones and are sorted in at the end: inserting each in
            // its place would take quadratic time.
            let at = self.entries[..known].binary_search_by(|e| e.actor.cmp(&actor));
            match (at, self.entries[known..].last()) {
                (Ok(i), _) => self.entries[i].insert(counter),
                (Err(_), Some(last)) if last.actor == actor => {
                    let last = self.entries.len() - 1;
                    self.entries[last].insert(counter)
                }
                (Err(_), _) => {
                    let mut entry = Entry { actor, counter: 0, isolated: BTreeSet::new() };
                    entry.insert(counter);
                    self.entries.push(entry);
                    true
                }
            };
        }
        self.entries.sort_by(|a, b| a.actor.cmp(&b.actor));
    }
}

impl<A: Ord> FromIterator<Dot<A>> for CausalContext<A> {
    fn from_iter<I: IntoIterator<Item = Dot<A>>>(dots: I) -> Self {
        let mut context = Self::new();
        context.extend(dots);
        context
    }
}

/// `{a:3, b:2+[5, 7]}`: all events of `a` up to 3, of `b` up to 2 and the isolated 5 and 7.
impl<A: fmt::Display> fmt::Display for CausalContext<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, entry) in self.entries.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{}:{}", entry.actor, entry.counter)?;
            for (j, counter) in entry.isolated.iter().enumerate() {
                write!(f, "{}{counter}", if j == 0 { "+[" } else { ", " })?;
            }
            if !entry.isolated.is_empty() {
                f.write_str("]")?;
            }
        }
        f.write_str("}")
    }
}
