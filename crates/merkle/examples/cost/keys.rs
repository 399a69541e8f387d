//! Any number of keys without keeping them: entries that are computed when they are read.
#![allow(unreachable_pub)] // A part of a program.

use std::collections::BTreeMap;
use std::convert::Infallible;

use dynkv_merkle::{Entries, Entry, Span, Tree};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    pub fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// Keys whose positions are as those of hashed ones: a Poisson number in each of equal parts, anywhere in it. The store is
/// what is computed, and changes to it.
pub struct Keys {
    span: Span,
    /// The parts are `2^depth`.
    depth: u8,
    /// Of numbers below 2^64, the least that stand for more than 0, 1, 2, ... keys in a part.
    steps: Vec<u64>,
    changes: BTreeMap<u128, Option<u128>>,
}

impl Keys {
    /// About `count` keys.
    pub fn new(span: Span, count: u64) -> Self {
        let depth = Tree::depth_for(count);
        let mean = count as f64 / f64::from(1 << depth);
        let (mut chance, mut sum, mut steps) = ((-mean).exp(), 0.0, Vec::new());
        for number in 1..200 {
            sum += chance;
            steps.push((sum * 2f64.powi(64)) as u64);
            chance *= mean / f64::from(number);
        }
        Self { span, depth, steps, changes: BTreeMap::new() }
    }

    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// The keys of a part, in order, without changes.
    fn part(&self, part: u64) -> Vec<Entry> {
        let mut random = Random(part << 16 ^ u64::from(self.span.index()) << 48);
        let drawn = random.next();
        let count = self.steps.partition_point(|step| *step <= drawn);
        let bits = u32::from(self.span.bits() + self.depth);
        let first = self.span.first() | u128::from(part).checked_shl(128 - bits).unwrap_or(0);
        let mut entry = || Entry { position: first | random.wide() >> bits, digest: random.wide() };
        let mut entries: Vec<Entry> = (0..count).map(|_| entry()).collect();
        entries.sort_unstable();
        entries
    }

    /// All keys, without changes.
    pub fn all(&self) -> impl Iterator<Item = Entry> {
        (0..1 << self.depth).flat_map(|part| self.part(part))
    }

    /// Changes one key at random, or removes it, or adds one, and tells the tree. False if the key was changed before.
    pub fn change(&mut self, random: &mut Random, kind: u64, tree: &mut Tree) -> bool {
        let part = self.part(random.below(1 << self.depth));
        let (position, old, new) = if kind == 0 {
            let bits = u32::from(self.span.bits());
            (self.span.first() | random.wide() >> bits, None, Some(random.wide()))
        } else {
            let Some(entry) = part.get(random.below(part.len().max(1) as u64) as usize) else { return false };
            (entry.position, Some(entry.digest), (kind == 1).then(|| random.wide()))
        };
        if self.changes.contains_key(&position) {
            return false;
        }
        self.changes.insert(position, new);
        tree.update(position, old, new).expect("a position of the span");
        true
    }
}

impl Entries for Keys {
    type Error = Infallible;

    fn entries(&self, first: u128, last: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Infallible> {
        let part_of = |position: u128| {
            let shift = 128 - u32::from(self.depth);
            (position << self.span.bits()).checked_shr(shift).unwrap_or(0) as u64
        };
        let end = page.len() + max;
        let range = first..=last;
        for part in part_of(first)..=part_of(last) {
            let begin = page.len();
            let held = self.part(part);
            page.extend(held.iter().filter(|entry| range.contains(&entry.position)));
            let bits = u32::from(self.span.bits() + self.depth);
            let part_first = self.span.first() | u128::from(part).checked_shl(128 - bits).unwrap_or(0);
            let part_last = part_first | u128::MAX.checked_shr(bits).unwrap_or(0);
            for (position, new) in self.changes.range(first.max(part_first)..=last.min(part_last)) {
                page.retain(|entry| entry.position != *position);
                page.extend(new.map(|digest| Entry { position: *position, digest }));
            }
            page[begin..].sort_unstable();
            if page.len() >= end {
                page.truncate(end);
                break;
            }
        }
        Ok(())
    }
}
