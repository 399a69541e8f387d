//! Taking requests off connections: who may ask what, and where each kind goes.

use std::sync::Arc;

use bytes::Bytes;
use dynkv_net::{Class, Handler, PeerName, Responder};
use dynkv_proto::{
    Conflict, Digest, DrainHints, Failure, FailureCode, Frame, Get, Gossip, LimitTransfers, List, Message,
    Metrics, MetricsReply, Propose, Put, PutSeen, Repair, RepairStatus, ReplicaGet, ReplicaGetReply,
    ReplicaList, ReplicaListReply, ReplicaPut, ReplicaPutReply, SettleDecide, SettleDrop, SettleMarks,
    SettleMarksReply, SettlePrepare, Stamp, Status, StatusReply, StopRepair, StopVerify, Transfers,
    TreeCompare, TreeRoots, Verify, VerifyStatus, View, ViewReply, kinds,
};
use dynkv_ring::{PartitionId, Position};
use tokio::time::Instant;

use crate::{
    background::Asked,
    chain,
    cluster::NotServing,
    coordinator,
    entropy::{self, repairs},
    features, gossip, held,
    hints::{self, HintError, Place},
    incoming::Incoming,
    key::Key,
    propose,
    settle::{self, TakeError},
    shared::Shared,
    storage::{Durability, StorageError},
    trees,
};

/// Keys in one page of a replica's listing.
const LIST_KEYS_MAX: usize = 1000;

/// The handler of a node's endpoint.
pub(crate) struct Server(pub(crate) Arc<Shared>);

