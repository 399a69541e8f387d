//! Disks: who may hold state, and what becomes of old ones.
//!
//! A founding member's first disk is named by the first entry about it in the history, which the member writes itself, and holds state once that is
//! in its own history: no round can have succeeded without that member, or without that entry. Every later disk is a newcomer, which holds
//! nothing until a majority of the others that may hold something have its entry on their disks: rounds that were under way without it cannot end any more.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{Admit, AdmitReply, Failure, FailureCode, Frame, Marks, PartitionMarks};
use dynkv_ring::{Change, History, NodeId};
use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::marks::Written;
use crate::{
    cluster::{NotServing, View},
    planted::{self, Bug},
    propose,
    shared::Shared,
    storage::{Apply, Done, Durability, Space, Storage, StorageError, write_durably},
};

/// The disk that was admitted: kept on it, so that a disk that is wiped and named alike is not taken for it.
const ADMITTED: Bytes = Bytes::from_static(b"admitted");

/// That this disk is an old one, and to be set aside at the next start.
const OLD: Bytes = Bytes::from_static(b"old-disk");

const RETRY_PAUSE: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether an earlier run has found out that the store is an old copy, which is to be set aside before a node is put together on an empty
/// one, with another disk id.
///
/// # Errors
/// Those of reading it.
pub fn is_old(storage: &dyn Storage) -> Result<bool, StorageError> {
    Ok(storage.get(Space::Meta, &OLD)?.is_some())
}

/// Whether `disk` was admitted.
pub(crate) fn is_admitted(storage: &dyn Storage, disk: u64) -> Result<bool, StorageError> {
    Ok(storage.get(Space::Meta, &ADMITTED)?.is_some_and(|admitted| admitted[..] == disk.to_be_bytes()))
}

