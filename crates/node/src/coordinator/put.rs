//! Coordinating a put or delete: mint here, replicate everywhere, answer at the quorum.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    BucketProperties, ContextToken, Failure, FailureCode, Frame, Put, PutId, PutReply, PutSeen, PutSeenReply,
    ReplicaPut, ReplicaPutReply, Seen, Stamp, value_hash,
};
use dynkv_ring::NodeId;
use dynkv_vclock::Dot;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{
    Answer, Context, checked_key, effective, failure,
    quorum::{Asked, Need, Quorum, Verdict},
    unknown,
};
use crate::{
    key::Key,
    peers::PeerError,
    planted::{self, Bug},
    replica::{Incoming, Mint, MintError, Minted},
    shared::Shared,
    storage::{Durability, StorageError},
};

/// Metadata a client may attach to a value, keys and content type included.
const META_BYTES_MAX: usize = 4096;

/// Which part of the time that is left the question to the other homes may take when a retry comes.
const SEEN_SHARE: u32 = 3;

pub(super) async fn put(node: Arc<Shared>, context: Context, request: Put, value: Bytes, answer: Answer) {
    let checked = check(&node, &context, &request, &value);
    let (key, token, properties) = match checked {
        Ok(checked) => checked,
        Err(failure) => return answer.failed(&failure),
    };
    let position = key.position;
    let mut mint = Mint {
        context: token,
        put_id: request.put_id,
        retry: request.retry,
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
    let mut possible_duplicate = false;
    let (minted, written) = loop {
        if mint.retry {
            match ask_homes(&node, &context, &key, mint.put_id).await {
                Ok(duplicate) => possible_duplicate = duplicate,
                Err(failure) => return answer.failed(&failure),
            }
        }
        match mint_here(&node, &context, &key, mint.clone(), durability).await {
            Ok(minted) => break minted,
            // A retry has overtaken this first attempt, by way of another coordinator.
            Err(Refused::Denied) => mint.retry = true,
            Err(Refused::Failed(failure)) => return answer.failed(&failure),
        }
    };
    let properties = match planted::is(Bug::RetryWithoutQuorum) && mint.retry {
        true => BucketProperties { w: 1, dw: 0, pw: 0, ..properties },
        false => properties,
    };
    let possible_duplicate = (possible_duplicate || minted.twins) && !planted::is(Bug::DuplicatesUnsaid);
    if possible_duplicate {
        node.metrics.puts_possible_duplicate.inc();
    }
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
        view: context.view.digest,
    };
    replicate(&node, &context, &key, &minted, written, &properties, answer, reply).await;
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
    let homes = view.membership.ring().homes(key.partition);
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
    // The one thing known beforehand: with fewer than w homes in reach this would certainly end as unknown.
    let reachable =
        homes.iter().filter(|home| **home == node.cluster.me.id || node.peers.is_reachable(**home)).count();
    let wanted = properties.w.max(properties.dw).max(properties.pw);
    if reachable < usize::from(wanted) {
        let message = format!(
            "{reachable} of the {wanted} replicas that must acknowledge can be reached ({}): nothing was written; see `dyn status`, or write with a smaller -w",
            down(node, homes),
        );
        return Err(failure(view, FailureCode::Quorum, message));
    }
    Ok((key, token, properties))
}

