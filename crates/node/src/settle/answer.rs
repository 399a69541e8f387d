//! A member's side of a round.

use std::sync::Arc;

use dynkv_proto::{
    Digest, Failure, FailureCode, Marks, Round, SettleDecide, SettleDecideReply, SettleDrop, SettleDropReply,
    SettleKey, SettlePrepare, SettlePrepareReply,
};
use dynkv_ring::NodeId;
use tokio::sync::oneshot;

use super::{compact::settled_record, marks::Written};
use crate::{
    hints::Delta,
    key::{Key, RecordAt},
    planted::{self, Bug},
    record::Record,
    replica::Replica,
    settle::compact::unsettled,
    shared::Shared,
    storage::{Apply, Done, Durability, Space, StorageError, Transaction},
    trees::TreeChange,
};

/// Keys that a round has at most.
pub(super) const KEYS_MAX: usize = 512;

/// Why a member does not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it has another view of the cluster")]
    View,
    #[error("it has promised round {}", .0.promise)]
    Promised(Marks),
    #[error("it does not know what hints it keeps")]
    Hints,
    #[error("the round has keys of other partitions, or too many")]
    Keys,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A key of a round.
pub(super) struct Asked {
    pub(super) at: RecordAt,
    pub(super) digest: Digest,
}

/// Changes to be told when they are committed.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) trees: Vec<TreeChange>,
    hints: Vec<Delta>,
    tombstones: u64,
    compacted: u64,
}

/// Answers phase 1.
pub(crate) async fn prepare(
    node: &Arc<Shared>,
    request: SettlePrepare,
) -> Result<SettlePrepareReply, Refusal> {
    let keys = asked(node, request.partition, request.keys.clone())?;
    let (sender, answered) = oneshot::channel();
    let shared = node.clone();
    let SettlePrepare { partition, round, view, decided, .. } = request;
    let apply: Apply =
        Box::new(move |tx| match prepare_within(&shared, tx, (partition, round, decided), view, &keys) {
            Ok((no, written)) => Box::new(move |outcome: Result<(), StorageError>| {
                let answer = outcome.map(|()| {
                    written.synced();
                    SettlePrepareReply { no }
                });
                drop(sender.send(answer.map_err(Refusal::from)));
            }) as Done,
            Err(refusal) => Box::new(move |_| drop(sender.send(Err(refusal)))),
        });
    let early = planted::is(Bug::SettleBeforeDurable);
    let durability = if early { Durability::Memory } else { Durability::Disk };
    node.replica.storage.submit(durability, apply)?;
    answered.await.unwrap_or(Err(Refusal::Storage(StorageError::Closed)))
}

/// Promises and agrees, and finds what the member cannot agree to.
fn prepare_within(
    node: &Shared,
    tx: &mut Transaction<'_>,
    (partition, round, decided): (u32, Round, Round),
    view: Digest,
    keys: &[Asked],
) -> Result<(Vec<u32>, Written), Refusal> {
    let replica = &node.replica;
    // Here, not when the request came: whoever asks to be admitted is answered from a transaction, too, before this one or
    // after it.
    check_view(node, view)?;
    let targets = match planted::is(Bug::SettleIgnoresHints) {
        true => Vec::new(),
        false => replica.hints.targets().ok_or(Refusal::Hints)?,
    };
    let written = replica.marks.agree(tx, partition, round, decided).map_err(Refusal::Promised)?;
    let differs = |(_, asked): &(u32, &Asked)| !replica.has_only(tx, asked, &targets);
    let no = (0..).zip(keys).filter(differs).map(|(at, _)| at).collect();
    Ok((no, written))
}

fn check_view(node: &Shared, view: Digest) -> Result<(), Refusal> {
    let same = node.cluster.view().digest == view || planted::is(Bug::SettleAnyView);
    if same { Ok(()) } else { Err(Refusal::View) }
}

/// Answers phase 2.
pub(crate) async fn decide(node: &Arc<Shared>, request: SettleDecide) -> Result<SettleDecideReply, Refusal> {
    let (sender, answered) = oneshot::channel();
    let shared = node.clone();
    let apply: Apply = Box::new(move |tx| {
        let SettleDecide { partition, round, view } = request;
        let decided = check_view(&shared, view)
            .and_then(|()| shared.replica.marks.decide(tx, partition, round).map_err(Refusal::Promised));
        Box::new(move |outcome: Result<(), StorageError>| {
            let answer = decided.and_then(|written| {
                outcome?;
                written.synced();
                Ok(SettleDecideReply { reserved: 0 })
            });
            drop(sender.send(answer));
        }) as Done
    });
    node.replica.storage.submit(Durability::Disk, apply)?;
    answered.await.unwrap_or(Err(Refusal::Storage(StorageError::Closed)))
}

