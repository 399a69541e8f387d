//! Putting records right: what anti-entropy and healing do to them. Rarer than what clients do ([`crate::replica`]), and more
//! suspicious: the index is read, not taken for granted.

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use bytes::Bytes;
use dynkv_proto::{Conflict, Digest};

use crate::{
    incoming::Incoming,
    key::{Key, RecordAt},
    record::Record,
    replica::Replica,
    settle::{TakeError, compact::unsettled},
    storage::{Apply, Done, Durability, Space, StorageError, Transaction},
    trees::{TreeChange, index::Entered},
};

/// The state that a record holds now, and the change that is to be committed with it.
type Settled = (Option<Bytes>, Option<TreeChange>);

impl Replica {
    /// The record of `key`, if its state and all values are intact.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when they are not; it is noted.
    pub(crate) fn read_intact(&self, key: &Key) -> Result<Option<Record>, StorageError> {
        let Some(record) = self.read(key)? else { return Ok(None) };
        self.verify(&record, &key.record)?;
        Ok(Some(record))
    }

    /// Unites `incoming`, which must have been verified, into the record of `key`, sees to it that the index says what the record
    /// holds, and calls `done` with the state.
    ///
    /// # Errors
    /// Those of submitting; `done` gets the others, [`StorageError::Damaged`] among them.
    pub(crate) fn settle(
        self: &Arc<Self>,
        key: &Key,
        incoming: Option<Incoming>,
        conflict: Conflict,
        done: impl FnOnce(Result<Option<Bytes>, TakeError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let puts: Vec<_> = incoming.iter().flat_map(Incoming::puts).collect();
        let (replica, at) = (self.clone(), key.at());
        // Nothing is given up because the state is here.
        self.submit(
            move |tx| replica.settle_within(tx, &at, incoming, conflict),
            puts,
            key.record.clone(),
            done,
        )
    }

    fn settle_within(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        incoming: Option<Incoming>,
        conflict: Conflict,
    ) -> Result<Settled, TakeError> {
        if let Some(incoming) = &incoming {
            self.check_held(&at.record)?;
            self.take(&at.record, incoming)?;
        }
        let before = tx.get(Space::Records, &at.record)?.map(Record::decode).transpose()?;
        let held = before.as_ref().map(entered_of).transpose()?;
        let indexed = self.trees.entered(tx, at)?;
        if before.is_none() && indexed.is_some() {
            return Err(missing().into());
        }
        if held != indexed {
            self.metrics.tree_drifts.inc();
            tracing::error!(held = ?held, indexed = ?indexed, "the digest index does not say what a record holds; it is set right");
            // Which of the two it was told is not known.
            self.trees.doubt(at);
        }
        let old = indexed.map(|entered| entered.digest);
        let after = match incoming {
            Some(incoming) => self.united(before.clone(), incoming, conflict)?,
            None => None,
        };
        match (after, before, held) {
            (Some((after, unsettled)), _, _) => {
                let change = self.trees.put_record(tx, at, old, &after, unsettled)?;
                Ok((Some(after.state), Some(change)))
            }
            (None, Some(before), Some(held)) => {
                let change = (indexed != Some(held)).then(|| self.trees.put_digest(tx, at, old, held));
                Ok((Some(before.state), change))
            }
            _ => Ok((None, None)),
        }
    }

    /// Sets the index right if it does not say what the record of `key` holds.
    pub(crate) fn check(self: &Arc<Self>, key: &Key) {
        if let Err(error) = self.settle(key, None, Conflict::Siblings, |_| {}) {
            tracing::debug!(%error, "a record was not checked");
        }
    }

    /// Heals the record of `key` with what the other homes hold together, then calls `done` with whether it is whole now.
    ///
    /// Where only values are damaged, the header still says which versions there are: those that `healthy` has are
    /// taken from there, and others stay, unless its context covers them. Where the header is damaged, or the record
    /// is gone, nothing is known any more, and the record is replaced, but only if `everybody` else has answered. The
    /// field under whom this node mints goes with it: it mints under an actor of its own next time, as on a new disk.
    ///
    /// # Errors
    /// Those of submitting; `done` gets the others.
    pub(crate) fn heal(
        self: &Arc<Self>,
        key: &Key,
        healthy: Incoming,
        everybody: bool,
        conflict: Conflict,
        done: impl FnOnce(Result<bool, TakeError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let (replica, at) = (self.clone(), key.at());
        let puts: Vec<_> = healthy.puts().collect();
        self.submit(
            move |tx| replica.heal_within(tx, &at, healthy, everybody, conflict),
            puts,
            key.record.clone(),
            move |outcome| done(outcome.map(|state| state.is_some())),
        )
    }

    fn heal_within(
        self: &Arc<Self>,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        healthy: Incoming,
        everybody: bool,
        conflict: Conflict,
    ) -> Result<Settled, TakeError> {
        self.check_held(&at.record)?;
        self.take(&at.record, &healthy)?;
        let stored =
            tx.get(Space::Records, &at.record).and_then(|bytes| bytes.map(Record::decode).transpose());
        let decoded = stored.and_then(|record| match record {
            Some(record) => Ok((record.decode_state()?, record)),
            None => Err(missing()),
        });
        let (record, unsettled) = match decoded {
            // Replaced meanwhile, by an overwrite.
            Ok((state, record)) if state.is_intact() => return Ok((Some(record.state), None)),
            Ok((damaged, record)) => {
                // Of a version that both have, the first one's value stays.
                let mut state = healthy.state;
                state.merge(damaged, conflict);
                if !state.is_intact() {
                    return Ok((None, None));
                }
                (Record { state: state.encode(), ..record }, unsettled(&state))
            }
            Err(StorageError::Damaged { .. }) if everybody => {
                (Record { local_actor: None, state: healthy.bytes }, unsettled(&healthy.state))
            }
            Err(StorageError::Damaged { .. }) => return Ok((None, None)),
            Err(error) => return Err(error.into()),
        };
        let indexed: Option<Digest> = self.trees.indexed(tx, at)?;
        let change = self.trees.put_record(tx, at, indexed, &record, unsettled)?;
        self.metrics.records_healed.inc();
        Ok((Some(record.state), Some(change)))
    }

    fn submit(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<Settled, TakeError> + Send + 'static,
        puts: Vec<(dynkv_proto::PutId, dynkv_vclock::Dot<dynkv_proto::Actor>)>,
        record: Bytes,
        done: impl FnOnce(Result<Option<Bytes>, TakeError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let replica = self.clone();
        let apply: Apply = Box::new(move |tx| match work(tx) {
            Ok((state, change)) => Box::new(move |outcome| {
                match &outcome {
                    Ok(()) => {
                        if let Some(change) = change {
                            change.committed();
                        }
                        replica.remember(puts);
                    }
                    Err(_) => replica.renew_actor(),
                }
                done(outcome.map(|()| state).map_err(TakeError::from));
            }) as Done,
            Err(error) => {
                if matches!(error, TakeError::Storage(StorageError::Damaged { .. })) {
                    replica.damaged.note(&record);
                }
                Box::new(move |_| done(Err(error)))
            }
        });
        self.storage.submit(Durability::Later, apply)
    }
}

/// What the index is to say of a record.
pub(crate) fn entered_of(record: &Record) -> Result<Entered, StorageError> {
    Ok(Entered { digest: record.digest()?, unsettled: unsettled(&record.decode_state()?) })
}

fn missing() -> StorageError {
    StorageError::Damaged { reason: "the digest index names a record that is not there".into() }
}
