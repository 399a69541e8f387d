//! What the crate promises, held against plain sets of events.

mod canonical;
mod context;
mod histories;
mod hybrid;
mod interleaved;
#[cfg(feature = "serde")]
mod serde;
mod siblings;
mod vector_clock;

use dynkv_vclock::{CausalContext, Dot};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Few actors and small counters, so that gaps open and close all the time.
fn dot() -> impl Strategy<Value = Dot<u8>> {
    (0..4u8, 1..9u64).prop_map(Dot::from)
}

fn dots() -> impl Strategy<Value = BTreeSet<Dot<u8>>> {
    vec(dot(), 0..20).prop_map(|dots| dots.into_iter().collect())
}

fn context_of(dots: &BTreeSet<Dot<u8>>) -> CausalContext<u8> {
    dots.iter().copied().collect()
}

/// Every event of a context, one by one.
fn expand<A: Ord + Clone>(context: &CausalContext<A>) -> BTreeSet<Dot<A>> {
    let vector =
        context.vector().flat_map(|(actor, counter)| (1..=counter).map(move |n| Dot::new(actor.clone(), n)));
    vector.chain(context.isolated().map(|dot| Dot::new(dot.actor.clone(), dot.counter))).collect()
}
