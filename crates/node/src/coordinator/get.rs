//! Coordinating a get: the own copy, digests from others, a merge, and read repair.
//!
//! Fallbacks are asked for what they keep as hints once the homes alone cannot be enough; they count as replicas, not as
//! homes, and never as one that is to be repaired.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use dynkv_net::Class;
use dynkv_proto::{
    Conflict, ContextToken, Digest, FailureCode, Frame, Get, GetReply, Marks, ReplicaGet, ReplicaGetReply,
    Stamp, State, VersionHeader,
};
use dynkv_ring::NodeId;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Answer, Context, checked_key, effective, failure, follow,
    quorum::{Asked, Need, Quorum, Verdict},
    replicate::fallbacks,
};
use crate::{
    background::Work,
    hints::Place,
    incoming::Incoming,
    key::Key,
    planted::{self, Bug},
    settle::{
        self, TakeError,
        send::{self, Held, How, Source},
    },
    shared::Shared,
    storage::{Durability, StorageError},
};

/// A further replica is asked when an answer is this many times later than the slowest one asked usually is.
const HEDGE_FACTOR: u32 = 4;
const HEDGE_MIN: Duration = Duration::from_millis(5);
const HEDGE_MAX: Duration = Duration::from_millis(500);

/// After the answer, stragglers are waited for this long, to be repaired if they are behind.
const STRAGGLERS: Duration = Duration::from_secs(2);

pub(super) async fn get(node: Arc<Shared>, mut context: Context, request: Get, answer: Answer) {
    let view = &context.view;
    let key = match checked_key(view, &request.bucket, &request.key) {
        Ok(key) => key,
        Err(failure) => return answer.failed(&failure),
    };
    let homes = context.members.homes.len();
    let properties = effective(&context, homes, |properties| {
        properties.r = request.r.unwrap_or(properties.r);
        properties.pr = request.pr.unwrap_or(properties.pr.min(properties.r));
    });
    let properties = match properties {
        Ok(properties) => properties,
        Err(failure) => return answer.failed(&failure),
    };
    let mut need = Need { replicas: properties.r, durable: 0, homes: properties.pr };
    if planted::is(Bug::ReadOneFewer) {
        need =
            Need { replicas: need.replicas.saturating_sub(1), homes: need.homes.saturating_sub(1), ..need };
    }
    let read = loop {
        let mut read = Read::new(&node, &context, &key, need);
        match read.until_met().await {
            Ok(()) => break read,
            Err(Missed::Failed(failure)) => return answer.failed(&failure),
            Err(Missed::Elsewhere(elsewhere)) => {
                drop(read);
                follow(&node, &mut context, key.partition, elsewhere).await;
            }
        }
    };
    answer_with(&node, &context, &key, &read, answer);
    read.repair().await;
}

/// Why a read came to nothing.
enum Missed {
    /// Homes are needed, and these serve nobody at this epoch: it is to start over under the next members.
    Elsewhere(Vec<NodeId>),
    Failed(dynkv_proto::Failure),
}

/// The merged state of a key, for a listing that must know whether it is live.
pub(super) async fn read_merged(
    node: &Arc<Shared>,
    context: &Context,
    key: &Key,
    need: Need,
) -> Result<State, dynkv_proto::Failure> {
    let mut read = Read::new(node, context, key, need);
    match read.until_met().await {
        Ok(()) => Ok(read.merged),
        Err(Missed::Failed(failure)) => Err(failure),
        Err(Missed::Elsewhere(_)) => Err(read.missed(FailureCode::Quorum)),
    }
}

