//! What a model is, and how it is explored: seeded random walks ([`walk`]), many of them at once ([`batch`]), a violating walk
//! made smaller ([`shrink`]), and all walks of a small world ([`search`]).

pub mod batch;
pub mod search;
pub mod shrink;
pub mod walk;

use std::{fmt::Debug, hash::Hash};

/// A system of states and atomic steps. Everything that may go wrong is a step, too.
pub trait Model {
    /// One state of the whole system.
    type State: Clone + Hash + Eq;
    /// One atomic step, named so that it means the same after earlier steps have been left out.
    type Step: Copy + Debug + PartialEq;

    /// The state in which every walk begins.
    fn start(&self) -> Self::State;

    /// Adds the steps that are possible in `state` and change it.
    fn steps(&self, state: &Self::State, steps: &mut Vec<Self::Step>);

    /// How often a random walk takes such a step, beside the others; 0 is never.
    fn weight(&self, step: &Self::Step) -> u32;

    /// Takes a step that [`Model::steps`] gave for this state, and checks what must hold at all times.
    ///
    /// # Errors
    /// The promise that the step breaks.
    fn apply(&self, state: &mut Self::State, step: &Self::Step, seen: &mut Seen) -> Result<(), Violation>;

    /// The end of a walk: faults are over, whatever is under way is finished. Takes the steps, adds them to `taken`, and checks
    /// what must hold then.
    ///
    /// # Errors
    /// The promise that is broken.
    fn settle(
        &self,
        state: &mut Self::State,
        taken: &mut Vec<Self::Step>,
        seen: &mut Seen,
    ) -> Result<(), Violation>;

    /// A step in words, taken in `state`.
    fn show_step(&self, state: &Self::State, step: &Self::Step) -> String;

    /// What this world is like, in a line.
    fn title(&self) -> String;

    /// What is where, one line for each member.
    fn show_state(&self, state: &Self::State) -> String;
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{promise}: {what}")]
pub struct Violation {
    /// Which promise.
    pub promise: &'static str,
    /// How it is broken.
    pub what: String,
}

impl Violation {
    /// The error of a check.
    ///
    /// # Errors
    /// Always.
    pub fn of(promise: &'static str, what: String) -> Result<(), Violation> {
        Err(Violation { promise, what })
    }
}

/// How often interesting things happened: a run proves nothing about what it has never seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    counts: Vec<(&'static str, u64)>,
}

impl Seen {
    /// Counts one occurrence.
    pub fn note(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Takes over the counts of another run.
    pub fn unite(&mut self, other: &Seen) {
        other.counts.iter().for_each(|&(what, count)| self.add(what, count));
    }

    /// How often `what` happened.
    pub fn count(&self, what: &str) -> u64 {
        self.counts.iter().find(|(known, _)| *known == what).map_or(0, |&(_, count)| count)
    }

    /// All counts, by name.
    pub fn sorted(&self) -> Vec<(&'static str, u64)> {
        let mut counts = self.counts.clone();
        counts.sort_unstable();
        counts
    }

    fn add(&mut self, what: &'static str, count: u64) {
        // A few dozen names: a search through them is cheaper than a map.
        match self.counts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum += count,
            None => self.counts.push((what, count)),
        }
    }
}

/// A walk that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure<Step> {
    /// The steps from the start up to the violation.
    pub steps: Vec<Step>,
    /// The last so many of them were taken by [`Model::settle`].
    pub settling: usize,
    /// The promise that broke.
    pub violation: Violation,
}

impl<Step: Copy + Debug + PartialEq> Failure<Step> {
    /// The steps that were taken before the model settled.
    pub fn walked(&self) -> &[Step] {
        &self.steps[..self.steps.len() - self.settling]
    }

    /// The walk, step by step, what was where at its end, and the violation.
    pub fn show<M: Model<Step = Step>>(&self, model: &M) -> String {
        let mut state = model.start();
        let mut text = format!("{}\nat the start\n{}\n", model.title(), model.show_state(&state));
        for (at, step) in self.steps.iter().enumerate() {
            if at + self.settling == self.steps.len() && self.settling > 0 {
                text.push_str("     faults are over, what is under way is finished\n");
            }
            text.push_str(&format!("{:>4} {}\n", at + 1, model.show_step(&state, step)));
            // The last step may be refused: it is the one that breaks the promise.
            let _ = model.apply(&mut state, step, &mut Seen::default());
        }
        text.push_str(&format!("at the end\n{}\nbroken: {}\n", model.show_state(&state), self.violation));
        text
    }
}
