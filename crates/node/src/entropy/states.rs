//! Making two replicas equal where they differ: a second look, then states in both directions.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dynkv_merkle::Difference;
use dynkv_net::Class;
use dynkv_proto::{
    Conflict, Digest, Marks, State, StateAsked, StateFound, States, StatesReply, TreePosition,
};
use dynkv_ring::{NodeId, PartitionId, Position};
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use super::{
    CompareError,
    answer::PLACES_MAX,
    pass::{KeyDifference, ask, place, turn},
};
use crate::{
    background::{Work, give_way},
    chain::progress,
    hints::Place,
    incoming::Incoming,
    key::Key,
    record::parse_record_key,
    settle::send::{self, How, Source},
    shared::Shared,
    storage::StorageError,
    trees::index::{Ahead, Index, place_of},
};

/// States pushed at once.
const PUSHES_MAX: usize = 32;

/// States written at once: a client's write waits for those before it.
const UNITES_MAX: usize = 16;

const PUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// States that were moved to make two replicas equal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) pulled: u64,
    pub(super) pushed: u64,
    pub(super) bytes: u64,
    /// That were not taken here or there.
    pub(super) failed: u64,
    /// Places asked for of which the other has said neither what it holds nor that it holds nothing: the same by now, or damaged.
    pub(super) left_out: u64,
}

/// How differences are looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A moment later: what has changed here since is left to the next comparison, it is being written.
    Second,
    /// There are too many to be on their way.
    Batch,
    /// Clients wait for it.
    AtOnce,
}

impl AddAssign for Moved {
    fn add_assign(&mut self, other: Moved) {
        self.pulled += other.pulled;
        self.pushed += other.pushed;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.left_out += other.left_out;
    }
}

/// Looks at `found` again and makes both sides equal there, with as many `pushes` of what the other has nothing of; they are counted down.
pub(super) async fn mend(
    node: &Arc<Shared>,
    peer: NodeId,
    mut found: Vec<Difference>,
    look: Look,
    pushes: &mut usize,
) -> Result<Moved, CompareError> {
    let view = node.cluster.view();
    found.retain(|difference| {
        let is_push = difference.there.is_none();
        let keep = !is_push || *pushes > 0;
        *pushes -= usize::from(is_push && keep);
        let partition = || PartitionId(partition_at(node, place(difference)));
        // Who is to become a member reads what it lacks: within its operator's limit, and a hundred states in a message.
        keep && !(is_push && progress::receives(node, &view, partition(), peer))
    });
    let mut moved = Moved::default();
    let mut found = &found[..];
    while !found.is_empty() {
        let piece = if look == Look::AtOnce { PLACES_MAX } else { node.background.piece(PLACES_MAX) };
        let (batch, rest) = found.split_at(piece.min(found.len()));
        found = rest;
        let mut asked = Vec::with_capacity(batch.len());
        let mut index = Ahead::new(&*node.replica.storage);
        for (at, difference) in batch.iter().enumerate() {
            give_way(at).await;
            let position = place(difference);
            let have = index.digest_at(position)?;
            let same = have.map(|digest| digest.0) == difference.there;
            let changed = have.map(|digest| digest.0) != difference.here;
            if !(same || changed && look == Look::Second) {
                let partition = partition_at(node, position);
                let marks = node.replica.marks.durable(partition);
                asked.push(StateAsked { position, have, marks });
            }
        }
        moved += mend_batch(node, peer, asked, look == Look::AtOnce).await?;
    }
    Ok(moved)
}

