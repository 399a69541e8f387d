//! What this node knows of each partition's chain, and what it has promised: as of the transactions that have run. What others are told is on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use bytes::{BufMut, Bytes, BytesMut};
use dynkv_proto::{Accepted, Configuration, Digest, Holder, Round, Stamp, Vote};
use dynkv_ring::{Change, Entry, Founding, History, Membership, NodeId, PartitionId, Ring};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    cluster::View,
    news::{Listener, News},
    planted::{self, Bug},
    storage::{Apply, Done, Durability, Space, Storage, StorageError, Transaction},
};

/// What the keys of cells in [`Space::Meta`] begin with; the partition (u16) follows.
const CELLS: &[u8] = b"chain/";

/// Who serves a partition at an epoch, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) epoch: u64,
    /// In the order in which they are preferred.
    pub(crate) holders: Vec<Holder>,
    /// Their nodes: the homes of requests.
    pub(crate) homes: Arc<[NodeId]>,
}

/// Nobody.
impl Default for Members {
    fn default() -> Members {
        Members { epoch: 0, holders: Vec::new(), homes: Arc::new([]) }
    }
}

impl Members {
    fn new(epoch: u64, holders: Vec<Holder>) -> Arc<Members> {
        let homes = holders.iter().map(|holder| holder.node).collect();
        Arc::new(Members { epoch, holders, homes })
    }

    pub(crate) fn to_configuration(&self, partition: u32) -> Configuration {
        Configuration { partition, epoch: self.epoch, members: self.holders.clone() }
    }
}

/// A partition.
#[derive(Clone)]
struct Cell {
    members: Arc<Members>,
    /// The highest ballot promised at this epoch; zero: none.
    promised: Round,
    accepted: Option<Accepted>,
    /// The latest epoch that this node may become a member of because it was asked to join it; zero: none. Until that or a later one is adopted, nothing is dropped.
    joining: u64,
    /// Whether records of the partition may be here.
    holds: bool,
    /// Whether this disk is a member.
    is_member: bool,
    /// Whether enough of the other members have said, since this run began, that they know of no later disk of this node: one of those whom a proposer needs to do without it is
    /// among them.
    is_confirmed: bool,
}

impl Cell {
    /// A member that has promised or accepted serves nobody at this epoch any more: its data may have been read for the next one.
    fn is_sealed(&self) -> bool {
        self.promised != Round::default() || self.accepted.is_some()
    }

    fn vote(&self, partition: u32) -> Vote {
        Vote {
            configuration: self.members.to_configuration(partition),
            promised: self.promised,
            accepted: self.accepted.iter().cloned().collect(),
        }
    }
}

/// A cell as it is stored, in CBOR: epoch, members, promised, accepted, joining, holds.
#[derive(Serialize, Deserialize)]
struct Stored(u64, Vec<Holder>, Round, Option<Accepted>, u64, bool);

/// The chains of all partitions.
pub(crate) struct Chain {
    storage: Arc<dyn Storage>,
    me: NodeId,
    disk: u64,
    state: RwLock<State>,
    changed: News,
}

#[derive(Default)]
struct State {
    /// By partition; empty before the founding.
    cells: Vec<Cell>,
    /// What was stored, until the founding is known.
    loaded: BTreeMap<u32, Stored>,
    /// This node's first disk.
    first_disk: Option<u64>,
    /// Nodes that have said, since this run began, that they know of no later disk of this node.
    confirmed_by: BTreeSet<NodeId>,
    /// Goes up with every change of a cell, promises included.
    version: u64,
    /// See [`Chain::rests`].
    rested: Option<(Digest, u64)>,
}

fn cell_key(partition: u32) -> Bytes {
    let mut out = BytesMut::from(CELLS);
    // At most 65,536 partitions.
    out.put_u16(partition as u16);
    out.freeze()
}