/// Does phase 3, or ends a round that is given up: then there are no keys.
pub(crate) async fn drop_settled(
    node: &Arc<Shared>,
    request: SettleDrop,
) -> Result<SettleDropReply, Refusal> {
    let keys = asked(node, request.partition, request.keys)?;
    let (partition, round) = (request.partition, request.round);
    if keys.is_empty() {
        node.replica.marks.over(partition, round);
        return Ok(SettleDropReply { dropped: 0 });
    }
    let (sender, answered) = oneshot::channel();
    let replica = node.replica.clone();
    let apply: Apply = Box::new(move |tx| {
        let dropped = replica.drop_within(tx, partition, round, &keys);
        Box::new(move |outcome: Result<(), StorageError>| {
            let answer = dropped.and_then(|changes| {
                outcome?;
                replica.marks.over(partition, round);
                Ok(SettleDropReply { dropped: changes.committed(&replica) })
            });
            drop(sender.send(answer));
        }) as Done
    });
    // A crash that undoes it leaves what all have agreed on: it is settled once more.
    node.replica.storage.submit(Durability::Memory, apply)?;
    answered.await.unwrap_or(Err(Refusal::Storage(StorageError::Closed)))
}

fn asked(node: &Shared, partition: u32, keys: Vec<SettleKey>) -> Result<Vec<Asked>, Refusal> {
    if keys.len() > KEYS_MAX {
        return Err(Refusal::Keys);
    }
    let partitions = node.cluster.view().membership.partitions();
    let asked = keys.into_iter().map(|SettleKey { bucket, key, digest }| {
        dynkv_proto::check_bucket_name(&bucket).ok()?;
        let key = Key::new(bucket, key.0, partitions);
        (key.partition.0 == partition).then(|| Asked { at: key.at(), digest })
    });
    asked.collect::<Option<Vec<_>>>().ok_or(Refusal::Keys)
}

impl Changes {
    /// They are committed. Returns how many there are.
    pub(super) fn committed(self, replica: &Replica) -> u32 {
        let dropped = self.trees.len() + self.hints.len();
        self.trees.into_iter().for_each(TreeChange::committed);
        self.hints.into_iter().for_each(Delta::committed);
        replica.metrics.tombstones_dropped.inc_by(self.tombstones);
        replica.metrics.contexts_compacted.inc_by(self.compacted);
        dropped as u32
    }
}

impl Replica {
    /// Whether this node has nothing of a key but the state that is asked for: not in its record, whether it is a home or was one, and
    /// in no hint.
    ///
    /// A damaged record is the state that the index names: both were written at once. Were it answered with no, a deleted
    /// key of which a home has only a damaged record could not settle before that was healed, and if the others have dropped theirs, nobody has
    /// anything to heal it with.
    pub(super) fn has_only(&self, tx: &Transaction<'_>, asked: &Asked, targets: &[NodeId]) -> bool {
        let Asked { at, digest } = asked;
        let Ok(indexed) = self.trees.indexed(tx, at) else { return false };
        let is_it = match read_digest(tx, at) {
            Ok(Some(held)) => held == *digest && indexed == Some(held),
            // One that the index names all the same is damaged, too.
            Ok(None) => indexed.is_none_or(|indexed| indexed == *digest),
            Err(StorageError::Damaged { .. }) => indexed == Some(*digest),
            Err(_) => false,
        };
        if !is_it {
            return false;
        }
        targets.iter().all(|target| match self.hints.get(tx, &at.record, target) {
            Ok(Some(hint)) => hint.record.digest() == Ok(*digest),
            Ok(None) => true,
            Err(_) => false,
        })
    }

