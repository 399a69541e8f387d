//! One random walk from a seed.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{Failure, Model, Seen};

/// Takes up to `steps_max` random steps, then lets the model settle. The same model and seed give the same walk.
///
/// # Errors
/// The walk, when it breaks a promise.
pub fn walk<M: Model>(
    model: &M,
    seed: u64,
    steps_max: usize,
    seen: &mut Seen,
) -> Result<(), Failure<M::Step>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut state = model.start();
    let mut taken = Vec::with_capacity(steps_max);
    let mut steps = Vec::new();
    while taken.len() < steps_max {
        steps.clear();
        model.steps(&state, &mut steps);
        let total: u32 = steps.iter().map(|step| model.weight(step)).sum();
        if total == 0 {
            break;
        }
        let mut draw = random.random_range(0..total);
        let step = steps.iter().find(|step| {
            let weight = model.weight(step);
            let found = draw < weight;
            draw = draw.saturating_sub(weight);
            found
        });
        let step = *step.expect("the draw is below the sum of the weights");
        taken.push(step);
        if let Err(violation) = model.apply(&mut state, &step, seen) {
            return Err(Failure { steps: taken, settling: 0, violation });
        }
    }
    finish(model, state, taken, seen)
}

/// Takes those of `steps` that are possible when their turn comes, then lets the model settle.
///
/// # Errors
/// The walk, when it breaks a promise.
pub fn replay<M: Model>(model: &M, steps: &[M::Step]) -> Result<(), Failure<M::Step>> {
    let mut seen = Seen::default();
    let mut state = model.start();
    let mut taken = Vec::with_capacity(steps.len());
    let mut possible = Vec::new();
    for step in steps {
        possible.clear();
        model.steps(&state, &mut possible);
        if !possible.contains(step) {
            continue;
        }
        taken.push(*step);
        if let Err(violation) = model.apply(&mut state, step, &mut seen) {
            return Err(Failure { steps: taken, settling: 0, violation });
        }
    }
    finish(model, state, taken, &mut seen)
}

fn finish<M: Model>(
    model: &M,
    mut state: M::State,
    mut taken: Vec<M::Step>,
    seen: &mut Seen,
) -> Result<(), Failure<M::Step>> {
    let walked = taken.len();
    model.settle(&mut state, &mut taken, seen).map_err(|violation| Failure {
        settling: taken.len() - walked,
        steps: taken,
        violation,
    })
}
