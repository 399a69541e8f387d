//! Answering other nodes that compare themselves with this one.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use dynkv_merkle::{AnswerError, Request, RootsRequest};
use dynkv_proto::{
    Failure, FailureCode, Frame, Stamp, StateAsked, StateFound, States, StatesReply, TreeCompareReply,
    TreeRoots, TreeRootsReply,
};
use dynkv_ring::{NodeId, PartitionId};

use super::states::partition_at;
use crate::{
    background::{Answer, Work, give_way},
    chain,
    key::Key,
    record::parse_record_key,
    shared::Shared,
    storage::{StorageError, write_durably},
    trees::index::{Ahead, Index, to_entries},
};

/// Places looked at for one request: half a millisecond from the cache.
pub(super) const PLACES_MAX: usize = 128;

/// Entries of the index read before others have their turn: some hundred microseconds. An answer may have a thousand.
const ENTRIES_AT_ONCE: usize = 32;

/// Bytes of states with which a reply is full; one that is longer goes alone.
const STATES_BYTES: usize = 1024 * 1024;

fn invalid(error: impl ToString) -> Failure {
    Failure::not_done(FailureCode::Invalid, error.to_string())
}

fn storage_failure(node: &Shared, error: &StorageError) -> Failure {
    Failure::not_done(FailureCode::Storage, format!("node {}: {error}", node.cluster.me.id))
}

/// Answers with the roots that this node shares with `from`, in short if they are equal.
pub(crate) async fn roots(
    node: &Shared,
    from: NodeId,
    request: &TreeRoots,
    body: &[u8],
) -> Result<(TreeRootsReply, Bytes), Failure> {
    let view = node.cluster.view();
    node.cluster.serving(&view)?;
    if request.exact.is_none() && view.digest != request.view {
        let message = format!("node {} has another view of the cluster", node.cluster.me.id);
        return Err(Failure { view: view.digest, ..Failure::not_done(FailureCode::Stale, message) });
    }
    node.entropy.compared(from, &node.env);
    let asked = RootsRequest::from_bytes(body).map_err(invalid)?;
    let compared = match request.exact {
        Some(partition) => vec![partition],
        None => {
            let shares = node.entropy.shares(&view, &node.chain, &node.cluster.me.id);
            unsettling(node, shares.get(&from).map(Vec::as_slice).unwrap_or_default())
        }
    };
    let roots = node.replica.trees.roots_of(&compared).and_then(|roots| roots.answer(&asked));
    let answer = roots.map_err(invalid)?;
    if request.exact.is_some() {
        // The tree tells of transactions that have run.
        let synced = write_durably(&*node.replica.storage, Vec::new()).await;
        synced.map_err(|error| storage_failure(node, &error))?;
    }
    Ok(sent(node, TreeRootsReply { reserved: 0 }, answer.to_bytes().into()))
}

/// Those of `partitions` in which no settlement round is about to end: its members do not all drop what is settled at one moment.
pub(super) fn unsettling(node: &Shared, partitions: &[u32]) -> Vec<u32> {
    partitions.iter().copied().filter(|partition| !node.replica.marks.is_quiet(*partition)).collect()
}

/// Answers one step of a comparison.
pub(crate) async fn compare(
    node: &Shared,
    from: NodeId,
    exact: bool,
    body: &[u8],
) -> Result<(TreeCompareReply, Bytes), Failure> {
    node.entropy.compared(from, &node.env);
    let request = Request::from_bytes(body).map_err(invalid)?;
    let span = request.span();
    // Clients may wait for what is exact.
    let _turn = match exact {
        true => node.background.turn_at_once(Work::AntiEntropy),
        false => node.background.turn_to_answer(answer_for(node, from, span.index())).await,
    };
    let tree = node
        .replica
        .trees
        .ready(span.index())
        .filter(|tree| tree.span() == span && (exact || !node.replica.marks.is_quiet(span.index())))
        .ok_or_else(|| {
            let message = format!("node {} has no tree of partition {span} now", node.cluster.me.id);
            Failure::not_done(FailureCode::Stale, message)
        })?;
    let failed = |error: AnswerError<StorageError>| match error {
        AnswerError::Span { .. } => invalid(error),
        AnswerError::Read(error) => {
            storage_failure(node, &StorageError::Failed { reason: error.to_string() })
        }
    };
    let mut answering = tree.answering(&request);
    // Whoever writes meanwhile would have to copy it.
    drop(tree);
    let answer = loop {
        match answering.step(&Index(&*node.replica.storage), ENTRIES_AT_ONCE).map_err(failed)? {
            ControlFlow::Break(answer) => break answer,
            ControlFlow::Continue(rest) => answering = rest,
        }
        tokio::task::yield_now().await;
    };
    // Of one that was given up meanwhile some may be gone, which says nothing.
    if !node.chain.holds(span.index()) {
        let message = format!("node {} does not hold partition {span} any more", node.cluster.me.id);
        return Err(Failure::not_done(FailureCode::Stale, message));
    }
    Ok(sent(node, TreeCompareReply { reserved: 0 }, answer.to_bytes().into()))
}

