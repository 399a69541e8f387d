//! Where a key lies on the circle, and the equal partitions the circle is cut into.

use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};

/// A point on the circle of 2^128 positions (section 4.2 of the Dynamo paper).
///
/// A key's position is the MD5 of `len(bucket) || bucket || key`, the length as four bytes big-endian, read
/// as a big-endian number. The length keeps `("ab", "c")` and `("a", "bc")` apart. MD5 spreads keys, it
/// protects nothing: somebody who may choose keys may choose positions.
///
/// # Examples
///
/// ```
/// use dynkv_ring::{PartitionCount, Position};
///
/// let position = Position::of("carts", b"alice");
/// assert_eq!(position.to_string(), "eeaf733f2d58ad489a916a1379936f2b");
/// assert_eq!(position.partition(PartitionCount::new(256)?).0, 0xee);
/// # Ok::<(), dynkv_ring::InvalidPartitionCount>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Position(pub u128);

impl Position {
    /// The position of a key in a bucket.
    #[must_use]
    pub fn of(bucket: &str, key: &[u8]) -> Self {
        // A name of 4 GiB cannot be stored anywhere; saturating keeps the function total.
        let len = u32::try_from(bucket.len()).unwrap_or(u32::MAX);
        let digest = Md5::new()
            .chain_update(len.to_be_bytes())
            .chain_update(bucket.as_bytes())
            .chain_update(key)
            .finalize();
        Self(u128::from_be_bytes(digest.into()))
    }

    /// The partition this position falls into: its top bits.
    #[must_use]
    pub fn partition(self, count: PartitionCount) -> PartitionId {
        // Shifting by all 128 bits, for a single partition, is not defined.
        let top = self.0.checked_shr(128 - count.bits()).unwrap_or(0);
        PartitionId(u32::try_from(top).expect("at most 16 bits are left"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The number of a partition, from 0 up to its [`PartitionCount`].
///
/// # Examples
///
/// ```
/// use dynkv_ring::{PartitionCount, PartitionId, Position};
///
/// let count = PartitionCount::new(4)?;
/// let range = PartitionId(1).positions(count);
/// assert_eq!(*range.start(), Position(1 << 126));
/// assert_eq!(range.end().partition(count), PartitionId(1));
/// # Ok::<(), dynkv_ring::InvalidPartitionCount>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// The first and the last position of this partition. For a number outside `count` the number is taken
    /// modulo `count`: the circle closes.
    #[must_use]
    pub fn positions(self, count: PartitionCount) -> std::ops::RangeInclusive<Position> {
        let width = 128 - count.bits();
        let first = u128::from(self.0 % count.get()).checked_shl(width).unwrap_or(0);
        let last = first | u128::MAX.checked_shr(count.bits()).unwrap_or(0);
        Position(first)..=Position(last)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of equal partitions: a power of two from 1 to 65,536 (the paper's Q). 256 by default.
///
/// # Examples
///
/// ```
/// use dynkv_ring::{PartitionCount, PartitionId};
///
/// let count = PartitionCount::new(8)?;
/// assert_eq!(count.ids().last(), Some(PartitionId(7)));
/// assert!(PartitionCount::new(12).is_err());
/// # Ok::<(), dynkv_ring::InvalidPartitionCount>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u32", into = "u32")
)]
pub struct PartitionCount(u32);

impl PartitionCount {
    /// The smallest count, 1.
    pub const MIN: Self = Self(1);
    /// The greatest count, 65,536.
    pub const MAX: Self = Self(1 << 16);

    /// Checks a count.
    ///
    /// # Errors
    ///
    /// If it is not a power of two from 1 to 65,536.
    pub fn new(count: u32) -> Result<Self, InvalidPartitionCount> {
        if count.is_power_of_two() && count <= Self::MAX.0 {
            Ok(Self(count))
        } else {
            Err(InvalidPartitionCount { found: count.to_string() })
        }
    }

    /// The count as a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number of leading bits of a [`Position`] that tell its partition, 0 to 16.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// All partitions in order.
    pub fn ids(self) -> impl DoubleEndedIterator<Item = PartitionId> + Clone {
        (0..self.0).map(PartitionId)
    }
}

impl Default for PartitionCount {
    fn default() -> Self {
        Self(256)
    }
}

impl fmt::Display for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<u32> for PartitionCount {
    type Error = InvalidPartitionCount;

    fn try_from(count: u32) -> Result<Self, InvalidPartitionCount> {
        Self::new(count)
    }
}

impl From<PartitionCount> for u32 {
    fn from(count: PartitionCount) -> Self {
        count.get()
    }
}

impl FromStr for PartitionCount {
    type Err = InvalidPartitionCount;

    fn from_str(text: &str) -> Result<Self, InvalidPartitionCount> {
        let invalid = || InvalidPartitionCount { found: text.to_owned() };
        text.parse().map_err(|_| invalid()).and_then(Self::new)
    }
}

/// A number of partitions that is not a power of two from 1 to 65,536.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a possible number of partitions; use a power of two from 1 to 65536")]
pub struct InvalidPartitionCount {
    /// What was given instead.
    pub found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_keeps_bucket_and_key_apart() {
        assert_ne!(Position::of("ab", b"c"), Position::of("a", b"bc"));
        // printf '\0\0\0\0' | md5sum
        assert_eq!(Position::of("", b"").to_string(), "f1d3ff8443297732862df21dc4e57262");
    }

    #[test]
    fn partitions_cover_the_circle_without_overlap() {
        for bits in 0..=16 {
            let count = PartitionCount::new(1 << bits).unwrap();
            let mut next = Some(0);
            for id in count.ids() {
                let range = id.positions(count);
                assert_eq!(Some(range.start().0), next);
                assert_eq!(range.start().partition(count), id);
                assert_eq!(range.end().partition(count), id);
                next = range.end().0.checked_add(1);
            }
            assert_eq!(next, None);
        }
    }

    #[test]
    fn counts_are_powers_of_two() {
        for wrong in [0, 3, 255, 65_537, 131_072, u32::MAX] {
            assert!(PartitionCount::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!("4096".parse::<PartitionCount>().unwrap().bits(), 12);
        assert!("4k".parse::<PartitionCount>().is_err());
    }
}
