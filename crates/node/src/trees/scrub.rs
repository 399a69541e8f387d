//! The walk through all that is stored, to see whether tree, index, records, values and hints still fit together. Nodes make it
//! again and again, slowly ([`upkeep`](super::upkeep)); an operator may have one made at once ([`verify`](super::verify)).
//!
//! It goes by the index, and reads each record by its name: so a block that the store cannot read costs the records in it, not
//! those behind it. That leaves out records that the index does not name, for which all records are listed once more.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_proto::VerifyPhase;
use tokio::time::sleep;

use super::{
    build::{Progress, ToCheck},
    index::Entered,
};
use crate::{
    background::{Turn, Work, give_way},
    hints::check::{Checked, check_page},
    key::Key,
    record::parse_record_key,
    repair::entered_of,
    shared::Shared,
    storage::{Space, StorageError},
};

/// Bytes read at once, and the pause before more of one page are: a fraction of a millisecond of hashing.
pub(super) const CHUNK_BYTES: u64 = 1024 * 1024;
const CHUNK_PAUSE: Duration = Duration::from_millis(1);

/// Where a walk is. It ends behind the hints, and begins anew.
#[derive(Default)]
pub(super) struct Walk {
    at: At,
}

enum At {
    /// At the records that the index names: behind this partition.
    Records(Option<u32>),
    /// At all records, from this one on.
    Index(Bytes),
    /// At the hints, from this key on.
    Hints(Bytes),
}

impl Default for At {
    fn default() -> At {
        At::Records(None)
    }
}

/// Whom a walk tells what it sees.
pub(super) trait Witness {
    /// A record, by the index, with its length; `whole` if it is.
    fn record(&mut self, record: &Bytes, bytes: u64, whole: bool);
    /// Records that the index was asked about, with their length.
    fn listed(&mut self, records: u64, bytes: u64);
    fn hints(&mut self, checked: &Checked);
    /// Something that could not be read at all.
    fn error(&mut self, error: String);
}

/// How far a walk went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// Past so many records or hints.
    On(usize),
    /// Nowhere for now: a tree is to be built first, or something else comes first.
    Nowhere,
    /// To its end.
    ToTheEnd,
}

impl Walk {
    pub(super) fn phase(&self) -> VerifyPhase {
        match self.at {
            At::Records(_) => VerifyPhase::Records,
            At::Index(_) => VerifyPhase::Index,
            At::Hints(_) => VerifyPhase::Hints,
        }
    }

    /// Goes on by at most `max` records or hints, less at the end of a partition.
    pub(super) async fn go_on(&mut self, node: &Arc<Shared>, max: usize, witness: &mut impl Witness) -> Went {
        let Some(turn) = node.background.turn(Work::TreeUpkeep).await else { return Went::Nowhere };
        match &self.at {
            At::Records(done) => self.records(node, *done, max, witness, turn).await,
            At::Index(from) => self.listed(node, from.clone(), max, witness),
            At::Hints(from) => self.hints(node, from.clone(), max, witness),
        }
    }