async fn mend_batch(
    node: &Arc<Shared>,
    peer: NodeId,
    mut asked: Vec<StateAsked>,
    urgent: bool,
) -> Result<Moved, CompareError> {
    let mut moved = Moved::default();
    let me = node.cluster.me.id;
    while !asked.is_empty() {
        let view = node.cluster.view();
        let partition = |asked: &StateAsked| PartitionId(partition_at(node, asked.position));
        let joins = || asked.iter().any(|asked| progress::receives(node, &view, partition(asked), me));
        // Until all of it is written: that is what takes the disk's time.
        let (mut turn, limited) = match urgent {
            // Clients wait for it.
            true => (node.background.turn_at_once(Work::Joining), false),
            false if joins() => {
                node.transfers.limit.free().await;
                (turn(node, Work::Joining).await?, true)
            }
            false => (turn(node, Work::AntiEntropy).await?, false),
        };
        let request = States { asked: asked.clone(), bodies: true, urgent };
        let (reply, mut body) = turn.wait(ask_states(node, peer, request)).await?;
        turn.moved(reply.found.len());
        if limited {
            node.transfers.limit.spend(body.len() as u64);
        }
        let told: BTreeSet<u32> =
            reply.found.iter().map(|found| found.at).chain(reply.absent.iter().copied()).collect();
        moved.left_out += u64::from(reply.through).saturating_sub(told.len() as u64);
        let mut lacking: Vec<Key> = Vec::new();
        for place in reply.absent.iter().filter_map(|at| asked.get(*at as usize)) {
            lacking.extend(keys_at(node, place.position)?);
        }
        let mut pulled = Vec::new();
        for (number, found) in reply.found.into_iter().enumerate() {
            give_way(number).await;
            let at = asked.get(found.at as usize).map(|asked| asked.position);
            let Some((key, incoming)) = verified(node, peer, found, at, &mut body)? else { continue };
            pulled.push((key, incoming));
        }
        let unites = pulled.into_iter().map(|(key, theirs)| async move {
            let (digest, bytes) = (theirs.digest().ok(), theirs.bytes.len() as u64);
            (unite(node, &key, theirs).await, key, digest, bytes)
        });
        let mut unites = stream::iter(unites).buffered(UNITES_MAX);
        while let Some((ours, key, digest, bytes)) = unites.next().await {
            match ours {
                Some(ours) => {
                    moved += Moved { pulled: 1, bytes, ..Moved::default() };
                    progress::pulled(node, peer, key.partition, bytes);
                    if State::digest(&ours).ok() != digest {
                        lacking.push(key);
                    }
                }
                None => moved.failed += 1,
            }
        }
        drop(turn);
        moved += push_all(node, peer, lacking).await;
        asked.drain(..(reply.through as usize).min(asked.len()));
    }
    Ok(moved)
}

/// Gives `peer` what it lacks of `found`, and takes nothing over: where both go on being written to, they would never be equal.
pub(super) async fn give(
    node: &Arc<Shared>,
    peer: NodeId,
    found: Vec<Difference>,
) -> Result<Moved, CompareError> {
    let mut moved = Moved::default();
    let found: Vec<Difference> = found.into_iter().filter(|difference| difference.here.is_some()).collect();
    let mut found = &found[..];
    while !found.is_empty() {
        let (batch, rest) = found.split_at(node.background.piece(PLACES_MAX).min(found.len()));
        found = rest;
        let mut asked = Vec::with_capacity(batch.len());
        let mut index = Ahead::new(&*node.replica.storage);
        for (at, difference) in batch.iter().enumerate() {
            give_way(at).await;
            let position = place(difference);
            let have = index.digest_at(position)?;
            let marks = node.replica.marks.durable(partition_at(node, position));
            asked.extend(have.map(|have| StateAsked { position, have: Some(have), marks }));
        }
        while !asked.is_empty() {
            let mut turn = turn(node, Work::AntiEntropy).await?;
            let request = States { asked: asked.clone(), bodies: true, urgent: false };
            let (reply, mut body) = turn.wait(ask_states(node, peer, request)).await?;
            let mut theirs = BTreeMap::new();
            let mut told: BTreeSet<u32> = reply.absent.iter().copied().collect();
            for found in reply.found {
                told.insert(found.at);
                let at = asked.get(found.at as usize).map(|asked| asked.position);
                let verified = verified(node, peer, found, at, &mut body)?;
                theirs.extend(verified.map(|(key, state)| (key.record.clone(), state)));
            }
            // The same as here, or damaged.
            moved.left_out += u64::from(reply.through).saturating_sub(told.len() as u64);
            drop(turn);
            let mut lacking = Vec::new();
            for place in told.iter().filter_map(|at| asked.get(*at as usize)) {
                for key in keys_at(node, place.position)? {
                    if !theirs.get(&key.record).is_some_and(|theirs| covers(node, theirs, &key)) {
                        lacking.push(key);
                    }
                }
            }
            moved += push_all(node, peer, lacking).await;
            asked.drain(..(reply.through as usize).min(asked.len()));
        }
    }
    Ok(moved)
}

