//! Values with a version.

use std::hash::Hash;

/// A value whose versions say which of two is the newer one, and how to unite those that neither is.
///
/// Equal versions must mean equal values: that is what whoever mints them has to see to.
pub trait Versioned: Clone {
    /// Compared to see who has to send. Short: lists of versions travel.
    type Version: PartialOrd + Clone + Hash;

    /// The version of this value.
    fn version(&self) -> Self::Version;

    /// Makes this the union of the two: of both if neither version is greater, else of the greater
    /// version. Commutative, associative and idempotent; the version never gets smaller.
    fn merge(&mut self, other: Self);

    /// About how many bytes the value takes in a message.
    fn size_bytes(&self) -> usize;
}

/// A value under a number: the greatest number wins.
///
/// Whoever raises the number must be alone in it, or agree with the others about the value, as with the
/// epochs of a configuration: of two values under one number each node keeps what it has, and they never
/// find out.
///
/// # Examples
///
/// ```
/// use dynkv_gossip::{Latest, Versioned};
///
/// let mut members = Latest { version: 4, value: b"n1 n2 n3".to_vec() };
/// members.merge(Latest { version: 5, value: b"n1 n2 n4".to_vec() });
/// members.merge(Latest { version: 3, value: b"n1 n2".to_vec() });
/// assert_eq!((members.version(), &members.value[..]), (5, &b"n1 n2 n4"[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Latest<T> {
    /// Its number.
    pub version: u64,
    /// The value.
    pub value: T,
}

impl<T: Element> Versioned for Latest<T> {
    type Version = u64;

    fn version(&self) -> u64 {
        self.version
    }

    fn merge(&mut self, other: Self) {
        if other.version > self.version {
            *self = other;
        }
    }

    fn size_bytes(&self) -> usize {
        size_of::<u64>() + self.value.size_bytes()
    }
}

/// What a [`GrowSet`](crate::GrowSet) or a [`Latest`] can hold.
///
/// Implemented for bytes, strings and integers. For a type of another crate take a newtype, or its bytes; and for
/// bytes that shall travel through `serde` as bytes, not as a list of numbers, a newtype with `serde_bytes`.
pub trait Element: Clone + Hash {
    /// About how many bytes the value takes in a message.
    fn size_bytes(&self) -> usize;
}

macro_rules! by_length {
    ($($type:ty),+) => {
        $(impl Element for $type {
            fn size_bytes(&self) -> usize {
                self.len()
            }
        })+
    };
}

macro_rules! by_type {
    ($($type:ty),+) => {
        $(impl Element for $type {
            fn size_bytes(&self) -> usize {
                size_of::<$type>()
            }
        })+
    };
}

by_length!(Vec<u8>, Box<[u8]>, String, Box<str>);
by_type!((), u8, u16, u32, u64, u128);

impl<const N: usize> Element for [u8; N] {
    fn size_bytes(&self) -> usize {
        N
    }
}
