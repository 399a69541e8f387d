//! Every decoder survives every byte string, and reads back what the encoder wrote.

use bytes::{Bytes, BytesMut};
use dynkv_proto::*;
use dynkv_ring::{NodeId, Position};
use dynkv_vclock::{CausalContext, Dot, HybridTime};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

fn actor() -> impl Strategy<Value = Actor> {
    (0u64..3, 0u64..3).prop_map(|(incarnation, birth)| Actor(incarnation + 1, birth))
}

fn context() -> impl Strategy<Value = CausalContext<Actor>> {
    prop::collection::vec((actor(), 1u64..6), 0..8)
        .prop_map(|dots| dots.into_iter().map(|(actor, counter)| Dot { actor, counter }).collect())
}

fn version() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<u128>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..40), "[a-z/]{0,9}")
        .prop_map(|(time, id, tombstone, value, text)| Version {
            time: HybridTime::from_u64(time),
            put_id: PutId(id),
            tombstone,
            content_type: text.clone(),
            meta: [(text.clone(), text)].into(),
            hash: value_hash(&value),
            value: value.into(),
        })
}

fn state() -> impl Strategy<Value = State> {
    prop::collection::vec((actor(), context(), version()), 0..5).prop_map(|puts| {
        let mut state = State::default();
        for (actor, context, version) in puts {
            state.put(actor, &context, version, Conflict::Siblings).expect("small counters");
        }
        state
    })
}

fn node() -> NodeId {
    "n1".parse().expect("a good id")
}

/// Decodes `bytes` as every message there is.
fn decode_all(kind: u16, bytes: &Bytes) {
    fn one<M: Message>(bytes: &Bytes) {
        let _ = Frame { kind: M::KIND, header: bytes.clone(), body: Bytes::new() }.message::<M>();
    }
    let _ = Frame { kind, header: bytes.clone(), body: Bytes::new() }.message::<Get>();
    one::<Get>(bytes);
    one::<GetReply>(bytes);
    one::<Put>(bytes);
    one::<PutReply>(bytes);
    one::<List>(bytes);
    one::<ListReply>(bytes);
    one::<View>(bytes);
    one::<ViewReply>(bytes);
    one::<Status>(bytes);
    one::<StatusReply>(bytes);
    one::<Metrics>(bytes);
    one::<MetricsReply>(bytes);
    one::<Propose>(bytes);
    one::<ProposeReply>(bytes);
    one::<ReplicaGet>(bytes);
    one::<ReplicaGetReply>(bytes);
    one::<ReplicaPut>(bytes);
    one::<ReplicaPutReply>(bytes);
    one::<ReplicaList>(bytes);
    one::<ReplicaListReply>(bytes);
    one::<PutSeen>(bytes);
    one::<PutSeenReply>(bytes);
    one::<Gossip>(bytes);
    one::<GossipReply>(bytes);
    one::<Hints>(bytes);
    one::<HintsReply>(bytes);
    one::<DrainHints>(bytes);
    one::<DrainHintsReply>(bytes);
    one::<Trees>(bytes);
    one::<TreesReply>(bytes);
    one::<Diff>(bytes);
    one::<DiffReply>(bytes);
    one::<Held>(bytes);
    one::<HeldReply>(bytes);
    one::<Repair>(bytes);
    one::<RepairReply>(bytes);
    one::<RepairStatus>(bytes);
    one::<RepairStatusReply>(bytes);
    one::<StopRepair>(bytes);
    one::<StopRepairReply>(bytes);
    one::<Transfers>(bytes);
    one::<TransfersReply>(bytes);
    one::<LimitTransfers>(bytes);
    one::<LimitTransfersReply>(bytes);
    one::<Verify>(bytes);
    one::<VerifyReply>(bytes);
    one::<VerifyStatus>(bytes);
    one::<VerifyStatusReply>(bytes);
    one::<StopVerify>(bytes);
    one::<StopVerifyReply>(bytes);
    one::<TreeRoots>(bytes);
    one::<TreeRootsReply>(bytes);
    one::<TreeCompare>(bytes);
    one::<TreeCompareReply>(bytes);
    one::<States>(bytes);
    one::<StatesReply>(bytes);
    one::<SettleMarks>(bytes);
    one::<SettleMarksReply>(bytes);
    one::<SettlePrepare>(bytes);
    one::<SettlePrepareReply>(bytes);
    one::<SettleDecide>(bytes);
    one::<SettleDecideReply>(bytes);
    one::<SettleDrop>(bytes);
    one::<SettleDropReply>(bytes);
    one::<Admit>(bytes);
    one::<AdmitReply>(bytes);
    one::<Failure>(bytes);
    let _ = Marks::from_bytes(bytes);
    let _ = State::decode(bytes.clone());
    let _ = State::digest(bytes);
    let _ = ContextToken::decode(bytes);
    let _ = BucketChange::from_payload(bytes);
    let _ = FeatureChange::from_payload(bytes);
    let mut stream = BytesMut::from(&bytes[..]);
    while let Ok(Some(_)) = Frame::read(&mut stream, 4096) {}
}

