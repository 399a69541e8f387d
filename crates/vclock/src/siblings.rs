//! Dotted version vectors: the siblings of one key.

use std::iter::FusedIterator;
use std::{error, fmt, slice, vec};

use crate::{CausalContext, Dot};

/// The concurrent values of one key, each under its dot, with everything the replica has seen:
/// dotted version vectors.
///
/// This is the form the delta-CRDT papers call a multi-value register (Almeida, Shoker, Baquero,
/// "Delta State Replicated Data Types", 2018), of the idea in Preguica, Baquero, Almeida, Fonte and
/// Goncalves, "Dotted Version Vectors" (2010-2014).
///
/// * A client **reads** the [values](Self::values) together with the [context](Self::context).
/// * It **writes** with [`put`](Self::put) under the context of its last read or write: that
///   replaces exactly the values the context contains. Under an empty context the write replaces
///   nothing.
/// * Two replicas [`sync`](Self::sync): a value stays if both have it, or if the other side has
///   never seen it. What one side has seen and no longer has was replaced, so it goes.
///
/// # Invariants
///
/// Held by this type: every value's dot is in the context, no dot appears twice, values are in dot
/// order.
///
/// Held by the caller: **one dot names one value, for ever**. An actor (usually a replica, never a
/// client) mints for this key in one place only, and never again after its state was lost or
/// restored from an old copy: then it comes back as a new actor. The values themselves are never
/// compared; two replicas that hold different values under one dot each keep their own.
///
/// ```
/// use dynkv_vclock::{CausalContext, Siblings};
///
/// let mut x: Siblings<&str, &str> = Siblings::new();
/// let first = x.put("x", &CausalContext::new(), "milk")?;
///
/// // Another replica; two clients write there and here, both having read "milk".
/// let mut y = x.clone();
/// x.put("x", &first.context, "milk, eggs")?;
/// y.put("y", &first.context, "milk, bread")?;
/// x.sync(y);
/// assert!(x.values().eq(&["milk, eggs", "milk, bread"]));
///
/// // A third client reads both and reconciles them.
/// let read = x.context().clone();
/// x.put("x", &read, "milk, eggs, bread")?;
/// assert!(x.values().eq(&["milk, eggs, bread"]));
/// # Ok::<(), dynkv_vclock::PutError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Siblings<A, V> {
    context: CausalContext<A>,
    /// Sorted by dot.
    // A vector, not a map: there is nearly always one, and a map's node has room for eleven.
    entries: Vec<(Dot<A>, V)>,
}

/// What [`Siblings::put`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<A> {
    /// The new value's dot.
    pub dot: Dot<A>,
    /// The context the client goes on with: that of its request and the new dot, nothing else. The
    /// store's own context would cover siblings that the client has never read.
    ///
    /// While other writers' dots of the same actor come in between, a client that only ever writes
    /// collects an isolated dot per write; reading folds them. Where contexts travel, limit their
    /// [length](CausalContext::len).
    pub context: CausalContext<A>,
}

/// Why [`Siblings::put`] wrote nothing. The siblings are unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PutError {
    /// The actor's greatest counter, in the store or in the request's context, is `u64::MAX`.
    CounterExhausted,
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CounterExhausted => f.write_str(
                "nothing was written: the actor's counter stands at 2^64 - 1, in the store or in \
                 the request's context, so it can mint no further dot; write under a new actor",
            ),
        }
    }
}

impl error::Error for PutError {}

impl<A, V> Siblings<A, V> {
    /// No values, nothing seen.
    pub const fn new() -> Self {
        Self { context: CausalContext::new(), entries: Vec::new() }
    }

    /// The context and the values, in dot order: what [`from_parts`](Self::from_parts) takes.
    pub fn into_parts(self) -> (CausalContext<A>, Vec<(Dot<A>, V)>) {
        (self.context, self.entries)
    }

    /// Every event seen, of values still here and of values replaced.
    ///
    /// A reader takes it along with the values and passes it to its next
    /// [`put`](Self::put).
    pub fn context(&self) -> &CausalContext<A> {
        &self.context
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no values. The context may know of values that were replaced all the same.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The values with their dots, in dot order.
    pub fn iter(&self) -> Iter<'_, A, V> {
        Iter { entries: self.entries.iter() }
    }