/// Which homes are out of reach, and why.
fn down(node: &Shared, homes: &[NodeId]) -> String {
    let others = homes.iter().filter(|home| **home != node.cluster.me.id && !node.peers.is_reachable(**home));
    others
        .map(|home| format!("{home}: {}", node.peers.status(*home).last_error))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Why [`mint_here`] did not.
enum Refused {
    Denied,
    Failed(Failure),
}

/// Mints on this node's replica; the local write goes on while the caller replicates.
async fn mint_here(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    mint: Mint,
    durability: Durability,
) -> Result<(Minted, oneshot::Receiver<Result<(), StorageError>>), Refused> {
    let refused = |error: MintError| Refused::Failed(refusal(node, context, &error));
    let minting = node.replica.mint(key, mint, durability).map_err(|error| refused(error.into()))?;
    match tokio::time::timeout_at(context.deadline, minting.minted).await {
        Ok(Ok(Ok(minted))) => Ok((minted, minting.written)),
        Ok(Ok(Err(MintError::Denied))) => Err(Refused::Denied),
        Ok(Ok(Err(error))) => Err(refused(error)),
        Ok(Err(_)) => Err(refused(StorageError::Closed.into())),
        Err(_) => {
            let message = format!(
                "the disk of node {} took too long: get the key to see what became of it",
                node.cluster.me.id
            );
            Err(Refused::Failed(unknown(&context.view, FailureCode::Timeout, message)))
        }
    }
}

/// Asks every home whether it has applied a put that is retried. What they have is united here, so that minting finds
/// it. Returns whether the put may have been applied once more than is known, because some home could not say or because
/// it was applied twice.
async fn ask_homes(node: &Arc<Shared>, context: &Context, key: &Key, put_id: PutId) -> Result<bool, Failure> {
    if planted::is(Bug::RetryAsksNobody) {
        return Ok(false);
    }
    // This node's own memory counts, too: after a restart, or after an attempt that failed, it cannot say.
    let mine = node.replica.begin_retry(key, put_id).unwrap_or(Seen::CannotSay);
    let question = PutSeen { bucket: key.bucket.clone(), key: key.key.clone().into(), put_id };
    let frame = Frame::new(&question, Bytes::new());
    let timeout = context.time_left() / SEEN_SHARE;
    let homes = context.view.membership.ring().homes(key.partition);
    let mut answers: FuturesUnordered<_> = homes
        .iter()
        .filter(|home| **home != node.cluster.me.id)
        .map(|&home| node.peers.request::<PutSeenReply>(home, Class::Foreground, frame.clone(), timeout))
        .collect();
    let is_certain = |seen| matches!(seen, Seen::Applied | Seen::NotApplied);
    let mut certain = is_certain(mine);
    let mut dots = BTreeSet::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((reply, state)) if matches!(reply.seen, Seen::Applied | Seen::AppliedPerhapsTwice) => {
                certain &= is_certain(reply.seen);
                adopt(node, context, key, put_id, &reply, state).await?;
                dots.insert(Dot { actor: reply.actor, counter: reply.counter });
            }
            Ok((reply, _)) => certain &= is_certain(reply.seen),
            Err(_) => certain = false,
        }
    }
    Ok(!certain || dots.len() > 1)
}

/// Takes over what another home has of a put that it applied.
async fn adopt(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    put_id: PutId,
    reply: &PutSeenReply,
    state: Bytes,
) -> Result<(), Failure> {
    let refuse = |message: String| failure(&context.view, FailureCode::Storage, message);
    let incoming = Incoming::verify(state).map_err(|error| refuse(error.to_string()))?;
    let (sender, united) = oneshot::channel();
    node.replica
        .unite(key, incoming, context.properties.conflict, Durability::Memory, |result| {
            drop(sender.send(result));
        })
        .map_err(|error| refuse(error.to_string()))?;
    united.await.unwrap_or(Err(StorageError::Closed)).map_err(|error| refuse(error.to_string()))?;
    node.replica.remember(vec![(put_id, Dot { actor: reply.actor, counter: reply.counter })]);
    Ok(())
}

/// A put that was certainly not done.
fn refusal(node: &Shared, context: &Context, error: &MintError) -> Failure {
    let code = match error {
        MintError::SiblingLimit { .. } | MintError::SiblingBytes { .. } => FailureCode::SiblingLimit,
        MintError::ContextLimit { .. } => FailureCode::TooLarge,
        MintError::Clock => FailureCode::Clock,
        MintError::Denied => FailureCode::NoAnswer,
        MintError::Counter | MintError::Storage(StorageError::Busy { .. }) => FailureCode::Overloaded,
        MintError::Storage(_) => FailureCode::Storage,
    };
    failure(&context.view, code, format!("node {}: {error}", node.cluster.me.id))
}

/// One replica's answer.
struct Ack {
    who: NodeId,
    asked: Asked,
    result: Result<(), String>,
}

