//! A fallback's side of requests: what it keeps of a key are hints for the key's homes.

use std::sync::Arc;

use bytes::Bytes;
use dynkv_proto::{Conflict, State};
use dynkv_ring::NodeId;

use super::{Delta, Hint, HintError};
use crate::{
    incoming::Incoming,
    key::{Key, RecordAt},
    record::Record,
    replica::Replica,
    settle::compact::Unsettled,
    storage::{Apply, Done, Durability, Space, StorageError, Transaction},
    trees::TreeChange,
};

/// Where a node keeps what it has of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In its own record: it is a home.
    Home,
    /// In hints for the homes, the first of which it mints for.
    Fallback(Arc<[NodeId]>),
}

impl Place {
    /// The place on the node `me` of keys with these homes.
    pub(crate) fn of(homes: &Arc<[NodeId]>, me: &NodeId) -> Place {
        if homes.contains(me) { Place::Home } else { Place::Fallback(homes.clone()) }
    }
}

/// What a transaction found at a place.
pub(crate) struct Found {
    /// The record, or what the hints hold together, with the actor of the first home's.
    pub(crate) record: Option<Record>,
    /// The first home's hint.
    hint: Option<Hint>,
}

/// What writing at a place has changed: to be told when it is committed.
#[must_use]
pub(crate) enum Kept {
    Record(TreeChange),
    Hint(Delta),
}

impl Kept {
    /// Says that the transaction is committed.
    pub(crate) fn committed(self) {
        match self {
            Kept::Record(change) => change.committed(),
            Kept::Hint(delta) => delta.committed(),
        }
    }
}

impl Found {
    /// The record, if it is more than the first home's hint holds.
    pub(crate) fn unkept(&self) -> Option<Record> {
        let record = self.record.as_ref()?;
        // Of a home there is no hint, and nothing is kept elsewhere.
        let hint = self.hint.as_ref()?;
        (hint.record.state != record.state).then(|| record.clone())
    }
}

impl Replica {
    /// What this node holds of a key: its record, or its hints for the homes united.
    pub(crate) fn held(
        &self,
        key: &Key,
        place: &Place,
        conflict: Conflict,
    ) -> Result<Option<Record>, StorageError> {
        match place {
            Place::Home => self.read(key),
            Place::Fallback(homes) => {
                let hints = homes.iter().map(|home| self.hints.read(&key.record, home));
                united(hints.collect::<Result<Vec<_>, _>>()?, conflict)
            }
        }
    }

    /// The same within a transaction, for writing.
    pub(crate) fn find(
        &self,
        tx: &Transaction<'_>,
        record_key: &Bytes,
        place: &Place,
        conflict: Conflict,
    ) -> Result<Found, StorageError> {
        match place {
            Place::Home => {
                let record = tx.get(Space::Records, record_key)?.map(Record::decode).transpose()?;
                Ok(Found { record, hint: None })
            }
            Place::Fallback(homes) => {
                let hints = homes.iter().map(|home| self.hints.get(tx, record_key, home));
                let hints = hints.collect::<Result<Vec<_>, _>>()?;
                let hint = hints.first().cloned().flatten();
                Ok(Found { record: united(hints, conflict)?, hint })
            }
        }
    }

    /// Writes what [`Replica::find`] found and somebody has changed. What it returns is to be
    /// [told](Kept::committed) when it is committed.
    pub(crate) fn keep(
        &self,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        place: &Place,
        found: Found,
        record: Record,
        unsettled: Unsettled,
    ) -> Result<Option<Kept>, HintError> {
        match place {
            Place::Home => {
                let old = found.record.as_ref().map(Record::digest).transpose()?;
                Ok(Some(Kept::Record(self.trees.put_record(tx, at, old, &record, unsettled)?)))
            }
            Place::Fallback(homes) => {
                // A ring with members has homes for every partition.
                let Some(&target) = homes.first() else { return Ok(None) };
                let now_ms = self.env.wall_ms();
                let delta = self.hints.put(tx, &at.record, target, found.hint.as_ref(), record, now_ms)?;
                Ok(Some(Kept::Hint(delta)))
            }
        }
    }

    /// Unites `incoming` into the hint for `target`, then calls `done`: always from disk. `incoming` must have been
    /// verified.
    pub(crate) fn unite_hint(
        self: &Arc<Self>,
        key: &Key,
        target: NodeId,
        incoming: Incoming,
        conflict: Conflict,
        done: impl FnOnce(Result<(), HintError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let (replica, record_key) = (self.clone(), key.record.clone());
        let apply: Apply = Box::new(move |tx| {
            let new_puts: Vec<_> = incoming.puts().collect();
            let delta = match replica.unite_hint_within(tx, &record_key, target, incoming, conflict) {
                Ok(delta) => delta,
                Err(error) => return Box::new(move |_| done(Err(error))) as Done,
            };
            Box::new(move |result| {
                match &result {
                    Ok(()) => {
                        if let Some(delta) = delta {
                            delta.committed();
                        }
                        replica.metrics.hints_kept.inc();
                        replica.remember(new_puts);
                    }
                    Err(_) => replica.renew_actor(),
                }
                done(result.map_err(HintError::from));
            })
        });
        self.storage.submit(Durability::Disk, apply)
    }

    fn unite_hint_within(
        &self,
        tx: &mut Transaction<'_>,
        record_key: &Bytes,
        target: NodeId,
        incoming: Incoming,
        conflict: Conflict,
    ) -> Result<Option<Delta>, HintError> {
        self.take(record_key, &incoming)?;
        let before = self.hints.get(tx, record_key, &target)?;
        let record = before.as_ref().map(|hint| hint.record.clone());
        let Some((record, _)) = self.united(record, incoming, conflict)? else { return Ok(None) };
        let now_ms = self.env.wall_ms();
        self.hints.put(tx, record_key, target, before.as_ref(), record, now_ms).map(Some)
    }
}

/// What hints of one key hold together. The actor is that of the first: only in the first does this node mint.
fn united(hints: Vec<Option<Hint>>, conflict: Conflict) -> Result<Option<Record>, StorageError> {
    let local_actor = hints.first().and_then(Option::as_ref).and_then(|hint| hint.record.local_actor);
    let mut states = hints.into_iter().flatten().map(|hint| hint.record.state);
    let Some(first) = states.next() else { return Ok(None) };
    let mut bytes = first;
    for other in states.filter(|other| *other != bytes).collect::<Vec<_>>() {
        let mut state = decode(bytes)?;
        state.merge(decode(other)?, conflict);
        bytes = state.encode();
    }
    Ok(Some(Record { local_actor, state: bytes }))
}

fn decode(bytes: Bytes) -> Result<State, StorageError> {
    State::decode(bytes).map_err(|error| StorageError::Damaged { reason: error.to_string() })
}
