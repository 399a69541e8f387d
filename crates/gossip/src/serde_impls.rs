//! The `serde` feature. Everything is a short sequence without field names, and no list is read beyond the length
//! that it may have.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Branch, Digest, Heartbeat, Latest, Leaf, MapMessage, Message, NodeState, Prefix, Stamp};

/// A list of at most `MAX`.
struct Bounded<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                // No reservation by a declared length: it may be a lie.
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    elements.push(element);
                }
                Ok(Bounded(elements))
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// Bytes as bytes, at most `MAX`; a list of numbers passes, too, for formats that have no bytes.
struct Bytes<const MAX: usize>(Vec<u8>);

impl<'de, const MAX: usize> Deserialize<'de> for Bytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Content<const MAX: usize>;

        impl<'de, const MAX: usize> Visitor<'de> for Content<MAX> {
            type Value = Bytes<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                if bytes.len() > MAX {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    if bytes.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }

        deserializer.deserialize_bytes(Content)
    }
}

struct AsBytes<'a>(&'a [u8]);

impl Serialize for AsBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// 16 bytes, the highest first.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.as_u128().to_be_bytes())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bytes::<16>(bytes) = Deserialize::deserialize(deserializer)?;
        let bytes: [u8; 16] =
            bytes.as_slice().try_into().map_err(|_| D::Error::invalid_length(bytes.len(), &"16 bytes"))?;
        Ok(Self::from_u128(u128::from_be_bytes(bytes)))
    }
}

/// `[number of nibbles, the nibbles as a number]`.
impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unused = 64 - 4 * u32::from(self.nibbles());
        (self.nibbles(), self.path().checked_shr(unused).unwrap_or(0)).serialize(serializer)
    }
}

/// Refuses more than 16 nibbles.
impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (nibbles, number): (u8, u64) = Deserialize::deserialize(deserializer)?;
        if nibbles > 16 {
            return Err(D::Error::invalid_value(Unexpected::Unsigned(nibbles.into()), &"at most 16 nibbles"));
        }
        let unused = 64 - 4 * u32::from(nibbles);
        Ok(Self::new(number.checked_shl(unused).unwrap_or(0), nibbles))
    }
}

/// `[prefix, digest]`.
impl Serialize for Branch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.prefix, self.digest).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Branch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (prefix, digest) = Deserialize::deserialize(deserializer)?;
        Ok(Self { prefix, digest })
    }
}

/// `[prefix, [[key, version], ...]]`.
impl<K: Serialize, R: Serialize> Serialize for Leaf<K, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.prefix, &self.held).serialize(serializer)
    }
}

impl<'de, K: Deserialize<'de>, R: Deserialize<'de>> Deserialize<'de> for Leaf<K, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `MapMessage::HELD_MAX`.
        let (prefix, held): (_, Bounded<_, 16>) = Deserialize::deserialize(deserializer)?;
        Ok(Self { prefix, held: held.0 })
    }
}

/// `[branches, leaves, wanted, values]`.
impl<K: Serialize, V: Serialize, R: Serialize> Serialize for MapMessage<K, V, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.branches, &self.leaves, &self.wanted, &self.values).serialize(serializer)
    }
}

impl<'de, K, V, R> Deserialize<'de> for MapMessage<K, V, R>
where
    K: Deserialize<'de>,
    V: Deserialize<'de>,
    R: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `PARTS_MAX` twice, `WANTED_MAX`, `VALUES_MAX`.
        type Parts<K, V, R> =
            (Bounded<Branch, 64>, Bounded<Leaf<K, R>, 64>, Bounded<K, 256>, Bounded<(K, V), 256>);
        let (branches, leaves, wanted, values): Parts<K, V, R> = Deserialize::deserialize(deserializer)?;
        Ok(Self { branches: branches.0, leaves: leaves.0, wanted: wanted.0, values: values.0 })
    }
}

/// `[step, heartbeats, states, payload]`.
impl<N: Serialize, M: Serialize> Serialize for Message<N, M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.step, &self.heartbeats, &self.states, &self.payload).serialize(serializer)
    }
}

impl<'de, N: Deserialize<'de>, M: Deserialize<'de>> Deserialize<'de> for Message<N, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `HEARTBEATS_MAX`.
        let (step, heartbeats, states, payload): (_, Bounded<_, 32>, _, _) =
            Deserialize::deserialize(deserializer)?;
        Ok(Self { step, heartbeats: heartbeats.0, states, payload })
    }
}

/// `[id, boot, count]`.
impl<N: Serialize> Serialize for Heartbeat<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.id, self.boot, self.count).serialize(serializer)
    }
}

impl<'de, N: Deserialize<'de>> Deserialize<'de> for Heartbeat<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, boot, count) = Deserialize::deserialize(deserializer)?;
        Ok(Self { id, boot, count })
    }
}

/// `[incarnation, version, rejects]`.
impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.incarnation, self.version, self.rejects).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (incarnation, version, rejects) = Deserialize::deserialize(deserializer)?;
        Ok(Self { incarnation, version, rejects })
    }
}

/// `[stamp, bytes]`.
impl Serialize for NodeState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.stamp, AsBytes(&self.bytes)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NodeState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (stamp, bytes): (_, Bytes<{ NodeState::BYTES_MAX }>) = Deserialize::deserialize(deserializer)?;
        Ok(Self { stamp, bytes: bytes.0 })
    }
}

/// `[version, value]`.
impl<T: Serialize> Serialize for Latest<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.version, &self.value).serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Latest<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (version, value) = Deserialize::deserialize(deserializer)?;
        Ok(Self { version, value })
    }
}