/// Whether uniting what is here would change nothing there.
fn covers(node: &Shared, theirs: &Incoming, key: &Key) -> bool {
    let Ok(Some(record)) = node.replica.read_intact(key) else { return false };
    let Ok(ours) = record.decode_state() else { return false };
    let conflict = node.cluster.view().buckets.get(&key.bucket).conflict;
    let mut union = theirs.state.clone();
    union.merge(ours, conflict);
    union == theirs.state
}

/// Asks what `peer` has at some places; the caller has a [`turn`].
pub(super) async fn look(
    node: &Arc<Shared>,
    peer: NodeId,
    asked: &[StateAsked],
    bodies: bool,
) -> Result<(StatesReply, Bytes), CompareError> {
    ask_states(node, peer, States { asked: asked.to_vec(), bodies, urgent: false }).await
}

async fn ask_states(
    node: &Arc<Shared>,
    peer: NodeId,
    request: States,
) -> Result<(StatesReply, Bytes), CompareError> {
    let (reply, body) = ask(node, peer, &request, Bytes::new()).await?;
    if reply.through == 0 || reply.through as usize > request.asked.len() {
        return Err(CompareError::answer(peer, "it is about places that were not asked for"));
    }
    Ok((reply, body))
}

/// This node's keys at a place.
pub(super) fn keys_at(node: &Shared, position: TreePosition) -> Result<Vec<Key>, StorageError> {
    let partitions = node.cluster.view().membership.partitions();
    let indexed = Index(&*node.replica.storage).at(position)?;
    let names = indexed.iter().filter_map(|entry| parse_record_key(&entry.record));
    Ok(names.map(|(bucket, key)| Key::new(bucket, key, partitions)).collect())
}

/// Cuts a state off the front of `body`. `None` when it is not what it should be.
pub(super) fn verified(
    node: &Shared,
    peer: NodeId,
    found: StateFound,
    position: Option<TreePosition>,
    body: &mut Bytes,
) -> Result<Option<(Key, Incoming)>, CompareError> {
    let wrong = |reason: &str| CompareError::answer(peer, reason);
    let len = usize::try_from(found.len).ok().filter(|len| *len <= body.len());
    let state = body.split_to(len.ok_or_else(|| wrong("a state is cut short"))?);
    dynkv_proto::check_bucket_name(&found.bucket).map_err(|error| wrong(&error.to_string()))?;
    let key = Key::new(found.bucket, found.key.0, node.cluster.view().membership.partitions());
    if position != Some(place_of(&key.at())) {
        return Err(wrong("a state is not of the place that was asked for"));
    }
    // Damaged on the way or there: the next comparison will find it again.
    Ok(Incoming::verify(state, found.stamp.1).ok().map(|incoming| (key, incoming)))
}

/// Unites a state into this node's record. Returns what the record holds then; `None` when it could not be written.
async fn unite(node: &Arc<Shared>, key: &Key, incoming: Incoming) -> Option<Bytes> {
    let conflict = node.cluster.view().buckets.get(&key.bucket).conflict;
    let (sender, settled) = oneshot::channel();
    let submitted = node.replica.settle(key, Some(incoming), conflict, |outcome| drop(sender.send(outcome)));
    let outcome = match submitted {
        Ok(()) => settled.await.unwrap_or(Err(StorageError::Closed.into())),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(state) => {
            node.metrics.states_pulled.inc();
            state
        }
        Err(error) => {
            tracing::debug!(%error, "a state was not taken over");
            None
        }
    }
}

