//! Giving up a partition: whoever is no member of it any more, and is not to become one, gives every member what it holds, and drops it.
//!
//! Invariant: what is dropped is on the disk of every member, as it was here in the transaction that ended the holding, or united with more. The interleavings that would lose a
//! write: one that comes in between the last comparison and the drop; one that arrives while records are being deleted; a change of members that
//! began to rely on this node meanwhile. So the transaction compares the root, and whoever writes or deletes looks in its own transaction whether the partition is held.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_merkle::Span;
use dynkv_proto::{Digest, TransferState, TreePosition};
use dynkv_ring::{NodeId, PartitionId, Position};
use futures_util::{StreamExt, stream};
use tokio::{sync::oneshot, time::sleep};

use super::target::target;
use crate::{
    background::{Work, give_way},
    entropy,
    key::{Key, RecordAt},
    planted::{self, Bug},
    record::{parse_record_key, partition_prefix},
    shared::Shared,
    storage::{Apply, Done, Durability, Space, StorageError},
    trees::{
        TreeChange,
        index::{self, Indexed},
    },
};

const PERIOD: Duration = Duration::from_millis(500);

/// Partitions compared with their members at once: most of the time they wait for answers.
const GIVEN_UP_AT_ONCE: usize = 16;

/// Records deleted in one transaction.
const DELETED_AT_ONCE: usize = 256;

/// Gives up what is to be given up, until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    // Of an earlier run that was interrupted, perhaps.
    let mut swept = BTreeSet::new();
    loop {
        let view = node.cluster.view();
        let partitions = || view.membership.partitions().ids().filter(|_| view.membership.founded());
        // A disk that is not admitted yet holds nothing, and must not take part in a comparison.
        let rests = super::rests(&node);
        let to_go = partitions().filter(|partition| {
            !rests
                && node.chain.holds(partition.0)
                && node.cluster.serving(&view).is_ok()
                && is_to_go(&node, *partition)
        });
        let to_go: Vec<PartitionId> = to_go.collect();
        // Before it ends to hold any: what was held since the last look must not be taken for swept.
        swept.retain(|partition| !node.chain.holds(*partition));
        stream::iter(to_go)
            .for_each_concurrent(GIVEN_UP_AT_ONCE, |partition| give_up(&node, partition))
            .await;
        for partition in partitions() {
            if !node.chain.holds(partition.0) && !swept.contains(&partition.0) {
                match sweep(&node, partition).await {
                    Ok(()) => drop(swept.insert(partition.0)),
                    Err(error) => tracing::warn!(%error, "a partition was not dropped yet"),
                }
            }
        }
        sleep(PERIOD).await;
    }
}

/// Whether this node holds a partition for nothing.
fn is_to_go(node: &Shared, partition: PartitionId) -> bool {
    let me = node.cluster.me.id;
    let view = node.cluster.view();
    !node.chain.members(partition).homes.contains(&me)
        && !target(&view, partition).iter().any(|holder| holder.node == me)
        && node.replica.trees.root(partition.0).is_some()
}

async fn give_up(node: &Arc<Shared>, partition: PartitionId) {
    let members = node.chain.members(partition);
    let Some(root) = node.replica.trees.root(partition.0) else { return };
    if !planted::is(Bug::DroppedWithoutPush) {
        for home in members.homes.iter() {
            if !give(node, *home, partition).await {
                return;
            }
        }
    }
    let trees = node.replica.trees.clone();
    let same = move || trees.root(partition.0) == Some(root);
    match node.chain.end_to_hold(partition.0, members.epoch, same).await {
        Ok(true) => {
            node.metrics.partitions_given_up.inc();
            tracing::debug!(%partition, "a partition was handed over and is dropped");
        }
        // Something has come in between: once more.
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "a partition was not given up"),
    }
}