    /// The values, in the order of their dots.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.entries.iter().map(|(_, value)| value)
    }

    /// The values, owned, in the order of their dots.
    pub fn into_values(self) -> impl DoubleEndedIterator<Item = V> + ExactSizeIterator {
        self.entries.into_iter().map(|(_, value)| value)
    }

    /// The same dots and context with other values: to decode, encode or wrap them.
    pub fn map<U>(self, mut f: impl FnMut(&Dot<A>, V) -> U) -> Siblings<A, U> {
        let entries = self.entries.into_iter().map(|(dot, value)| {
            let value = f(&dot, value);
            (dot, value)
        });
        Siblings { context: self.context, entries: entries.collect() }
    }

    /// Drops the values for which `keep` is false. The context keeps their dots, so to other
    /// replicas they are values that were replaced, and they go there too with the next
    /// [`sync`](Self::sync). This is how a last-writer-wins register keeps only its winner.
    pub fn retain(&mut self, mut keep: impl FnMut(&Dot<A>, &V) -> bool) {
        self.entries.retain(|(dot, value)| keep(dot, value));
    }
}

impl<A: Ord, V> Siblings<A, V> {
    fn position(&self, dot: &Dot<A>) -> Result<usize, usize> {
        self.entries.binary_search_by(|(d, _)| d.cmp(dot))
    }

    /// The value written under `dot`, unless it was replaced or has never arrived.
    pub fn get(&self, dot: &Dot<A>) -> Option<&V> {
        self.position(dot).ok().map(|i| &self.entries[i].1)
    }
}

impl<A: Ord + Clone, V> Siblings<A, V> {
    /// Puts siblings together from their parts, in any order and shape.
    ///
    /// The input is normalized: each value's dot is added to the context, a later value under a
    /// dot that came before is ignored, and so is a value whose dot has counter 0.
    pub fn from_parts(context: CausalContext<A>, entries: impl IntoIterator<Item = (Dot<A>, V)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().filter(|(dot, _)| dot.counter > 0).collect();
        // Stable, so the first of several under one dot is the one that stays.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(later, _), (first, _)| later == first);
        let mut context = context;
        if entries.iter().any(|(dot, _)| !context.contains(dot)) {
            context.extend(entries.iter().map(|(dot, _)| dot.clone()));
        }
        Self { context, entries }
    }

    /// Writes `value` under `context`, minting a new dot of `actor`.
    ///
    /// The new value replaces exactly those that `context` contains; an empty context is
    /// concurrent with everything. The dot's counter is one more than the greatest the store *or*
    /// the request's context knows of the actor, so a store that has fallen behind its readers
    /// does not mint a dot twice.
    ///
    /// A context is trusted: everything it contains counts as replaced from now on, also what has
    /// not arrived here yet. Pass on only contexts that [`context`](Self::context) or
    /// [`Written::context`] handed out for this key.
    ///
    /// # Errors
    ///
    /// [`PutError::CounterExhausted`] if the counter cannot grow any more; nothing has changed
    /// then.
    ///
    /// ```
    /// use dynkv_vclock::{CausalContext, Siblings};
    ///
    /// let mut cart = Siblings::new();
    /// let nothing = CausalContext::new();
    /// let a = cart.put("x", &nothing, "from A")?;
    /// let b = cart.put("x", &nothing, "from B")?; // B has not read A's: both stay
    /// assert_eq!(cart.len(), 2);
    ///
    /// // A writes again with what it got back. That replaces its own value, not B's.
    /// cart.put("x", &a.context, "from A again")?;
    /// assert!(cart.values().eq(&["from B", "from A again"]));
    /// # Ok::<(), dynkv_vclock::PutError>(())
    /// ```
    pub fn put(&mut self, actor: A, context: &CausalContext<A>, value: V) -> Result<Written<A>, PutError> {
        let highest = self.context.highest(&actor).max(context.highest(&actor));
        let counter = highest.checked_add(1).ok_or(PutError::CounterExhausted)?;
        let dot = Dot { actor, counter };

        self.discard(context);
        self.context.insert(dot.clone());
        let at = self.entries.partition_point(|(d, _)| *d < dot);
        self.entries.insert(at, (dot.clone(), value));

        let mut context = context.clone();
        context.insert(dot.clone());
        Ok(Written { dot, context })
    }

