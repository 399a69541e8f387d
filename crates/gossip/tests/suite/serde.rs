//! The `serde` feature: what is written comes back, as long as the tests of sizes assume, and nothing else breaks.

use std::fmt::Debug;

use dynkv_gossip::{Config, Digest, Heartbeat, Incarnation, Latest, NodeState, Prefix, Stamp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{Faults, World};
use crate::{Carried, SECOND, Wire, wire};

fn cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(ciborium::from_reader::<T, _>(cbor(value).as_slice()).unwrap(), *value);
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value);
}

#[test]
fn messages_come_back_and_are_as_long_as_calculated() {
    type Small = dynkv_gossip::GrowSet<u64>;
    let size = |message: &dynkv_gossip::Message<u32, _>| {
        wire::message(
            message,
            |id| wire::number(u64::from(*id)),
            |set| {
                wire::map(
                    set,
                    |_| wire::DIGEST,
                    |()| 1,
                    |value: &dynkv_gossip::Only<u64>| wire::number(*value.get()),
                )
            },
        )
    };
    let mut world = World::<Small>::new(1, Faults { loss: 0.1, ..Faults::NONE }, size);
    world.log = Some(Vec::new());
    for id in 0..30 {
        // Two processes under one id, so that rejections travel, too.
        let process = world.start(Config::default(), id % 29, 1, &[0, 1], Small::new());
        world.node_mut(process).set_state(vec![7; 30]).unwrap();
        for number in 0..40 {
            world.node_mut(process).payload_mut().insert(u64::from(id) << number).unwrap();
        }
    }
    for _ in 0..15 {
        world.run(SECOND);
        for node in world.nodes.iter_mut().flatten() {
            node.outbid(true);
        }
    }
    let log = world.log.unwrap();
    assert!(log.iter().any(|message| message.step > 3));
    for message in log {
        assert_eq!(cbor(&message).len(), size(&message), "{message:?}");
        check(&message);
    }
}

#[test]
fn parts_come_back() {
    check(&Digest::of("x"));
    check(&Heartbeat { id: "n1".to_owned(), boot: 1, count: u64::MAX });
    let incarnation = Incarnation { boot: 2, nonce: 3 };
    let stamp = Stamp { incarnation, version: 4, rejects: Some(incarnation) };
    check(&stamp);
    check(&NodeState { stamp, bytes: vec![0, 255] });
    check(&Latest { version: 1, value: "x".to_owned() });
    for nibbles in 0..=16 {
        check(&Prefix::new(0xfedc_ba98_7654_3210, nibbles));
    }
    assert_eq!(serde_json::to_string(&Prefix::new(0xab << 56, 2)).unwrap(), "[2,171]");
    assert!(serde_json::from_str::<Prefix>("[17,0]").is_err());
    assert!(serde_json::from_str::<Digest>("[1,2,3]").is_err());
}

#[test]
fn lists_that_are_too_long_are_refused() {
    let message = |heartbeats: usize, branches: usize| {
        let branch = (Prefix::new(0, 0), Digest::EMPTY);
        let nothing = Vec::<u8>::new();
        cbor(&(
            0,
            vec![(1, 1, 1); heartbeats],
            (vec![branch; branches], &nothing, &nothing, &nothing),
            Some(()),
        ))
    };
    let read = |bytes: &[u8]| ciborium::from_reader::<dynkv_gossip::Message<u32, ()>, _>(bytes).map(|_| ());
    assert!(read(&message(32, 64)).is_ok());
    assert!(read(&message(33, 64)).is_err());
    assert!(read(&message(32, 65)).is_err());
    let state = |len| cbor(&(((1, 1), 1, None::<()>), serde_json::Value::from(vec![0; len])));
    assert!(ciborium::from_reader::<NodeState, _>(state(NodeState::BYTES_MAX).as_slice()).is_ok());
    assert!(ciborium::from_reader::<NodeState, _>(state(NodeState::BYTES_MAX + 1).as_slice()).is_err());
}

/// A message of a real run.
fn real() -> Vec<u8> {
    let mut world = World::<Carried>::new(1, Faults::NONE, crate::size);
    world.log = Some(Vec::new());
    for id in 0..5 {
        let process = world.start(Config::default(), id, 1, &[0], Carried::default());
        world.node_mut(process).set_state(vec![1; 9]).unwrap();
    }
    world.run(3 * SECOND);
    let log = world.log.unwrap();
    cbor(log.iter().max_by_key(|message| crate::size(message)).unwrap())
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let _ = ciborium::from_reader::<Wire, _>(bytes.as_slice());
        let mut message = real();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        let _ = ciborium::from_reader::<Wire, _>(message.as_slice());
    }
}
