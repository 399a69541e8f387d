//! Buckets and their properties, which travel as opaque entries of the membership history.

use std::{collections::BTreeMap, fmt, str::FromStr};

use dynkv_ring::{Change, Membership};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::{
    DecodeError,
    array::array,
    frame::{from_cbor, to_cbor},
};

/// The bucket of a key that names none.
pub const DEFAULT_BUCKET: &str = "default";

/// The longest bucket name, in bytes of UTF-8.
pub const BUCKET_BYTES_MAX: usize = 64;

/// The largest [`BucketProperties::key_bytes_max`]: a key travels and is stored with every version of its value.
pub const KEY_BYTES_MAX: u32 = 16 * 1024;

/// The largest [`BucketProperties::value_bytes_max`], 16 MiB: each of three coordinators may keep one value as a sibling,
/// and all of them still fit into one frame of 64 MiB.
pub const VALUE_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// The kind under which bucket properties are kept in the history.
pub const BUCKET_CHANGE_KIND: u16 = Change::FIRST_OTHER_KIND;

/// What becomes of concurrent writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// All are kept, as siblings, until a writer who has read them replaces them.
    #[default]
    Siblings,
    /// The one with the greatest (hybrid time, dot) stays: some acknowledged writes vanish, by the bucket's owner's choice.
    Lww,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Conflict::Siblings => "siblings",
            Conflict::Lww => "lww",
        })
    }
}

impl FromStr for Conflict {
    type Err = BucketError;
    fn from_str(text: &str) -> Result<Conflict, BucketError> {
        match text {
            "siblings" => Ok(Conflict::Siblings),
            "lww" => Ok(Conflict::Lww),
            _ => Err(BucketError::Value {
                property: "conflict".into(),
                value: text.into(),
                wanted: "siblings or lww",
            }),
        }
    }
}

impl Serialize for Conflict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Conflict::Siblings => 0,
            Conflict::Lww => 1,
        })
    }
}

impl<'de> Deserialize<'de> for Conflict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Conflict, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(Conflict::Siblings),
            1 => Ok(Conflict::Lww),
            other => Err(D::Error::custom(format!("conflict policy {other}"))),
        }
    }
}

/// What holds for every request to a bucket that does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketProperties {
    /// Replicas whose answers a read waits for.
    pub r: u8,
    /// Replicas whose acknowledgements a write waits for.
    pub w: u8,
    /// How many of those must be from disk.
    pub dw: u8,
    /// How many of a read's answers must be from home replicas.
    pub pr: u8,
    /// How many of a write's acknowledgements must be from home replicas.
    pub pw: u8,
    /// What becomes of concurrent writes.
    pub conflict: Conflict,
    /// The longest key a client may write, in bytes; at most [`KEY_BYTES_MAX`].
    pub key_bytes_max: u32,
    /// The longest value a client may write, in bytes; at most [`VALUE_BYTES_MAX`].
    pub value_bytes_max: u32,
    /// Siblings at which a put that would add one more is refused.
    pub siblings_max: u32,
    /// How long a key must have rested before its tombstones and old context entries may go, in milliseconds. Nothing depends on
    /// it but the work that this makes: they go on proof, not on time.
    pub grace_ms: u64,
}

impl Default for BucketProperties {
    fn default() -> BucketProperties {
        BucketProperties {
            r: 2,
            w: 2,
            dw: 1,
            pr: 0,
            pw: 0,
            conflict: Conflict::Siblings,
            key_bytes_max: 1024,
            value_bytes_max: 1024 * 1024,
            siblings_max: 100,
            grace_ms: 24 * 60 * 60 * 1000,
        }
    }
}

