//! Giving up a partition: whoever is no member of it any more, and is not to become one, gives every member what it holds, and drops it.
//!
//! Invariant: what is dropped is on the disk of every member, as it was here in the transaction that ended the holding, or united with more. The interleavings that would lose a
//! write: one that comes in between the last comparison and the drop; one that arrives while records are being deleted; a change of members that
//! began to rely on this node meanwhile. So the transaction compares the root, and whoever writes or deletes looks in its own transaction whether the partition is held.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_merkle::Span;
use dynkv_proto::{TransferState, TreePosition};
use dynkv_ring::{NodeId, PartitionId, Position};
use futures_util::{StreamExt, stream};
use tokio::{sync::oneshot, time::sleep};

use super::target::target;
use crate::{
    background::Work,
    entropy,
    key::RecordAt,
    planted::{self, Bug},
    record::partition_prefix,
    shared::Shared,
    storage::{Apply, Done, Durability, Space, StorageError},
    trees::index,
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
        stream::iter(to_go)
            .for_each_concurrent(GIVEN_UP_AT_ONCE, |partition| give_up(&node, partition))
            .await;
        swept.retain(|partition| !node.chain.holds(*partition));
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

/// Deletes what is left of a partition that is not held.
async fn sweep(node: &Arc<Shared>, partition: PartitionId) -> Result<(), StorageError> {
    let bits = node.cluster.view().membership.partitions().bits() as u8;
    let Some(span) = Span::new(bits, partition.0) else { return Ok(()) };
    let storage = &node.replica.storage;
    loop {
        let (page, _) =
            index::page(&**storage, TreePosition(span.first()), TreePosition(span.last()), DELETED_AT_ONCE)?;
        let mut records: Vec<Bytes> = page.iter().map(|entry| entry.record.clone()).collect();
        let indexed: Vec<(RecordAt, _)> = page
            .into_iter()
            .map(|entry| {
                (RecordAt { record: entry.record, position: Position(entry.place.0) }, entry.entered.digest)
            })
            .collect();
        if records.is_empty() {
            // Those that the index does not name.
            storage.scan(Space::Records, &partition_prefix(partition), &[], &mut |key, _| {
                records.push(key);
                if records.len() < DELETED_AT_ONCE {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        }
        if records.is_empty() {
            return Ok(());
        }
        let _turn = node.background.turn(Work::TreeUpkeep).await;
        let (sender, deleted) = oneshot::channel();
        let (chain, trees) = (node.chain.clone(), node.replica.trees.clone());
        let apply: Apply = Box::new(move |tx| {
            let mut changes = Vec::new();
            let held = chain.holds(partition.0);
            if !held {
                for (at, digest) in indexed {
                    changes.push(trees.remove_record(tx, &at, digest));
                }
                for record in records {
                    tx.delete(Space::Records, record);
                }
            }
            Box::new(move |outcome: Result<(), StorageError>| {
                if outcome.is_ok() {
                    changes.into_iter().for_each(super::super::trees::TreeChange::committed);
                }
                drop(sender.send(outcome.map(|()| held)));
            }) as Done
        });
        storage.submit(Durability::Memory, apply)?;
        if deleted.await.unwrap_or(Err(StorageError::Closed))? {
            return Ok(());
        }
    }
}
