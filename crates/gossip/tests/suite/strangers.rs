//! Nodes that are made known, and nodes that are not drawn.

use std::time::Duration;

use dynkv_gossip::{Config, Effect, Gossip, GrowSet, Incarnation};

type Node = Gossip<u32, (GrowSet<u64>,)>;

fn node(id: u32) -> Node {
    let run = Incarnation { boot: 1, nonce: u64::from(id) };
    let mut node = Gossip::new(Config::default(), id, run, [], (GrowSet::new(),));
    node.set_state(vec![id as u8]).unwrap();
    node
}

#[test]
fn only_eligible_nodes_are_drawn() {
    let mut one = node(1);
    for id in 2..30 {
        one.introduce(id, 0, Vec::new(), Duration::ZERO);
    }
    let mut drawn = std::collections::BTreeSet::new();
    let mut count = 0u64;
    for second in 0..2000 {
        let mut random = || {
            count = count.wrapping_add(0x9e37_79b9_7f4a_7c15);
            count
        };
        for effect in one.tick_among(Duration::from_secs(2 * second), &mut random, |id| id % 10 == 4) {
            let Effect::Send { to, .. } = effect else { panic!("{effect:?}") };
            drawn.insert(to);
        }
    }
    assert_eq!(drawn, [4, 14, 24].into());
    assert!(one.tick_among(Duration::from_secs(9999), || 0, |_| false).is_empty());
}

#[test]
fn what_others_say_of_a_node_holds_until_it_speaks() {
    let now = Duration::ZERO;
    let (mut one, mut two, mut three) = (node(1), node(2), node(3));
    let talk = |from: u32, a: &mut Node, to: u32, b: &mut Node| {
        let mut message = a.open();
        loop {
            let answer = |effects: Vec<_>| {
                effects.into_iter().find_map(|effect| match effect {
                    Effect::Send { message, .. } => Some(message),
                    _ => None,
                })
            };
            let Some(answered) = answer(b.handle(from, message, now)) else { return };
            let Some(next) = answer(a.handle(to, answered, now)) else { return };
            message = next;
        }
    };
    one.introduce(3, 0, b"as the operator says".to_vec(), now);
    one.introduce(1, 0, b"nobody knows it better".to_vec(), now);
    talk(1, &mut one, 2, &mut two);
    assert_eq!(two.state(&3).unwrap().bytes, b"as the operator says");
    assert_eq!(two.state(&1).unwrap().bytes, [1]);
    assert_eq!(two.peers().collect::<Vec<_>>(), [&1, &3]);
    talk(2, &mut two, 3, &mut three);
    assert_eq!(three.superseded_by(), None);
    talk(2, &mut two, 1, &mut one);
    for node in [&one, &two, &three] {
        assert_eq!(node.state(&3).unwrap().bytes, [3]);
    }
    // Too late.
    one.introduce(3, 0, b"as the operator says".to_vec(), now);
    assert_eq!(one.state(&3).unwrap().bytes, [3]);
}

#[test]
fn hearsay_of_a_later_run_than_this_one_is_outbid() {
    let (mut one, mut two) = (node(1), node(2));
    one.introduce(2, 7, b"before its disk was lost".to_vec(), Duration::ZERO);
    let message = one.open();
    let effects = two.handle(1, message, Duration::ZERO);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Superseded { by } if by.incarnation.is_hearsay()))
    );
    assert_eq!(two.outbid(false), Some(Incarnation { boot: 7, nonce: 0 }));
    one.handle(2, two.open(), Duration::ZERO);
    assert_eq!(one.state(&2).unwrap().bytes, [2]);
    assert_eq!(one.state(&2).unwrap().stamp.incarnation, Incarnation { boot: 8, nonce: 2 });
}