array! {
    /// One operator's change of one bucket: only what is `Some` changes.
    pub BucketChange {
        /// The bucket.
        bucket: String,
        /// See [`BucketProperties::r`].
        r: Option<u8>,
        /// See [`BucketProperties::w`].
        w: Option<u8>,
        /// See [`BucketProperties::dw`].
        dw: Option<u8>,
        /// See [`BucketProperties::pr`].
        pr: Option<u8>,
        /// See [`BucketProperties::pw`].
        pw: Option<u8>,
        /// See [`BucketProperties::conflict`]; counts in a bucket's first change only.
        conflict: Option<Conflict>,
        /// See [`BucketProperties::key_bytes_max`].
        key_bytes_max: Option<u32>,
        /// See [`BucketProperties::value_bytes_max`].
        value_bytes_max: Option<u32>,
        /// See [`BucketProperties::siblings_max`].
        siblings_max: Option<u32>,
        /// See [`BucketProperties::grace_ms`].
        grace_ms: Option<u64> = None,
    }
}

const KEY_BYTES_WANTED: &str = "a number of bytes up to 16384 (16 KiB)";
const VALUE_BYTES_WANTED: &str = "a number of bytes up to 16777216 (16 MiB)";

/// Why a bucket or its properties are refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BucketError {
    /// No such property.
    #[error("there is no bucket property '{property}': use one of {}", BucketChange::PROPERTIES.join(", "))]
    Property {
        /// The name given.
        property: String,
    },
    /// A value that the property cannot have.
    #[error("the bucket property {property} cannot be '{value}': it takes {wanted}")]
    Value {
        /// The property.
        property: String,
        /// The value given.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// A quorum larger than the number of replicas, or a part larger than its whole.
    #[error(
        "{name} = {value} is {}: choose a value from {least} to {limit}",
        if value > limit { format!("above {limit_name} = {limit}") } else { format!("below {least}") }
    )]
    Quorum {
        /// The offending quorum.
        name: &'static str,
        /// Its value.
        value: u8,
        /// What bounds it.
        limit_name: &'static str,
        /// The bound.
        limit: u8,
        /// The smallest value it takes.
        least: u8,
    },
    /// A name that no bucket can have.
    #[error(
        "'{bucket}' cannot name a bucket: a name has 1 to {BUCKET_BYTES_MAX} bytes and neither '/' nor control characters"
    )]
    Name {
        /// The name given.
        bucket: String,
    },
    /// The conflict policy is fixed once a bucket is set.
    #[error(
        "bucket '{bucket}' keeps conflict = {current}, fixed when it was first set: use another bucket for {wanted}"
    )]
    ConflictFixed {
        /// The bucket.
        bucket: String,
        /// The policy it has.
        current: Conflict,
        /// The policy asked for.
        wanted: Conflict,
    },
}

/// Whether `bucket` can name a bucket.
///
/// # Errors
/// [`BucketError::Name`].
pub fn check_bucket_name(bucket: &str) -> Result<(), BucketError> {
    let fits = (1..=BUCKET_BYTES_MAX).contains(&bucket.len());
    if fits && !bucket.contains(|c: char| c == '/' || c.is_control()) {
        return Ok(());
    }
    Err(BucketError::Name { bucket: bucket.escape_debug().to_string() })
}

impl BucketChange {
    /// The names that [`BucketChange::set`] knows.
    pub const PROPERTIES: [&'static str; 10] = [
        "r",
        "w",
        "dw",
        "pr",
        "pw",
        "conflict",
        "key_bytes_max",
        "value_bytes_max",
        "siblings_max",
        "grace_ms",
    ];

    /// A change of nothing yet.
    pub fn new(bucket: impl Into<String>) -> BucketChange {
        BucketChange {
            bucket: bucket.into(),
            r: None,
            w: None,
            dw: None,
            pr: None,
            pw: None,
            conflict: None,
            key_bytes_max: None,
            value_bytes_max: None,
            siblings_max: None,
            grace_ms: None,
        }
    }

