//! A dot: the name of one event.

use std::fmt;

/// The name of one event: the `counter`-th write of `actor`.
///
/// An actor numbers its events 1, 2, 3, ... without gaps, so a dot names one event among all actors
/// as long as no actor hands out the same counter twice. A counter is at least 1; the fields are
/// public because a dot is plain data, and everything in this crate that takes a dot from outside
/// ignores one with counter 0.
///
/// Dots are ordered by actor, then counter. That order is only there for sorting: it says nothing
/// about causality.
///
/// ```
/// use dynkv_vclock::Dot;
///
/// let dot = Dot::new("a", 3);
/// assert_eq!(dot.to_string(), "a:3");
/// assert!(dot < Dot::new("b", 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot<A> {
    /// Who minted the dot.
    pub actor: A,
    /// The event's number among those of the actor, from 1.
    pub counter: u64,
}

impl<A> Dot<A> {
    /// The dot of `actor`'s event number `counter`, which is at least 1.
    pub const fn new(actor: A, counter: u64) -> Self {
        Self { actor, counter }
    }
}

impl<A> From<(A, u64)> for Dot<A> {
    fn from((actor, counter): (A, u64)) -> Self {
        Self { actor, counter }
    }
}

/// `actor:counter`.
impl<A: fmt::Display> fmt::Display for Dot<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.counter)
    }
}
