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

/// Settlement marks: the rounds that a member had promised, agreed to and seen decided for a partition when the
/// state that a message bears was read from storage.
///
/// Zero until anything has settled. They are part of every message that bears state from the first version on, so that
/// settling needs no change of the protocol. A round is `(counter, issuer, incarnation)`; here its counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Marks(
    /// The greatest round promised.
    pub u64,
    /// The greatest round agreed to.
    pub u64,
    /// The greatest round known to be decided.
    pub u64,
);

/// Which configuration of a partition, and which settled state, a message belongs to.
///
/// Both are zero until data can move and settle; a replica compares them with its own in one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp(
    /// The epoch of the partition's configuration.
    pub u64,
    /// The settlement marks.
    pub Marks,
);