    /// Sets one property from text.
    ///
    /// # Errors
    /// [`BucketError::Property`] for an unknown name, [`BucketError::Value`] for a value it cannot have.
    pub fn set(&mut self, property: &str, value: &str) -> Result<(), BucketError> {
        fn parse<T: FromStr>(
            property: &str,
            value: &str,
            wanted: &'static str,
        ) -> Result<Option<T>, BucketError> {
            let error = || BucketError::Value { property: property.into(), value: value.into(), wanted };
            value.parse().map(Some).map_err(|_| error())
        }
        let (quorum, count) = ("a whole number up to n", "a whole number up to 4294967295");
        let mut changed = self.clone();
        match property {
            "r" => changed.r = parse(property, value, quorum)?,
            "w" => changed.w = parse(property, value, quorum)?,
            "dw" => changed.dw = parse(property, value, quorum)?,
            "pr" => changed.pr = parse(property, value, quorum)?,
            "pw" => changed.pw = parse(property, value, quorum)?,
            "conflict" => changed.conflict = Some(value.parse()?),
            "key_bytes_max" => changed.key_bytes_max = parse(property, value, KEY_BYTES_WANTED)?,
            "value_bytes_max" => changed.value_bytes_max = parse(property, value, VALUE_BYTES_WANTED)?,
            "siblings_max" => changed.siblings_max = parse(property, value, count)?,
            "grace_ms" => {
                changed.grace_ms = parse(property, value, "a number of milliseconds (a day has 86400000)")?;
            }
            _ => return Err(BucketError::Property { property: property.into() }),
        }
        changed.check_sizes()?;
        *self = changed;
        Ok(())
    }

    /// Whether keys and values of the sizes asked for can travel.
    fn check_sizes(&self) -> Result<(), BucketError> {
        for (property, value, most, wanted) in [
            ("key_bytes_max", self.key_bytes_max, KEY_BYTES_MAX, KEY_BYTES_WANTED),
            ("value_bytes_max", self.value_bytes_max, VALUE_BYTES_MAX, VALUE_BYTES_WANTED),
        ] {
            if let Some(value) = value.filter(|&value| value > most) {
                return Err(BucketError::Value {
                    property: property.into(),
                    value: value.to_string(),
                    wanted,
                });
            }
        }
        Ok(())
    }

    /// The entry of the history that says this.
    pub fn to_change(&self) -> Change {
        Change::Other { kind: BUCKET_CHANGE_KIND, payload: to_cbor(self) }
    }

    /// Reads the payload of an entry of kind [`BUCKET_CHANGE_KIND`].
    ///
    /// # Errors
    /// [`DecodeError::Header`].
    pub fn from_payload(payload: &[u8]) -> Result<BucketChange, DecodeError> {
        from_cbor(payload)
    }

    /// Applies the change; the conflict policy only `first`.
    fn apply(&self, to: &mut BucketProperties, first: bool) {
        fn set<T: Copy>(to: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *to = value;
            }
        }
        set(&mut to.r, self.r);
        set(&mut to.w, self.w);
        set(&mut to.dw, self.dw);
        set(&mut to.pr, self.pr);
        set(&mut to.pw, self.pw);
        // A history may come from a node that checks less: what cannot travel is not promised.
        set(&mut to.key_bytes_max, self.key_bytes_max.map(|bytes| bytes.min(KEY_BYTES_MAX)));
        set(&mut to.value_bytes_max, self.value_bytes_max.map(|bytes| bytes.min(VALUE_BYTES_MAX)));
        set(&mut to.siblings_max, self.siblings_max);
        set(&mut to.grace_ms, self.grace_ms);
        if first {
            set(&mut to.conflict, self.conflict);
        }
    }
}

