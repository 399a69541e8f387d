//! Showing operators where this node differs from another one. Nothing is changed by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dynkv_merkle::Difference;
use dynkv_proto::{
    Conflict, Diff, DiffKey, DiffReply, DiffSide, Failure, FailureCode, Relation, State, StateAsked,
};
use dynkv_ring::NodeId;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    CompareError,
    answer::PLACES_MAX,
    pass::{Pass, place, turn},
    states::{keys_at, look, name_at, verified},
};
use crate::{background::Work, key::Key, shared::Shared, storage::StorageError};

/// Keys in one reply: far below the longest header.
const KEYS_MAX: u32 = 1000;

/// Comparisons for operators under way at once.
const DIFFS_MAX: usize = 4;

const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Admission to comparisons for operators.
pub(super) struct Diffs(Semaphore);

impl Default for Diffs {
    fn default() -> Diffs {
        Diffs(Semaphore::new(DIFFS_MAX))
    }
}

/// Answers where this node and `request.peer` differ.
pub(crate) async fn diff(node: Arc<Shared>, request: Diff) -> Result<DiffReply, Failure> {
    let me = node.cluster.me.id;
    let view = node.cluster.view();
    let refused = |code, message: String| Err(Failure::not_done(code, message));
    if let Err(reason) = node.cluster.serving(&view) {
        return refused(FailureCode::NotServing, reason.to_string());
    }
    let peer = request.peer;
    if peer == me {
        return refused(
            FailureCode::Invalid,
            format!("node {me} is to be compared with itself: name two nodes"),
        );
    }
    let shares = node.entropy.shares(&view, &node.chain, &me);
    let shared = shares.get(&peer).map(Vec::as_slice).unwrap_or_default();
    if shared.is_empty() {
        let message = format!("{me} and {peer} are not homes of the same partitions: see `dyn ring show`");
        return refused(FailureCode::Invalid, message);
    }
    let only = match request.partition {
        Some(partition) if shared.contains(&partition) => Some(BTreeSet::from([partition])),
        Some(partition) => {
            let message = format!("{me} and {peer} are not both homes of partition {partition}");
            return refused(FailureCode::Invalid, message);
        }
        None => None,
    };
    let shared = only.as_ref().map_or(shared.len(), BTreeSet::len) as u32;
    let Ok(_permit) = node.entropy.diffs.0.try_acquire() else {
        let message =
            format!("node {me} makes {DIFFS_MAX} comparisons for operators already: try again later");
        return refused(FailureCode::Overloaded, message);
    };
    let limit = Duration::from_millis(request.timeout_ms.into()).min(TIMEOUT_MAX);
    match timeout(limit, compared(&node, &request, only, shared)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => {
            refused(FailureCode::NoAnswer, format!("{me} was not compared with {peer}: {}", error.reason()))
        }
        Err(_) => refused(
            FailureCode::Timeout,
            format!(
                "{me} was not compared with {peer} in {} ms: allow more time, or ask for one partition",
                limit.as_millis()
            ),
        ),
    }
}

async fn compared(
    node: &Arc<Shared>,
    request: &Diff,
    only: Option<BTreeSet<u32>>,
    shared: u32,
) -> Result<DiffReply, CompareError> {
    let mut pass = Pass { node, peer: request.peer, exact: None, found: Vec::new() };
    let only = |partition| only.as_ref().is_none_or(|only| only.contains(&partition));
    let mut roots = pass.roots(&only).await?;
    // Keys come in the order of their partitions, so that a limit cuts off the last ones.
    roots.differing.sort_unstable();
    let mut reply = DiffReply {
        node: node.cluster.me.id,
        shared,
        skipped: roots.skipped,
        differing: roots.differing.iter().map(|(partition, _)| *partition).collect(),
        keys: Vec::new(),
        more: false,
    };
    if !request.keys {
        return Ok(reply);
    }
    let limit = request.limit.clamp(1, KEYS_MAX) as usize;
    let together = roots.differing.len();
    for (partition, depth) in roots.differing {
        let mut descent = pass.descend(partition, depth, together);
        loop {
            let more = descent.step(&mut pass).await?;
            let found = std::mem::take(&mut pass.found);
            for batch in found.chunks(PLACES_MAX) {
                if reply.keys.len() > limit {
                    break;
                }
                look_at(node, request.peer, batch, &mut reply.keys).await?;
            }
            if !more || reply.keys.len() > limit {
                break;
            }
        }
        if reply.keys.len() > limit {
            reply.keys.truncate(limit);
            reply.more = true;
            break;
        }
    }
    Ok(reply)
}

/// What a node has of a key.
#[derive(Default)]
enum Has {
    #[default]
    Nothing,
    Damaged,
    State(Bytes, State),
}

impl Has {
    fn side(&self) -> Option<DiffSide> {
        let Has::State(bytes, state) = self else { return None };
        Some(DiffSide {
            digest: State::digest(bytes).ok()?,
            bytes: bytes.len() as u64,
            // As many as fit into a header.
            versions: state.siblings().len() as u32,
        })
    }
}

