//! The chain of configurations holds in random schedules and in all schedules of small worlds; mistakes do not.

use dynkv_models::{
    chain::{Bug, SOMETIMES, World},
    engine::{
        Model as _, Seen,
        batch::{cores, walk_all},
        search::search,
        shrink::shrink,
        walk::{replay, walk},
    },
};

/// As many worlds as are searched in a few seconds. The larger ones: `cargo run --release -p dynkv-models -- chain --exhaustive 300`.
const WORLDS: usize = 4;

#[test]
fn random_schedules_hold_and_see_everything() {
    let batch = walk_all(50_000, cores(), |at| World::schedule(at, None));
    if let Some((seed, world, failure)) = batch.failed {
        panic!("seed {seed}\n{}", shrink(&world, failure).show(&world));
    }
    let never: Vec<_> = SOMETIMES.iter().filter(|what| batch.seen.count(what) == 0).collect();
    assert!(never.is_empty(), "never seen: {never:?}");
}

#[test]
fn fresh_schedules_hold() {
    let start = rand::random::<u64>() >> 16;
    let batch = walk_all(10_000, cores(), |at| World::schedule(start + at, None));
    if let Some((at, world, failure)) = batch.failed {
        panic!("seed {}\n{}", start + at, shrink(&world, failure).show(&world));
    }
}

#[test]
fn all_schedules_of_small_worlds_hold() {
    for (about, world) in World::small().into_iter().take(WORLDS) {
        let search = search(&world, 300, 1_000_000);
        if let Some(failure) = search.failed {
            panic!("{about}\n{}", shrink(&world, failure).show(&world));
        }
        assert!(search.complete, "{about}: {} states were not enough", search.states);
        assert!(search.states > 10_000, "{about}: only {} states", search.states);
        assert!(search.seen.count("changes decided") > 0, "{about}: nothing was decided");
    }
}

#[test]
fn planted_mistakes_are_caught() {
    let missed: Vec<String> = Bug::ALL
        .iter()
        .filter(|&&bug| {
            let batch = walk_all(bug.schedules_max(), cores(), |at| World::schedule(at, Some(bug)));
            batch.failed.is_none()
        })
        .map(|bug| format!("{bug} within {}", bug.schedules_max()))
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn a_search_finds_mistakes_too() {
    let (_, mut world) = World::small().swap_remove(1);
    world.bug = Some(Bug::JoinWithoutSync);
    let failure = search(&world, 300, 1_000_000).failed.expect("a member without data is found");
    assert!(!failure.steps.is_empty());
}

#[test]
fn a_seed_is_a_schedule_and_a_smaller_one_breaks_the_same_promise() {
    let schedule = |seed| {
        let (world, seed, steps_max) = World::schedule(seed, Some(Bug::OneStepLeave));
        let failure = walk(&world, seed, steps_max, &mut Seen::default()).err();
        (world, failure)
    };
    let (seed, world, failure) = (0..1000)
        .find_map(|seed| {
            let (world, failure) = schedule(seed);
            Some((seed, world, failure?))
        })
        .expect("the mistake is found");
    let again = schedule(seed).1.expect("the same seed, the same violation");
    assert_eq!(again.steps, failure.steps);

    let small = shrink(&world, failure.clone());
    assert!(small.steps.len() <= failure.steps.len());
    assert_eq!(small.violation.promise, failure.violation.promise);
    let walked = small.walked();
    for at in 0..walked.len() {
        let mut fewer = walked.to_vec();
        fewer.remove(at);
        let other = replay(&world, &fewer).err().map(|failure| failure.violation.promise);
        assert_ne!(other, Some(small.violation.promise), "step {at} of {walked:?} is not needed");
    }
    let text = small.show(&world);
    assert!(
        text.contains(&world.title()) && text.ends_with(&format!("broken: {}\n", small.violation)),
        "{text}"
    );
}
