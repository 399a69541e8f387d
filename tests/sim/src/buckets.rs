//! The buckets of the simulation: each promises something else.

use std::fmt;

use dynkv_proto::BucketChange;

/// A bucket, named after what is special about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// The defaults: r = w = 2, dw = 1.
    Plain,
    /// r = w = dw = pr = pw = 2: reads return every acknowledged write, whatever crashes.
    Strict,
    /// The defaults with conflict = lww.
    Lww,
    /// w = dw = pw = 3, r = pr = 1: as strict, the other way round.
    All,
    /// r = w = dw = 1, and at most [`SIBLINGS_MAX`] siblings.
    One,
    /// dw = 0: acknowledged from memory.
    Fast,
    /// w = 3, whoever keeps the copies.
    Wide,
    /// w = dw = pw = 1, r = pr = 3: as [`Bucket::All`], the other way round.
    Each,
}

/// Siblings of a key in bucket [`Bucket::One`] at which a put that would add one is refused.
pub const SIBLINGS_MAX: u32 = 3;

impl Bucket {
    /// Those that plans are drawn with: all but [`Bucket::Each`], under which members change only when all are there.
    pub const ALL: [Bucket; 7] =
        [Bucket::Plain, Bucket::Strict, Bucket::Lww, Bucket::All, Bucket::One, Bucket::Fast, Bucket::Wide];

    /// Those in which every session has a key of its own.
    pub const OWN: [Bucket; 2] = [Bucket::Plain, Bucket::Strict];

    /// Its name in the cluster.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Plain => "plain",
            Bucket::Strict => "strict",
            Bucket::Lww => "lww",
            Bucket::All => "all",
            Bucket::One => "one",
            Bucket::Fast => "fast",
            Bucket::Wide => "wide",
            Bucket::Each => "each",
        }
    }

    /// Its properties; with `two_disks` a write is on two disks before it is acknowledged, where that fits the bucket.
    pub fn change(self, two_disks: bool, grace_ms: Option<u64>) -> BucketChange {
        let dw = if two_disks { "2" } else { "1" };
        let properties: &[(&str, &str)] = match self {
            Bucket::Plain => &[("dw", dw)],
            Bucket::Strict => &[("dw", "2"), ("pr", "2"), ("pw", "2")],
            Bucket::Lww => &[("dw", dw), ("conflict", "lww")],
            Bucket::All => &[("w", "3"), ("dw", "3"), ("pw", "3"), ("r", "1"), ("pr", "1")],
            Bucket::One => &[("w", "1"), ("dw", "1"), ("r", "1"), ("siblings_max", "3")],
            Bucket::Fast => &[("dw", "0")],
            Bucket::Wide => &[("w", "3"), ("dw", dw)],
            Bucket::Each => &[("w", "1"), ("dw", "1"), ("pw", "1"), ("r", "3"), ("pr", "3")],
        };
        let mut change = BucketChange::new(self.name());
        for (property, value) in properties {
            change.set(property, value).expect("good properties");
        }
        change.grace_ms = grace_ms;
        change
    }

    /// Homes for which somebody holds an acknowledged write.
    pub fn copies(self) -> usize {
        match self {
            Bucket::Plain | Bucket::Strict | Bucket::Lww | Bucket::Fast => 2,
            Bucket::All | Bucket::Wide => 3,
            Bucket::One | Bucket::Each => 1,
        }
    }

    /// Disks that an acknowledged write is on.
    pub fn disks(self, two_disks: bool) -> u32 {
        match self {
            Bucket::Plain | Bucket::Lww | Bucket::Wide => 1 + u32::from(two_disks),
            Bucket::Strict => 2,
            Bucket::All => 3,
            Bucket::One | Bucket::Each => 1,
            Bucket::Fast => 0,
        }
    }

    /// Whether some node that counts in a read's quorum counts in that of every write before it: r + w > n, and all of
    /// them homes. Where others may stand in for homes, a read may miss a write until hints are delivered.
    pub fn quorums_meet(self) -> bool {
        matches!(self, Bucket::Strict | Bucket::All | Bucket::Each)
    }

    /// Whether a write is on disk wherever it was counted, so that quorums meet after a power loss, too.
    pub fn is_durable(self) -> bool {
        matches!(self, Bucket::Strict | Bucket::All | Bucket::Each)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_what_the_checker_takes_them_for() {
        for bucket in Bucket::ALL.into_iter().chain([Bucket::Each]) {
            for two_disks in [false, true] {
                let change = bucket.change(two_disks, None);
                let (r, w) = (change.r.unwrap_or(2), change.w.unwrap_or(2));
                let homes_only = change.pr == Some(r) && change.pw == Some(w);
                assert_eq!(r + w > 3 && homes_only, bucket.quorums_meet(), "{bucket}");
                assert_eq!(usize::from(w), bucket.copies(), "{bucket}");
                let dw = change.dw.unwrap_or(1);
                assert_eq!(u32::from(dw), bucket.disks(two_disks), "{bucket}");
                if bucket.is_durable() {
                    assert!(bucket.quorums_meet() && dw == w);
                }
            }
        }
        assert_eq!(Bucket::One.change(false, None).siblings_max, Some(SIBLINGS_MAX));
    }
}