async fn give(node: &Arc<Shared>, home: NodeId, partition: PartitionId) -> bool {
    match entropy::give_all(node, home, partition.0).await {
        Ok(equal) => {
            node.transfers.succeeded(TransferState::HandingOver, home);
            equal
        }
        Err(error) => {
            tracing::debug!(%home, %partition, %error, "a partition was not handed over yet");
            node.transfers.failed(TransferState::HandingOver, home, error);
            false
        }
    }
}

/// Deletes what is left of a partition that is not held. Each scan begins behind what was deleted: crossing thousands of deleted entries takes the store
/// milliseconds, in which no client is answered. So records that the index does not name are sought first, while all others are there.
async fn sweep(node: &Arc<Shared>, partition: PartitionId) -> Result<(), StorageError> {
    sweep_unnamed(node, partition).await?;
    sweep_named(node, partition).await
}

async fn sweep_unnamed(node: &Arc<Shared>, partition: PartitionId) -> Result<(), StorageError> {
    let partitions = node.cluster.view().membership.partitions();
    let replica = &node.replica;
    let mut from = Bytes::new();
    loop {
        let _turn = node.background.turn(Work::TreeUpkeep).await;
        let max = node.background.piece(DELETED_AT_ONCE);
        let mut records = Vec::new();
        replica.storage.scan(Space::Records, &partition_prefix(partition), &from, &mut |record, _| {
            records.push(record);
            if records.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let Some(last) = records.last() else { return Ok(()) };
        from = [last, &[0][..]].concat().into();
        let mut unnamed = Vec::new();
        for (at, record) in records.into_iter().enumerate() {
            give_way(at).await;
            let named = match parse_record_key(&record) {
                Some((bucket, key)) => replica.trees.entered_now(&Key::new(bucket, key, partitions).at())?,
                None => None,
            };
            if named.is_none() {
                unnamed.push(record);
            }
        }
        if !unnamed.is_empty() && delete(node, partition, Vec::new(), unnamed).await? {
            return Ok(());
        }
    }
}

async fn sweep_named(node: &Arc<Shared>, partition: PartitionId) -> Result<(), StorageError> {
    let bits = node.cluster.view().membership.partitions().bits() as u8;
    let Some(span) = Span::new(bits, partition.0) else { return Ok(()) };
    let last = TreePosition(span.last());
    let mut next = Some(TreePosition(span.first()));
    while let Some(first) = next {
        let _turn = node.background.turn(Work::TreeUpkeep).await;
        let max = node.background.piece(DELETED_AT_ONCE);
        let (page, complete) = index::page(&*node.replica.storage, first, last, max)?;
        let behind = page.last().and_then(|entry| entry.place.0.checked_add(1)).map(TreePosition);
        next = behind.filter(|_| !complete);
        let named = page.into_iter().map(|Indexed { place, entered, record }| {
            (RecordAt { record, position: Position(place.0) }, entered.digest)
        });
        let named: Vec<_> = named.collect();
        if !named.is_empty() && delete(node, partition, named, Vec::new()).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Deletes records with their entries in the index, and some that have none, if the partition is not held. Says whether it is.
async fn delete(
    node: &Arc<Shared>,
    partition: PartitionId,
    named: Vec<(RecordAt, Digest)>,
    unnamed: Vec<Bytes>,
) -> Result<bool, StorageError> {
    let (sender, deleted) = oneshot::channel();
    let (chain, trees) = (node.chain.clone(), node.replica.trees.clone());
    let apply: Apply = Box::new(move |tx| {
        let mut changes = Vec::new();
        let held = chain.holds(partition.0);
        if !held {
            changes.extend(named.iter().map(|(at, digest)| trees.remove_record(tx, at, *digest)));
            unnamed.into_iter().for_each(|record| tx.delete(Space::Records, record));
        }
        Box::new(move |outcome: Result<(), StorageError>| {
            if outcome.is_ok() {
                changes.into_iter().for_each(TreeChange::committed);
            }
            drop(sender.send(outcome.map(|()| held)));
        }) as Done
    });
    node.replica.storage.submit(Durability::Memory, apply)?;
    deleted.await.unwrap_or(Err(StorageError::Closed))
}
