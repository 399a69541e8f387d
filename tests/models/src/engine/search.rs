//! All walks of a small world: a depth-first search that knows the states it has visited by their fingerprints.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use xxhash_rust::xxh3::Xxh3;

use super::{Failure, Model, Seen};

/// What came of a search.
#[derive(Debug)]
pub struct Search<Step> {
    /// Different states that were visited.
    pub states: usize,
    /// Steps that were tried.
    pub steps: u64,
    /// The length of the longest walk.
    pub depth: usize,
    /// Every walk was followed to its end: neither bound was met. Up to a collision of fingerprints, which at 10^9
    /// states has a chance of 1 in 10^21.
    pub complete: bool,
    /// What the steps saw.
    pub seen: Seen,
    /// The first walk that broke a promise.
    pub failed: Option<Failure<Step>>,
}

/// Where the search stands on the way down.
struct Level<M: Model> {
    state: M::State,
    steps: Vec<M::Step>,
    /// The step on which it is.
    at: usize,
}

/// Visits every state that is reached in at most `depth_max` steps, but at most `states_max` of them. Where a walk
/// ends, the model settles.
pub fn search<M: Model>(model: &M, depth_max: usize, states_max: usize) -> Search<M::Step> {
    let mut search =
        Search { states: 0, steps: 0, depth: 0, complete: true, seen: Seen::default(), failed: None };
    // The least depth at which a state was visited: reached again at a lesser one, more can be reached from it within the bound.
    let mut visited: HashMap<u128, usize, BuildHasherDefault<Folded>> = HashMap::default();
    let start = model.start();
    visited.insert(fingerprint(&start), 0);
    let mut levels = vec![level(model, start)];
    while let Some(top) = levels.last_mut() {
        let Some(&step) = top.steps.get(top.at) else {
            if top.steps.is_empty()
                && let Err(failure) = settle(model, &levels, &mut search.seen)
            {
                search.failed = Some(failure);
                break;
            }
            levels.pop();
            continue;
        };
        top.at += 1;
        search.steps += 1;
        let mut state = top.state.clone();
        if let Err(violation) = model.apply(&mut state, &step, &mut search.seen) {
            search.failed = Some(Failure { steps: path(&levels), settling: 0, violation });
            break;
        }
        let depth = levels.len();
        let print = fingerprint(&state);
        if visited.get(&print).is_some_and(|&before| before <= depth) {
            continue;
        }
        if depth > depth_max || visited.len() >= states_max {
            search.complete = false;
            continue;
        }
        visited.insert(print, depth);
        search.depth = search.depth.max(depth);
        levels.push(level(model, state));
    }
    search.states = visited.len();
    search.complete &= search.failed.is_none();
    search
}

fn level<M: Model>(model: &M, state: M::State) -> Level<M> {
    let mut steps = Vec::new();
    model.steps(&state, &mut steps);
    Level { state, steps, at: 0 }
}

/// The steps that lead to the one that was just taken.
fn path<M: Model>(levels: &[Level<M>]) -> Vec<M::Step> {
    levels.iter().filter_map(|level| level.steps.get(level.at.checked_sub(1)?).copied()).collect()
}

fn settle<M: Model>(model: &M, levels: &[Level<M>], seen: &mut Seen) -> Result<(), Failure<M::Step>> {
    let mut state = levels.last().expect("asked for the last of some levels").state.clone();
    let mut taken = path(levels);
    let walked = taken.len();
    model.settle(&mut state, &mut taken, seen).map_err(|violation| Failure {
        settling: taken.len() - walked,
        steps: taken,
        violation,
    })
}

fn fingerprint(state: &impl Hash) -> u128 {
    let mut hasher = Xxh3::new();
    state.hash(&mut hasher);
    hasher.digest128()
}

/// Takes a fingerprint, which is a hash already, as it is.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.0 ^= chunk.iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
        }
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = (print ^ (print >> 64)) as u64;
    }
}