/// Has this node's disk admitted, if it has to be, and then watches whether it turns out to be an old one. Runs until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    while !node.cluster.is_admitted() {
        let mut news = node.cluster.subscribe();
        match admit(&node).await {
            Ok(true) => break,
            Ok(false) => drop(timeout(WAIT_MAX, news.changed()).await),
            Err(error) => {
                tracing::debug!(%error, "this node's disk was not admitted yet");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
    tokio::select! {
        biased;
        () = node.replica.marks.found_old.notified() => tracing::error!(
            "the others have settled what this node has not agreed to: its disk is an old copy, and is set aside"
        ),
        () = confirm(&node) => tracing::error!(
            "this node has had another disk since: what this one holds and has promised is out of date, and it is set aside"
        ),
    }
    node.metrics.disks_set_aside.inc();
    let note = vec![(Space::Meta, OLD, Some(Bytes::from_static(b"1")))];
    if let Err(error) = write_durably(&*node.replica.storage, note).await {
        // It will be found out again.
        tracing::warn!(%error, "that this disk is to be set aside was not noted");
    }
    node.cluster.refuse(NotServing::OldDisk { node: node.cluster.me.id });
}

/// Asks the other members, until all have answered, whether this node's disk is still the one they know of: where enough of them have, what it serves counts as a home's. Ends when the
/// disk turns out to have been superseded by another one, and may have been counted on to serve nobody since.
async fn confirm(node: &Arc<Shared>) {
    let (me, disk) = (node.cluster.me.id, node.cluster.me.disk);
    let mut confirmed = std::collections::BTreeSet::from([me]);
    loop {
        let mut news = node.cluster.subscribe();
        let view = node.cluster.view();
        if view.membership.member(&me).is_some_and(|state| state.disk.is_some_and(|named| named != disk)) {
            return;
        }
        let members = view.membership.members().map(|state| state.member.id);
        let others: Vec<NodeId> = members.filter(|id| !confirmed.contains(id)).collect();
        let all = others.is_empty();
        let asked = others.into_iter().map(|other| async move {
            let frame = Frame::new(&Admit { node: me, disk }, Bytes::new());
            let answer =
                node.peers.request::<AdmitReply>(other, Class::Background, frame, CALL_TIMEOUT).await;
            answer.ok().filter(|(reply, _)| !reply.is_newcomer).map(|_| other)
        });
        for other in join_all(asked).await.into_iter().flatten() {
            node.chain.confirmed_by(other);
            confirmed.insert(other);
        }
        match all {
            true => news.changed().await,
            false => drop(timeout(WAIT_MAX, news.changed()).await),
        }
    }
}

/// Why a disk was not admitted.
#[derive(Debug, thiserror::Error)]
enum AdmitError {
    #[error("{got} of the {needed} members that must know of it do")]
    TooFew { got: usize, needed: usize },
    #[error("the history: {0}")]
    History(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// One attempt. Says whether the disk is admitted; `false`: there is nothing to do before the history grows.
async fn admit(node: &Arc<Shared>) -> Result<bool, AdmitError> {
    let view = node.cluster.view();
    let (me, disk) = (node.cluster.me.id, node.cluster.me.disk);
    let Some(state) = view.membership.member(&me) else { return Ok(false) };
    if state.disk != Some(disk) {
        // Somebody may have started a second process as this node, on an empty disk. Were it named, the first would take its own disk, with all it holds, for superseded.
        let may_be_second =
            state.disk.is_some() && !node.gossip.is_settled() && !planted::is(Bug::DiskNamedUnheard);
        if may_be_second || node.cluster.refused().is_some() {
            return Ok(false);
        }
        announce(node, disk).await?;
        return Box::pin(admit(node)).await;
    }
    let founding = view.membership.founding().map_or(&[][..], |founding| &founding.members);
    // Rounds may have ended before a node joined that was not there from the beginning.
    let is_first = state.first_disk == Some(disk) && founding.iter().any(|member| member.id == me);
    let marks = if is_first { Vec::new() } else { ask(node, &view, disk).await? };
    enter(node, disk, marks).await?;
    if !is_first {
        node.metrics.disks_admitted.inc();
        tracing::info!(%me, disk, "this node's disk is admitted");
    }
    node.cluster.set_admitted();
    Ok(true)
}

/// Writes the disk into the history.
async fn announce(node: &Arc<Shared>, disk: u64) -> Result<(), AdmitError> {
    let change = Change::Disk { node: node.cluster.me.id, disk };
    let announced = propose::commit(node, &[change], |_| Ok(())).await;
    announced.map(drop).map_err(|failure| AdmitError::History(failure.message))
}

/// Asks the other members. Returns what a majority of them have promised and seen decided.
async fn ask(node: &Arc<Shared>, view: &View, disk: u64) -> Result<Vec<PartitionMarks>, AdmitError> {
    let me = node.cluster.me.id;
    let others: Vec<NodeId> =
        view.membership.members().map(|state| state.member.id).filter(|id| *id != me).collect();
    let mut holders = others.len();
    let asked = others.into_iter().map(|other| async move {
        let frame = Frame::new(&Admit { node: me, disk }, Bytes::new());
        node.peers.request::<AdmitReply>(other, Class::Background, frame, CALL_TIMEOUT).await
    });
    let (mut got, mut greatest) = (0, std::collections::BTreeMap::<u32, Marks>::new());
    for answer in join_all(asked).await {
        let (reply, _) = match answer {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "a member did not admit this node's disk");
                continue;
            }
        };
        let history =
            History::from_bytes(&reply.history).map_err(|error| AdmitError::History(error.to_string()))?;
        node.cluster.unite_history(&history).await.map_err(|error| AdmitError::History(error.to_string()))?;
        if reply.is_newcomer {
            holders -= 1;
            continue;
        }
        got += 1;
        for PartitionMarks { partition, marks } in reply.marks {
            let greatest = greatest.entry(partition).or_default();
            greatest.promise = greatest.promise.max(marks.promise);
            greatest.decided = greatest.decided.max(marks.decided);
            greatest.agreed = greatest.promise;
        }
    }
    // Not of the newcomers among them: many that come at once would wait for each other.
    let needed = match planted::is(Bug::AdmittedByOne) {
        true => 1,
        false => (holders / 2 + 1).min(holders),
    };
    if got < needed {
        return Err(AdmitError::TooFew { got, needed });
    }
    Ok(greatest.into_iter().map(|(partition, marks)| PartitionMarks { partition, marks }).collect())
}

/// Takes the marks over and notes that the disk is admitted, durably.
async fn enter(node: &Arc<Shared>, disk: u64, marks: Vec<PartitionMarks>) -> Result<(), StorageError> {
    let (sender, entered) = oneshot::channel();
    let book = node.replica.marks.clone();
    let apply: Apply = Box::new(move |tx| {
        let begin = |PartitionMarks { partition, marks }| book.begin_with(tx, partition, marks);
        let written: Vec<Written> = marks.into_iter().map(begin).collect();
        tx.put(Space::Meta, ADMITTED, Bytes::copy_from_slice(&disk.to_be_bytes()));
        Box::new(move |outcome: Result<(), StorageError>| {
            if outcome.is_ok() {
                written.into_iter().for_each(Written::synced);
            }
            drop(sender.send(outcome));
        }) as Done
    });
    node.replica.storage.submit(Durability::Disk, apply)?;
    entered.await.unwrap_or(Err(StorageError::Closed))
}

/// Answers a newcomer.
pub(crate) async fn answer(node: Arc<Shared>, request: Admit) -> Result<AdmitReply, Failure> {
    let refused =
        |code, reason: String| Failure::not_done(code, format!("node {}: {reason}", node.cluster.me.id));
    let view = node.cluster.view();
    match node.cluster.serving(&view) {
        Ok(()) => {}
        Err(NotServing::Admitting { .. }) => {
            let history = view.history.to_bytes().into();
            return Ok(AdmitReply { marks: Vec::new(), history, is_newcomer: true });
        }
        Err(reason) => return Err(refused(FailureCode::NotServing, reason.to_string())),
    }
    let (sender, answered) = oneshot::channel();
    let shared = node.clone();
    // In a transaction, so that rounds are promised before it, and told of, or after it, and refused for their history.
    let apply: Apply = Box::new(move |_| {
        let view = shared.cluster.view();
        let named = view.membership.member(&request.node).and_then(|state| state.disk);
        let reply = (named == Some(request.disk)).then(|| AdmitReply {
            marks: (shared.replica.marks.all_written().into_iter())
                .map(|(partition, marks)| PartitionMarks { partition, marks })
                .collect(),
            history: view.history.to_bytes().into(),
            is_newcomer: false,
        });
        Box::new(move |outcome: Result<(), StorageError>| drop(sender.send(outcome.map(|()| reply)))) as Done
    });
    let stored = match node.replica.storage.submit(Durability::Disk, apply) {
        Ok(()) => answered.await.unwrap_or(Err(StorageError::Closed)),
        Err(error) => Err(error),
    };
    match stored {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => {
            let reason =
                format!("it has not heard yet that {} has the disk {:016x}", request.node, request.disk);
            Err(refused(FailureCode::Stale, reason))
        }
        Err(error) => Err(refused(FailureCode::Storage, error.to_string())),
    }
}
