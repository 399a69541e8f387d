//! A replica's side of every request: read, unite, mint.
//!
//! All read-merge-writes of a record run in order on the store's writing thread; reads are inline.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use dynkv_proto::{
    Actor, Conflict, ContextToken, Digest, ListedKey, PutId, PutSeenReply, Seen, Stamp, State, Version,
};
use dynkv_ring::PartitionId;
use dynkv_vclock::{CausalContext, Dot, HybridClock, HybridTime};
use thiserror::Error;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    actor::Actors,
    chain::Chain,
    damaged::Damaged,
    env::Env,
    hints::{HintError, Hints, Kept, Place},
    incoming::Incoming,
    key::{Key, RecordAt},
    metrics::Metrics,
    planted::{self, Bug},
    put_ids::{Attempt, PutIds, Superseded, applied_seen},
    record::{Record, bucket_prefix},
    settle::{
        TakeError,
        compact::{Unsettled, unsettled},
        marks::{MarksBook, partition_of},
    },
    storage::{Apply, Done, Durability, Space, Storage, StorageError, Transaction},
    trees::{TreeChange, Trees},
};

/// How far ahead of this host's clock a timestamp may be before an `lww` bucket refuses to exceed it.
pub(crate) const SKEW_MS_MAX: u64 = 60_000;

/// Context entries of one key at which a put that would add one is refused: far above what restarts add in years, far
/// below what a message header holds.
const CONTEXT_ENTRIES_MAX: usize = 10_000;

/// Bytes of a key's siblings together, and of their headers, at which a put that leaves others beside its own version is
/// refused. Each home may get that far by itself before they merge, and what comes of it must still fit into a frame (64 MiB)
/// and its header (4 MiB): a key that does not could be neither read nor replicated, and so never be merged again.
const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;
const STATE_HEADER_BYTES_MAX: usize = 1024 * 1024;

/// The replica: storage, and what minting needs.
pub(crate) struct Replica {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) hints: Arc<Hints>,
    pub(crate) trees: Arc<Trees>,
    pub(crate) marks: Arc<MarksBook>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) damaged: Damaged,
    pub(crate) env: Arc<Env>,
    actors: Actors,
    clock: Mutex<HybridClock>,
    put_ids: Mutex<PutIds>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A version to write.
#[derive(Clone)]
pub(crate) struct Mint {
    pub(crate) context: ContextToken,
    pub(crate) put_id: PutId,
    /// Unless it is the first, the others were asked for the put.
    pub(crate) attempt: Attempt,
    pub(crate) tombstone: bool,
    pub(crate) content_type: String,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) value: Bytes,
    pub(crate) hash: u64,
    pub(crate) conflict: Conflict,
    pub(crate) siblings_max: u32,
}

/// A version that was written, in this attempt or an earlier one.
#[derive(Clone, Debug)]
pub(crate) struct Minted {
    /// The resulting state, encoded: what goes to the other replicas.
    pub(crate) state: Bytes,
    /// The settlement marks under which it was read.
    pub(crate) stamp: Stamp,
    pub(crate) dot: Dot<Actor>,
    /// The request's context and the dot.
    pub(crate) context: CausalContext<Actor>,
    pub(crate) time: HybridTime,
    /// Whether earlier attempts have written it more than once.
    pub(crate) twins: bool,
}

/// Why nothing was minted.
#[derive(Clone, Debug, Error)]
pub(crate) enum MintError {
    #[error(
        "the key has {siblings} siblings, the limit is {limit}: get it, merge them, and put the result with the context of that get"
    )]
    SiblingLimit { siblings: usize, limit: u32 },
    #[error(
        "the key's {siblings} siblings would have {bytes} bytes together, the limit is {limit}: get it, merge them, and put the result with the context of that get"
    )]
    SiblingBytes { siblings: usize, bytes: usize, limit: usize },
    #[error(
        "the key's context has {entries} entries, the limit is {CONTEXT_ENTRIES_MAX}: get the key again and put with the context of that get"
    )]
    ContextLimit { entries: usize },
    #[error(
        "the version to replace is stamped more than {SKEW_MS_MAX} ms ahead of this node's clock: check the clocks of the hosts, then try again"
    )]
    Clock,
    #[error("a later attempt of this put is under way elsewhere, which this one gives way to")]
    Superseded,
    #[error("the actor's counter is used up: try again")]
    Counter,
    #[error("this node does not hold partition {partition} any more")]
    NotHeld { partition: u32 },
    #[error("this node stands in for the homes of this key: {0}")]
    Hint(HintError),
    #[error("the local replica: {0}")]
    Storage(#[from] StorageError),
}

