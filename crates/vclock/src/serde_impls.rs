//! The `serde` feature. Everything is a short sequence without field names, and whatever is read
//! is normalized or refused, so no input breaks an invariant.

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{CausalContext, ClockEntry, Dot, HybridTime, Siblings, VectorClock};

/// `[actor, counter]`.
impl<A: Serialize> Serialize for Dot<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.actor, self.counter).serialize(serializer)
    }
}

/// Refuses a counter of 0.
impl<'de, A: Deserialize<'de>> Deserialize<'de> for Dot<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (actor, counter) = Deserialize::deserialize(deserializer)?;
        if counter == 0 {
            return Err(D::Error::invalid_value(Unexpected::Unsigned(0), &"a counter from 1"));
        }
        Ok(Self { actor, counter })
    }
}

/// `[[[actor, counter], ...], [isolated dot, ...]]`.
impl<A: Serialize> Serialize for CausalContext<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let vector: Vec<_> = self.vector().collect();
        let isolated: Vec<_> = self.isolated().collect();
        (vector, isolated).serialize(serializer)
    }
}

/// Normalizes, as [`CausalContext::from_parts`].
impl<'de, A: Deserialize<'de> + Ord> Deserialize<'de> for CausalContext<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (vector, isolated): (Vec<(A, u64)>, Vec<Dot<A>>) = Deserialize::deserialize(deserializer)?;
        Ok(Self::from_parts(vector, isolated))
    }
}

/// `[context, [[dot, value], ...]]`.
impl<A: Serialize, V: Serialize> Serialize for Siblings<A, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.context(), self.iter().collect::<Vec<_>>()).serialize(serializer)
    }
}

/// Normalizes, as [`Siblings::from_parts`]; refuses a dot with counter 0.
impl<'de, A, V> Deserialize<'de> for Siblings<A, V>
where
    A: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (context, entries): (_, Vec<_>) = Deserialize::deserialize(deserializer)?;
        Ok(Self::from_parts(context, entries))
    }
}

/// `[[actor, counter, time_ms], ...]`.
impl<A: Serialize> Serialize for VectorClock<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|e| (e.actor, e.counter, e.time_ms)))
    }
}

/// Merges duplicates and ignores zero counters.
impl<'de, A: Deserialize<'de> + Ord> Deserialize<'de> for VectorClock<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries: Vec<(A, u64, u64)> = Deserialize::deserialize(deserializer)?;
        let entries = entries.into_iter();
        Ok(entries.map(|(actor, counter, time_ms)| ClockEntry { actor, counter, time_ms }).collect())
    }
}

/// The `u64` of [`HybridTime::as_u64`].
impl Serialize for HybridTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.as_u64())
    }
}

impl<'de> Deserialize<'de> for HybridTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Self::from_u64)
    }
}
