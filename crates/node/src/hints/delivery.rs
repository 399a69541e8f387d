//! Handing hints to their targets: oldest first, a batch at a time, also while there is no traffic.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::DecodeError;
use dynkv_ring::NodeId;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::oneshot, time::MissedTickBehavior};

use super::Queued;
use crate::{
    background::Work,
    incoming::Incoming,
    key::Key,
    peers::PeerError,
    planted::{self, Bug},
    record::parse_record_key,
    settle::{
        TakeError,
        send::{self, GiveError, Held, How, Source},
    },
    shared::Shared,
    storage::{Durability, StorageError},
};

/// How often targets are looked at again, besides when one comes up.
const PERIOD: Duration = Duration::from_secs(1);

/// Hints of one target on their way at once: enough for one sync of its disk to serve many.
const IN_FLIGHT_MAX: usize = 64;
const BYTES_IN_FLIGHT_MAX: u64 = 8 * 1024 * 1024;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each target has a pass of its own: one that is slow must not hold up the others.
    let mut passes = FuturesUnordered::new();
    let mut targets = BTreeSet::new();
    let mut came_up = node.peers.watch_up();
    loop {
        tokio::select! {
            biased;
            Some(target) = passes.next() => {
                targets.remove(&target);
                continue;
            }
            // By a first hint, or by an operator.
            () = node.replica.hints.wake.notified() => {}
            () = came_up.changed() => {}
            _ = ticks.tick() => {}
        }
        if let Err(error) = node.replica.hints.recount_if_stale() {
            tracing::debug!(%error, "the hints could not be counted again");
        }
        let totals = node.replica.hints.totals();
        tell(&node, totals.values().map(|totals| totals.hints).sum());
        for target in totals.into_keys() {
            if targets.insert(target) {
                let node = &node;
                passes.push(async move {
                    deliver_all(node, target).await;
                    target
                });
            }
        }
    }
}

/// Lets the others know what this node keeps.
fn tell(node: &Shared, hints: u64) {
    let now_ms = node.env.wall_ms();
    let oldest = node.replica.hints.oldest_since_ms().unwrap_or_default();
    node.gossip.set_hints(hints, oldest.map(|since_ms| now_ms.saturating_sub(since_ms) / 1000));
}

/// Delivers what there is for `target`, until there is no more, or until it fails.
async fn deliver_all(node: &Arc<Shared>, target: NodeId) {
    let hints = &node.replica.hints;
    let mut after = None;
    let mut refused: Option<String> = None;
    while may_deliver(node, target) {
        let (batch, more) = match hints.page(&target, after, IN_FLIGHT_MAX, BYTES_IN_FLIGHT_MAX) {
            Ok(page) => page,
            Err(error) => return hints.note_outcome(target, Some(format!("the store of hints: {error}"))),
        };
        after = batch.last().map(|queued| queued.sequence).or(after);
        let mut under_way: FuturesUnordered<_> =
            batch.iter().map(|queued| deliver(node, target, queued)).collect();
        let mut lost = None;
        while let Some(outcome) = under_way.next().await {
            match outcome {
                Ok(()) => {}
                Err(Undelivered::Refused(reason)) => refused = Some(reason),
                Err(Undelivered::NoAnswer(reason)) => lost = Some(reason),
            }
        }
        if let Some(reason) = lost {
            return hints.note_outcome(target, Some(reason));
        }
        if !more {
            break;
        }
    }
    hints.note_outcome(target, refused);
}

/// Why a hint stays.
enum Undelivered {
    /// This one; others may be taken.
    Refused(String),
    /// The target, or this node's disk, is in trouble.
    NoAnswer(String),
}

/// Delivers one hint, and removes it once its target has it on disk.
async fn deliver(node: &Arc<Shared>, target: NodeId, queued: &Queued) -> Result<(), Undelivered> {
    let Some(_turn) = node.background.turn(Work::HintDelivery).await else {
        return Err(Undelivered::NoAnswer("other background work comes first".into()));
    };
    let (bucket, name) = parse_record_key(&queued.record_key)
        .ok_or_else(|| Undelivered::Refused("a hint is stored under a key of an unknown form".into()))?;
    let key = Key::new(bucket, name, node.cluster.view().membership.partitions());
    let source = Source::Hint(target);
    let (held, damaged) = match send::read(node, &key, &source) {
        Ok(Some(held)) => match Incoming::verify(held.state.clone(), held.marks) {
            Ok(_) => (Some(held), None),
            // The target would refuse it for ever.
            Err(error) => (Some(held), Some(error.to_string())),
        },
        // Delivered meanwhile.
        Ok(None) => return Ok(()),
        Err(StorageError::Damaged { reason }) => (None, Some(reason)),
        Err(error) => return Err(Undelivered::NoAnswer(format!("the store of hints: {error}"))),
    };
    let held = match (held, damaged) {
        (Some(held), None) => held,
        (held, reason) => {
            tracing::error!(%target, ?reason, "a hint is damaged and is given up: its target lacks a write until the two are compared");
            node.metrics.hints_damaged.inc();
            return remove(node, target, queued, held.map(|held| held.state)).await.map(drop);
        }
    };
    if planted::is(Bug::HintRemovedBeforeAck) {
        remove(node, target, queued, Some(held.state.clone())).await?;
    }
    let homes = node.chain.members(key.partition).homes.clone();
    let state = if homes.contains(&target) {
        match give(node, target, &key, &source, held).await {
            Ok(taken) => taken,
            // Delivered or settled meanwhile.
            Err(GiveError::Gone) => return Ok(()),
            Err(error) => return Err(undelivered(target, error)),
        }
    } else {
        // Somebody else is home now. One successor is not enough: nobody knows which of the members have it.
        match give_to_members(node, &homes, target, &key, &source, held).await? {
            Some(given) => given,
            None => return Ok(()),
        }
    };
    if remove(node, target, queued, Some(state)).await? {
        node.metrics.hints_delivered.inc();
    } else {
        // A later write is in it now: it will be delivered once more.
        node.metrics.hints_changed.inc();
    }
    Ok(())
}