impl Handler for Server {
    fn handle(&self, peer: &Arc<PeerName>, frame: Frame, responder: Responder) {
        let node = &self.0;
        let may = allowed(peer, frame.kind).and_then(|()| spoken_for(node, frame.kind));
        if let Err(failure) = may.and_then(|()| features::check_kind(node, frame.kind)) {
            return responder.send(Frame::new(&failure, Bytes::new()));
        }
        match frame.kind {
            kinds::GET => coordinate::<Get>(node, frame, responder),
            kinds::PUT => coordinate::<Put>(node, frame, responder),
            kinds::LIST => coordinate::<List>(node, frame, responder),
            kinds::VIEW => {
                inline(frame, responder, |request: View| Ok((view(node, request.view), Bytes::new())));
            }
            kinds::STATUS => inline(frame, responder, |_: Status| Ok((status(node), Bytes::new()))),
            kinds::METRICS => inline(frame, responder, |_: Metrics| {
                Ok((MetricsReply { text: metrics(node) }, Bytes::new()))
            }),
            kinds::HINTS => inline(frame, responder, |request| hints::admin::list(node, &request)),
            kinds::DRAIN_HINTS => inline(frame, responder, |request: DrainHints| {
                Ok((hints::admin::drain(node, &request), Bytes::new()))
            }),
            kinds::TREES => inline(frame, responder, |request| trees::admin::list(node, &request)),
            kinds::DIFF => spawned(node, frame, responder, |node, request| async move {
                entropy::diff(node, request).await.map(bare)
            }),
            kinds::REPAIR => inline(frame, responder, |request: Repair| {
                Ok((repairs::start(node, request.partition)?, Bytes::new()))
            }),
            kinds::REPAIR_STATUS => {
                inline(frame, responder, |_: RepairStatus| Ok((repairs::status(node), Bytes::new())));
            }
            kinds::STOP_REPAIR => {
                inline(frame, responder, |_: StopRepair| Ok((repairs::stop(node), Bytes::new())));
            }
            kinds::VERIFY => inline(frame, responder, |request: Verify| {
                Ok((trees::admin::verify(node, request.rate_bytes)?, Bytes::new()))
            }),
            kinds::VERIFY_STATUS => inline(frame, responder, |_: VerifyStatus| {
                Ok((trees::admin::verify_status(node), Bytes::new()))
            }),
            kinds::STOP_VERIFY => {
                inline(frame, responder, |_: StopVerify| Ok((trees::admin::stop_verify(node), Bytes::new())));
            }
            kinds::TRANSFERS => {
                inline(frame, responder, |_: Transfers| Ok((chain::progress::status(node), Bytes::new())));
            }
            kinds::LIMIT_TRANSFERS => inline(frame, responder, |request: LimitTransfers| {
                Ok((chain::progress::limit(node, request.limit_bytes)?, Bytes::new()))
            }),
            kinds::HELD => inline(frame, responder, |request| held::held(node, request)),
            kinds::PROPOSE => spawned(node, frame, responder, |node, request: Propose| async move {
                propose::answer(&node, request).await.map(bare)
            }),
            kinds::REPLICA_GET => replica_get(node, frame, responder),
            kinds::REPLICA_PUT => replica_put(node, frame, responder),
            kinds::REPLICA_LIST => inline(frame, responder, |request| replica_list(node, &request)),
            kinds::PUT_SEEN => {
                spawned(
                    node,
                    frame,
                    responder,
                    |node, request| async move { put_seen(&node, request).await },
                );
            }
            kinds::GOSSIP => {
                let message = frame.body.clone();
                inline(frame, responder, |_: Gossip| {
                    let from = peer.node_id().ok_or_else(|| forbidden(peer, "a node's certificate"))?;
                    gossip::answer(node, *from, &message)
                });
            }
            kinds::TREE_ROOTS => {
                let roots = frame.body.clone();
                let from = peer.node_id().copied().ok_or_else(|| forbidden(peer, "a node's certificate"));
                spawned(node, frame, responder, |node, request: TreeRoots| async move {
                    entropy::roots(&node, from?, &request, &roots).await
                });
            }
            kinds::TREE_COMPARE => {
                let request = frame.body.clone();
                let from = peer.node_id().copied().ok_or_else(|| forbidden(peer, "a node's certificate"));
                spawned(node, frame, responder, |node, TreeCompare { exact }: TreeCompare| async move {
                    entropy::compare(&node, from?, exact, &request).await
                });
            }
            kinds::STATES => {
                let from = peer.node_id().copied().ok_or_else(|| forbidden(peer, "a node's certificate"));
                spawned(node, frame, responder, |node, request| async move {
                    entropy::states(&node, from?, &request).await
                });
            }
            kinds::SETTLE_PREPARE => {
                settling(node, frame, responder, |node, request: SettlePrepare| async move {
                    settle::answer::prepare(&node, request).await
                });
            }
            kinds::SETTLE_DECIDE => {
                settling(node, frame, responder, |node, request: SettleDecide| async move {
                    settle::answer::decide(&node, request).await
                });
            }
            kinds::SETTLE_DROP => settling(node, frame, responder, |node, request: SettleDrop| async move {
                settle::answer::drop_settled(&node, request).await
            }),
            kinds::SETTLE_MARKS => inline(frame, responder, |request: SettleMarks| {
                let marks = node.replica.marks.told(request.partition);
                node.cluster
                    .serving(&node.cluster.view())
                    .map(|()| (SettleMarksReply { marks }, Bytes::new()))
                    .map_err(|reason| Failure::not_done(FailureCode::NotServing, reason.to_string()))
            }),
            kinds::CHAIN_PREPARE => spawned(node, frame, responder, |node, request| async move {
                chain::answer::prepare(&node, request).await.map(bare)
            }),
            kinds::CHAIN_ACCEPT => spawned(node, frame, responder, |node, request| async move {
                chain::answer::accept(&node, request).await.map(bare)
            }),
            kinds::CHAIN_JOIN => spawned(node, frame, responder, |node, request| async move {
                chain::answer::join(&node, request).await.map(bare)
            }),
            kinds::CHAIN_TELL => spawned(node, frame, responder, |node, request| async move {
                Ok(bare(chain::spread::told(&node, request).await))
            }),
            kinds::CHAIN_READY => {
                inline(frame, responder, |request| Ok(bare(chain::answer::ready(node, &request))));
            }
            kinds::ADMIT => spawned(node, frame, responder, |node, request| async move {
                settle::admission::answer(node, request).await.map(bare)
            }),
            kind => send::<Failure>(responder, Err(features::unknown_kind(&node.cluster, kind))),
        }
    }
}

/// What a certificate allows. Nodes may do everything: they forward what clients asked for.
fn allowed(peer: &PeerName, kind: u16) -> Result<(), Failure> {
    let allowed = match kind {
        _ if peer.is_node() => true,
        kinds::PUT => peer.can_write(),
        kind if is_order(kind) => peer.can_administer(),
        // Those of clients, unknown ones among them, which are answered as such.
        _ => kind < kinds::REPLICA_GET,
    };
    if allowed {
        return Ok(());
    }
    let needed = match kind {
        kinds::PUT => "the role writer or admin",
        kind if is_order(kind) => "the role admin",
        _ => "a node's certificate",
    };
    Err(forbidden(peer, needed))
}

