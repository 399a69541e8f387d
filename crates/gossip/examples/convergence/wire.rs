//! How long messages are as CBOR, without encoding them. A test compares it with an encoder.
#![allow(dead_code, unreachable_pub)] // Each user is a program of its own, and needs a part.

use dynkv_gossip::{Incarnation, MapMessage, Message, NodeState, Prefix, Stamp};

/// A number, or the head of a list, a text or bytes of that length.
pub fn number(value: u64) -> usize {
    match value {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

pub const DIGEST: usize = 1 + 16;

/// A message, given the lengths of ids and of the payload's messages.
pub fn message<N, M>(
    message: &Message<N, M>,
    id: impl Fn(&N) -> usize,
    payload: impl Fn(&M) -> usize,
) -> usize {
    let heartbeats = &message.heartbeats;
    1 + number(message.step.into())
        + number(heartbeats.len() as u64)
        + heartbeats
            .iter()
            .map(|beat| 1 + id(&beat.id) + number(beat.boot) + number(beat.count))
            .sum::<usize>()
        + message.states.as_ref().map_or(1, |states| map(states, &id, stamp, state))
        + message.payload.as_ref().map_or(1, payload)
}

/// A map's message, given the lengths of keys, versions and values.
pub fn map<K, V, R>(
    message: &MapMessage<K, V, R>,
    key: impl Fn(&K) -> usize,
    version: impl Fn(&R) -> usize,
    value: impl Fn(&V) -> usize,
) -> usize {
    let MapMessage { branches, leaves, wanted, values } = message;
    let leaf_entries = |held: &[(K, R)]| held.iter().map(|(k, v)| 1 + key(k) + version(v)).sum::<usize>();
    let heads = [branches.len(), leaves.len(), wanted.len(), values.len()].map(|len| number(len as u64));
    1 + heads.iter().sum::<usize>()
        + branches.iter().map(|branch| 1 + prefix(branch.prefix) + DIGEST).sum::<usize>()
        + leaves
            .iter()
            .map(|leaf| 1 + prefix(leaf.prefix) + number(leaf.held.len() as u64) + leaf_entries(&leaf.held))
            .sum::<usize>()
        + wanted.iter().map(&key).sum::<usize>()
        + values.iter().map(|(k, v)| 1 + key(k) + value(v)).sum::<usize>()
}

fn prefix(prefix: Prefix) -> usize {
    let unused = 64 - 4 * u32::from(prefix.nibbles());
    1 + number(prefix.nibbles().into()) + number(prefix.path().checked_shr(unused).unwrap_or(0))
}

fn incarnation(of: &Incarnation) -> usize {
    1 + number(of.boot) + number(of.nonce)
}

fn stamp(stamp: &Stamp) -> usize {
    1 + incarnation(&stamp.incarnation)
        + number(stamp.version)
        + stamp.rejects.as_ref().map_or(1, incarnation)
}

fn state(state: &NodeState) -> usize {
    1 + stamp(&state.stamp) + number(state.bytes.len() as u64) + state.bytes.len()
}