fn answer_with(node: &Shared, context: &Context, key: &Key, read: &Read<'_>, answer: Answer) {
    let state = &read.merged;
    let visible: Vec<_> = state.visible().collect();
    let body = match &visible[..] {
        [(_, only)] => only.value.clone(),
        several => {
            let mut body =
                BytesMut::with_capacity(several.iter().map(|(_, version)| version.value.len()).sum());
            several.iter().for_each(|(_, version)| body.extend_from_slice(&version.value));
            body.freeze()
        }
    };
    node.metrics.siblings_read.observe(visible.len() as f64);
    let token = ContextToken::new(key.position, state.context().clone(), state.latest_time(), read.fastest);
    let got = read.quorum.got();
    let reply = GetReply {
        context: token.encode().into(),
        versions: visible.iter().map(|(dot, version)| VersionHeader::new(dot, version)).collect(),
        replicas: got.replicas,
        homes: got.homes,
        view: context.view.digest,
        coordinator: context.forwarded.then_some(node.cluster.me.id),
    };
    answer.done(&reply, body);
}

/// A replica's answer: nothing new, or its state.
enum Answered {
    Same,
    Holds(Option<Incoming>),
}

/// What a replica has answered, under which marks, and whether it counts as a home's.
type Heard = (Answered, Marks, bool);

type Answers<'a> = FuturesUnordered<BoxFuture<'a, (Asked, Result<Heard, String>)>>;

/// An answer that counts.
struct Taken {
    asked: Asked,
    /// The marks under which it was read.
    marks: Marks,
    /// `None`: nothing.
    digest: Option<Digest>,
    /// Its state, if that is not what this node holds.
    state: Option<State>,
}

/// One read on its way.
struct Read<'a> {
    node: &'a Arc<Shared>,
    context: &'a Context,
    key: &'a Key,
    conflict: Conflict,
    need: Need,
    quorum: Quorum,
    /// Homes not asked yet, the best one last.
    unasked: Vec<NodeId>,
    /// The rest of the walk, best first; looked up when the homes are used up.
    fallbacks: Option<VecDeque<NodeId>>,
    /// Whether somebody who is no home had something to say.
    from_fallback: bool,
    answers: Answers<'a>,
    errors: Vec<String>,
    /// What this node holds, to which others say "the same".
    own: Option<Digest>,
    /// Digests of those that answered; `None` for no state.
    held: BTreeMap<NodeId, Option<Digest>>,
    merged: State,
    /// What this node holds, once that is no longer all that is merged.
    own_state: Option<State>,
    taken: Vec<Taken>,
    /// The first home to answer.
    fastest: Option<NodeId>,
}