/// Whether it changes what nodes do or are.
fn is_order(kind: u16) -> bool {
    matches!(
        kind,
        kinds::PROPOSE
            | kinds::DRAIN_HINTS
            | kinds::REPAIR
            | kinds::STOP_REPAIR
            | kinds::VERIFY
            | kinds::STOP_VERIFY
            | kinds::LIMIT_TRANSFERS
    )
}

fn forbidden(peer: &PeerName, needed: &str) -> Failure {
    let message = format!("{peer} may not do this: it needs {needed}; have one issued with `dyn cert`");
    Failure::not_done(FailureCode::Forbidden, message)
}

/// Whether this process may act as its node. One that may not still says how it is; and one whose version is too old goes on to say where, and to hear.
fn spoken_for(node: &Shared, kind: u16) -> Result<(), Failure> {
    match node.cluster.refused() {
        Some(NotServing::Feature { .. }) if kind == kinds::GOSSIP => Ok(()),
        Some(reason) if !matches!(kind, kinds::VIEW | kinds::STATUS | kinds::METRICS) => {
            Err(Failure::not_done(FailureCode::NotServing, reason.to_string()))
        }
        _ => Ok(()),
    }
}

fn decode<M: Message>(frame: &Frame) -> Result<M, Failure> {
    frame.message().map_err(|error| Failure::not_done(FailureCode::Invalid, error.to_string()))
}

fn send<M: Message>(responder: Responder, outcome: Result<(M, Bytes), Failure>) {
    responder.send(match outcome {
        Ok((message, body)) => Frame::new(&message, body),
        Err(failure) => Frame::new(&failure, Bytes::new()),
    });
}

/// A reply without a body.
fn bare<R>(reply: R) -> (R, Bytes) {
    (reply, Bytes::new())
}

/// Decodes and answers on the spot: for what never waits.
fn inline<M: Message, R: Message>(
    frame: Frame,
    responder: Responder,
    answer: impl FnOnce(M) -> Result<(R, Bytes), Failure>,
) {
    send(responder, decode(&frame).and_then(answer));
}

/// Decodes here and answers from a task.
fn spawned<M: Message + Send + 'static, R: Message, F>(
    node: &Arc<Shared>,
    frame: Frame,
    responder: Responder,
    answer: impl FnOnce(Arc<Shared>, M) -> F,
) where
    F: Future<Output = Result<(R, Bytes), Failure>> + Send + 'static,
{
    match decode(&frame) {
        Ok(request) => {
            let answer = answer(node.clone(), request);
            tokio::spawn(async move { send(responder, answer.await) });
        }
        Err(failure) => send::<Failure>(responder, Err(failure)),
    }
}

/// Answers a request of the settlement from a task, if this node's disk may hold state.
fn settling<M: Message + Send + 'static, R: Message, F>(
    node: &Arc<Shared>,
    frame: Frame,
    responder: Responder,
    work: impl FnOnce(Arc<Shared>, M) -> F,
) where
    F: Future<Output = Result<R, settle::answer::Refusal>> + Send + 'static,
{
    if let Err(reason) = node.cluster.serving(&node.cluster.view()) {
        let failure = Failure::not_done(FailureCode::NotServing, reason.to_string());
        return send::<Failure>(responder, Err(failure));
    }
    spawned(node, frame, responder, |node, request| {
        let answer = work(node.clone(), request);
        async move { answer.await.map(bare).map_err(|refusal| settle::answer::failure(&node, refusal)) }
    });
}

fn coordinate<R: coordinator::Coordinated + Send + 'static>(
    node: &Arc<Shared>,
    frame: Frame,
    responder: Responder,
) {
    match decode::<R>(&frame) {
        Ok(request) => coordinator::accept(node, request, frame.body, responder),
        Err(failure) => send::<Failure>(responder, Err(failure)),
    }
}

fn storage_failure(node: &Shared, error: &StorageError) -> Failure {
    let message = format!("node {}: {error}", node.cluster.me.id);
    match error {
        StorageError::Busy { .. } => Failure::not_done(FailureCode::Overloaded, message),
        // Whether a failed write is on disk all the same is not known.
        StorageError::Failed { .. } => Failure::unknown(FailureCode::Storage, message),
        StorageError::Damaged { .. } | StorageError::Closed => {
            Failure::not_done(FailureCode::Storage, message)
        }
    }
}