impl BucketProperties {
    /// Whether these quorums make sense with `n` replicas.
    ///
    /// # Errors
    /// [`BucketError::Quorum`].
    pub fn check(&self, n: u8) -> Result<(), BucketError> {
        let within = |name, value: u8, limit_name, limit: u8, least| {
            if (least..=limit).contains(&value) {
                return Ok(());
            }
            Err(BucketError::Quorum { name, value, limit_name, limit, least })
        };
        within("r", self.r, "n", n, 1)?;
        within("w", self.w, "n", n, 1)?;
        within("dw", self.dw, "w", self.w, 0)?;
        within("pr", self.pr, "r", self.r, 0)?;
        within("pw", self.pw, "w", self.w, 0)
    }
}

/// The properties of every bucket that was ever set, folded from a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    set: BTreeMap<String, BucketProperties>,
    default: BucketProperties,
}

impl Buckets {
    /// Folds the bucket changes of `membership` in the order of the history. Payloads that cannot be read (of a newer
    /// version) are passed over.
    pub fn fold(membership: &Membership) -> Buckets {
        let mut buckets = Buckets::default();
        for entry in membership.others() {
            if let Change::Other { kind: BUCKET_CHANGE_KIND, payload } = entry.change()
                && let Ok(change) = BucketChange::from_payload(payload)
            {
                buckets.apply(&change);
            }
        }
        buckets
    }

    fn apply(&mut self, change: &BucketChange) {
        let first = !self.set.contains_key(&change.bucket);
        change.apply(self.set.entry(change.bucket.clone()).or_default(), first);
    }

    /// The properties of `bucket`: as set, or the defaults.
    pub fn get(&self, bucket: &str) -> &BucketProperties {
        self.set.get(bucket).unwrap_or(&self.default)
    }

    /// The buckets that were set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BucketProperties)> {
        self.set.iter().map(|(name, properties)| (name.as_str(), properties))
    }

    /// What `change` would make of its bucket in a cluster of `n` replicas.
    ///
    /// # Errors
    /// [`BucketError`] when the change is refused.
    pub fn preview(&self, change: &BucketChange, n: u8) -> Result<BucketProperties, BucketError> {
        check_bucket_name(&change.bucket)?;
        change.check_sizes()?;
        let mut after = self.clone();
        after.apply(change);
        let properties = after.get(&change.bucket).clone();
        match change.conflict {
            Some(wanted) if wanted != properties.conflict => Err(BucketError::ConflictFixed {
                bucket: change.bucket.clone(),
                current: properties.conflict,
                wanted,
            }),
            _ => {
                // Defaults are capped to a small cluster's n, silently; what an operator wrote is not.
                let capped = BucketProperties {
                    r: change.r.unwrap_or(properties.r.min(n)),
                    w: change.w.unwrap_or(properties.w.min(n)),
                    ..properties.clone()
                };
                capped.check(n).map(|()| properties)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_that_cannot_travel_are_not_allowed_for() {
        for (property, most, wanted) in [
            ("key_bytes_max", KEY_BYTES_MAX, KEY_BYTES_WANTED),
            ("value_bytes_max", VALUE_BYTES_MAX, VALUE_BYTES_WANTED),
        ] {
            assert!(wanted.contains(&most.to_string()));
            let mut change = BucketChange::new("b");
            change.set(property, &most.to_string()).unwrap();
            assert!(Buckets::default().preview(&change, 3).is_ok());

            let value = (most + 1).to_string();
            let refused = Err(BucketError::Value { property: property.into(), value: value.clone(), wanted });
            let before = change.clone();
            assert_eq!((change.set(property, &value), &change), (refused.clone(), &before));
            // As it comes over the wire, past `set`.
            match property {
                "key_bytes_max" => change.key_bytes_max = Some(most + 1),
                _ => change.value_bytes_max = Some(most + 1),
            }
            assert_eq!(Buckets::default().preview(&change, 3).map(drop), refused);
            let mut buckets = Buckets::default();
            buckets.apply(&change);
            let folded = buckets.get("b");
            assert!(folded.key_bytes_max <= KEY_BYTES_MAX && folded.value_bytes_max <= VALUE_BYTES_MAX);
        }
    }
}
