//! Small fixed-size values: actors, put ids, digests, settlement marks.

use std::fmt;

use dynkv_vclock::Dot;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Who mints versions: one start of one process, and one birth within it.
///
/// An actor never depends on a disk. Every process start draws a random incarnation, and every key that the process
/// mints for begins a birth of its own, so that a wiped, restored or cloned disk cannot make two writers share dots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor(
    /// Random, drawn at each process start and again after each failed local write.
    pub u64,
    /// The birth: counted per process, never per key.
    pub u64,
);

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.0, self.1)
    }
}

/// `actor:counter`, the form in which people see a dot.
pub fn display_dot(dot: &Dot<Actor>) -> String {
    format!("{}:{}", dot.actor, dot.counter)
}

macro_rules! bytes16 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0.to_be_bytes())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Bytes16;
                impl de::Visitor<'_> for Bytes16 {
                    type Value = u128;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("16 bytes")
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<u128, E> {
                        let bytes = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                        Ok(u128::from_be_bytes(bytes))
                    }
                }
                deserializer.deserialize_bytes(Bytes16).map($name)
            }
        }
    };
}

bytes16! {
    /// Where a key's digest stands among those of its partition: the first 8 bytes of the key's position, then xxh3-64 of
    /// the length of the bucket's name (one byte), the name and the key. Not all of the position: that is an MD5, of which
    /// two alike are made in seconds, and a tree holds one digest for a place.
    TreePosition
}

bytes16! {
    /// The identity of one put, drawn at random by the client and kept through its retries: a coordinator that
    /// holds a version with this id does not mint a second one.
    PutId
}

bytes16! {
    /// A 128-bit digest: of a key's state (xxh3) or of a membership history.
    Digest
}

/// A settlement round of one partition: unique and ordered. The default, zero, is before all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Round(
    /// Above that of every round its issuer has heard of.
    pub u64,
    /// Random: two nodes that issue a round at once issue two.
    pub u64,
);

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.0, self.1)
    }
}

/// Settlement marks: the rounds that a member had promised, agreed to and seen decided for a partition when the
/// state that a message bears was read from storage.
///
/// Part of every message that bears state. On the wire a byte string: empty while nothing has settled, 16 bytes (one round) while
/// all three are the same, else 48.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks {
    /// The greatest round promised.
    pub promise: Round,
    /// The greatest round agreed to.
    pub agreed: Round,
    /// The greatest round known to be decided.
    pub decided: Round,
}

impl Marks {
    /// The bytes on the wire.
    pub fn to_bytes(self) -> Vec<u8> {
        let Marks { promise, agreed, decided } = self;
        let rounds: &[Round] = match self {
            _ if self == Marks::default() => &[],
            _ if promise == agreed && agreed == decided => &[promise],
            _ => &[promise, agreed, decided],
        };
        let mut out = Vec::with_capacity(rounds.len() * 16);
        for Round(counter, nonce) in rounds {
            out.extend_from_slice(&counter.to_be_bytes());
            out.extend_from_slice(&nonce.to_be_bytes());
        }
        out
    }

    /// Reads what [`to_bytes`](Marks::to_bytes) wrote; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Marks> {
        let round = |at: usize| {
            let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
            Some(Round(number(at)?, number(at + 8)?))
        };
        match bytes.len() {
            0 => Some(Marks::default()),
            16 => round(0).map(|round| Marks { promise: round, agreed: round, decided: round }),
            48 => Some(Marks { promise: round(0)?, agreed: round(16)?, decided: round(32)? }),
            _ => None,
        }
    }
}

impl Serialize for Marks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Marks, D::Error> {
        struct Rounds;
        impl de::Visitor<'_> for Rounds {
            type Value = Marks;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("0, 16 or 48 bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Marks, E> {
                Marks::from_bytes(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }
        deserializer.deserialize_bytes(Rounds)
    }
}

/// Which configuration of a partition, and which settled state, a message belongs to.
///
/// Both are zero until data moves and settles; a replica compares them with its own in one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp(
    /// The epoch of the partition's configuration.
    pub u64,
    /// The settlement marks.
    pub Marks,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_round_trip_in_as_few_bytes_as_there_are_rounds() {
        let (one, two) = (Round(1, 7), Round(2, u64::MAX));
        for (marks, len) in [
            (Marks::default(), 0),
            (Marks { promise: one, agreed: one, decided: one }, 16),
            (Marks { promise: two, agreed: one, decided: Round::default() }, 48),
        ] {
            let bytes = marks.to_bytes();
            assert_eq!((bytes.len(), Marks::from_bytes(&bytes)), (len, Some(marks)));
        }
        assert_eq!(Marks::from_bytes(&[0; 47]), None);
        assert!(one < two && Round(2, 0) < two);
    }
}
