//! What encoding and decoding cost: a replica message with a 1 KiB value, and the state inside it.

use std::{hint::black_box, time::Duration};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use dynkv_proto::{Actor, Conflict, Frame, PutId, ReplicaPut, Stamp, State, Version, value_hash};
use dynkv_vclock::{CausalContext, HybridTime};

fn state(siblings: u64) -> State {
    let mut state = State::default();
    for n in 0..siblings {
        let value = Bytes::from(vec![n as u8; 1024]);
        let version = Version {
            time: HybridTime::from_u64(1 << 60),
            put_id: PutId(u128::from(n) << 64 | 7),
            tombstone: false,
            content_type: String::new(),
            meta: Default::default(),
            hash: value_hash(&value),
            value,
        };
        state
            .put(Actor(0x1234_5678_9abc_def0 + n, n), &CausalContext::new(), version, Conflict::Siblings)
            .expect("a fresh counter");
    }
    state
}

fn benches(criterion: &mut Criterion) {
    for siblings in [1, 3] {
        let state = state(siblings);
        let encoded = state.encode();
        criterion
            .bench_function(&format!("state/encode/{siblings}"), |b| b.iter(|| black_box(&state).encode()));
        criterion.bench_function(&format!("state/decode/{siblings}"), |b| {
            b.iter(|| State::decode(encoded.clone()));
        });
        criterion.bench_function(&format!("state/digest/{siblings}"), |b| {
            b.iter(|| State::digest(black_box(&encoded)));
        });
    }
    let message = ReplicaPut {
        bucket: "carts".into(),
        key: Bytes::from_static(b"user/1234567890").into(),
        stamp: Stamp::default(),
        durable: false,
        hint_for: None,
    };
    let body = state(1).encode();
    criterion.bench_function("replica_put/encode", |b| {
        let mut out = BytesMut::with_capacity(4096);
        b.iter(|| {
            out.clear();
            Frame::new(black_box(&message), body.clone()).write(7, &mut out);
        });
    });
    let mut wire = BytesMut::new();
    Frame::new(&message, body).write(7, &mut wire);
    criterion.bench_function("replica_put/decode", |b| {
        b.iter(|| {
            let (_, frame) =
                Frame::read(&mut wire.clone(), 1 << 20).expect("a good frame").expect("a whole frame");
            frame.message::<ReplicaPut>()
        });
    });
}

criterion_group! {
    name = codec;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = benches
}
criterion_main!(codec);