impl Chain {
    /// Reads what is stored.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when that cannot be read: what was promised is not known then, and a node must not make promises anew.
    pub(crate) fn load(storage: Arc<dyn Storage>, me: NodeId, disk: u64) -> Result<Chain, StorageError> {
        let mut loaded = BTreeMap::new();
        let mut damaged = false;
        storage.scan(Space::Meta, CELLS, &[], &mut |key, value| {
            let partition = key.get(CELLS.len()..).and_then(|tail| <[u8; 2]>::try_from(tail).ok());
            match (partition, ciborium::from_reader::<Stored, _>(&value[..])) {
                (Some(partition), Ok(stored)) => {
                    loaded.insert(u32::from(u16::from_be_bytes(partition)), stored);
                }
                _ => damaged = true,
            }
            ControlFlow::Continue(())
        })?;
        if damaged {
            return Err(StorageError::Damaged { reason: "the configuration of a partition".into() });
        }
        let state = RwLock::new(State { loaded, ..State::default() });
        Ok(Chain { storage, me, disk, state, changed: News::default() })
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        // Cells are replaced as a whole.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.version += 1;
        change(&mut state)
    }

    /// Whether nothing is left to be done under `view`, as long as `is_done` says so after anything has changed: with many partitions it takes
    /// long to look at all of them, several times in a second.
    pub(super) fn rests(&self, view: Digest, is_done: impl FnOnce() -> bool) -> bool {
        let of = {
            let state = self.state();
            let of = (view, state.version);
            if state.rested == Some(of) {
                return true;
            }
            of
        };
        let done = is_done();
        if done {
            self.state.write().unwrap_or_else(PoisonError::into_inner).rested = Some(of);
        }
        done
    }

    /// Wakes whenever a configuration, or what may be served, has changed.
    pub(crate) fn subscribe(&self) -> Listener {
        self.changed.listen()
    }

