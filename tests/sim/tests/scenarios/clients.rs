//! Clients that do odd things.

use dynkv_sim::{
    buckets::Bucket,
    history::Key,
    plan::Plan,
    workload::{Habit, Step},
};

use crate::{again, check_each, last, plain};

/// Two writers who never read write on, each with the context of its own last put: with one clock per server their siblings
/// would explode or vanish; there are two values, the last of each.
#[test]
fn interleaved_writers() {
    check_each(
        |seed| {
            Plan::quiet(seed, 3, 10_000).session(again(20, 200, Habit::GoOn, &plain())).session(again(
                20,
                210,
                Habit::GoOn,
                &plain(),
            ))
        },
        |report| {
            let mut values = last(report, &plain());
            values.sort_unstable();
            assert_eq!(values, ["s0v20", "s1v20"]);
        },
    );
}

/// A context that was read of one key replaces nothing of another.
#[test]
fn context_from_another_key() {
    let other = Key::shared(Bucket::Plain, "k1");
    check_each(
        |seed| {
            Plan::quiet(seed, 3, 5_000).session(vec![
                Step::new(100, Habit::Blind, &plain()),
                Step::new(100, Habit::Blind, &other),
                Step::new(100, Habit::Keep, &plain()),
                Step::new(100, Habit::ForeignContext, &other),
            ])
        },
        |report| {
            assert_eq!(report.seen["foreign contexts refused"], 1);
            assert_eq!(last(report, &other), ["s0v2"]);
        },
    );
}
