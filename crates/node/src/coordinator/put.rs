//! Coordinating a put or delete: mint here, then [`replicate`](super::replicate).

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    BucketProperties, ContextToken, Failure, FailureCode, Frame, Put, PutId, PutReply, PutSeen, PutSeenReply,
    Seen, value_hash,
};
use dynkv_ring::NodeId;
use dynkv_vclock::Dot;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{
    Answer, Context, checked_key, effective, failure,
    quorum::Need,
    replicate::{Own, Placed, fallbacks, replicate},
    unknown,
};
use crate::{
    hints::{HintError, Place},
    incoming::Incoming,
    key::Key,
    planted::{self, Bug},
    put_ids::Attempt,
    replica::{Mint, MintError, Minted},
    settle::{TakeError, send::Held},
    shared::Shared,
    storage::{Durability, StorageError},
};

/// Metadata a client may attach to a value, keys and content type included.
const META_BYTES_MAX: usize = 4096;

/// Nodes that a client may name as asked before; if it names more, every member is asked.
const TRIED_MAX: usize = 64;

/// Which part of the time that is left the question to the other homes may take when a retry comes.
const SEEN_SHARE: u32 = 3;

pub(super) async fn put(node: Arc<Shared>, context: Context, request: Put, value: Bytes, answer: Answer) {
    let checked = check(&node, &context, &request, &value);
    let (key, token, properties) = match checked {
        Ok(checked) => checked,
        Err(failure) => return answer.failed(&failure),
    };
    let position = key.position;
    let place = Place::of(&context.members.homes, &node.cluster.me.id);
    let tried = request.tried;
    let mint = Mint {
        context: token,
        put_id: request.put_id,
        attempt: Attempt { number: request.attempt, is_first: !request.retry },
        tombstone: request.tombstone,
        content_type: request.content_type,
        meta: request.meta,
        hash: request.hash,
        value,
        conflict: properties.conflict,
        siblings_max: properties.siblings_max,
    };
    let durable = properties.dw > 0 && !planted::is(Bug::OwnAckFromMemory);
    let durability = if durable { Durability::Disk } else { Durability::Memory };
    let (attempt, put_id) = (mint.attempt, mint.put_id);
    let retried = if attempt.is_first {
        Ok(false)
    } else {
        ask_others(&node, &context, &key, &place, put_id, attempt, tried.as_deref()).await
    };
    let possible_duplicate = match retried {
        Ok(possible_duplicate) => possible_duplicate,
        Err(failure) => return answer.failed(&failure),
    };
    let (minted, written) = match mint_here(&node, &context, &key, place.clone(), mint, durability).await {
        Ok(minted) => minted,
        Err(failure) => return answer.failed(&failure),
    };
    let properties = match planted::is(Bug::RetryWithoutQuorum) && !attempt.is_first {
        true => BucketProperties { w: 1, dw: 0, pw: 0, ..properties },
        false => properties,
    };
    let possible_duplicate = (possible_duplicate || minted.twins) && !planted::is(Bug::DuplicatesUnsaid);
    if possible_duplicate {
        node.metrics.puts_possible_duplicate.inc();
    }
    let view = context.view.digest;
    let coordinator = context.forwarded.then_some(node.cluster.me.id);
    let reply = |got: Need| PutReply {
        context: ContextToken::new(position, minted.context.clone(), minted.time, Some(node.cluster.me.id))
            .encode()
            .into(),
        actor: minted.dot.actor,
        counter: minted.dot.counter,
        replicas: got.replicas,
        homes: got.homes,
        durable: got.durable,
        possible_duplicate,
        view,
        coordinator,
    };
    let slot = match &place {
        Place::Home => node.cluster.me.id,
        Place::Fallback(homes) => {
            node.metrics.puts_fallback.inc();
            // A founded ring has homes for every partition.
            homes.first().copied().unwrap_or(node.cluster.me.id)
        }
    };
    let held = Held { state: minted.state.clone(), marks: minted.stamp.1 };
    let own = Own::Written { slot, epoch: minted.stamp.0, outcome: written };
    let placed = Placed { held, dot: minted.dot, place, own };
    replicate(&node, context, &key, placed, &properties, answer, reply).await;
}

