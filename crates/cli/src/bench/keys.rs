//! Which key an operation is for.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use clap::ValueEnum;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Zipf};

/// Skew of the popular keys, as in YCSB.
const EXPONENT: f64 = 0.99;

/// Which keys are used more than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Popularity {
    /// All alike
    Uniform,
    /// Zipf's law with exponent 0.99, popular keys scattered over all
    Zipfian,
    /// Zipf's law with exponent 0.99, the last written key first
    Latest,
}

/// Draws keys by their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chooser {
    popularity: Popularity,
    ranks: Zipf<f64>,
}

impl Chooser {
    /// For `keys` keys, of which there must be one.
    pub(crate) fn new(popularity: Popularity, keys: u64) -> Chooser {
        let ranks = Zipf::new(keys.max(1) as f64, EXPONENT);
        Chooser { popularity, ranks: ranks.expect("at least one key, and a valid exponent") }
    }

    /// One of the keys 0 to `end`, exclusively; `end` is at least one and grows as keys are added.
    pub(crate) fn draw(&self, end: u64, rng: &mut impl Rng) -> u64 {
        match self.popularity {
            Popularity::Uniform => rng.random_range(0..end),
            Popularity::Zipfian => scatter(self.rank(rng)) % end,
            Popularity::Latest => end - 1 - self.rank(rng).min(end - 1),
        }
    }

    /// From 0.
    fn rank(&self, rng: &mut impl Rng) -> u64 {
        self.ranks.sample(rng) as u64 - 1
    }
}

/// Mixes the bits, so that neighbouring ranks are far apart (the last steps of SplitMix64).
fn scatter(rank: u64) -> u64 {
    let mixed = rank.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The key with this number: 16 bytes, up to 10^12.
pub(crate) fn key(number: u64) -> Bytes {
    format!("user{number:012}").into()
}

/// Numbers for new keys, and which keys are there.
#[derive(Debug)]
pub(crate) struct Inserts(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u64,
    under_way: BTreeSet<u64>,
}

impl Inserts {
    /// The keys below `next` are there.
    pub(crate) fn new(next: u64) -> Inserts {
        Inserts(Mutex::new(State { next, under_way: BTreeSet::new() }))
    }

    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number);
        number
    }

    /// The insertion has ended, well or not.
    pub(crate) fn end(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).under_way.remove(&number);
    }

    /// The insertion of no key below this one is under way.
    pub(crate) fn settled(&self) -> u64 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.under_way.first().copied().unwrap_or(state.next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const DRAWS: usize = 200_000;

    fn counts(popularity: Popularity, keys: u64, end: u64) -> BTreeMap<u64, usize> {
        let chooser = Chooser::new(popularity, keys);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = BTreeMap::new();
        for _ in 0..DRAWS {
            *counts.entry(chooser.draw(end, &mut rng)).or_default() += 1;
        }
        assert!(counts.keys().all(|key| *key < end));
        counts
    }

    /// The probability of a rank, from 1, by definition.
    fn probability(rank: u64, keys: u64) -> f64 {
        let weight = |rank: u64| (rank as f64).powf(-EXPONENT);
        weight(rank) / (1..=keys).map(weight).sum::<f64>()
    }

    #[test]
    fn latest_follows_zipfs_law_from_the_end() {
        let counts = counts(Popularity::Latest, 1000, 1000);
        for rank in [1, 2, 3, 10, 100] {
            let seen = counts[&(1000 - rank)] as f64 / DRAWS as f64;
            let expected = probability(rank, 1000);
            assert!((seen / expected - 1.0).abs() < 0.15, "rank {rank}: {seen} instead of {expected}");
        }
    }

    #[test]
    fn zipfian_has_the_same_skew_but_scattered() {
        let counts = counts(Popularity::Zipfian, 1000, 1000);
        let top = |ranks: std::ops::RangeInclusive<u64>| {
            ranks.map(|rank| counts[&(scatter(rank - 1) % 1000)] as f64 / DRAWS as f64).sum::<f64>()
        };
        let expected: f64 = (1..=10).map(|rank| probability(rank, 1000)).sum();
        // More than that, because two ranks may meet in one key.
        assert!(top(1..=10) >= expected * 0.98, "{} of {expected}", top(1..=10));
        let popular: Vec<u64> = (0..10).map(|rank| scatter(rank) % 1000).collect();
        assert!(popular.iter().any(|key| *key < 300) && popular.iter().any(|key| *key > 700), "{popular:?}");
    }

    #[test]
    fn uniform_is_level_and_keys_may_be_added() {
        let uniform = counts(Popularity::Uniform, 50, 100);
        assert_eq!(uniform.len(), 100);
        let expected = DRAWS / 100;
        assert!(uniform.values().all(|count| count.abs_diff(expected) < expected / 5), "{uniform:?}");
        assert!(counts(Popularity::Latest, 50, 100).contains_key(&99));
        assert_eq!(counts(Popularity::Latest, 50, 1).len(), 1);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        for popularity in [Popularity::Uniform, Popularity::Zipfian, Popularity::Latest] {
            let chooser = Chooser::new(popularity, 1_000_000);
            let draw = |seed| {
                let mut rng = SmallRng::seed_from_u64(seed);
                (0..100).map(|_| chooser.draw(1_000_000, &mut rng)).collect::<Vec<_>>()
            };
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
        }
    }

    #[test]
    fn a_key_counts_as_there_when_it_and_those_before_it_are() {
        let inserts = Inserts::new(10);
        let (first, second) = (inserts.begin(), inserts.begin());
        assert_eq!((first, second, inserts.settled()), (10, 11, 10));
        inserts.end(second);
        assert_eq!(inserts.settled(), 10);
        inserts.end(first);
        assert_eq!(inserts.settled(), 12);
        assert_eq!(key(12), "user000000000012");
    }
}
