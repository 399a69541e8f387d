//! The operations on a store's hot path, at the sizes that occur: a key is written by one to five
//! actors and nearly always has one value. The larger sizes show how the cost grows.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use dynkv_vclock::{CausalContext, Dot, Siblings};

/// What a store would use: a random incarnation and a count.
type Actor = (u64, u32);

/// Some number that looks random, the same in every run.
fn actor(n: u64) -> Actor {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0)
}

fn context(actors: u64) -> CausalContext<Actor> {
    CausalContext::from_parts((0..actors).map(|n| (actor(n), 1_000 + n)), [])
}

/// As above, each actor with a gap and one dot behind it.
fn gappy(actors: u64) -> CausalContext<Actor> {
    let mut context = context(actors);
    context.extend((0..actors).map(|n| Dot::new(actor(n), 2_000)));
    context
}

fn siblings(actors: u64, values: u64) -> Siblings<Actor, u64> {
    let dots = (0..values).map(|n| (Dot::new(actor(n), 1_000 + n), n));
    Siblings::from_parts(context(actors), dots)
}

fn contexts(c: &mut Criterion) {
    let mut group = c.benchmark_group("context");
    for actors in [1, 3, 5, 50] {
        let (plain, gaps) = (context(actors), gappy(actors));
        let id = |name| BenchmarkId::new(name, actors);
        let dot = Dot::new(actor(actors / 2), 900);
        group.bench_function(id("contains"), |b| b.iter(|| black_box(&plain).contains(black_box(&dot))));
        group.bench_function(id("clone"), |b| b.iter(|| black_box(&plain).clone()));
        group.bench_function(id("compare_equal"), |b| {
            b.iter(|| black_box(&plain).compare(black_box(&plain)));
        });
        group.bench_function(id("compare_gaps"), |b| {
            b.iter(|| black_box(&plain).compare(black_box(&gaps)));
        });
        let mut same = plain.clone();
        group.bench_function(id("merge_nothing_new"), |b| {
            b.iter(|| black_box(&mut same).merge(black_box(&plain)));
        });
        let newer = CausalContext::from_parts(plain.vector().map(|(&a, n)| (a, n + 1)), []);
        group.bench_function(id("merge_newer"), |b| {
            b.iter_batched_ref(|| plain.clone(), |x| x.merge(&newer), BatchSize::SmallInput);
        });
        group.bench_function(id("merge_into_empty"), |b| {
            b.iter_batched_ref(CausalContext::new, |x| x.merge(&plain), BatchSize::SmallInput);
        });
        group.bench_function(id("digest"), |b| {
            b.iter(|| {
                let mut sum = 0u64;
                black_box(&plain).digest_into(&mut |part| sum += u64::from(part[0]));
                sum
            });
        });
    }
    group.finish();
}

fn writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("siblings");
    for (actors, values) in [(1, 1), (3, 1), (3, 2), (5, 5), (50, 20)] {
        let id = |name| BenchmarkId::new(name, format!("{actors}x{values}"));
        let state = siblings(actors, values);
        let read = state.context().clone();
        group.bench_function(id("put_after_read"), |b| {
            b.iter_batched_ref(
                || state.clone(),
                |s| s.put(actor(0), black_box(&read), 7),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(id("put_blind"), |b| {
            let nothing = CausalContext::new();
            b.iter_batched_ref(
                || state.clone(),
                |s| s.put(actor(0), black_box(&nothing), 7),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(id("sync_equal"), |b| {
            b.iter_batched(
                || (state.clone(), state.clone()),
                |(mut x, y)| (x.sync(y), x),
                BatchSize::SmallInput,
            );
        });
        let mut newer = state.clone();
        newer.put(actor(0), &read, 7).expect("far from exhausted");
        group.bench_function(id("sync_newer"), |b| {
            b.iter_batched(
                || (state.clone(), newer.clone()),
                |(mut x, y)| (x.sync(y), x),
                BatchSize::SmallInput,
            );
        });
        let mut fork = state.clone();
        fork.put(actor(1), &read, 8).expect("far from exhausted");
        group.bench_function(id("sync_concurrent"), |b| {
            b.iter_batched(
                || (newer.clone(), fork.clone()),
                |(mut x, y)| (x.sync(y), x),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, contexts, writes);
criterion_main!(benches);
