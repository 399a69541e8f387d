//! Parts of the space of positions.

use std::fmt;

/// The positions that begin with given bits: what one tree covers, for example a partition of a ring.
///
/// # Examples
///
/// ```
/// use dynkv_merkle::Span;
///
/// // Partition 3 of 256.
/// let span = Span::new(8, 3).unwrap();
/// assert_eq!(span.first(), 3 << 120);
/// assert!(span.contains(3 << 120 | 12_345));
/// assert!(!span.contains(4 << 120));
/// assert_eq!(Span::ALL.last(), u128::MAX);
/// assert_eq!(Span::new(8, 256), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub(crate) bits: u8,
    pub(crate) index: u32,
}

impl Span {
    /// The greatest number of leading bits: 2^32 spans of equal size.
    pub const BITS_MAX: u8 = 32;

    /// All positions.
    pub const ALL: Self = Self { bits: 0, index: 0 };

    /// The positions whose first `bits` bits are the number `index`. None if there are more than
    /// [`Span::BITS_MAX`] bits, or the number does not fit into them.
    #[must_use]
    pub const fn new(bits: u8, index: u32) -> Option<Self> {
        if bits <= Self::BITS_MAX && (index as u64) < 1 << bits { Some(Self { bits, index }) } else { None }
    }

    /// How many leading bits are given.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The leading bits, as a number.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The first position.
    #[must_use]
    pub fn first(self) -> u128 {
        self.node(0, 0).0
    }

    /// The last position.
    #[must_use]
    pub fn last(self) -> u128 {
        self.node(0, 0).1
    }

    /// Whether the position is one of these.
    #[must_use]
    pub fn contains(self, position: u128) -> bool {
        (self.first()..=self.last()).contains(&position)
    }

    /// The first and the last position of the `index`-th of `2^depth` equal parts.
    pub(crate) fn node(self, depth: u8, index: u32) -> (u128, u128) {
        let bits = u32::from(self.bits) + u32::from(depth);
        let prefix = u128::from(self.index) << depth | u128::from(index);
        // Shifts by 128, where there is no prefix at all, give 0.
        let first = prefix.checked_shl(128 - bits).unwrap_or(0);
        (first, first | u128::MAX.checked_shr(bits).unwrap_or(0))
    }

    /// In which of `2^depth` equal parts the position, which must be in the span, lies.
    pub(crate) fn part_of(self, position: u128, depth: u8) -> usize {
        // At most 2^26, the greatest number of leaves.
        (position << self.bits).checked_shr(128 - u32::from(depth)).unwrap_or(0) as usize
    }
}

/// `3 of 2^8`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of 2^{}", self.index, self.bits)
    }
}