fn put() -> Put {
    Put {
        bucket: "b".into(),
        key: "k".into(),
        context: Bytes::from_static(b"token").into(),
        put_id: PutId(5),
        retry: true,
        tombstone: false,
        content_type: "text/plain".into(),
        meta: [("a".into(), "b".into())].into(),
        hash: 77,
        w: Some(2),
        dw: None,
        pw: Some(0),
        timeout_ms: 5000,
        hops: Hops(1),
        tried: Some(vec![node()]),
        attempt: 3,
    }
}

fn trees() -> TreesReply {
    let trees = vec![
        TreeStatus { partition: 3, root: Some(Digest(9)), entries: 12, depth: 4 },
        TreeStatus { partition: 7, root: None, entries: 0, depth: 0 },
    ];
    TreesReply { node: node(), view: Digest(1), trees, more: true, partitions: 2, building: 1 }
}

fn differences() -> DiffReply {
    let side = |digest| Some(DiffSide { digest: Digest(digest), bytes: 80, versions: 1 });
    let all = [
        (Relation::MissingHere, None, side(2)),
        (Relation::MissingThere, side(1), None),
        (Relation::OlderHere, side(1), side(2)),
        (Relation::OlderThere, side(1), side(2)),
        (Relation::Concurrent, side(1), side(2)),
        (Relation::DamagedHere, None, side(2)),
        (Relation::DamagedThere, side(1), None),
    ];
    let keys = all.map(|(relation, here, there)| DiffKey {
        partition: 5,
        bucket: "b".into(),
        key: "k".into(),
        relation,
        here,
        there,
    });
    DiffReply {
        node: node(),
        shared: 16,
        skipped: vec![2],
        differing: vec![5],
        keys: keys.into(),
        more: false,
    }
}

fn held(context: CausalContext<Actor>) -> HeldReply {
    let version =
        HeldVersion { actor: Actor(1, 2), counter: 3, time_ms: 1 << 41, tombstone: true, len: u64::MAX };
    let state = |hint_for| HeldState {
        hint_for,
        digest: Digest(4),
        bytes: 70,
        context: context.clone(),
        versions: vec![version.clone()],
    };
    HeldReply {
        node: node(),
        home: true,
        states: vec![state(None), state(Some(node()))],
        damaged: vec!["x".into()],
    }
}

fn of_state(state: &State) -> HeldState {
    let version = |(dot, version): (&Dot<Actor>, &Version)| HeldVersion {
        actor: dot.actor,
        counter: dot.counter,
        time_ms: version.time.wall_ms(),
        tombstone: version.tombstone,
        len: version.value.len() as u64,
    };
    HeldState {
        hint_for: None,
        digest: State::digest(&state.encode()).expect("just encoded"),
        bytes: 0,
        context: state.context().clone(),
        versions: state.siblings().iter().map(version).collect(),
    }
}

fn repair_run() -> RepairStatusReply {
    let run = RepairRun {
        number: 1,
        partition: Some(3),
        state: RunState::Stopped,
        age_ms: 9,
        took_ms: 8,
        compared: 1,
        comparisons: 2,
        differences: 3,
        pulled: 4,
        pushed: 5,
        bytes: 6,
        errors: 1,
        last_errors: vec!["n2 is down".into()],
    };
    RepairStatusReply { node: node(), run: Some(run) }
}

fn verify_run() -> VerifyStatusReply {
    let run = VerifyRun {
        number: 1,
        state: RunState::Running,
        phase: VerifyPhase::Healing,
        rate_bytes: 1 << 25,
        age_ms: 9,
        took_ms: 8,
        steps: 5,
        steps_all: 6,
        records: 2,
        hints: 1,
        bytes: 300,
        damaged: 1,
        healed: 0,
        hints_damaged: 1,
        drifts: 1,
        errors: 1,
        last_errors: vec!["a block".into()],
        unhealed: vec![KeyName { bucket: "b".into(), key: "k".into() }],
    };
    VerifyStatusReply { node: node(), run: Some(run) }
}