/// The key of a replica message, where this node keeps it, and how its bucket resolves conflicts. Limits are the client path's: they must not stop healing.
fn key(node: &Shared, bucket: String, key: Bytes) -> Result<(Key, Place, Conflict), Failure> {
    let view = node.cluster.view();
    node.cluster.serving(&view)?;
    dynkv_proto::check_bucket_name(&bucket)
        .map_err(|error| Failure::not_done(FailureCode::Invalid, error.to_string()))?;
    let conflict = view.buckets.get(&bucket).conflict;
    let key = Key::new(bucket, key, view.membership.partitions());
    let place = Place::of(&node.chain.members(key.partition).homes, &node.cluster.me.id);
    Ok((key, place, conflict))
}

fn replica_get(node: &Arc<Shared>, frame: Frame, responder: Responder) {
    match decode::<ReplicaGet>(&frame) {
        Ok(request) if request.promise => {
            let node = node.clone();
            tokio::spawn(async move {
                let promised = promise(&node, &request.bucket, &request.key, request.stamp).await;
                send(responder, promised.and_then(|()| read_replica(&node, request)));
            });
        }
        Ok(request) => send(responder, read_replica(node, request)),
        Err(failure) => send::<Failure>(responder, Err(failure)),
    }
}

/// Promises what another node has promised, if this one has not.
async fn promise(node: &Shared, bucket: &str, key: &[u8], stamp: Stamp) -> Result<(), Failure> {
    let view = node.cluster.view();
    let partition = Position::of(bucket, key).partition(view.membership.partitions()).0;
    if !node.replica.marks.is_behind(partition, &stamp.1) {
        return Ok(());
    }
    // A disk that is not admitted yet has no marks, which is not to say that it is an old one.
    node.cluster.serving(&view)?;
    node.replica.marks.promise(partition, &stamp.1).await.map_err(|error| take_failure(node, &error))
}

fn read_replica(node: &Shared, request: ReplicaGet) -> Result<(ReplicaGetReply, Bytes), Failure> {
    node.metrics.replica_reads.inc();
    let (key, place, conflict) = key(node, request.bucket, request.key.0)?;
    // Whoever knows of a decision that this disk has missed must not be answered from it.
    node.replica.marks.heed(key.partition.0, &request.stamp.1).map_err(|error| take_failure(node, &error))?;
    // Before anything is read.
    let stamp = node.replica.stamp(&key);
    let record = node.replica.held(&key, &place, conflict).map_err(|error| storage_failure(node, &error))?;
    let held: Option<Digest> = match &record {
        Some(record) => Some(record.digest().map_err(|error| storage_failure(node, &error))?),
        None => None,
    };
    let same = held == request.have;
    let state = match record {
        Some(record) if !same => {
            if place == Place::Home {
                node.replica.verify(&record, &key.record).map_err(|error| storage_failure(node, &error))?;
            }
            // Of a hint the coordinator verifies the values itself.
            record.state
        }
        _ => Bytes::new(),
    };
    Ok((ReplicaGetReply { same, stamp }, state))
}

fn replica_put(node: &Arc<Shared>, frame: Frame, responder: Responder) {
    node.metrics.replica_writes.inc();
    let (arrived, class) = (Instant::now(), responder.class());
    let prepared = decode::<ReplicaPut>(&frame).and_then(|request| {
        let (key, _, conflict) = key(node, request.bucket, request.key.0)?;
        let incoming = Incoming::verify(frame.body, request.stamp.1)
            .map_err(|error| Failure::not_done(FailureCode::Invalid, error.to_string()))?;
        let durability = if request.durable { Durability::Disk } else { Durability::Memory };
        let hint_for = request.hint_for.filter(|target| *target != node.cluster.me.id);
        Ok((key, conflict, incoming, durability, hint_for))
    });
    let (key, conflict, incoming, durability, hint_for) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return send::<Failure>(responder, Err(failure)),
    };
    // The responder must be at hand on both paths: when the queue refuses, and when the write is done.
    let responder = Arc::new(std::sync::Mutex::new(Some(responder)));
    let answer = {
        let (node, responder, partition) = (node.clone(), responder.clone(), key.partition.0);
        move |result: Result<u64, Failure>| {
            let marks = node.replica.marks.durable(partition);
            let reply = result.map(|epoch| (ReplicaPutReply { stamp: Stamp(epoch, marks) }, Bytes::new()));
            if class == Class::Foreground {
                // Clients may send all their requests to others: those that are not slow.
                node.background.observe_foreground(Asked::Replica, arrived.elapsed());
            }
            if let Some(responder) = take(&responder) {
                send(responder, reply);
            }
        }
    };
    let submitted = match hint_for {
        None => {
            let node = node.clone();
            let done = {
                let node = node.clone();
                move |result: Result<u64, TakeError>| {
                    answer(result.map_err(|error| take_failure(&node, &error)));
                }
            };
            node.replica.unite(&key, incoming, conflict, durability, done)
        }
        Some(target) => {
            let done = {
                let node = node.clone();
                move |result: Result<(), HintError>| {
                    let result = result.map(|()| Stamp::NO_EPOCH);
                    answer(result.map_err(|error| hint_failure(&node, &error)));
                }
            };
            node.replica.unite_hint(&key, target, incoming, conflict, done)
        }
    };
    if let Err(error) = submitted
        && let Some(responder) = take(&responder)
    {
        send::<Failure>(responder, Err(storage_failure(node, &error)));
    }
}

