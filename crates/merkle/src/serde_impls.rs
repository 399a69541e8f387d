//! The `serde` feature: messages as byte strings of their own encoding, so that there is one to get right.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::DecodeError;
use crate::{Reply, Request, RootsReply, RootsRequest};

trait Message: Sized {
    const BYTES_MAX: usize;
    const NAME: &str;
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

struct Bytes<M>(PhantomData<M>);

impl<'de, M: Message> Visitor<'de> for Bytes<M> {
    type Value = M;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bytes of a {}, at most {}", M::NAME, M::BYTES_MAX)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<M, E> {
        M::decode(bytes).map_err(E::custom)
    }

    /// For formats that have no bytes: a list of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<M, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = list.next_element()? {
            if bytes.len() == M::BYTES_MAX {
                return Err(A::Error::invalid_length(M::BYTES_MAX + 1, &self));
            }
            bytes.push(byte);
        }
        self.visit_bytes(&bytes)
    }
}

macro_rules! as_bytes {
    ($($message:ident: $name:literal),*) => {$(
        impl Message for $message {
            const BYTES_MAX: usize = Self::BYTES_MAX;
            const NAME: &str = $name;

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                Self::from_bytes(bytes)
            }
        }

        /// A byte string.
        impl Serialize for $message {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.to_bytes())
            }
        }

        /// Refuses what is not within the limits.
        impl<'de> Deserialize<'de> for $message {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // Owned, since some formats lend only short ones.
                deserializer.deserialize_byte_buf(Bytes(PhantomData))
            }
        }
    )*};
}

as_bytes!(Request: "request", Reply: "reply", RootsRequest: "request for roots", RootsReply: "reply about roots");