/// Whether hints for `target` can go anywhere: to itself, or to those who are home in its place.
fn may_deliver(node: &Shared, target: NodeId) -> bool {
    node.peers.is_reachable(target) || node.cluster.view().membership.departure(&target).is_some()
}

/// Hands a state to `to`. Only from disk may the hint go. Returns what it has taken.
async fn give(
    node: &Arc<Shared>,
    to: NodeId,
    key: &Key,
    source: &Source,
    held: Held,
) -> Result<Bytes, GiveError> {
    let durable = !planted::is(Bug::HintRemovedOnMemoryAck);
    let how = How { class: Class::Background, durable, hint_for: None, timeout: CALL_TIMEOUT };
    send::give(node, to, key, source, held, how).await.map(|(_, taken)| taken)
}

fn undelivered(to: NodeId, error: GiveError) -> Undelivered {
    match error {
        GiveError::Peer(PeerError::Refused(failure)) => {
            Undelivered::Refused(format!("{to} refuses a hint: {failure}"))
        }
        error => Undelivered::NoAnswer(error.to_string()),
    }
}

/// Hands the hint of a target that is no home any more to every member. Returns the state that all of them have; `None`: it has changed, or is gone.
async fn give_to_members(
    node: &Arc<Shared>,
    homes: &[NodeId],
    target: NodeId,
    key: &Key,
    source: &Source,
    held: Held,
) -> Result<Option<Bytes>, Undelivered> {
    if planted::is(Bug::HintOfDepartedDropped) {
        return Ok(Some(held.state));
    }
    let state = held.state.clone();
    let successors = if planted::is(Bug::HintToOneSuccessor) { &homes[..1.min(homes.len())] } else { homes };
    for &home in successors {
        let taken = if home == node.cluster.me.id {
            take_here(node, key, held.clone()).await.map(|()| state.clone()).map_err(GiveError::Here)
        } else {
            give(node, home, key, source, held.clone()).await
        };
        match taken {
            // It was read anew for this one: the others have not got that.
            Ok(taken) if taken != state => return Ok(None),
            Ok(_) => {}
            Err(GiveError::Gone) => return Ok(None),
            Err(error) => {
                return Err(match undelivered(home, error) {
                    // The target is not the one in trouble: other hints for it may go elsewhere.
                    Undelivered::NoAnswer(reason) => Undelivered::Refused(format!(
                        "{target} is no home of it any more, and {home}, which is: {reason}"
                    )),
                    refused => refused,
                });
            }
        }
    }
    Ok(Some(state))
}

/// Unites a state into this node's own record, on disk.
async fn take_here(node: &Arc<Shared>, key: &Key, held: Held) -> Result<(), TakeError> {
    let damaged = |error: DecodeError| StorageError::Damaged { reason: error.to_string() };
    let incoming = Incoming::verify(held.state, held.marks).map_err(damaged)?;
    let conflict = node.cluster.view().buckets.get(&key.bucket).conflict;
    let (sender, taken) = oneshot::channel();
    node.replica.unite(key, incoming, conflict, Durability::Disk, |outcome| drop(sender.send(outcome)))?;
    taken.await.unwrap_or(Err(StorageError::Closed.into())).map(drop)
}

async fn remove(
    node: &Arc<Shared>,
    target: NodeId,
    queued: &Queued,
    delivered: Option<Bytes>,
) -> Result<bool, Undelivered> {
    let failed = |error: StorageError| Undelivered::NoAnswer(format!("the store of hints: {error}"));
    let (sender, removed) = oneshot::channel();
    node.replica
        .hints
        .remove_delivered(target, queued, delivered, |outcome| drop(sender.send(outcome)))
        .map_err(failed)?;
    removed.await.unwrap_or(Err(StorageError::Closed)).map_err(failed)
}