    /// Takes in what another replica knows; says whether anything changed here.
    ///
    /// A value stays if both sides have it, or if the other's context does not contain its dot;
    /// the contexts unite. Commutative, associative and idempotent, so replicas that have
    /// exchanged everything are equal, in whatever order and however often they did.
    ///
    /// Values are not compared: under a dot that both have, the one here stays (they are the same,
    /// see the [invariants](Self#invariants)).
    pub fn sync(&mut self, other: Self) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(dot, _)| !other.context.contains(dot) || other.position(dot).is_ok());
        let kept = self.entries.len();
        let context = &self.context;
        self.entries.extend(other.entries.into_iter().filter(|(dot, _)| !context.contains(dot)));
        let synced = self.entries.len();
        if synced > kept {
            // Two sorted runs, which the standard sort merges in linear time.
            self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        self.context.merge(&other.context) || kept < before
    }

    /// Drops every value that `context` contains and takes the context in; says whether anything
    /// changed: a delete that leaves no value behind, or the first half of a
    /// [`put`](Self::put).
    pub fn discard(&mut self, context: &CausalContext<A>) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(dot, _)| !context.contains(dot));
        self.context.merge(context) || self.entries.len() < before
    }

    /// Compaction to the live dots: forgets every actor none of whose values is here, and returns
    /// those actors, in order. Same as [`compact_with`](Self::compact_with) keeping nothing else.
    ///
    /// # When this is safe
    ///
    /// The context is what tells "replaced" from "never seen". After compaction a value of a
    /// forgotten actor, should one turn up, counts as new: it *comes back*. And a forgotten actor
    /// that mints here starts at 1 again: it mints dots *twice*. So compact only when
    ///
    /// 1. every copy of the key, wherever it is kept (replicas, hints, messages on their way,
    ///    disks that are switched off, backups that may be restored), is equal to this state or
    ///    will never be synced again, and
    /// 2. a forgotten actor never mints for this key again.
    ///
    /// Whether that is so cannot be seen from one replica, and no waiting time proves it: deciding
    /// it is the caller's business. Replicas that agreed on one state and compact it all alike
    /// stay equal.
    pub fn compact(&mut self) -> Vec<A> {
        self.compact_with(|_| false)
    }

    /// [`compact`](Self::compact), but an actor for which `keep` is true stays in the context.
    ///
    /// Replicas whose `keep` differs are no longer equal afterwards, though the next
    /// [`sync`](Self::sync) makes them so.
    ///
    /// ```
    /// use dynkv_vclock::{CausalContext, Siblings};
    ///
    /// let mut x = Siblings::new();
    /// for actor in ["a", "b", "c"] {
    ///     let read = x.context().clone();
    ///     x.put(actor, &read, "value")?;
    /// }
    /// assert_eq!(x.context().to_string(), "{a:1, b:1, c:1}");
    /// assert_eq!(x.compact_with(|actor| *actor == "b"), ["a"]);
    /// assert_eq!(x.compact(), ["b"]);
    /// assert_eq!(x.context().to_string(), "{c:1}");
    /// # Ok::<(), dynkv_vclock::PutError>(())
    /// ```
    pub fn compact_with(&mut self, mut keep: impl FnMut(&A) -> bool) -> Vec<A> {
        let entries = &self.entries;
        self.context.extract_actors(|actor| {
            entries.binary_search_by(|(dot, _)| dot.actor.cmp(actor)).is_ok() || keep(actor)
        })
    }
}

impl<A, V> Default for Siblings<A, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The values of [`Siblings`] with their dots, in dot order.
#[derive(Debug)]
pub struct Iter<'a, A, V> {
    entries: slice::Iter<'a, (Dot<A>, V)>,
}

impl<A, V> Clone for Iter<'_, A, V> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone() }
    }
}

impl<'a, A, V> Iterator for Iter<'a, A, V> {
    type Item = (&'a Dot<A>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(|(dot, value)| (dot, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl<A, V> DoubleEndedIterator for Iter<'_, A, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.next_back().map(|(dot, value)| (dot, value))
    }
}

impl<A, V> ExactSizeIterator for Iter<'_, A, V> {}

impl<A, V> FusedIterator for Iter<'_, A, V> {}

impl<'a, A, V> IntoIterator for &'a Siblings<A, V> {
    type Item = (&'a Dot<A>, &'a V);
    type IntoIter = Iter<'a, A, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<A, V> IntoIterator for Siblings<A, V> {
    type Item = (Dot<A>, V);
    type IntoIter = vec::IntoIter<(Dot<A>, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}