/// Answers with the states at some places.
pub(crate) async fn states(
    node: &Shared,
    from: NodeId,
    request: &States,
) -> Result<(StatesReply, Bytes), Failure> {
    // A disk that is not admitted yet has no marks, which is not to say that it is an old one.
    node.cluster.serving(&node.cluster.view())?;
    node.entropy.compared(from, &node.env);
    // The clients of this node do not wait for it either.
    let first = request.asked.first().map(|asked| partition_at(node, asked.position));
    let mut turn = match first.filter(|_| !request.urgent) {
        None => node.background.turn_at_once(Work::AntiEntropy),
        Some(first) => node.background.turn_to_answer(answer_for(node, from, first)).await,
    };
    // The asker may have no clients, and this node many: then it asks for large pieces that are answered in small ones.
    let places_max = if request.urgent { PLACES_MAX } else { node.background.piece(PLACES_MAX) };
    for asked in request.asked.iter().take(places_max) {
        let (partition, marks) = (partition_at(node, asked.position), &node.replica.marks);
        // An old disk is found out by either side: were it only by what it asks, that would be up to who of the two asks next.
        let promised = match marks.is_behind(partition, &asked.marks) {
            true => marks.promise(partition, &asked.marks).await,
            false => marks.heed(partition, &asked.marks),
        };
        promised.map_err(|error| Failure::not_done(FailureCode::Storage, error.to_string()))?;
    }
    let mut reply = StatesReply { through: 0, absent: Vec::new(), found: Vec::new() };
    let mut body = BytesMut::new();
    let mut index = Ahead::new(&*node.replica.storage);
    for (at, asked) in (0..).zip(request.asked.iter().take(places_max)) {
        give_way(at as usize).await;
        let held =
            held(node, &mut index, asked, request.bodies).map_err(|error| storage_failure(node, &error))?;
        let states = match held {
            Held::Absent => {
                reply.absent.push(at);
                Vec::new()
            }
            Held::States(states) => states,
        };
        let bytes: usize = states.iter().map(|(_, _, state)| state.len()).sum();
        if body.len() + bytes > STATES_BYTES && reply.through > 0 {
            break;
        }
        for (key, stamp, state) in states {
            let len = state.len() as u64;
            reply.found.push(StateFound { at, bucket: key.bucket, key: key.key.into(), len, stamp });
            body.extend_from_slice(&state);
        }
        reply.through = at + 1;
    }
    turn.moved(reply.found.len());
    Ok(sent(node, reply, body.freeze()))
}

/// Whether what `peer` asks about a partition can wait.
fn answer_for(node: &Shared, peer: NodeId, partition: u32) -> Answer {
    match chain::learn::can_wait(node, PartitionId(partition), peer) {
        true => Answer::CanWait,
        false => Answer::Mends,
    }
}

/// What there is at a place.
enum Held {
    Absent,
    /// Those that the asker has not; damaged ones are left out.
    States(Vec<(Key, Stamp, Bytes)>),
}

fn held(
    node: &Shared,
    index: &mut Ahead<'_>,
    asked: &StateAsked,
    bodies: bool,
) -> Result<Held, StorageError> {
    let indexed = index.at(asked.position)?;
    let Some(summed) = to_entries(&indexed).first().map(|entry| entry.digest) else {
        return Ok(Held::Absent);
    };
    if asked.have.is_some_and(|have| have.0 == summed) {
        return Ok(Held::States(Vec::new()));
    }
    let partitions = node.cluster.view().membership.partitions();
    let mut states = Vec::new();
    for entry in indexed {
        let Some((bucket, key)) = parse_record_key(&entry.record) else { continue };
        let key = Key::new(bucket, key, partitions);
        if !bodies {
            states.push((key, Stamp::default(), Bytes::new()));
            continue;
        }
        let stamp = node.replica.stamp(&key);
        match node.replica.read_intact(&key) {
            Ok(Some(record)) => {
                if record.digest()? != entry.entered.digest {
                    node.replica.check(&key);
                }
                states.push((key, stamp, record.state));
            }
            // The index names a record that is not there.
            Ok(None) => node.replica.check(&key),
            Err(StorageError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Held::States(states))
}

/// Counts an answer.
fn sent<M: dynkv_proto::Message>(node: &Shared, message: M, body: Bytes) -> (M, Bytes) {
    node.metrics.tree_message_sent(Frame::new(&message, body.clone()).wire_len());
    (message, body)
}