/// Looks at places again, at the states themselves, and says how they stand to each other.
async fn look_at(
    node: &Arc<Shared>,
    peer: NodeId,
    found: &[Difference],
    differences: &mut Vec<DiffKey>,
) -> Result<(), CompareError> {
    // All of them, also those that are equal by now: otherwise a damaged one could not be told from an equal one.
    let mut asked: Vec<StateAsked> = found.iter().map(|difference| name_at(place(difference))).collect();
    while !asked.is_empty() {
        let turn = turn(node, Work::AntiEntropy).await?;
        let (reply, mut body) = look(node, peer, &asked, true).await?;
        drop(turn);
        let mut keys: BTreeMap<Bytes, (Key, Has, Has)> = BTreeMap::new();
        let looked_at = (reply.through as usize).min(asked.len());
        for (at, asked) in asked.iter().enumerate().take(looked_at) {
            let absent = reply.absent.iter().any(|absent| *absent as usize == at);
            for key in keys_at(node, asked.position)? {
                let here = held(node, &key)?;
                // What is neither listed nor absent is damaged.
                let there = if absent { Has::Nothing } else { Has::Damaged };
                keys.insert(key.record.clone(), (key, here, there));
            }
        }
        for found in reply.found {
            let position = asked.get(found.at as usize).map(|asked| asked.position);
            let Some((key, theirs)) = verified(node, peer, found, position, &mut body)? else { continue };
            let new = || (key.clone(), Has::Nothing, Has::Nothing);
            keys.entry(key.record.clone()).or_insert_with(new).2 = Has::State(theirs.bytes, theirs.state);
        }
        let view = node.cluster.view();
        for (key, here, there) in keys.into_values() {
            let conflict = view.buckets.get(&key.bucket).conflict;
            if let Some(relation) = relation(&here, &there, conflict) {
                let partition = key.partition.0;
                let (here, there) = (here.side(), there.side());
                let Key { bucket, key, .. } = key;
                differences.push(DiffKey { partition, bucket, key: key.into(), relation, here, there });
            }
        }
        asked.drain(..looked_at);
    }
    Ok(())
}

fn held(node: &Shared, key: &Key) -> Result<Has, StorageError> {
    match node.replica.read_intact(key) {
        Ok(Some(record)) => {
            let state = record.decode_state()?;
            Ok(Has::State(record.state, state))
        }
        // The index names a record that is not there.
        Ok(None) | Err(StorageError::Damaged { .. }) => Ok(Has::Damaged),
        Err(error) => Err(error),
    }
}

/// How two sides stand to each other; `None`: they are equal.
fn relation(here: &Has, there: &Has, conflict: Conflict) -> Option<Relation> {
    match (here, there) {
        (Has::Damaged, _) => Some(Relation::DamagedHere),
        (_, Has::Damaged) => Some(Relation::DamagedThere),
        (Has::Nothing, Has::Nothing) => None,
        (Has::Nothing, Has::State(..)) => Some(Relation::MissingHere),
        (Has::State(..), Has::Nothing) => Some(Relation::MissingThere),
        (Has::State(_, here), Has::State(_, there)) => relation_of(here, there, conflict),
    }
}

/// By what their union is, which is what mending would make of them. Contexts alone do not say it: in `lww` buckets a version
/// goes although no context has replaced it.
fn relation_of(here: &State, there: &State, conflict: Conflict) -> Option<Relation> {
    let mut union = here.clone();
    union.merge(there.clone(), conflict);
    match (union == *here, union == *there) {
        (true, true) => None,
        (false, true) => Some(Relation::OlderHere),
        (true, false) => Some(Relation::OlderThere),
        (false, false) => Some(Relation::Concurrent),
    }
}

#[cfg(test)]
mod tests {
    use dynkv_proto::{Actor, PutId, Version, value_hash};
    use dynkv_vclock::{CausalContext, HybridTime};

    use super::*;

    fn put(state: &mut State, actor: u64, time: u64, context: &CausalContext<Actor>, conflict: Conflict) {
        let version = Version {
            time: HybridTime::from_u64(time),
            put_id: PutId(time.into()),
            tombstone: false,
            content_type: String::new(),
            meta: BTreeMap::new(),
            hash: value_hash(b""),
            value: Bytes::new(),
        };
        state.put(Actor(1, actor), context, version, conflict).expect("small counters");
    }

    #[test]
    fn of_two_states_one_is_older_when_their_union_is_the_other() {
        let blind = CausalContext::new();
        for conflict in [Conflict::Siblings, Conflict::Lww] {
            let mut first = State::default();
            put(&mut first, 1, 1, &blind, conflict);
            let mut next = first.clone();
            put(&mut next, 2, 2, first.context(), conflict);
            let mut other = first.clone();
            put(&mut other, 3, 3, first.context(), conflict);
            assert_eq!(relation_of(&first, &first, conflict), None);
            assert_eq!(relation_of(&first, &next, conflict), Some(Relation::OlderHere));
            assert_eq!(relation_of(&next, &first, conflict), Some(Relation::OlderThere));
            assert_eq!(relation_of(&next, &other, conflict), Some(Relation::Concurrent));
        }
    }

    #[test]
    fn what_is_damaged_or_missing_is_said_so() {
        let state = || Has::State(State::default().encode(), State::default());
        let table = [
            (Has::Nothing, Has::Nothing, None),
            (state(), state(), None),
            (Has::Nothing, state(), Some(Relation::MissingHere)),
            (state(), Has::Nothing, Some(Relation::MissingThere)),
            (Has::Damaged, state(), Some(Relation::DamagedHere)),
            (Has::Damaged, Has::Nothing, Some(Relation::DamagedHere)),
            (state(), Has::Damaged, Some(Relation::DamagedThere)),
        ];
        for (here, there, expected) in table {
            assert_eq!(relation(&here, &there, Conflict::Siblings), expected);
        }
    }
}