/// Refuses what can be refused before anything is written.
fn check(
    node: &Shared,
    context: &Context,
    request: &Put,
    value: &Bytes,
) -> Result<(Key, ContextToken, BucketProperties), Failure> {
    let view = &context.view;
    let key = checked_key(view, &request.bucket, &request.key)?;
    let homes = &context.members.homes;
    let properties = effective(context, homes.len(), |properties| {
        properties.w = request.w.unwrap_or(properties.w);
        // A quorum lowered for one request lowers what is part of it, unless that is asked for, too.
        properties.dw = request.dw.unwrap_or(properties.dw.min(properties.w));
        properties.pw = request.pw.unwrap_or(properties.pw.min(properties.w));
    })?;
    let too_large = |what: &str, bytes: usize, limit: usize, hint: &str| {
        let message = format!(
            "the {what} has {bytes} bytes, the limit of bucket '{}' is {limit}: {hint}",
            request.bucket
        );
        Err(failure(view, FailureCode::TooLarge, message))
    };
    let key_max = properties.key_bytes_max as usize;
    if request.key.len() > key_max {
        return too_large(
            "key",
            request.key.len(),
            key_max,
            "use a shorter key, or raise key_bytes_max with `dyn bucket set`",
        );
    }
    let value_max = properties.value_bytes_max as usize;
    if value.len() > value_max {
        return too_large(
            "value",
            value.len(),
            value_max,
            "split it, or raise value_bytes_max with `dyn bucket set`",
        );
    }
    let meta = request.content_type.len()
        + request.meta.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>();
    if meta > META_BYTES_MAX {
        return too_large("metadata", meta, META_BYTES_MAX, "shorten it, or put it into the value");
    }
    if request.tombstone && !value.is_empty() {
        return Err(failure(view, FailureCode::Invalid, "a delete carries no value".into()));
    }
    if value_hash(value) != request.hash {
        return Err(failure(
            view,
            FailureCode::Invalid,
            "the value does not match its hash, it was damaged on the way: put it again".into(),
        ));
    }
    let token = ContextToken::decode_for(&request.context, key.position)
        .map_err(|error| failure(view, FailureCode::Context, error.to_string()))?;
    check_reachable(node, context, &key, homes, &properties)?;
    Ok((key, token, properties))
}

/// The one thing known beforehand: with too few nodes in reach the put would certainly end as unknown.
fn check_reachable(
    node: &Shared,
    context: &Context,
    key: &Key,
    homes: &[NodeId],
    properties: &BucketProperties,
) -> Result<(), Failure> {
    let reachable = |id: &NodeId| *id == node.cluster.me.id || node.peers.is_reachable(*id);
    let homes_reachable = homes.iter().filter(|home| reachable(home)).count();
    let wanted = usize::from(properties.w.max(properties.dw));
    let what = if homes_reachable < usize::from(properties.pw) {
        format!("{homes_reachable} of the {} home replicas", properties.pw)
    } else if homes_reachable < wanted {
        // Others stand in for the homes.
        let walk = fallbacks(node, context, key);
        let here = usize::from(!homes.contains(&node.cluster.me.id));
        let all = homes_reachable + here + walk.iter().filter(|id| reachable(id)).count();
        if all >= wanted {
            return Ok(());
        }
        format!("{all} of the {wanted} nodes")
    } else {
        return Ok(());
    };
    let message = format!(
        "{what} that must acknowledge can be reached ({}): nothing was written; see `dyn status`, or write with a smaller -w",
        down(node, homes),
    );
    Err(failure(&context.view, FailureCode::Quorum, message))
}

