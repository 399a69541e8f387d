//! Messages that no honest node sends.

use std::time::Duration;

use dynkv_gossip::{
    Branch, Config, Digest, Effect, Gossip, Heartbeat, Incarnation, Latest, Leaf, MapMessage, Message,
    NodeState, Prefix, SetStateError, Stamp,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{Carried, Wire, size};

const ME: Incarnation = Incarnation { boot: 3, nonce: 77 };

fn config() -> Config {
    let mut config = Config::default();
    config.nodes_max = 20;
    config.state_bytes_max = 50;
    config
}

fn node() -> Gossip<u32, Carried> {
    let mut node = Gossip::new(config(), 0, ME, [1, 2], Carried::default());
    node.set_state(b"mine".to_vec()).unwrap();
    node
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..10u64, any::<u64>(), Just(u64::MAX)]
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    prop_oneof![3 => (number(), number()).prop_map(Incarnation::from), 1 => Just(ME)]
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (incarnation(), number(), prop::option::of(incarnation()))
        .prop_map(|(incarnation, version, rejects)| Stamp { incarnation, version, rejects })
}

fn state() -> impl Strategy<Value = NodeState> {
    (stamp(), vec(any::<u8>(), 0..60)).prop_map(|(stamp, bytes)| NodeState { stamp, bytes })
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![Just(Digest::EMPTY), any::<u128>().prop_map(Digest::from_u128)]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (number(), 0..20u8).prop_map(|(path, nibbles)| Prefix::new(path, nibbles))
}

fn map<K, V, R>(
    key: impl Strategy<Value = K> + Clone,
    value: impl Strategy<Value = V>,
    version: impl Strategy<Value = R>,
) -> impl Strategy<Value = MapMessage<K, V, R>>
where
    K: std::fmt::Debug,
    V: std::fmt::Debug,
    R: std::fmt::Debug,
{
    let branch = (prefix(), digest()).prop_map(|(prefix, digest)| Branch { prefix, digest });
    let leaf =
        (prefix(), vec((key.clone(), version), 0..30)).prop_map(|(prefix, held)| Leaf { prefix, held });
    (vec(branch, 0..100), vec(leaf, 0..8), vec(key.clone(), 0..300), vec((key, value), 0..300))
        .prop_map(|(branches, leaves, wanted, values)| MapMessage { branches, leaves, wanted, values })
}

fn message() -> impl Strategy<Value = Wire> {
    let heartbeat =
        (0..40u32, number(), number()).prop_map(|(id, boot, count)| Heartbeat { id, boot, count });
    let bytes = vec(any::<u8>(), 0..9);
    let elements = bytes.clone().prop_map(Into::into);
    let history = map(prop_oneof![digest(), bytes.prop_map(|bytes| Digest::of(&bytes))], elements, Just(()));
    let latest = (number(), number()).prop_map(|(version, value)| Latest { version, value });
    let configurations = map(any::<u16>(), latest, number());
    let payload = (prop::option::of(history), prop::option::of(configurations), Just(None));
    (
        prop_oneof![Just(0), Just(1), any::<u16>()],
        vec(heartbeat, 0..50),
        prop::option::of(map(0..40u32, state(), stamp())),
        prop::option::of(payload),
    )
        .prop_map(|(step, heartbeats, states, payload)| Message { step, heartbeats, states, payload })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_and_answers_stay_bounded(messages in vec((0..60u32, message(), 0..100_000u64), 1..12)) {
        let mut node = node();
        let mut now = Duration::ZERO;
        for (from, message, gap) in messages {
            now += Duration::from_millis(gap);
            let mut effects = node.handle(from, message, now);
            effects.extend(node.tick(now, || 7));
            let sent = effects.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count();
            prop_assert!(sent <= 3);
            for effect in effects {
                if let Effect::Send { message, .. } = effect {
                    prop_assert!(message.heartbeats.len() <= config().heartbeats_max);
                    prop_assert!(size(&message) < 300 * 1024, "{}", size(&message));
                }
            }
            prop_assert!(node.states().len() <= config().nodes_max);
            prop_assert!(node.peers().count() <= config().nodes_max);
            prop_assert!(node.states().iter().all(|(_, state)| state.bytes.len() <= config().state_bytes_max));
            for id in 0..60 {
                prop_assert!(node.phi(&id, now).is_none_or(|phi| phi >= 0.0));
            }
        }
        // Its own word is still its own, unless another run took the id.
        node.set_state(b"again".to_vec()).unwrap();
        let own = node.state(&0).unwrap();
        prop_assert!(own.stamp.incarnation > ME || own.bytes == b"again" || own.stamp.version == u64::MAX);
    }

    #[test]
    fn an_honest_neighbour_is_not_harmed(messages in vec(message(), 1..6)) {
        let now = Duration::from_secs(1);
        let (mut one, mut two) = (node(), Gossip::new(config(), 1, ME, [0], Carried::default()));
        for message in messages {
            one.handle(5, message, now);
        }
        one.payload_mut().0.insert(b"news".to_vec()).unwrap();
        // A conversation between the two ends, and brings the news.
        let mut queue: Vec<(u32, Wire)> = Vec::new();
        for round in 0..4u32 {
            let effects = two.tick(now + Duration::from_secs(2) * round, || 0);
            queue.extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Send { message, .. } => Some((0, message)),
                _ => None,
            }));
            for _ in 0..200 {
                let Some((to, message)) = queue.pop() else { break };
                let effects = if to == 0 { one.handle(1, message, now) } else { two.handle(0, message, now) };
                queue.extend(effects.into_iter().filter_map(|effect| match effect {
                    Effect::Send { message, .. } => Some((1 - to, message)),
                    _ => None,
                }));
            }
            prop_assert!(queue.is_empty());
        }
        prop_assert!(two.payload().0.contains(&b"news".to_vec()));
    }
}

#[test]
fn refusals_are_counted() {
    let mut node = node();
    let state = |id: u64, len| {
        let stamp = Stamp { incarnation: Incarnation { boot: 1, nonce: id }, version: 1, rejects: None };
        (id as u32, NodeState { stamp, bytes: vec![0; len] })
    };
    let message = |values| Message {
        step: 1,
        heartbeats: vec![Heartbeat { id: 99, boot: 1, count: 1 }],
        states: Some(MapMessage { branches: vec![], leaves: vec![], wanted: vec![], values }),
        payload: None,
    };
    node.handle(1, message(vec![state(1, 51)]), Duration::ZERO);
    assert_eq!((node.counters().states_refused, node.counters().heartbeats_ignored), (1, 1));
    node.handle(1, message((1..=40).map(|id| state(id, 5)).collect()), Duration::ZERO);
    assert_eq!((node.states().len(), node.counters().states_refused), (20, 1 + 21));
    assert_eq!(node.set_state(vec![0; 51]), Err(SetStateError::TooLong { len: 51, bytes_max: 50 }));
    node.remove(1);
    node.handle(1, message(vec![]), Duration::ZERO);
    assert_eq!(node.counters().messages_ignored, 1);
}
