//! How two histories relate.

use std::cmp::Ordering;

/// How one causal history relates to another (Lamport 1978; Dynamo section 4.4).
///
/// Read it as "the left one is ... the right one": `a.compare(&b) == Causality::Before` says that
/// `b` knows everything `a` knows, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Causality {
    /// Both contain the same events.
    Equal,
    /// The left one is a proper part of the right one: it may be forgotten.
    Before,
    /// The right one is a proper part of the left one.
    After,
    /// Each has an event that the other lacks: a conflict, unless somebody reconciles it.
    Concurrent,
}

impl Causality {
    /// The relation, given whether the left history includes the right one and the reverse.
    pub(crate) const fn from_inclusion(left_includes: bool, right_includes: bool) -> Self {
        match (left_includes, right_includes) {
            (true, true) => Self::Equal,
            (false, true) => Self::Before,
            (true, false) => Self::After,
            (false, false) => Self::Concurrent,
        }
    }

    /// The same relation seen from the other side.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Before => Self::After,
            Self::After => Self::Before,
            same => same,
        }
    }

    /// The relation as the standard library's partial order: `None` when concurrent.
    #[must_use]
    pub const fn ordering(self) -> Option<Ordering> {
        match self {
            Self::Equal => Some(Ordering::Equal),
            Self::Before => Some(Ordering::Less),
            Self::After => Some(Ordering::Greater),
            Self::Concurrent => None,
        }
    }
}