fn hint_failure(node: &Shared, error: &HintError) -> Failure {
    match error {
        HintError::Full { .. } | HintError::Leaving => {
            Failure::not_done(FailureCode::HintsFull, format!("node {}: {error}", node.cluster.me.id))
        }
        HintError::Refused(refused) => take_failure(node, refused),
        HintError::Storage(error) => storage_failure(node, error),
    }
}

fn take_failure(node: &Shared, error: &TakeError) -> Failure {
    let message = format!("node {}: {error}", node.cluster.me.id);
    match error {
        TakeError::Behind(marks) => {
            Failure { marks: *marks, ..Failure::not_done(FailureCode::Behind, message) }
        }
        TakeError::OldDisk(_) => Failure::not_done(FailureCode::NotServing, message),
        TakeError::NotHeld { .. } => Failure::not_done(FailureCode::NotHome, message),
        TakeError::Storage(error) => storage_failure(node, error),
    }
}

fn take(responder: &std::sync::Mutex<Option<Responder>>) -> Option<Responder> {
    responder.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

fn replica_list(node: &Shared, request: &ReplicaList) -> Result<(ReplicaListReply, Bytes), Failure> {
    let limit = (request.limit as usize).clamp(1, LIST_KEYS_MAX);
    let page = node
        .replica
        .list(
            PartitionId(request.partition),
            &request.bucket,
            &request.prefix,
            request.after.as_ref().map(|after| &after[..]),
            limit,
        )
        .map_err(|error| storage_failure(node, &error))?;
    Ok((ReplicaListReply { keys: page.keys, more: page.more }, Bytes::new()))
}

async fn put_seen(node: &Shared, request: PutSeen) -> Result<(dynkv_proto::PutSeenReply, Bytes), Failure> {
    promise(node, &request.bucket, &request.key, request.stamp).await?;
    let (key, place, conflict) = key(node, request.bucket, request.key.0)?;
    node.replica
        .answer_put_seen(&key, &place, conflict, request.put_id, request.attempt)
        .map_err(|error| storage_failure(node, &error))
}

/// What a client needs to route by itself.
fn view(node: &Shared, known: Digest) -> ViewReply {
    let view = node.cluster.view();
    let history = (view.digest != known).then(|| view.history.to_bytes().into());
    ViewReply { view: view.digest, history, nodes: node.cluster.nodes() }
}

fn status(node: &Shared) -> StatusReply {
    let view = node.cluster.view();
    let reason = node.cluster.serving(&view).err().map(|reason| reason.to_string());
    let (stats, load) = (node.replica.storage.stats(), node.gossip.own_load());
    // As the others are told of it: it may have taken a higher boot since it started.
    let me = node.cluster.node(&node.cluster.me.id).unwrap_or_else(|| node.cluster.me.clone());
    StatusReply {
        node: me,
        cluster: node.cluster.name.clone(),
        serving: reason.is_none(),
        reason: reason.unwrap_or_default(),
        uptime_ms: node.started.elapsed().as_millis() as u64,
        view: view.digest,
        records: node.replica.trees.records().unwrap_or(stats.records),
        disk_bytes: stats.disk_bytes,
        peers: gossip::others(&node.cluster).iter().map(|info| node.peers.status(info.id)).collect(),
        hints: load.hints,
        oldest_hint_s: load.oldest_hint_s,
        settling_paused: node.settling_paused.reason(),
        features: node.cluster.knows.clone(),
        store_failed: node.replica.storage.failed().map(|error| error.to_string()).unwrap_or_default(),
    }
}

/// What the node counts, as OpenMetrics text.
pub(crate) fn metrics(node: &Shared) -> String {
    node.metrics.history_entries.set(node.cluster.view().history.len() as i64);
    node.metrics.store_failed.set(node.replica.storage.failed().is_some().into());
    node.metrics.text()
}
