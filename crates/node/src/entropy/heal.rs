//! Healing damaged records from the other homes.
//!
//! *What is at stake.* A record whose header is damaged may have held a version, or have known of a delete, that nobody else has. That is lost
//! with it, as with a lost disk; a put that was to survive it has its other acknowledgements elsewhere. What must not happen is that this
//! replica goes on as if it were whole while it is not: with a state from one home that was behind itself, it would answer
//! a strict read, which needs two of three, together with that one, and both would lack what the third and the damaged record
//! had acknowledged. So it keeps answering with an error until *all* other homes have said what they have; the
//! union of that has every write that any two homes had acknowledged. A home that says that its own copy is damaged has said so.
//!
//! *If nobody has anything*, the record stays as it is: taking it away would make it "not found", which nobody has said. Unless it was of a
//! deleted key, which the index says: then that is what it said itself, and the others may have dropped what they had of it, for good. Taken away it
//! is in a settlement round like theirs, with the same proof that nobody has anything older.
//!
//! Where only a value is damaged, the header says which versions there are, and one copy of that value is enough.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_proto::{FailureCode, Marks};
use dynkv_ring::NodeId;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    background::Work,
    incoming::Incoming,
    key::Key,
    peers::PeerError,
    record::parse_record_key,
    replica::Replica,
    settle::{self, TakeError, send},
    shared::Shared,
    storage::{Space, StorageError},
};

/// How often what could not be healed is tried again.
const PERIOD: Duration = Duration::from_secs(5);

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Heals until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let damaged = &node.replica.damaged;
    loop {
        drop(timeout(PERIOD, damaged.wake.notified()).await);
        for record in damaged.all() {
            let Some(_turn) = node.background.turn(Work::AntiEntropy).await else { break };
            match heal(&node, &record).await {
                Ok(true) => damaged.remove(&record),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "a damaged record was not healed"),
            }
        }
    }
}

/// What another home says of a key.
enum Said {
    Holds(Incoming),
    Nothing(Marks),
    Damaged,
    NoAnswer,
}

/// Tries to heal one record. Says whether it is whole, or not this node's to heal any more.
async fn heal(node: &Arc<Shared>, record: &Bytes) -> Result<bool, TakeError> {
    let view = node.cluster.view();
    let Some((bucket, key)) = parse_record_key(record) else { return Ok(true) };
    let key = Key::new(bucket, key, view.membership.partitions());
    let homes = node.chain.members(key.partition).homes.clone();
    // Also one that is to be handed over: nothing damaged is.
    if !node.chain.holds(key.partition.0) {
        return Ok(true);
    }
    let conflict = view.buckets.get(&key.bucket).conflict;
    let mut answers: FuturesUnordered<_> =
        homes.iter().filter(|home| **home != node.cluster.me.id).map(|home| ask(node, *home, &key)).collect();
    let (mut union, mut everybody): (Option<Incoming>, bool) = (None, true);
    let mut marks = None;
    while let Some(said) = answers.next().await {
        let read_under = match &said {
            Said::Holds(incoming) => Some(incoming.marks),
            Said::Nothing(marks) => Some(*marks),
            Said::Damaged | Said::NoAnswer => None,
        };
        if let Some(read_under) = read_under {
            let Some(both) = settle::together(marks.unwrap_or(read_under), read_under) else {
                // One of them has an old disk: it will find out.
                return Ok(false);
            };
            marks = Some(both);
        }
        match (said, &mut union) {
            (Said::Holds(incoming), None) => union = Some(incoming),
            (Said::Holds(incoming), Some(union)) => {
                union.state.merge(incoming.state, conflict);
                union.bytes = union.state.encode();
            }
            (Said::Nothing(_) | Said::Damaged, _) => {}
            (Said::NoAnswer, _) => everybody = false,
        }
    }
    let (Some(mut union), Some(marks)) = (union, marks) else {
        settle::settle_damaged(node, &view, &key).await?;
        return Ok(is_gone(node, &key)?);
    };
    union.marks = marks;
    let (sender, healed) = oneshot::channel();
    node.replica.heal(&key, union, everybody, conflict, |outcome| drop(sender.send(outcome)))?;
    healed.await.unwrap_or(Err(StorageError::Closed.into()))
}

/// Whether there is no record any more, nor an entry that names one.
fn is_gone(node: &Shared, key: &Key) -> Result<bool, StorageError> {
    let Replica { trees, storage, .. } = &*node.replica;
    Ok(trees.entered_now(&key.at())?.is_none() && storage.get(Space::Records, &key.record)?.is_none())
}

async fn ask(node: &Arc<Shared>, home: NodeId, key: &Key) -> Said {
    match send::ask(node, home, key, CALL_TIMEOUT).await {
        Ok((marks, state)) if state.is_empty() => Said::Nothing(marks),
        Ok((marks, state)) => Incoming::verify(state, marks).map_or(Said::Damaged, Said::Holds),
        Err(PeerError::Refused(failure)) if failure.code == FailureCode::Storage => Said::Damaged,
        Err(_) => Said::NoAnswer,
    }
}