/// Which homes are out of reach, and why.
fn down(node: &Shared, homes: &[NodeId]) -> String {
    let others = homes.iter().filter(|home| **home != node.cluster.me.id && !node.peers.is_reachable(**home));
    others
        .map(|home| format!("{home}: {}", node.peers.status(*home).last_error))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Mints on this node's replica; the local write goes on while the caller replicates.
async fn mint_here(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    place: Place,
    mint: Mint,
    durability: Durability,
) -> Result<(Minted, oneshot::Receiver<Result<(), StorageError>>), Failure> {
    let refused = |error: MintError| refusal(node, context, &error);
    let minting = node.replica.mint(key, place, mint, durability).map_err(|error| refused(error.into()))?;
    match tokio::time::timeout_at(context.deadline, minting.minted).await {
        Ok(Ok(Ok(minted))) => Ok((minted, minting.written)),
        Ok(Ok(Err(error))) => Err(refused(error)),
        Ok(Err(_)) => Err(refused(StorageError::Closed.into())),
        Err(_) => {
            let message = format!(
                "the disk of node {} took too long: get the key to see what became of it",
                node.cluster.me.id
            );
            Err(unknown(&context.view, FailureCode::Timeout, message))
        }
    }
}

/// Asks everybody who may have coordinated it whether a put that is retried was applied: the homes, and the nodes that
/// earlier attempts were sent to, which may have stood in for them. What they have is united here, so that minting finds it.
/// Returns whether the put may have been applied once more than is known, because somebody could not say or because it was
/// applied twice.
async fn ask_others(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    place: &Place,
    put_id: PutId,
    attempt: Attempt,
    tried: Option<&[NodeId]>,
) -> Result<bool, Failure> {
    if planted::is(Bug::RetryAsksNobody) {
        return Ok(false);
    }
    let conflict = context.properties.conflict;
    // This node's own memory counts, too: after a restart, or after an attempt that failed, it cannot say.
    let mine = match node.replica.begin_retry(key, place, conflict, put_id, attempt) {
        Ok(seen) => seen,
        Err(superseded @ MintError::Superseded) => return Err(refusal(node, context, &superseded)),
        Err(_) => Seen::CannotSay,
    };
    let question = PutSeen {
        bucket: key.bucket.clone(),
        key: key.key.clone().into(),
        put_id,
        attempt: attempt.number,
        stamp: node.replica.stamp(key),
    };
    let frame = Frame::new(&question, Bytes::new());
    let timeout = context.time_left() / SEEN_SHARE;
    let mut answers: FuturesUnordered<_> = coordinators(context, tried)
        .into_iter()
        .filter(|id| *id != node.cluster.me.id)
        .map(|id| node.peers.request::<PutSeenReply>(id, Class::Foreground, frame.clone(), timeout))
        .collect();
    let is_certain = |seen| matches!(seen, Seen::Applied | Seen::NotApplied);
    let mut certain = is_certain(mine);
    let mut dots = BTreeSet::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((reply, state)) if matches!(reply.seen, Seen::Applied | Seen::AppliedPerhapsTwice) => {
                certain &= is_certain(reply.seen);
                adopt(node, context, key, place, put_id, &reply, state).await?;
                dots.insert(Dot { actor: reply.actor, counter: reply.counter });
            }
            Ok((reply, _)) => certain &= is_certain(reply.seen),
            Err(_) => certain = false,
        }
    }
    Ok(!certain || dots.len() > 1)
}

/// Who may have coordinated earlier attempts: any member, when the client does not know whom it asked.
fn coordinators(context: &Context, tried: Option<&[NodeId]>) -> BTreeSet<NodeId> {
    let homes = context.members.homes.iter().copied();
    match tried {
        Some(tried) if tried.len() <= TRIED_MAX => homes.chain(tried.iter().copied()).collect(),
        _ => context.view.membership.members().map(|state| state.member.id).collect(),
    }
}

/// Takes over what another node has of a put that it applied.
async fn adopt(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    place: &Place,
    put_id: PutId,
    reply: &PutSeenReply,
    state: Bytes,
) -> Result<(), Failure> {
    let refuse = |message: String| failure(&context.view, FailureCode::Storage, message);
    let incoming = Incoming::verify(state, reply.stamp.1).map_err(|error| refuse(error.to_string()))?;
    let conflict = context.properties.conflict;
    let (sender, united) = oneshot::channel();
    let done = |outcome: Result<(), HintError>| drop(sender.send(outcome));
    match place {
        Place::Home => {
            let done = |outcome: Result<u64, TakeError>| done(outcome.map(drop).map_err(HintError::from));
            node.replica.unite(key, incoming, conflict, Durability::Memory, done)
        }
        Place::Fallback(homes) => {
            let target = homes.first().copied().unwrap_or(node.cluster.me.id);
            node.replica.unite_hint(key, target, incoming, conflict, done)
        }
    }
    .map_err(|error| refuse(error.to_string()))?;
    united.await.unwrap_or(Err(StorageError::Closed.into())).map_err(|error| refuse(error.to_string()))?;
    node.replica.remember(vec![(put_id, Dot { actor: reply.actor, counter: reply.counter })]);
    Ok(())
}

/// A put that was certainly not done.
fn refusal(node: &Shared, context: &Context, error: &MintError) -> Failure {
    let code = match error {
        MintError::SiblingLimit { .. } | MintError::SiblingBytes { .. } => FailureCode::SiblingLimit,
        MintError::ContextLimit { .. } => FailureCode::TooLarge,
        MintError::Clock => FailureCode::Clock,
        MintError::Superseded => FailureCode::NoAnswer,
        MintError::NotHeld { .. } => FailureCode::NotHome,
        MintError::Counter | MintError::Hint(_) | MintError::Storage(StorageError::Busy { .. }) => {
            FailureCode::Overloaded
        }
        MintError::Storage(_) => FailureCode::Storage,
    };
    failure(&context.view, code, format!("node {}: {error}", node.cluster.me.id))
}