/// Gives `peer` this node's states of `keys`. One that is not taken is found by the next comparison.
async fn push_all(node: &Arc<Shared>, peer: NodeId, keys: Vec<Key>) -> Moved {
    let pushes = keys.into_iter().map(|key| push(node, peer, key));
    let mut pushes = stream::iter(pushes).buffer_unordered(PUSHES_MAX);
    let mut moved = Moved::default();
    while let Some(bytes) = pushes.next().await {
        moved += match bytes {
            Some(bytes) => Moved { pushed: 1, bytes, ..Moved::default() },
            None => Moved { failed: 1, ..Moved::default() },
        };
    }
    moved
}

/// How many bytes the state had, if it was taken.
async fn push(node: &Arc<Shared>, peer: NodeId, key: Key) -> Option<u64> {
    let _turn = node.background.turn(Work::AntiEntropy).await?;
    let source = Source::At(Place::Home, Conflict::Siblings);
    let held = match send::read(node, &key, &source) {
        Ok(Some(held)) => held,
        // The index names a record that is not there.
        Ok(None) => {
            node.replica.check(&key);
            return None;
        }
        // Noted, if it is damaged.
        Err(_) => return None,
    };
    let bytes = held.state.len() as u64;
    node.metrics.tree_message_sent(held.state.len());
    // Nothing is given up because it has arrived: losing it costs another comparison.
    let how = How { class: Class::Background, durable: false, hint_for: None, timeout: PUSH_TIMEOUT };
    match send::give(node, peer, &key, &source, held, how).await {
        Ok(_) => {
            node.metrics.states_pushed.inc();
            progress::pushed(node, peer, key.partition, bytes);
            Some(bytes)
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "a state was not taken by another replica");
            None
        }
    }
}

/// Asks only to look: nothing is taken.
pub(super) fn name_at(position: TreePosition) -> StateAsked {
    StateAsked { position, have: None, marks: Marks::default() }
}

/// The partition of a place.
pub(super) fn partition_at(node: &Shared, position: TreePosition) -> u32 {
    Position(position.0).partition(node.cluster.view().membership.partitions()).0
}

/// Names the keys of `found`.
pub(super) async fn name(
    node: &Arc<Shared>,
    peer: NodeId,
    found: &[Difference],
) -> Result<Vec<KeyDifference>, CompareError> {
    let mut named = BTreeMap::new();
    for batch in found.chunks(PLACES_MAX) {
        let mut unknown = Vec::new();
        for difference in batch {
            let keys = keys_at(node, place(difference))?;
            if keys.is_empty() {
                unknown.push(difference);
            }
            for key in keys {
                named.insert((key.bucket, key.key), *difference);
            }
        }
        let mut asked: Vec<StateAsked> =
            unknown.iter().map(|difference| name_at(place(difference))).collect();
        while !asked.is_empty() {
            let turn = turn(node, Work::AntiEntropy).await?;
            let (reply, _) = look(node, peer, &asked, false).await?;
            drop(turn);
            for found in reply.found {
                let Some(asked) = asked.get(found.at as usize) else { continue };
                let difference = unknown.iter().find(|difference| place(difference) == asked.position);
                if let Some(difference) = difference {
                    named.insert((found.bucket, found.key.0), **difference);
                }
            }
            asked.drain(..reply.through as usize);
        }
    }
    let digest = |digest: Option<u128>| digest.map(Digest);
    let differences = named.into_iter().map(|((bucket, key), Difference { here, there, .. })| {
        KeyDifference { bucket, key, here: digest(here), there: digest(there) }
    });
    Ok(differences.collect())
}