/// Sends the state to every other home, answers as soon as the quorum is met or cannot be, and stays with the rest.
#[expect(clippy::too_many_arguments, reason = "one caller; a struct would only name the same things twice")]
async fn replicate(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    minted: &Minted,
    written: oneshot::Receiver<Result<(), StorageError>>,
    properties: &BucketProperties,
    answer: Answer,
    reply: impl FnOnce(Need) -> PutReply,
) {
    let need = Need { replicas: properties.w, durable: properties.dw, homes: properties.pw };
    let mut quorum = Quorum::new(need);
    let mut acks: FuturesUnordered<BoxFuture<'_, Ack>> = FuturesUnordered::new();

    let mine = Asked { durable: properties.dw > 0, home: true };
    quorum.asked(mine);
    acks.push(own_ack(node.cluster.me.id, mine, written).boxed());

    // One durable acknowledgement is the coordinator's own; more than one may come from anybody.
    let asked = Asked { durable: properties.dw > 1, home: true };
    let request = ReplicaPut {
        bucket: key.bucket.clone(),
        key: key.key.clone().into(),
        stamp: node.replica.stamp(),
        durable: asked.durable,
    };
    let frame = Frame::new(&request, minted.state.clone());
    let timeout = context.time_left();
    for &home in context.view.membership.ring().homes(key.partition) {
        if home != node.cluster.me.id {
            quorum.asked(asked);
            acks.push(remote_ack(node, home, asked, frame.clone(), timeout, request.stamp).boxed());
        }
    }

    let mut pending = Some((answer, reply));
    let mut errors = Vec::new();
    loop {
        if pending.is_some() && quorum.verdict() != Verdict::Waiting {
            let (answer, reply) = pending.take().expect("just seen");
            match quorum.verdict() {
                Verdict::Met => answer.done(&reply(quorum.got()), Bytes::new()),
                _ => answer.failed(&missed(context, need, quorum.got(), &errors, FailureCode::Quorum)),
            }
        }
        let Ok(ack) = tokio::time::timeout_at(context.deadline, acks.next()).await else { break };
        let Some(ack) = ack else { break };
        match ack.result {
            Ok(()) => quorum.answered(ack.asked),
            Err(error) => {
                quorum.failed(ack.asked);
                errors.push(format!("{}: {error}", ack.who));
            }
        }
    }
    if let Some((answer, _)) = pending {
        answer.failed(&missed(context, need, quorum.got(), &errors, FailureCode::Timeout));
    }
}

async fn own_ack(me: NodeId, asked: Asked, written: oneshot::Receiver<Result<(), StorageError>>) -> Ack {
    let result = written.await.unwrap_or(Err(StorageError::Closed));
    Ack { who: me, asked, result: result.map_err(|error| error.to_string()) }
}

async fn remote_ack(
    node: &Shared,
    who: NodeId,
    asked: Asked,
    frame: Frame,
    timeout: std::time::Duration,
    stamp: Stamp,
) -> Ack {
    let answer = node.peers.request::<ReplicaPutReply>(who, Class::Foreground, frame, timeout).await;
    let result = match answer {
        // A replica of another epoch has stored the state, but does not count as a home of this one.
        Ok((reply, _)) if reply.stamp.0 == stamp.0 => Ok(()),
        Ok((reply, _)) => Err(format!("it is at epoch {}, not {}", reply.stamp.0, stamp.0)),
        Err(PeerError::Refused(failure)) => Err(failure.message),
        Err(error) => Err(error.to_string()),
    };
    Ack { who, asked, result }
}

/// The version exists here and perhaps elsewhere, but not as safely as was asked for.
fn missed(context: &Context, need: Need, got: Need, errors: &[String], code: FailureCode) -> Failure {
    let why =
        if errors.is_empty() { "the others did not answer in time".to_owned() } else { errors.join("; ") };
    let message = format!(
        "written to {} of {} replicas ({} of {} on disk) before the deadline: it may survive or not; {why}. Put it again, or see `dyn status`",
        got.replicas, need.replicas, got.durable, need.durable
    );
    unknown(&context.view, code, message)
}