fn transfers() -> TransfersReply {
    let transfer = |state, partitions: &[u32], read: &[u32]| Transfer {
        state,
        peer: node(),
        partitions: partitions.to_vec(),
        read: read.to_vec(),
        records: 7,
        bytes: 800,
        rate_bytes: 80,
        idle_ms: 61_000,
        stalled: true,
        reason: "n1 is out of reach".into(),
    };
    TransfersReply {
        node: node(),
        limit_bytes: Some(1 << 20),
        to_receive: 2,
        to_give_up: 1,
        transfers: vec![
            transfer(TransferState::Receiving, &[3, 65_535], &[3]),
            transfer(TransferState::Received, &[4], &[]),
            transfer(TransferState::Serving, &[], &[]),
            transfer(TransferState::HandingOver, &[5], &[]),
        ],
        misplaced: true,
    }
}

fn marks() -> impl Strategy<Value = Marks> {
    // Few, so that some are alike.
    let round = || (0u64..3, 0u64..2).prop_map(|(counter, nonce)| Round(counter, nonce * u64::MAX));
    (round(), round(), round()).prop_map(|(promise, agreed, decided)| Marks { promise, agreed, decided })
}

fn settle_prepare(marks: Marks) -> SettlePrepare {
    let key =
        |name: &'static str| SettleKey { bucket: "b".into(), key: name.into(), digest: Digest(u128::MAX) };
    SettlePrepare {
        partition: 65_535,
        round: marks.promise,
        view: Digest(3),
        decided: marks.decided,
        keys: vec![key("k"), key("l")],
    }
}

fn settle_drop(marks: Marks) -> SettleDrop {
    SettleDrop { partition: 1, round: marks.promise, keys: settle_prepare(marks).keys }
}

fn admitted(marks: Marks) -> AdmitReply {
    let of_partition = |partition| PartitionMarks { partition, marks };
    AdmitReply {
        marks: [0, 65_535].map(of_partition).into(),
        history: Bytes::from_static(b"entries").into(),
        is_newcomer: false,
    }
}

fn same<M: Message + std::fmt::Debug + PartialEq>(message: &M) {
    assert_eq!(Frame::new(message, Bytes::new()).message::<M>().as_ref(), Ok(message));
}

#[test]
fn what_operators_are_told_survives_the_round_trip() {
    same(&trees());
    same(&differences());
    same(&held([Dot { actor: Actor(1, 2), counter: 3 }].into_iter().collect()));
    same(&repair_run());
    same(&verify_run());
    same(&transfers());
    same(&LimitTransfers { limit_bytes: None });
    same(&LimitTransfersReply { before_bytes: Some(u64::MAX) });
}

fn cbor<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).expect("memory takes every byte");
    out
}

fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> T {
    ciborium::from_reader(bytes).expect("what was just written")
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(kind: u16, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(kind, &bytes.into());
    }

    /// Damaged good messages reach deeper into the decoders than noise does.
    #[test]
    fn damaged_messages_are_survived(state in state(), marks in marks(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let token = ContextToken::new(Position::of("b", b"k"), state.context().clone(), state.latest_time(), Some(node()));
        for good in [state.encode().to_vec(), token.encode(), cbor(&put()), cbor(&Failure::unknown(FailureCode::Quorum, "x")),
            cbor(&trees()), cbor(&differences()), cbor(&held(state.context().clone())), cbor(&repair_run()), cbor(&verify_run()), cbor(&transfers()),
            cbor(&settle_prepare(marks)), cbor(&settle_drop(marks)), cbor(&admitted(marks)), cbor(&SettleMarksReply { marks })] {
            let mut bad = good.clone();
            let at = at.index(bad.len());
            bad[at] = byte;
            decode_all(1, &bad.into());
            let cut = cut.index(good.len());
            decode_all(2, &Bytes::from(good).slice(..cut));
        }
    }

    #[test]
    fn what_is_said_of_settlement_survives_the_round_trip(marks in marks(), epoch: u64, disk: u64, no in prop::collection::vec(any::<u32>(), 0..4)) {
        let round = marks.promise;
        same(&SettleMarks { partition: 65_535 });
        same(&SettleMarksReply { marks });
        same(&settle_prepare(marks));
        same(&SettlePrepareReply { no });
        same(&SettleDecide { partition: 0, round, view: Digest(disk.into()) });
        same(&SettleDecideReply { reserved: 0 });
        same(&settle_drop(marks));
        same(&SettleDropReply { dropped: 2 });
        same(&Admit { node: node(), disk });
        same(&admitted(marks));
        same(&ReplicaPutReply { stamp: Stamp(epoch, marks) });
        same(&Failure { marks, ..Failure::not_done(FailureCode::Behind, "x") });
        prop_assert_eq!(Marks::from_bytes(&marks.to_bytes()), Some(marks));
    }

    #[test]
    fn states_survive_the_round_trip_and_equal_states_have_equal_bytes(a in state(), b in state()) {
        prop_assert_eq!(&State::decode(a.encode()).unwrap(), &a);
        let (mut ab, mut ba) = (a.clone(), b.clone());
        // One dot, one value is the rule of real actors; these are arbitrary, so only disjoint states may meet.
        if a.siblings().iter().all(|(dot, _)| !b.context().contains(dot)) && b.siblings().iter().all(|(dot, _)| !a.context().contains(dot)) {
            ab.merge(b, Conflict::Siblings);
            ba.merge(a, Conflict::Siblings);
            prop_assert_eq!(ab.encode(), ba.encode());
        }
    }

    /// The union of two states is one of them when that one covers the other.
    #[test]
    fn what_covers_another_state_is_their_union(first in state(), second in state(), third in state()) {
        // The same dots for the same versions: parts of one history.
        let mut a = first.clone();
        a.merge(second.clone(), Conflict::Siblings);
        let mut b = a.clone();
        b.merge(third, Conflict::Siblings);
        for (x, y) in [(&first, &a), (&a, &b), (&second, &b), (&b, &first), (&second, &first)] {
            let mut union = x.clone();
            union.merge(y.clone(), Conflict::Siblings);
            prop_assert_eq!(of_state(x).covers(&of_state(y)), union == *x);
        }
    }

    #[test]
    fn a_flipped_bit_in_a_token_is_noticed(context in context(), bit: prop::sample::Index) {
        let at = Position::of("b", b"k");
        let mut token = ContextToken::new(at, context, HybridTime::from_u64(9), Some(node())).encode();
        prop_assert!(ContextToken::decode_for(&token, at).is_ok());
        let bit = bit.index(token.len() * 8);
        token[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(ContextToken::decode_for(&token, at), Err(ContextError::Damaged));
    }

    #[test]
    fn lww_keeps_the_greatest_time_in_any_order(times in prop::collection::vec(1u64..50, 1..6), order: u64) {
        let states: Vec<State> = times.iter().enumerate().map(|(i, &time)| {
            let mut state = State::default();
            let version = Version {
                time: HybridTime::from_u64(time), put_id: PutId(i as u128), tombstone: false, content_type: String::new(),
                meta: Default::default(), value: Bytes::new(), hash: value_hash(b""),
            };
            state.put(Actor(1 + i as u64, 0), &CausalContext::new(), version, Conflict::Lww).unwrap();
            state
        }).collect();
        let mut merged = State::default();
        for i in 0..states.len() {
            merged.merge(states[(i + order as usize % states.len()) % states.len()].clone(), Conflict::Lww);
        }
        prop_assert_eq!(merged.siblings().len(), 1);
        prop_assert_eq!(merged.latest_time().as_u64(), *times.iter().max().unwrap());
        prop_assert!(states.iter().all(|state| merged.context().includes(state.context())));
    }
}

#[test]
fn frames_survive_the_round_trip_in_pieces() {
    let frame = Frame::new(&put(), Bytes::from_static(b"value"));
    let mut wire = BytesMut::new();
    frame.write(42, &mut wire);
    assert_eq!(wire.len(), frame.wire_len());
    let mut arrived = BytesMut::new();
    for &byte in &wire[..wire.len() - 1] {
        arrived.extend_from_slice(&[byte]);
        assert_eq!(Frame::read(&mut arrived, 4096), Ok(None));
    }
    arrived.extend_from_slice(&wire[wire.len() - 1..]);
    let (id, again) = Frame::read(&mut arrived, 4096).unwrap().unwrap();
    assert_eq!((id, again.message::<Put>().unwrap(), &again.body[..]), (42, put(), &b"value"[..]));
    assert!(arrived.is_empty());
}

#[test]
fn frames_over_the_limit_or_with_lying_lengths_are_refused_before_they_arrive() {
    let read = |bytes: &[u8]| Frame::read(&mut BytesMut::from(bytes), 1000);
    assert!(matches!(read(&997u32.to_be_bytes()), Err(DecodeError::FrameLength { length: 1001, .. })));
    assert!(matches!(read(&15u32.to_be_bytes()), Err(DecodeError::FrameLength { .. })));
    assert!(matches!(read(&u32::MAX.to_be_bytes()), Err(DecodeError::FrameLength { .. })));
    let mut lying = BytesMut::new();
    Frame::new(&Metrics { reserved: 0 }, Bytes::new()).write(1, &mut lying);
    lying[7] = 200;
    assert!(matches!(read(&lying), Err(DecodeError::HeaderLength { header: 200, .. })));
}

/// The rule by which the protocol grows: a shorter array takes defaults where there are any, a longer one is cut.
#[test]
fn surplus_fields_are_skipped_and_missing_ones_named() {
    let longer = cbor(&(0u8, "a newer peer's field"));
    assert_eq!(from_cbor::<Metrics>(&longer), Metrics { reserved: 0 });
    let shorter = Frame { kind: Get::KIND, header: cbor(&("bucket",)).into(), body: Bytes::new() };
    let error = shorter.message::<Get>().unwrap_err();
    assert!(error.to_string().contains("key"), "{error}");
}

/// Surplus fields are skipped whatever they are, but not so deep that the stack would notice.
#[test]
fn deep_nesting_is_refused() {
    let nested = |depth: usize| {
        let mut header = vec![0x82, 0x00];
        header.extend(vec![0x81; depth]);
        header.push(0x00);
        Frame { kind: Metrics::KIND, header: header.into(), body: Bytes::new() }.message::<Metrics>()
    };
    assert_eq!(nested(10), Ok(Metrics { reserved: 0 }));
    assert!(matches!(nested(1_000_000), Err(DecodeError::Header { .. })));
}

#[test]
fn strings_longer_than_the_scratch_space_are_read() {
    let long = "k".repeat(5000);
    let put = Put {
        content_type: long.clone(),
        key: long.clone().into_bytes().into(),
        meta: [(long.clone(), long)].into(),
        ..put()
    };
    assert_eq!(from_header(&put), Ok(put));
}

fn from_header(put: &Put) -> Result<Put, DecodeError> {
    Frame::new(put, Bytes::new()).message()
}

#[test]
fn an_unknown_failure_code_keeps_its_number() {
    let failure = Failure::not_done(FailureCode::Other(999), "of the future");
    assert_eq!(from_cbor::<Failure>(&cbor(&failure)), failure);
}

#[test]
fn a_token_of_another_key_is_refused() {
    let (here, there) = (Position::of("b", b"k"), Position::of("b", b"other"));
    let token = ContextToken::blind(here).encode();
    assert_eq!(ContextToken::decode_for(&token, there), Err(ContextError::OtherKey));
    assert!(ContextToken::decode_for(&[], there).is_ok());
}

#[test]
fn twins_of_one_put_are_one_value_to_a_reader() {
    let version = |text: &'static str, id| Version {
        time: HybridTime::from_u64(1),
        put_id: PutId(id),
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        value: text.into(),
        hash: value_hash(text.as_bytes()),
    };
    let blind = CausalContext::new();
    let mut state = State::default();
    for (actor, text, id) in [(1, "twin", 7), (2, "twin", 7), (3, "other", 8)] {
        state.put(Actor(actor, 0), &blind, version(text, id), Conflict::Siblings).unwrap();
    }
    let visible: Vec<_> = state.visible().map(|(_, version)| version.value.clone()).collect();
    assert_eq!(visible, ["twin", "other"]);
    assert_eq!(state.context().len(), 3);
}

/// What one put of a large value moves between client, coordinator and two more replicas, in bytes of frames.
#[test]
fn a_large_put_moves_little_more_than_its_copies() {
    let value = Bytes::from(vec![7; 100 * 1024]);
    let mut state = State::default();
    let version = Version {
        time: HybridTime::from_u64(1 << 60),
        put_id: PutId(u128::MAX),
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        hash: value_hash(&value),
        value: value.clone(),
    };
    let (written, _) =
        state.put(Actor(u64::MAX, 1000), &CausalContext::new(), version, Conflict::Siblings).unwrap();
    let position = Position::of("b", b"k");
    let token = ContextToken::new(position, written.context, HybridTime::from_u64(1 << 60), Some(node()));
    let put = Frame::new(&Put { context: token.encode().into(), ..put() }, value.clone());
    let stamp = Stamp::default();
    let replica =
        ReplicaPut { bucket: "b".into(), key: "k".into(), stamp, durable: true, hint_for: Some(node()) };
    let replica = Frame::new(&replica, state.encode());
    let acknowledged = Frame::new(&ReplicaPutReply { stamp: Stamp::default() }, Bytes::new());
    let moved = put.wire_len() + 2 * (replica.wire_len() + acknowledged.wire_len());
    assert!((moved as f64) < 3.05 * value.len() as f64, "{moved}");
    assert!((moved as f64) < 3.01 * value.len() as f64, "{moved}: docs/performance.md says 3.01");
}