    /// How often something has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changed.changes()
    }

    /// Takes over what the history says: the founding, which is epoch 0, and this node's first disk.
    pub(crate) fn follow(&self, view: &View) {
        let membership = &view.membership;
        let Some(founding) = membership.founding() else { return };
        let first_disk = membership.member(&self.me).and_then(|state| state.first_disk);
        self.change(|state| {
            if !state.cells.is_empty() && state.first_disk == first_disk {
                return;
            }
            state.first_disk = first_disk;
            if state.cells.is_empty() {
                let ring = founding_ring(founding, self.me);
                let mut loaded = std::mem::take(&mut state.loaded);
                state.cells = ring
                    .partitions()
                    .ids()
                    .map(|partition| match loaded.remove(&partition.0) {
                        Some(stored) => Cell::from(stored),
                        None => founded(&ring, partition),
                    })
                    .collect();
            }
            self.review_all(state);
        });
        self.changed.tell();
    }

    /// `node` knows of no later disk of this node, at a moment since this run began.
    pub(crate) fn confirmed_by(&self, node: NodeId) {
        self.change(|state| {
            if state.confirmed_by.insert(node) {
                self.review_all(state);
            }
        });
        self.changed.tell();
    }

    fn review_all(&self, state: &mut State) {
        let State { cells, first_disk, confirmed_by, .. } = state;
        cells.iter_mut().for_each(|cell| self.review(cell, *first_disk, confirmed_by));
    }

    fn review(&self, cell: &mut Cell, first_disk: Option<u64>, confirmed_by: &BTreeSet<NodeId>) {
        cell.is_member = cell.members.holders.iter().any(|holder| self.is_me(holder, first_disk));
        cell.holds |= cell.members.homes.contains(&self.me);
        let members = cell.members.homes.len();
        let confirmed = cell.members.homes.iter().filter(|home| confirmed_by.contains(home)).count();
        // A majority without this node leaves so many others at most, but one.
        cell.is_confirmed = confirmed + 1 + members / 2 >= members;
    }

    fn is_me(&self, holder: &Holder, first_disk: Option<u64>) -> bool {
        // Until the history names a first disk, this node is not admitted, and serves nobody.
        let disk = if holder.disk == Holder::FIRST_DISK { first_disk } else { Some(holder.disk) };
        holder.node == self.me && disk == Some(self.disk)
    }

    /// Who serves a partition, as far as this node knows; nobody before the founding.
    pub(crate) fn members(&self, partition: PartitionId) -> Arc<Members> {
        let state = self.state();
        match state.cells.get(partition.0 as usize) {
            Some(cell) => cell.members.clone(),
            None => Arc::default(),
        }
    }

    /// The epoch at which this node serves reads of a partition that begin now; [`Stamp::NO_EPOCH`]: it is no member, or sealed.
    pub(crate) fn serving(&self, partition: u32) -> u64 {
        self.serving_unless(partition, planted::is(Bug::NoSealOnReads))
    }

    /// The epoch at which this node serves writes: within the transaction that makes them.
    pub(crate) fn serving_writes(&self, partition: u32) -> u64 {
        self.serving_unless(partition, planted::is(Bug::NoSealOnWrites))
    }

    fn serving_unless(&self, partition: u32, seal_ignored: bool) -> u64 {
        let state = self.state();
        match state.cells.get(partition as usize) {
            Some(cell) if cell.is_member && cell.is_confirmed && (seal_ignored || !cell.is_sealed()) => {
                cell.members.epoch
            }
            _ => Stamp::NO_EPOCH,
        }
    }

    /// Whether records of a partition may be here, and are taken.
    pub(crate) fn holds(&self, partition: u32) -> bool {
        self.state().cells.get(partition as usize).is_some_and(|cell| cell.holds)
    }

    /// Whether this node is a member that has promised, and whether it may become a member.
    pub(crate) fn is_sealed(&self, partition: u32) -> bool {
        self.state().cells.get(partition as usize).is_some_and(|cell| cell.is_member && cell.is_sealed())
    }

    /// What nobody may do: see [`Bug::SealTimesOut`].
    pub(super) fn unseal(&self, partition: u32) {
        self.change(|state| {
            if let Some(cell) = state.cells.get_mut(partition as usize) {
                (cell.promised, cell.accepted) = Default::default();
            }
        });
    }

    /// The highest ballot promised.
    pub(crate) fn promised(&self, partition: u32) -> Round {
        self.state().cells.get(partition as usize).map_or(Round::default(), |cell| cell.promised)
    }

    /// All configurations but those of the founding.
    pub(crate) fn all(&self) -> Vec<Configuration> {
        let state = self.state();
        (0..)
            .zip(&state.cells)
            .filter(|(_, cell)| cell.members.epoch > 0)
            .map(|(partition, cell)| cell.members.to_configuration(partition))
            .collect()
    }
}

/// The ring of the founding alone, whatever has happened since.
fn founding_ring(founding: &Founding, me: NodeId) -> Ring {
    let mut history = History::new();
    if let Ok(entry) = Entry::new(0, me, Change::Found(founding.clone())) {
        // The first entry there is room for.
        let _ = history.insert(entry);
    }
    Membership::fold(&history).ring().clone()
}

fn founded(ring: &Ring, partition: PartitionId) -> Cell {
    let holders =
        ring.homes(partition).iter().map(|&node| Holder { node, disk: Holder::FIRST_DISK }).collect();
    Cell {
        members: Members::new(0, holders),
        promised: Round::default(),
        accepted: None,
        joining: 0,
        holds: false,
        is_member: false,
        is_confirmed: false,
    }
}

impl From<Stored> for Cell {
    fn from(Stored(epoch, holders, promised, accepted, joining, holds): Stored) -> Cell {
        Cell {
            members: Members::new(epoch, holders),
            promised,
            accepted,
            joining,
            holds,
            is_member: false,
            is_confirmed: false,
        }
    }
}