    async fn records(
        &mut self,
        node: &Arc<Shared>,
        done: Option<u32>,
        max: usize,
        witness: &mut impl Witness,
        _turn: Turn,
    ) -> Went {
        let trees = &node.replica.trees;
        let partition = match trees.to_check(done) {
            ToCheck::Partition(partition) => partition,
            ToCheck::Unbuilt => return Went::Nowhere,
            ToCheck::NoMore => {
                self.at = At::Index(Bytes::new());
                return Went::On(0);
            }
        };
        let (progress, page) = match trees.build_page(partition, max) {
            Ok((Progress::Disturbed, _)) => return Went::Nowhere,
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(partition, %error, "the digest index cannot be read");
                witness.error(format!("the digest index of partition {partition}: {error}"));
                self.at = At::Records(Some(partition));
                return Went::On(0);
            }
        };
        let partitions = node.cluster.view().membership.partitions();
        let mut at_once = 0;
        for (at, entry) in page.iter().enumerate() {
            give_way(at).await;
            let Some((bucket, key)) = parse_record_key(&entry.record) else { continue };
            let key = Key::new(bucket, key, partitions);
            match look_at(node, &key, entry.entered) {
                Ok((bytes, whole)) => {
                    witness.record(&key.record, bytes, whole);
                    at_once += bytes;
                }
                Err(error) => witness.error(format!("a record of partition {partition}: {error}")),
            }
            if at_once >= CHUNK_BYTES {
                at_once = 0;
                sleep(CHUNK_PAUSE).await;
            }
        }
        if progress == Progress::Done {
            self.at = At::Records(Some(partition));
        }
        Went::On(page.len())
    }

    /// Looks whether the index names every record.
    fn listed(&mut self, node: &Arc<Shared>, from: Bytes, max: usize, witness: &mut impl Witness) -> Went {
        let trees = &node.replica.trees;
        let (mut names, mut bytes, mut next) = (Vec::new(), 0, None);
        let scanned = trees.storage.scan(Space::Records, &[], &from, &mut |record, value| {
            if names.len() == max || bytes >= CHUNK_BYTES {
                next = Some(record);
                return ControlFlow::Break(());
            }
            bytes += (record.len() + value.len()) as u64;
            names.push(record);
            ControlFlow::Continue(())
        });
        if let Err(error) = scanned {
            // A block that cannot be read. What it holds, and where it ends, is not known: on with the next partition.
            let last = names.last().unwrap_or(&from);
            let partition = last.first_chunk().map_or(0, |partition| u16::from_be_bytes(*partition));
            tracing::error!(partition, %error, "the records of a partition cannot be listed");
            witness.error(format!(
                "the records of partition {partition} cannot be listed ({error}): they can be read one by one, but to be rid of this \
                 move the data directory away and start the node again, which then fills itself from the others"
            ));
            next = partition.checked_add(1).map(|next| Bytes::copy_from_slice(&next.to_be_bytes()));
        }
        let partitions = node.cluster.view().membership.partitions();
        for record in &names {
            let Some((bucket, key)) = parse_record_key(record) else {
                witness.error("a record is stored under a key of an unknown form".into());
                continue;
            };
            let key = Key::new(bucket, key, partitions);
            match trees.entered_now(&key.at()) {
                Ok(Some(_)) => {}
                Ok(None) => node.replica.check(&key),
                Err(error) => witness.error(format!("the digest index: {error}")),
            }
        }
        witness.listed(names.len() as u64, bytes);
        self.at = next.map_or_else(|| At::Hints(Bytes::new()), At::Index);
        Went::On(names.len())
    }

    fn hints(&mut self, node: &Arc<Shared>, from: Bytes, max: usize, witness: &mut impl Witness) -> Went {
        let (checked, next) = match check_page(&*node.replica.trees.storage, &from, max, CHUNK_BYTES) {
            Ok(read) => read,
            Err(error) => {
                witness.error(format!("the store of hints: {error}"));
                (Checked::default(), None)
            }
        };
        witness.hints(&checked);
        let went = if next.is_some() { Went::On(checked.seen) } else { Went::ToTheEnd };
        self.at = next.map_or_else(At::default, At::Hints);
        went
    }
}

/// Reads a record that the index names, and verifies it: how long it is, and whether it is whole.
fn look_at(node: &Arc<Shared>, key: &Key, indexed: Entered) -> Result<(u64, bool), StorageError> {
    match node.replica.read_intact(key) {
        Ok(Some(record)) => {
            // Written to meanwhile, most likely; otherwise the index is set right.
            if entered_of(&record)? != indexed {
                node.replica.check(key);
            }
            Ok((record.stored_bytes(), true))
        }
        // Noted, and healed from the others.
        Err(StorageError::Damaged { .. }) => Ok((0, false)),
        Ok(None) => {
            // Unless it was removed, with its entry, since the index was read.
            let gone = node.replica.trees.entered_now(&key.at())?.is_some();
            if gone {
                node.replica.damaged.note(&key.record);
            }
            Ok((0, !gone))
        }
        Err(error) => Err(error),
    }
}
