//! What the hot path costs (MD5, lookup), and what a change of the membership costs (fold, homes, difference).
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dynkv_ring::strategy::EqualTokens;
use dynkv_ring::{
    Change, Entry, Founding, History, Member, Membership, PartitionCount, PartitionId, Position,
};

const PARTITIONS: u32 = 4096;

fn member(number: usize) -> Member {
    let id = format!("node-{number}").parse().expect("a valid id");
    Member::new(id).with_zone(format!("zone-{}", number % 5)).with_host(format!("host-{}", number / 2))
}

fn history(joins: usize) -> History {
    let partitions = PartitionCount::new(PARTITIONS).expect("a power of two");
    let members = (0..3).map(member).collect();
    let founding = Founding { cluster: "bench".to_owned(), partitions, replicas: 3, members };
    let mut history = History::new();
    let mut insert = |time, change| {
        let entry = Entry::new(time, member(0).id, change).expect("a valid change");
        history.insert(entry).expect("room");
    };
    insert(1, Change::Found(founding));
    for number in 3..joins + 3 {
        insert(number as u64, Change::Join(member(number)));
    }
    history
}

fn lookup(c: &mut Criterion) {
    c.bench_function("md5 of a 16-byte key", |b| {
        b.iter(|| Position::of(black_box("carts"), black_box(b"0123456789abcdef")));
    });

    let membership = Membership::fold(&history(997));
    let ring = membership.ring();
    assert_eq!(ring.members().len(), 1000);
    // Positions spread by a multiplicative step, so that consecutive lookups are not neighbours.
    let mut position: u128 = 1;
    let mut next = move || {
        position = position.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        Position(position)
    };
    c.bench_function("homes, Q=4096 S=1000", |b| {
        b.iter_batched(
            &mut next,
            |p| ring.homes(p.partition(ring.partitions())).len(),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("preference list, first 3, Q=4096 S=1000", |b| {
        b.iter_batched(
            &mut next,
            |p| ring.preference(p.partition(ring.partitions())).take(3).map(|m| m.weight).sum::<u32>(),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("preference list, first 6, Q=4096 S=1000", |b| {
        b.iter_batched(
            &mut next,
            |p| ring.preference(p.partition(ring.partitions())).take(6).map(|m| m.weight).sum::<u32>(),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("preference list, all 1000, Q=4096 S=1000", |b| {
        b.iter(|| ring.preference(black_box(PartitionId(17))).map(|m| m.weight).sum::<u32>());
    });
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    group.sample_size(10);
    let history = history(1000);
    group.bench_function("fold of 1000 joins, Q=4096", |b| b.iter(|| Membership::fold(black_box(&history))));
    group.bench_function("history to bytes and back, 1001 entries", |b| {
        b.iter(|| History::from_bytes(&black_box(&history).to_bytes()));
    });
    group.bench_function("digest after a change, 1001 entries", |b| {
        b.iter_batched(|| history.missing_from(&History::new()), |h| h.digest(), BatchSize::SmallInput);
    });

    let partitions = PartitionCount::new(PARTITIONS).expect("a power of two");
    let before = EqualTokens::found(partitions, 3, (0..1000).map(member)).expect("valid members");
    let mut after = before.clone();
    after.join(member(1000)).expect("a new member");
    group.bench_function("one more join, S=1000", |b| {
        b.iter_batched(|| before.clone(), |mut tokens| tokens.join(member(1000)), BatchSize::LargeInput);
    });
    group.bench_function("ring of the tokens, S=1000", |b| b.iter(|| before.ring()));
    let (before, after) = (before.ring(), after.ring());
    group.bench_function("difference, S=1000", |b| b.iter(|| before.diff(black_box(&after))));
    group.finish();
}

criterion_group!(benches, lookup, change);
criterion_main!(benches);