impl<'a> Read<'a> {
    /// Reads the own copy and asks as many others as the quorum needs.
    fn new(node: &'a Arc<Shared>, context: &'a Context, key: &'a Key, need: Need) -> Read<'a> {
        let me = node.cluster.me.id;
        let homes = &context.members.homes;
        let mut unasked: Vec<NodeId> = homes.iter().copied().filter(|home| *home != me).collect();
        node.peers.sort_by_latency(&mut unasked);
        unasked.reverse();
        let mut read = Read {
            node,
            context,
            key,
            conflict: context.properties.conflict,
            need,
            quorum: Quorum::new(need),
            unasked,
            fallbacks: None,
            from_fallback: false,
            answers: Answers::new(),
            errors: Vec::new(),
            own: None,
            held: BTreeMap::new(),
            merged: State::default(),
            own_state: None,
            taken: Vec::new(),
            fastest: None,
        };
        let place = Place::of(homes, &me);
        // Before anything is read.
        let counts = node.chain.serving(key.partition.0) == context.members.epoch;
        let slot = match &place {
            Place::Home => me,
            Place::Fallback(homes) => homes.first().copied().unwrap_or(me),
        };
        let own = Asked { node: me, slot, durable: false };
        read.quorum.asked(own);
        match read.read_own(&place) {
            Ok(marks) => {
                read.answered(own, counts);
                read.taken.push(Taken { asked: own, marks, digest: read.own, state: None });
                read.fastest = (slot == me).then_some(me);
            }
            Err(error) => read.failed(own, error.to_string()),
        }
        while read.quorum.verdict() == Verdict::Missed && read.ask_next(false) {}
        read
    }

    fn answered(&mut self, asked: Asked, counts: bool) {
        match counts {
            true => self.quorum.answered(asked),
            false => self.quorum.answered_uncounted(asked),
        }
    }

    /// Returns the marks under which it was read.
    fn read_own(&mut self, place: &Place) -> Result<Marks, StorageError> {
        let marks = self.node.replica.stamp(self.key).1;
        if let Some((record, state)) = self.node.replica.read_verified(self.key, place, self.conflict)? {
            self.own = Some(record.digest()?);
            self.merged = state;
        }
        if *place == Place::Home {
            self.held.insert(self.node.cluster.me.id, self.own);
        }
        Ok(marks)
    }

    /// Asks one more home, or somebody in place of one that did not answer or, if `late` is said, has not yet; `false` when
    /// there is nobody.
    fn ask_next(&mut self, late: bool) -> bool {
        if let Some(home) = self.unasked.pop() {
            self.ask(Asked { node: home, slot: home, durable: false });
            return true;
        }
        // Nobody can stand in for homes where only homes count.
        if self.need.homes == self.need.replicas {
            return false;
        }
        let (node, context, key) = (self.node, self.context, self.key);
        let homes = &context.members.homes;
        let vacant = |home: &&NodeId| match self.quorum.hopes_for(home) {
            None => true,
            Some(hope) => late && hope == **home && !self.quorum.is_filled(home),
        };
        let Some(&slot) = homes.iter().find(vacant) else { return false };
        let fallbacks = self.fallbacks.get_or_insert_with(|| fallbacks(node, context, key));
        while let Some(fallback) = fallbacks.pop_front() {
            if node.peers.is_reachable(fallback) {
                self.ask(Asked { node: fallback, slot, durable: false });
                return true;
            }
        }
        false
    }

    fn ask(&mut self, asked: Asked) {
        self.quorum.asked(asked);
        let epoch = self.context.members.epoch;
        let request = ReplicaGet {
            bucket: self.key.bucket.clone(),
            key: self.key.key.clone().into(),
            stamp: Stamp(epoch, self.node.replica.stamp(self.key).1),
            have: self.own,
            promise: false,
        };
        let (node, timeout) = (self.node, self.context.time_left());
        let answer = async move {
            let frame = Frame::new(&request, Bytes::new());
            let answer =
                node.peers.request::<ReplicaGetReply>(asked.node, Class::Foreground, frame, timeout).await;
            let answered = answer.map_err(|error| error.to_string()).and_then(|(reply, state)| {
                let counts = reply.stamp.0 == epoch || planted::is(Bug::EpochUnchecked);
                let marks = reply.stamp.1;
                let answered = match (reply.same, state.is_empty()) {
                    (true, _) => Answered::Same,
                    (false, true) => Answered::Holds(None),
                    (false, false) => {
                        let incoming = Incoming::verify(state, marks).map_err(|error| error.to_string())?;
                        Answered::Holds(Some(incoming))
                    }
                };
                Ok((answered, marks, counts))
            });
            (asked, answered)
        };
        self.answers.push(answer.boxed());
    }

    fn failed(&mut self, asked: Asked, error: String) {
        self.quorum.failed(asked);
        self.errors.push(format!("{}: {error}", asked.node));
    }

    /// Waits for the quorum; asks further homes when answers fail or are late.
    async fn until_met(&mut self) -> Result<(), Missed> {
        let mut hedge_at = Instant::now() + self.hedge_after();
        let mut may_hedge = true;
        loop {
            match self.quorum.verdict() {
                Verdict::Met => return Ok(()),
                Verdict::Missed if self.ask_next(false) => {
                    self.node.metrics.hedged_reads.inc();
                    continue;
                }
                Verdict::Missed => {
                    let elsewhere: Vec<NodeId> = self.quorum.uncounted().collect();
                    return Err(match elsewhere.is_empty() || self.context.time_left().is_zero() {
                        true => Missed::Failed(self.missed(FailureCode::Quorum)),
                        false => Missed::Elsewhere(elsewhere),
                    });
                }
                Verdict::Waiting => {}
            }
            tokio::select! {
                biased;
                Some((asked, answered)) = self.answers.next() => self.take(asked, answered),
                () = tokio::time::sleep_until(self.context.deadline) => return Err(Missed::Failed(self.missed(FailureCode::Timeout))),
                () = tokio::time::sleep_until(hedge_at), if may_hedge => {
                    may_hedge = self.ask_next(true);
                    if may_hedge {
                        self.node.metrics.hedged_reads.inc();
                    }
                    hedge_at = Instant::now() + self.hedge_after();
                }
            }
        }
    }

    fn hedge_after(&self) -> Duration {
        let usual = self
            .context
            .members
            .homes
            .iter()
            .map(|home| self.node.peers.latency(*home))
            .max()
            .unwrap_or_default();
        (usual * HEDGE_FACTOR).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    fn take(&mut self, asked: Asked, answered: Result<Heard, String>) {
        let taken = answered.and_then(|(answered, marks, counts)| {
            let (digest, state) = match answered {
                Answered::Same => (self.own, None),
                Answered::Holds(None) => (None, None),
                Answered::Holds(Some(incoming)) => {
                    let digest = incoming.digest().map_err(|error| error.to_string())?;
                    (Some(digest), Some(incoming.state))
                }
            };
            Ok((Taken { asked, marks, digest, state }, counts))
        });
        let (taken, counts) = match taken {
            Ok(taken) => taken,
            Err(error) => return self.failed(asked, error),
        };
        if let Err(error) = self.node.replica.marks.heed(self.key.partition.0, &taken.marks) {
            // This node is about to stop serving; what it holds is set aside below.
            self.errors.push(format!("{}: {error}", self.node.cluster.me.id));
        }
        self.answered(asked, counts);
        if asked.node == asked.slot {
            self.held.insert(asked.node, taken.digest);
            self.fastest.get_or_insert(asked.node);
        } else {
            self.from_fallback |= taken.digest.is_some();
        }
        match (&taken.state, &self.own_state) {
            (Some(state), _) => {
                self.own_state.get_or_insert_with(|| self.merged.clone());
                self.merged.merge(state.clone(), self.conflict);
            }
            // "The same" as what this node holds, which may have been set aside meanwhile as read too early: whoever has said so has not read it too early.
            (None, Some(own)) if taken.digest.is_some() => {
                self.merged.merge(own.clone(), self.conflict);
            }
            (None, _) => {}
        }
        self.taken.push(taken);
        self.set_old_ones_aside();
    }

    /// Answers that were read before a settlement of which another answer knows that it is decided may show what has gone. They count
    /// for nothing: they come from an old disk, or were long on their way.
    fn set_old_ones_aside(&mut self) {
        let decided = self.taken.iter().map(|taken| taken.marks.decided).max().unwrap_or_default();
        if self.taken.iter().all(|taken| taken.marks.agreed >= decided) {
            return;
        }
        let own = self.own_state.take().unwrap_or_else(|| self.merged.clone());
        let (kept, old): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.taken).into_iter().partition(|taken| taken.marks.agreed >= decided);
        for Taken { asked, .. } in old {
            self.node.metrics.messages_behind.inc();
            self.quorum.withdrawn(asked);
            self.held.remove(&asked.node);
            self.errors.push(format!("{}: its answer is from before a settlement", asked.node));
        }
        self.merged = State::default();
        for taken in &kept {
            let state = match (&taken.state, taken.digest) {
                (Some(state), _) => state,
                (None, Some(_)) => &own,
                (None, None) => continue,
            };
            self.merged.merge(state.clone(), self.conflict);
        }
        self.own_state = Some(own);
        self.taken = kept;
    }

    fn missed(&self, code: FailureCode) -> dynkv_proto::Failure {
        let why = if self.errors.is_empty() {
            "the others did not answer in time".into()
        } else {
            self.errors.join("; ")
        };
        let (need, got) = (self.need, self.quorum.got());
        // Others may have answered in place of homes, which is not what was asked for then.
        let (got, need, what, option) = if got.homes < need.homes {
            (got.homes, need.homes, "home replicas", "--pr")
        } else {
            (got.replicas, need.replicas, "replicas", "-r")
        };
        let message = format!(
            "{got} of the {need} {what} that must answer did: {why}. See `dyn status`, or read with a smaller {option}"
        );
        failure(&self.context.view, code, message)
    }

    /// Waits for stragglers, then writes the merged state back to whoever holds another one.
    async fn repair(mut self) {
        let until = self.context.deadline.min(Instant::now() + STRAGGLERS);
        while let Ok(Some((asked, answered))) = tokio::time::timeout_at(until, self.answers.next()).await {
            self.take(asked, answered);
        }
        if !self.from_fallback && self.held.values().all(|held| *held == self.own) {
            return;
        }
        let encoded = self.merged.encode();
        let Ok(digest) = State::digest(&encoded) else { return };
        let Some(_turn) = self.node.background.turn(Work::ReadRepair).await else { return };
        let behind: Vec<NodeId> =
            self.held.iter().filter(|(_, held)| **held != Some(digest)).map(|(home, _)| *home).collect();
        // Of all that is merged.
        let marks = self.taken.iter().map(|taken| Some(taken.marks)).reduce(|a, b| settle::together(a?, b?));
        let Some(marks) = marks.flatten() else { return };
        let me = self.node.cluster.me.id;
        let source = Source::At(Place::of(&self.context.members.homes, &me), self.conflict);
        let how = How { class: Class::Background, durable: false, hint_for: None, timeout: STRAGGLERS };
        let mut repairs = FuturesUnordered::new();
        let mut own_behind = false;
        for home in behind {
            self.node.metrics.read_repairs.inc();
            if home == me {
                let incoming = Incoming { bytes: encoded.clone(), state: self.merged.clone(), marks };
                own_behind = matches!(
                    unite(self.node, self.key, self.conflict, incoming).await,
                    Err(TakeError::Behind(_))
                );
            } else {
                let held = Held { state: encoded.clone(), marks };
                repairs.push(send::give(self.node, home, self.key, &source, held, how));
            }
        }
        while let Some(repaired) = repairs.next().await {
            if let Err(error) = repaired {
                tracing::debug!(%error, "a replica was not repaired");
            }
        }
        if own_behind {
            let others =
                self.taken.iter().filter(|taken| taken.state.is_some()).map(|taken| taken.asked.node);
            Box::pin(ask_again(self.node, self.key, self.conflict, others.collect())).await;
        }
    }
}

async fn unite(
    node: &Arc<Shared>,
    key: &Key,
    conflict: Conflict,
    incoming: Incoming,
) -> Result<(), TakeError> {
    let (sender, united) = oneshot::channel();
    let done = |outcome: Result<u64, TakeError>| drop(sender.send(outcome.map(drop)));
    node.replica.unite(key, incoming, conflict, Durability::Memory, done)?;
    united.await.unwrap_or(Err(StorageError::Closed.into()))
}

/// Repairs the own copy, which cannot take what others have read before they promised what this node has promised: they promise it, and
/// read again.
async fn ask_again(node: &Arc<Shared>, key: &Key, conflict: Conflict, others: Vec<NodeId>) {
    for other in others {
        let Ok((marks, state)) = send::ask(node, other, key, STRAGGLERS).await else { continue };
        let Ok(incoming) = Incoming::verify(state, marks) else { continue };
        if let Err(error) = unite(node, key, conflict, incoming).await {
            tracing::debug!(%error, "the own copy was not repaired");
        }
    }
}