/// Changing cells: in transactions, one after the other, answered once they are on disk.
impl Chain {
    /// Promises `ballot`, unless something else is in its way: the vote says. With `everybody` also if this node is no member of the partition.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        partition: u32,
        epoch: u64,
        ballot: Round,
        everybody: bool,
    ) -> Result<Vote, StorageError> {
        self.write(partition, move |cell| {
            if (cell.is_member || everybody) && cell.members.epoch == epoch && cell.promised < ballot {
                cell.promised = ballot;
            }
            cell.vote(partition)
        })
        .await
    }

    /// Accepts `proposed`, unless more was promised. With `everybody` also if this node is no member of the partition.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        partition: u32,
        epoch: u64,
        proposed: Accepted,
        everybody: bool,
    ) -> Result<Vote, StorageError> {
        self.write(partition, move |cell| {
            if (cell.is_member || everybody)
                && cell.members.epoch == epoch
                && cell.promised <= proposed.ballot
            {
                cell.promised = proposed.ballot;
                cell.accepted = Some(proposed);
            }
            cell.vote(partition)
        })
        .await
    }

    /// Notes that nothing is to be dropped before the epoch behind `epoch` is known. Says whether that, or a later one, is known already.
    pub(crate) async fn join(self: &Arc<Self>, partition: u32, epoch: u64) -> Result<bool, StorageError> {
        self.write(partition, move |cell| {
            cell.joining = cell.joining.max(epoch.saturating_add(1));
            cell.holds = true;
            cell.members.epoch > epoch
        })
        .await
    }

    /// Takes records of the partition from here on, if it may become a member.
    pub(crate) async fn begin_to_hold(self: &Arc<Self>, partition: u32) -> Result<(), StorageError> {
        self.write(partition, |cell| cell.holds = true).await?;
        self.changed.tell();
        Ok(())
    }

    /// Takes no more records of the partition, if it is still neither a member nor about to become one at `epoch`, and `still` says so in the transaction. Says
    /// whether that is so.
    pub(crate) async fn end_to_hold(
        self: &Arc<Self>,
        partition: u32,
        epoch: u64,
        still: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, StorageError> {
        let me = self.me;
        let ended = self
            .write(partition, move |cell| {
                let may = still()
                    && cell.members.epoch == epoch
                    && !cell.members.homes.contains(&me)
                    && (cell.joining <= epoch || planted::is(Bug::DroppedThoughJoining));
                cell.holds &= !may;
                may
            })
            .await?;
        self.changed.tell();
        Ok(ended)
    }

    /// Takes over those of `configurations` that are later than what is known. Returns them.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        configurations: Vec<Configuration>,
    ) -> Result<Vec<Configuration>, StorageError> {
        self.adopt_unless(configurations, |_| false).await
    }

    /// Takes over what this node's own proposal under `ballot` has decided, unless this node has promised more meanwhile. Says whether it is known now that the epoch is over.
    pub(crate) async fn adopt_own(
        self: &Arc<Self>,
        decided: Configuration,
        ballot: Round,
    ) -> Result<bool, StorageError> {
        let (partition, epoch) = (decided.partition, decided.epoch);
        let is_void = move |cell: &Cell| cell.promised > ballot;
        self.adopt_unless(vec![decided], is_void).await?;
        Ok(self.members(PartitionId(partition)).epoch >= epoch)
    }

    async fn adopt_unless(
        self: &Arc<Self>,
        configurations: Vec<Configuration>,
        is_void: impl Fn(&Cell) -> bool + Send + 'static,
    ) -> Result<Vec<Configuration>, StorageError> {
        let later: Vec<Configuration> =
            configurations.into_iter().filter(|configuration| self.is_later(configuration)).collect();
        if later.is_empty() {
            return Ok(later);
        }
        let (sender, adopted) = oneshot::channel();
        let chain = self.clone();
        let apply: Apply = Box::new(move |tx| {
            let mut taken = Vec::new();
            for configuration in later {
                if chain.take_over(tx, &configuration, &is_void) {
                    taken.push(configuration);
                }
            }
            let done = chain.clone();
            Box::new(move |outcome: Result<(), StorageError>| {
                done.changed.tell();
                drop(sender.send(outcome.map(|()| taken)));
            }) as Done
        });
        self.storage.submit(Durability::Disk, apply)?;
        adopted.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Whether a configuration is of a partition that there is, and of a later epoch than what is known.
    fn is_later(&self, Configuration { partition, epoch, members }: &Configuration) -> bool {
        let state = self.state();
        let known = state.cells.get(*partition as usize);
        !members.is_empty() && known.is_some_and(|cell| cell.members.epoch < *epoch)
    }

    fn take_over(
        &self,
        tx: &mut Transaction<'_>,
        configuration: &Configuration,
        is_void: impl Fn(&Cell) -> bool,
    ) -> bool {
        let is_void = self.state().cells.get(configuration.partition as usize).is_some_and(is_void);
        if is_void || !self.is_later(configuration) {
            return false;
        }
        let Configuration { partition, epoch, members } = configuration;
        self.change_cell(tx, *partition, |cell| {
            cell.members = Members::new(*epoch, members.clone());
            // What was promised was promised for the epoch that is over.
            cell.promised = Round::default();
            cell.accepted = None;
        })
        .is_some()
    }

    /// Changes a cell within a transaction.
    fn change_cell<T>(
        &self,
        tx: &mut Transaction<'_>,
        partition: u32,
        change: impl FnOnce(&mut Cell) -> T,
    ) -> Option<T> {
        let (result, cell) = self.change(|state| {
            let State { cells, first_disk, confirmed_by, .. } = state;
            let cell = cells.get_mut(partition as usize)?;
            let result = change(cell);
            self.review(cell, *first_disk, confirmed_by);
            Some((result, cell.clone()))
        })?;
        let Cell { members, promised, accepted, joining, holds, .. } = cell;
        let (promised, accepted) = match planted::is(Bug::SealForgotten) {
            true => Default::default(),
            false => (promised, accepted),
        };
        let stored = Stored(members.epoch, members.holders.clone(), promised, accepted, joining, holds);
        let mut bytes = Vec::new();
        ciborium::into_writer(&stored, &mut bytes)
            .expect("memory takes every byte, and nothing here refuses");
        tx.put(Space::Meta, cell_key(partition), bytes.into());
        Some(result)
    }

    /// Writes every cell as it is in memory: after a write that failed the disk may say something else.
    pub(super) async fn save(self: &Arc<Self>) -> Result<(), StorageError> {
        let (sender, saved) = oneshot::channel();
        let chain = self.clone();
        let apply: Apply = Box::new(move |tx| {
            let partitions = chain.state().cells.len() as u32;
            for partition in 0..partitions {
                chain.change_cell(tx, partition, |_| ());
            }
            Box::new(move |outcome: Result<(), StorageError>| drop(sender.send(outcome))) as Done
        });
        self.storage.submit(Durability::Disk, apply)?;
        saved.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Changes a cell in a transaction of its own. Returns what `change` says, once it is on disk.
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        partition: u32,
        change: impl FnOnce(&mut Cell) -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let (sender, written) = oneshot::channel();
        let chain = self.clone();
        let apply: Apply = Box::new(move |tx| {
            let result = chain.change_cell(tx, partition, change);
            Box::new(move |outcome: Result<(), StorageError>| drop(sender.send(outcome.map(|()| result))))
                as Done
        });
        self.storage.submit(Durability::Disk, apply)?;
        let result = written.await.unwrap_or(Err(StorageError::Closed))?;
        result.ok_or_else(|| StorageError::Failed {
            reason: format!("there is no partition {partition} before the founding"),
        })
    }
}

#[cfg(test)]
impl Chain {
    /// That of a cluster with this node as its only member.
    pub(crate) fn alone(storage: Arc<dyn Storage>) -> Arc<Chain> {
        let me: NodeId = "n1".parse().expect("a good id");
        let chain = Chain::load(storage, me, 1).expect("nothing unreadable is stored");
        let members = vec![dynkv_ring::Member::new(me)];
        let founding = Founding {
            cluster: "test".into(),
            partitions: dynkv_ring::PartitionCount::MIN,
            replicas: 1,
            members,
        };
        chain.change(|state| {
            let ring = founding_ring(&founding, me);
            state.first_disk = Some(1);
            state.cells = ring.partitions().ids().map(|partition| founded(&ring, partition)).collect();
            chain.review_all(state);
        });
        Arc::new(chain)
    }
}