impl From<Superseded> for MintError {
    fn from(Superseded: Superseded) -> MintError {
        MintError::Superseded
    }
}

impl From<HintError> for MintError {
    fn from(error: HintError) -> MintError {
        match error {
            HintError::Storage(error) => MintError::Storage(error),
            refused => MintError::Hint(refused),
        }
    }
}

/// What a mint is waited for by: the state as soon as it is known, and the outcome of the local write.
pub(crate) struct Minting {
    pub(crate) minted: oneshot::Receiver<Result<Minted, MintError>>,
    pub(crate) written: oneshot::Receiver<Result<(), StorageError>>,
}

/// Where there is no dot to name.
const NO_DOT: Dot<Actor> = Dot { actor: Actor(0, 0), counter: 0 };

/// A page of a bucket's keys in one partition.
pub(crate) struct Page {
    pub(crate) keys: Vec<ListedKey>,
    pub(crate) more: bool,
}

impl Replica {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        hints: Arc<Hints>,
        trees: Arc<Trees>,
        marks: Arc<MarksBook>,
        chain: Arc<Chain>,
        env: Arc<Env>,
        metrics: Arc<Metrics>,
    ) -> Arc<Replica> {
        Arc::new(Replica {
            storage,
            hints,
            trees,
            marks,
            chain,
            damaged: Damaged::new(metrics.clone()),
            actors: Actors::new(env.clone()),
            clock: Mutex::new(HybridClock::new()),
            put_ids: Mutex::new(PutIds::new(Instant::now())),
            env,
            metrics,
        })
    }

    /// The epoch at which this node serves `key`, and the settled state under which its state is sent that is read from here on.
    pub(crate) fn stamp(&self, key: &Key) -> Stamp {
        self.stamp_of(key.partition.0)
    }

    fn stamp_of(&self, partition: u32) -> Stamp {
        Stamp(self.chain.serving(partition), self.marks.durable(partition))
    }

    /// The record of `key`.
    pub(crate) fn read(&self, key: &Key) -> Result<Option<Record>, StorageError> {
        let read = self
            .storage
            .get(Space::Records, &key.record)
            .and_then(|bytes| bytes.map(Record::decode).transpose());
        if matches!(read, Err(StorageError::Damaged { .. })) {
            if planted::is(Bug::DamagedReadsAsAbsent) {
                return Ok(None);
            }
            self.damaged.note(&key.record);
        }
        read
    }

    /// What this node holds of `key` with its state, every value verified: what may be shown to a reader.
    pub(crate) fn read_verified(
        &self,
        key: &Key,
        place: &Place,
        conflict: Conflict,
    ) -> Result<Option<(Record, State)>, StorageError> {
        let Some(record) = self.held(key, place, conflict)? else { return Ok(None) };
        let state = match place {
            Place::Home => self.verify(&record, &key.record)?,
            // A hint is not healed, so not noted.
            Place::Fallback(_) => intact(record.decode_state()?)?,
        };
        Ok(Some((record, state)))
    }

    /// The state of a record of this node, every value verified.
    pub(crate) fn verify(&self, record: &Record, record_key: &Bytes) -> Result<State, StorageError> {
        let state = record.decode_state().and_then(intact);
        if state.is_err() {
            self.damaged.note(record_key);
        }
        state
    }

    /// Unites `incoming` into the record of `key`, then calls `done` with the epoch at which this node served the key then, or
    /// [`Stamp::NO_EPOCH`]. `incoming` must have been verified.
    pub(crate) fn unite(
        self: &Arc<Self>,
        key: &Key,
        incoming: Incoming,
        conflict: Conflict,
        durability: Durability,
        done: impl FnOnce(Result<u64, TakeError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let (replica, at, partition) = (self.clone(), key.at(), key.partition.0);
        let apply: Apply = Box::new(move |tx| {
            let new_puts: Vec<_> = incoming.puts().collect();
            // Whoever reads this node after it is sealed finds what was written in earlier transactions.
            let epoch = replica.chain.serving_writes(partition);
            let change = match replica.unite_within(tx, &at, incoming, conflict) {
                Ok(change) => change,
                Err(error) => {
                    if matches!(error, TakeError::Storage(StorageError::Damaged { .. })) {
                        replica.damaged.note(&at.record);
                    }
                    return Box::new(move |_| done(Err(error))) as Done;
                }
            };
            Box::new(move |result| {
                match &result {
                    Ok(()) => {
                        if let Some(change) = change {
                            change.committed();
                        }
                        replica.remember(new_puts);
                    }
                    Err(_) => replica.renew_actor(),
                }
                done(result.map(|()| epoch).map_err(TakeError::from));
            })
        });
        self.storage.submit(durability, apply)
    }

    fn unite_within(
        &self,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        incoming: Incoming,
        conflict: Conflict,
    ) -> Result<Option<TreeChange>, TakeError> {
        self.check_held(&at.record)?;
        self.take(&at.record, &incoming)?;
        let before = tx.get(Space::Records, &at.record)?.map(Record::decode).transpose()?;
        let state_before = before.as_ref().map(|record| record.state.clone());
        let Some((record, unsettled)) = self.united(before, incoming, conflict)? else {
            self.metrics.replica_writes_idle.inc();
            return Ok(None);
        };
        let old = state_before.as_ref().map(digest).transpose()?;
        Ok(Some(self.trees.put_record(tx, at, old, &record, unsettled)?))
    }

    /// Whether this node takes records of the partition; within the transaction that writes one.
    pub(crate) fn check_held(&self, record: &Bytes) -> Result<(), TakeError> {
        let partition = partition_of(record);
        if self.chain.holds(partition) { Ok(()) } else { Err(TakeError::NotHeld { partition }) }
    }

    /// Whether the settlement lets `incoming` in; within the transaction that unites it.
    pub(crate) fn take(&self, record: &Bytes, incoming: &Incoming) -> Result<(), TakeError> {
        let taken = self.marks.take(partition_of(record), &incoming.marks);
        if taken.is_err() {
            self.metrics.messages_behind.inc();
        }
        taken
    }

    /// The record after uniting `incoming` with what is there, and what there is in it to settle; `None` when
    /// it brings nothing new.
    pub(crate) fn united(
        &self,
        before: Option<Record>,
        incoming: Incoming,
        conflict: Conflict,
    ) -> Result<Option<(Record, Unsettled)>, StorageError> {
        let Some(before) = before else {
            let unsettled = unsettled(&incoming.state);
            return Ok(Some((Record { local_actor: None, state: incoming.bytes }, unsettled)));
        };
        if before.state == incoming.bytes {
            return Ok(None);
        }
        let mut merged = before.decode_state()?;
        let (context, versions) = (incoming.state.context().clone(), incoming.state.siblings().len());
        let merge = merged.merge(incoming.state, conflict);
        self.metrics.lww_discarded.inc_by(merge.discarded as u64);
        if !merge.changed {
            // One header and other values: those that came were verified, so those here are damaged.
            let same_header = digest(&before.state)? == digest(&incoming.bytes)?;
            return Ok(same_header.then(|| {
                self.metrics.records_healed.inc();
                (Record { state: incoming.bytes, ..before }, unsettled(&merged))
            }));
        }
        // Most often the incoming state is the local one and a later version, and its bytes are stored as they came.
        // With its context, nothing of the local state can have stayed that it does not have, too.
        let is_incoming = *merged.context() == context && merged.siblings().len() == versions;
        let state = if is_incoming { incoming.bytes } else { merged.encode() };
        Ok(Some((Record { local_actor: before.local_actor, state }, unsettled(&merged))))
    }

    /// Reads, merges and writes a new version of `key` at `place`, durable before it is acknowledged if `durability` says
    /// so.
    pub(crate) fn mint(
        self: &Arc<Self>,
        key: &Key,
        place: Place,
        mint: Mint,
        durability: Durability,
    ) -> Result<Minting, StorageError> {
        let (minted_sender, minted) = oneshot::channel();
        let (written_sender, written) = oneshot::channel();
        let (replica, at) = (self.clone(), key.at());
        let apply: Apply = Box::new(move |tx| {
            let put_id = mint.put_id;
            let outcome = replica.mint_within(tx, &at, &place, mint);
            let (minted, kept) = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    if matches!(error, MintError::Storage(StorageError::Damaged { .. }))
                        && place == Place::Home
                    {
                        replica.damaged.note(&at.record);
                    }
                    drop(minted_sender.send(Err(error)));
                    return Box::new(|_| {}) as Done;
                }
            };
            let dot = minted.dot;
            // The other replicas get the state while this one writes it. Should the write fail, the version lives on
            // there, and no other version will bear its dot: the incarnation is renewed before anything else is minted.
            drop(minted_sender.send(Ok(minted)));
            Box::new(move |result| {
                match &result {
                    Ok(()) => {
                        if let Some(kept) = kept {
                            kept.committed();
                        }
                        replica.remember(vec![(put_id, dot)]);
                    }
                    Err(_) => replica.renew_actor(),
                }
                drop(written_sender.send(result));
            })
        });
        self.storage.submit(durability, apply)?;
        Ok(Minting { minted, written })
    }

    fn mint_within(
        &self,
        tx: &mut Transaction<'_>,
        at: &RecordAt,
        place: &Place,
        mint: Mint,
    ) -> Result<(Minted, Option<Kept>), MintError> {
        let partition = partition_of(&at.record);
        if *place == Place::Home && !self.chain.holds(partition) {
            return Err(MintError::NotHeld { partition });
        }
        // Before anything is read.
        let stamp = Stamp(self.chain.serving_writes(partition), self.marks.durable(partition));
        let found = self.find(tx, &at.record, place, mint.conflict)?;
        let (minted, record) = self.minted(found.record.clone(), mint, stamp)?;
        // What an earlier attempt left may be in a hint for another home: this node answers for the first one's.
        let record = match (record, found.unkept()) {
            (None, Some(unkept)) => Some((unsettled(&unkept.decode_state()?), unkept)),
            (record, _) => record,
        };
        let kept = match record {
            Some((unsettled, record)) => self.keep(tx, at, place, found, record, unsettled)?,
            None => None,
        };
        Ok((minted, kept))
    }

    /// What minting does to a record; `None` in place of a record when an earlier attempt had done it.
    fn minted(
        &self,
        before: Option<Record>,
        mint: Mint,
        stamp: Stamp,
    ) -> Result<(Minted, Option<(Unsettled, Record)>), MintError> {
        let local_actor = before.as_ref().and_then(|record| record.local_actor);
        let mut state = match &before {
            Some(record) => record.decode_state()?,
            None => State::default(),
        };
        let Mint { context: token, put_id, conflict, .. } = mint;
        // What stays goes to the other replicas.
        if state.siblings().iter().any(|(dot, version)| !token.context.contains(dot) && !version.is_intact())
        {
            return Err(damaged_value().into());
        }
        let remembered = self.put_ids().dot(put_id).filter(|dot| state.context().contains(dot));
        let earlier = state.find_put(put_id).copied().or(remembered);
        if let (Some(dot), Some(record)) = (earlier, before) {
            self.metrics.puts_repeated.inc();
            // The writer knows its own value: twins that an earlier retry has left are covered with it.
            let twins = state.siblings().iter().filter(|(_, version)| version.put_id == put_id);
            let mut own: CausalContext<Actor> = twins.map(|(twin, _)| *twin).collect();
            own.insert(dot);
            let twins = own.len() > 1 || self.put_ids().has_twins(put_id);
            let mut context = token.context;
            context.merge(&own);
            let time = state.siblings().get(&dot).map_or(token.time, |version| version.time.max(token.time));
            return Ok((Minted { state: record.state, stamp, dot, context, time, twins }, None));
        }
        // Applied once, and nothing of it is left: settled, most likely. It is written again, and the writer is told.
        let twins = self.put_ids().dot(put_id).is_some();
        if twins {
            self.put_ids().write_again(put_id, mint.attempt)?;
        }
        if mint.attempt.is_first {
            self.put_ids().begin(put_id, mint.attempt, Instant::now())?;
        }
        self.check_limits(&state, &token.context, conflict, mint.siblings_max)?;
        let replaced = if planted::is(Bug::TimeIgnoresContext) { HybridTime::MIN } else { token.time };
        let time = self.time_after(replaced.max(state.latest_time()), conflict)?;
        let actor = self.actors.choose(local_actor, state.context(), &token.context);
        let version = Version {
            time,
            put_id,
            tombstone: mint.tombstone,
            content_type: mint.content_type,
            meta: mint.meta,
            value: mint.value,
            hash: mint.hash,
        };
        let (written, discarded) =
            state.put(actor, &token.context, version, conflict).map_err(|_| MintError::Counter)?;
        let encoded = state.encode();
        self.check_bytes(state.siblings().len(), &encoded)?;
        self.metrics.lww_discarded.inc_by(discarded as u64);
        self.metrics.versions_minted.inc();
        let record = Record { local_actor: Some(actor), state: encoded.clone() };
        let context = match planted::is(Bug::ContextOfCoordinator) {
            true => state.context().clone(),
            false => written.context,
        };
        let minted = Minted { state: encoded, stamp, dot: written.dot, context, time, twins };
        Ok((minted, Some((unsettled(&state), record))))
    }

    fn check_limits(
        &self,
        state: &State,
        context: &CausalContext<Actor>,
        conflict: Conflict,
        siblings_max: u32,
    ) -> Result<(), MintError> {
        let siblings = state.siblings().len();
        let stay = state.siblings().iter().filter(|(dot, _)| !context.contains(dot)).count();
        if conflict == Conflict::Siblings && stay == siblings && siblings >= siblings_max as usize {
            self.metrics.puts_refused_siblings.inc();
            return Err(MintError::SiblingLimit { siblings, limit: siblings_max });
        }
        let entries = state.context().len().max(context.len());
        if entries >= CONTEXT_ENTRIES_MAX {
            self.metrics.puts_refused_context_entries.inc();
            return Err(MintError::ContextLimit { entries });
        }
        Ok(())
    }

    /// Whether a state with a new version in it can still be carried.
    fn check_bytes(&self, siblings: usize, encoded: &Bytes) -> Result<(), MintError> {
        // A state begins with the length of its header.
        let header_bytes = encoded.first_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
        for (bytes, limit) in [(encoded.len(), STATE_BYTES_MAX), (header_bytes, STATE_HEADER_BYTES_MAX)] {
            if siblings > 1 && bytes > limit {
                self.metrics.puts_refused_siblings.inc();
                return Err(MintError::SiblingBytes { siblings, bytes, limit });
            }
        }
        Ok(())
    }

    /// A timestamp above `past`. Only `lww` buckets depend on it, so only they refuse a past from the future.
    fn time_after(&self, past: HybridTime, conflict: Conflict) -> Result<HybridTime, MintError> {
        let wall_ms = self.env.wall_ms();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.observe(past, wall_ms, SKEW_MS_MAX).is_err() && conflict == Conflict::Lww {
            self.metrics.puts_refused_clock.inc();
            return Err(MintError::Clock);
        }
        Ok(clock.now(wall_ms))
    }

    /// A timestamp for an entry of the history, above every one in it.
    pub(crate) fn history_time(&self, latest: u64) -> Result<HybridTime, MintError> {
        self.time_after(HybridTime::from_u64(latest), Conflict::Lww)
    }

    /// Tells another coordinator what is known of a put, with the state it is part of.
    pub(crate) fn answer_put_seen(
        &self,
        key: &Key,
        place: &Place,
        conflict: Conflict,
        put_id: PutId,
        attempt: u32,
    ) -> Result<(PutSeenReply, Bytes), StorageError> {
        // Asked before the record is read: a put that is committed in between is found in the record, or was begun.
        let seen = self.put_ids().answer(put_id, attempt, Instant::now());
        let stamp = self.stamp(key);
        let record = self.held(key, place, conflict)?;
        let (seen, dot) = match (self.applied(put_id, record.as_ref())?, seen) {
            (Some(dot), seen) => (applied_seen(seen), dot),
            // Applied, and its record is gone or set aside: nothing to hand on, and nothing to deny.
            (None, Seen::Applied | Seen::AppliedPerhapsTwice) => (Seen::CannotSay, NO_DOT),
            (None, seen) => (seen, NO_DOT),
        };
        let state = match (seen, record) {
            (Seen::Applied | Seen::AppliedPerhapsTwice, Some(record)) => record.state,
            _ => Bytes::new(),
        };
        Ok((PutSeenReply { seen, actor: dot.actor, counter: dot.counter, stamp }, state))
    }

    /// Begins a retry as its coordinator. Says what this node knows of the put itself.
    pub(crate) fn begin_retry(
        &self,
        key: &Key,
        place: &Place,
        conflict: Conflict,
        put_id: PutId,
        attempt: Attempt,
    ) -> Result<Seen, MintError> {
        let seen = self.put_ids().begin(put_id, attempt, Instant::now())?;
        let applied = self.applied(put_id, self.held(key, place, conflict)?.as_ref())?;
        Ok(if applied.is_some() { applied_seen(seen) } else { seen })
    }

    /// The dot of a put that `record` contains or has covered.
    fn applied(&self, put_id: PutId, record: Option<&Record>) -> Result<Option<Dot<Actor>>, StorageError> {
        let Some(record) = record else { return Ok(None) };
        let state = record.decode_state()?;
        let remembered = self.put_ids().dot(put_id).filter(|dot| state.context().contains(dot));
        Ok(state.find_put(put_id).copied().or(remembered))
    }

    /// Remembers that puts were applied, also those this node learns of as a retry's coordinator.
    pub(crate) fn remember(&self, puts: Vec<(PutId, Dot<Actor>)>) {
        let now = Instant::now();
        let mut ids = self.put_ids();
        for (id, dot) in puts {
            ids.remember(id, dot, now);
        }
        self.metrics.put_ids.set(ids.len() as i64);
    }

    pub(crate) fn renew_actor(&self) {
        self.actors.renew();
        self.metrics.incarnations_renewed.inc();
    }

    fn put_ids(&self) -> std::sync::MutexGuard<'_, PutIds> {
        // Remembering is two infallible inserts: a panic elsewhere leaves nothing half done.
        self.put_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of at most `limit` keys of `bucket` that begin with `prefix` and come after `after`.
    pub(crate) fn list(
        &self,
        partition: PartitionId,
        bucket: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, StorageError> {
        let head = bucket_prefix(partition, bucket);
        let whole = |tail: &[u8]| [&head[..], tail].concat();
        let (prefix, from) = (whole(prefix), after.map(whole).unwrap_or_default());
        let mut page = Page { keys: Vec::new(), more: false };
        let mut failed = None;
        self.storage.scan(Space::Records, &prefix, &from, &mut |stored, value| {
            if stored == from {
                return ControlFlow::Continue(());
            }
            if page.keys.len() == limit {
                page.more = true;
                return ControlFlow::Break(());
            }
            match list_entry(&stored.slice(head.len()..), value) {
                Ok(entry) => page.keys.push(entry),
                Err(error) => {
                    self.damaged.note(&stored);
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(page),
        }
    }
}

fn digest(state: &Bytes) -> Result<Digest, StorageError> {
    State::digest(state).map_err(|error| StorageError::Damaged { reason: error.to_string() })
}

fn intact(state: State) -> Result<State, StorageError> {
    if state.is_intact() { Ok(state) } else { Err(damaged_value()) }
}

fn damaged_value() -> StorageError {
    StorageError::Damaged { reason: "a stored value fails its checksum".into() }
}

fn list_entry(key: &Bytes, value: Bytes) -> Result<ListedKey, StorageError> {
    let record = Record::decode(value)?;
    let live = !record.decode_state()?.is_absent();
    // Copied, so that the page does not keep blocks of the store alive.
    Ok(ListedKey { key: Bytes::copy_from_slice(key).into(), digest: record.digest()?, live })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn several_siblings_must_fit_into_a_message_and_its_header() {
        let (storage, metrics) = (Arc::new(MemoryStorage::default()), Arc::new(Metrics::new()));
        let hints = Hints::load(storage.clone(), metrics.clone(), 1000).expect("an empty store");
        let trees = Trees::load(storage.clone(), metrics.clone()).expect("an empty store");
        let marks = Arc::new(MarksBook::load(storage.clone()).expect("an empty store"));
        let env = Arc::new(Env::fixed(5));
        let replica = Replica::new(
            storage.clone(),
            Arc::new(hints),
            Arc::new(trees),
            marks,
            Chain::alone(storage),
            env,
            metrics,
        );
        let check = |siblings, header_bytes: usize, bytes: usize| {
            let mut encoded = vec![0; bytes];
            encoded[..4].copy_from_slice(&(header_bytes as u32).to_be_bytes());
            replica.check_bytes(siblings, &encoded.into()).is_ok()
        };
        assert!(check(2, STATE_HEADER_BYTES_MAX, STATE_BYTES_MAX));
        assert!(!check(2, STATE_HEADER_BYTES_MAX, STATE_BYTES_MAX + 1));
        assert!(!check(2, STATE_HEADER_BYTES_MAX + 1, STATE_BYTES_MAX));
        // One by itself is bounded by the limits of its bucket, and there is nothing to merge.
        assert!(check(1, STATE_HEADER_BYTES_MAX + 1, STATE_BYTES_MAX + 1));
    }
}