    fn drop_within(
        &self,
        tx: &mut Transaction<'_>,
        partition: u32,
        round: Round,
        keys: &[Asked],
    ) -> Result<Changes, Refusal> {
        let unproved = planted::is(Bug::TombstoneByTime) || planted::is(Bug::SettleTwoPhases);
        if !self.marks.may_drop(partition, round) && !unproved {
            return Err(Refusal::Promised(self.marks.durable(partition)));
        }
        let targets = self.hints.targets().ok_or(Refusal::Hints)?;
        let mut changes = Changes::default();
        for asked in keys {
            let record = self.drop_record(tx, asked, &mut changes);
            let hints = targets.iter().map(|target| self.drop_hint(tx, asked, *target, &mut changes));
            // What cannot be read stays, and is no reason for the others to stay.
            if let Some(error) = [record].into_iter().chain(hints).find_map(Result::err) {
                tracing::debug!(%error, "something that is settled was not dropped");
            }
        }
        Ok(changes)
    }

    pub(super) fn drop_record(
        &self,
        tx: &mut Transaction<'_>,
        asked: &Asked,
        changes: &mut Changes,
    ) -> Result<(), StorageError> {
        let Asked { at, digest } = asked;
        let record = match read_record(tx, at) {
            Ok(Some(record)) => record,
            Ok(None) | Err(StorageError::Damaged { .. }) => return self.drop_damaged(tx, asked, changes),
            Err(error) => return Err(error),
        };
        let held = record.digest()?;
        if held != *digest && !planted::is(Bug::SettleUnchecked) {
            return Ok(());
        }
        let change = match settled_record(&record)? {
            Some((left, state)) => {
                changes.compacted += 1;
                self.trees.put_record(tx, at, Some(held), &left, unsettled(&state))?
            }
            None => {
                changes.tombstones += 1;
                self.trees.remove_record(tx, at, held)
            }
        };
        changes.trees.push(change);
        Ok(())
    }

    /// The same where there is no record that could be read: by what the index says that it was. One of which live values would be left
    /// stays, damaged, and is healed from what the others have left of it: without it, reads here would find nothing meanwhile.
    fn drop_damaged(
        &self,
        tx: &mut Transaction<'_>,
        asked: &Asked,
        changes: &mut Changes,
    ) -> Result<(), StorageError> {
        let Asked { at, digest } = asked;
        let indexed = self.trees.entered(tx, at)?;
        if indexed.is_some_and(|indexed| indexed.digest == *digest && indexed.unsettled.leaves_nothing) {
            changes.tombstones += 1;
            changes.trees.push(self.trees.remove_record(tx, at, *digest));
        }
        Ok(())
    }

    fn drop_hint(
        &self,
        tx: &mut Transaction<'_>,
        asked: &Asked,
        target: NodeId,
        changes: &mut Changes,
    ) -> Result<(), StorageError> {
        let Asked { at, digest } = asked;
        let Some(hint) = self.hints.get(tx, &at.record, &target)? else { return Ok(()) };
        if hint.record.digest()? != *digest && !planted::is(Bug::SettleUnchecked) {
            return Ok(());
        }
        let delta = match settled_record(&hint.record)? {
            Some((left, _)) => {
                changes.compacted += 1;
                self.hints.shorten(tx, &at.record, target, &hint, left)
            }
            None => {
                changes.tombstones += 1;
                self.hints.remove(tx, &at.record, target, &hint)
            }
        };
        changes.hints.push(delta);
        Ok(())
    }
}

fn read_record(tx: &Transaction<'_>, at: &RecordAt) -> Result<Option<Record>, StorageError> {
    tx.get(Space::Records, &at.record)?.map(Record::decode).transpose()
}

fn read_digest(tx: &Transaction<'_>, at: &RecordAt) -> Result<Option<Digest>, StorageError> {
    read_record(tx, at)?.as_ref().map(Record::digest).transpose()
}

/// The failure that tells an issuer why.
pub(crate) fn failure(node: &Shared, refusal: Refusal) -> Failure {
    let message = format!("node {}: {refusal}", node.cluster.me.id);
    let (code, marks) = match refusal {
        Refusal::Promised(marks) => (FailureCode::Behind, marks),
        Refusal::View => (FailureCode::Stale, Marks::default()),
        Refusal::Keys => (FailureCode::Invalid, Marks::default()),
        Refusal::Hints | Refusal::Storage(_) => (FailureCode::Storage, Marks::default()),
    };
    Failure { marks, view: node.cluster.view().digest, ..Failure::not_done(code, message) }
}
