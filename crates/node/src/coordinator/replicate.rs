//! Bringing a version to enough nodes: to the homes, and to others in place of homes that are out of reach.
//!
//! Invariant: whatever becomes of the answer, the version is on its way to every home: written there, or kept for it as a
//! hint. And no acknowledgement counts twice ([`quorum`](super::quorum)).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{Actor, BucketProperties, Conflict, DecodeError, Failure, FailureCode, PutReply, State};
use dynkv_ring::NodeId;
use dynkv_vclock::Dot;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Answer, Context, follow,
    quorum::{Asked, Need, Quorum, Verdict},
    unknown,
};
use crate::{
    background::Work,
    chain::Members,
    hints::{HintError, Place},
    incoming::Incoming,
    key::Key,
    peers::PeerError,
    planted::{self, Bug},
    settle::{
        TakeError,
        send::{self, GiveError, Held, How, Source},
    },
    shared::Shared,
    storage::{Durability, StorageError},
};

/// Other nodes stand in for homes that are this many times later than the slowest of them usually is.
const LATE_FACTOR: u32 = 4;
const LATE_MIN: Duration = Duration::from_millis(100);
const LATE_MAX: Duration = Duration::from_secs(1);

/// After the answer, how long a node may take to keep a hint.
const HINT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a state that was read again is no acknowledgement.
const NOT_HERE: &str =
    "the version is not on the coordinator's disk: its write failed, or it is settled already";

/// A version as it stands on the coordinator.
pub(super) struct Placed {
    /// The state, with the version in it.
    pub(super) held: Held,
    /// The version's dot.
    pub(super) dot: Dot<Actor>,
    /// Where the coordinator keeps it.
    pub(super) place: Place,
    /// What has become of the coordinator's own copy.
    pub(super) own: Own,
}

/// The coordinator's own copy.
pub(super) enum Own {
    /// It is being written.
    Written {
        /// The home whose slot the coordinator fills: itself, or the first one when it is no home.
        slot: NodeId,
        /// The epoch at which this node served the key when it was written, or [`Stamp::NO_EPOCH`].
        epoch: u64,
        outcome: oneshot::Receiver<Result<(), StorageError>>,
    },
    /// The request has started over: it is written once more if this node is a home, which costs nothing, so that it counts at the epoch of
    /// now.
    Again,
}

/// Sends the state to every home, answers as soon as the quorum is met or cannot be, and stays with the rest. If homes were needed and have said that they serve nobody at
/// this epoch, it starts over under the next members: acknowledgements of homes of several epochs are not one quorum.
pub(super) async fn replicate(
    node: &Arc<Shared>,
    mut context: Context,
    key: &Key,
    mut placed: Placed,
    properties: &BucketProperties,
    answer: Answer,
    reply: impl FnOnce(Need) -> PutReply,
) {
    let mut need = Need { replicas: properties.w, durable: properties.dw, homes: properties.pw };
    let mut replication = loop {
        let mut replication = Replication::begin(node, &context, key, placed, need);
        replication.until_decided().await;
        let elsewhere = replication.elsewhere();
        if elsewhere.is_empty() {
            break replication;
        }
        if planted::is(Bug::AcknowledgementsKept) {
            let got = replication.quorum.got();
            need.replicas = need.replicas.saturating_sub(got.replicas);
            need.durable = need.durable.saturating_sub(got.durable);
            need.homes = need.homes.saturating_sub(got.homes);
        }
        placed = replication.again();
        follow(node, &mut context, key.partition, elsewhere).await;
    };
    let got = replication.quorum.got();
    match replication.quorum.verdict() {
        Verdict::Met => {
            if got.homes < got.replicas {
                node.metrics.puts_sloppy.inc();
            }
            answer.done(&reply(got), Bytes::new());
        }
        Verdict::Missed => answer.failed(&replication.missed(FailureCode::Quorum)),
        Verdict::Waiting => answer.failed(&replication.missed(FailureCode::Timeout)),
    }
    // No client waits any more; beyond a bound the homes that have not answered are left to the repair of reads.
    if let Some(_lingering) = node.background.linger() {
        replication.finish().await;
    }
}

/// One node's answer.
struct Ack {
    asked: Asked,
    /// Whether it counts as a home's, if it is one.
    result: Result<bool, String>,
}

/// A version on its way.
struct Replication<'a> {
    node: &'a Arc<Shared>,
    context: &'a Context,
    key: &'a Key,
    held: Held,
    dot: Dot<Actor>,
    place: Place,
    source: Source,
    need: Need,
    quorum: Quorum,
    acks: FuturesUnordered<BoxFuture<'a, Ack>>,
    /// Who may still stand in for a home, best first; looked up when the first one has to.
    fallbacks: Option<VecDeque<NodeId>>,
    /// Homes whose slot this node has tried to fill itself.
    tried_here: Vec<NodeId>,
    errors: Vec<String>,
    answered: bool,
}

impl<'a> Replication<'a> {
    fn begin(
        node: &'a Arc<Shared>,
        context: &'a Context,
        key: &'a Key,
        placed: Placed,
        need: Need,
    ) -> Replication<'a> {
        let me = node.cluster.me.id;
        let Members { epoch, homes, .. } = &*context.members;
        let own = match placed.own {
            Own::Written { slot, .. } => Some(slot),
            Own::Again => homes.contains(&me).then_some(me),
        };
        let mut replication = Replication {
            node,
            context,
            key,
            held: placed.held,
            dot: placed.dot,
            source: Source::At(placed.place.clone(), context.properties.conflict),
            place: placed.place,
            need,
            quorum: Quorum::new(need),
            acks: FuturesUnordered::new(),
            fallbacks: None,
            tried_here: own.into_iter().collect(),
            errors: Vec::new(),
            answered: false,
        };
        if let Some(slot) = own {
            // A hint is always written to disk, wherever it is kept.
            let asked = Asked { node: me, slot, durable: need.durable > 0 || slot != me };
            replication.quorum.asked(asked);
            replication.acks.push(match placed.own {
                Own::Written { epoch: at, outcome, .. } => own_ack(asked, at == *epoch, outcome).boxed(),
                Own::Again => replication.write_again(asked),
            });
        }
        for &home in homes.iter().filter(|home| **home != me && Some(**home) != own) {
            if node.peers.is_reachable(home) {
                replication.ask_home(home);
            } else {
                replication.errors.push(format!("{home}: {}", node.peers.status(home).last_error));
                replication.replace(home);
            }
        }
        if let Some(slot) = own.filter(|slot| *slot != me && node.peers.is_reachable(*slot)) {
            replication.ask_home(slot);
        }
        replication
    }

    /// Writes the own copy once more.
    fn write_again(&self, asked: Asked) -> BoxFuture<'a, Ack> {
        let (node, key, conflict) = (self.node, self.key, self.context.properties.conflict);
        let (epoch, held, source) = (self.context.members.epoch, self.held.clone(), self.source.clone());
        let durability = if asked.durable { Durability::Disk } else { Durability::Memory };
        async move {
            let result = match write_here(node, key, held, conflict, durability).await {
                // A round was promised here meanwhile: what is here is what there is.
                Err(TakeError::Behind(_)) => match send::read(node, key, &source) {
                    Ok(Some(held)) => write_here(node, key, held, conflict, durability).await,
                    Ok(None) => Err(StorageError::Failed { reason: NOT_HERE.into() }.into()),
                    Err(error) => Err(error.into()),
                },
                written => written,
            };
            Ack { asked, result: result.map(|at| at == epoch).map_err(|error| error.to_string()) }
        }
        .boxed()
    }

    /// The same, to start over with.
    fn again(self) -> Placed {
        Placed { held: self.held, dot: self.dot, place: self.place, own: Own::Again }
    }

    /// Homes that have the version but serve nobody at this epoch, if the quorum was missed for that and there is time left.
    fn elsewhere(&self) -> Vec<NodeId> {
        let missed = self.quorum.verdict() == Verdict::Missed && !self.context.time_left().is_zero();
        if missed { self.quorum.uncounted().collect() } else { Vec::new() }
    }

    fn ask_home(&mut self, home: NodeId) {
        // One durable acknowledgement is the coordinator's own; more than one may come from anybody.
        self.ask(Asked { node: home, slot: home, durable: self.need.durable > 1 }, self.context.time_left());
    }

    fn ask(&mut self, asked: Asked, timeout: Duration) {
        self.quorum.asked(asked);
        let hint_for = (asked.slot != asked.node).then_some(asked.slot);
        let class = if self.answered { Class::Background } else { Class::Foreground };
        let how = How { class, durable: asked.durable, hint_for, timeout };
        let (node, key, dot) = (self.node, self.key, self.dot);
        let (held, source, epoch) = (self.held.clone(), self.source.clone(), self.context.members.epoch);
        let ack = async move {
            let given = given(node, asked.node, key, dot, held, &source, how).await;
            // A replica of another epoch has stored it, but does not count as a home of this one.
            Ack { asked, result: given.map(|at| at == epoch || planted::is(Bug::EpochUnchecked)) }
        };
        self.acks.push(ack.boxed());
    }

    /// Has another node keep the state for `home`, or this one when there is no other.
    fn replace(&mut self, home: NodeId) {
        let (node, context, key) = (self.node, self.context, self.key);
        let fallbacks = self.fallbacks.get_or_insert_with(|| fallbacks(node, context, key));
        let takes_hints = |id: &NodeId| node.peers.is_reachable(*id) && node.peers.takes_hints(*id);
        while let Some(fallback) = fallbacks.pop_front() {
            if takes_hints(&fallback) {
                let timeout = if self.answered { HINT_TIMEOUT } else { self.context.time_left() };
                return self.ask(Asked { node: fallback, slot: home, durable: true }, timeout);
            }
        }
        if self.tried_here.contains(&home) {
            tracing::debug!(%home, "nobody keeps a write for a home that is out of reach");
            node.metrics.hints_not_placed.inc();
        } else {
            self.tried_here.push(home);
            self.keep_here(home);
        }
    }

    /// Keeps the state for `home` on this node. With its own write it counts once at most: the matching sees to that.
    fn keep_here(&mut self, home: NodeId) {
        let asked = Asked { node: self.node.cluster.me.id, slot: home, durable: true };
        if self.counts(&asked) {
            self.quorum.asked(asked);
        }
        let (node, key, conflict) = (self.node, self.key, self.context.properties.conflict);
        let dot = self.dot;
        let (held, source) = (self.held.clone(), self.source.clone());
        self.acks.push(
            async move {
                let result = match keep_hint(node, key, home, held, conflict).await {
                    // A round was promised here meanwhile.
                    Err(HintError::Refused(TakeError::Behind(_))) => match send::read(node, key, &source) {
                        Ok(Some(held)) if knows(&held.state, dot) => {
                            keep_hint(node, key, home, held, conflict)
                                .await
                                .map_err(|error| error.to_string())
                        }
                        Ok(_) => Err(NOT_HERE.into()),
                        Err(error) => Err(error.to_string()),
                    },
                    kept => kept.map_err(|error| error.to_string()),
                };
                Ack { asked, result: result.map(|()| false) }
            }
            .boxed(),
        );
    }

    /// Whether an answer is an acknowledgement. What a home keeps for another home is none, also when its own write has failed: somebody else
    /// fills its slot then, and when that hint is delivered the two copies are on one disk.
    fn counts(&self, asked: &Asked) -> bool {
        let kept_by_home = matches!(self.source, Source::At(Place::Home, _))
            && asked.node == self.node.cluster.me.id
            && asked.slot != asked.node;
        !kept_by_home || planted::is(Bug::NodeCountsTwice)
    }

    /// Waits until the quorum is met, cannot be met, or time is up. Has others stand in for homes that are late.
    async fn until_decided(&mut self) -> Need {
        let late_at = Instant::now() + self.late_after();
        let mut late = false;
        while self.quorum.verdict() == Verdict::Waiting {
            tokio::select! {
                biased;
                Some(ack) = self.acks.next() => self.take(ack),
                // One timer: homes are late before the deadline.
                () = tokio::time::sleep_until(if late { self.context.deadline } else { late_at }) => {
                    if late {
                        break;
                    }
                    late = true;
                    self.replace_late();
                }
            }
        }
        self.answered = true;
        self.quorum.got()
    }

    fn late_after(&self) -> Duration {
        let usual = self
            .context
            .members
            .homes
            .iter()
            .map(|home| self.node.peers.latency(*home))
            .max()
            .unwrap_or_default();
        // Early enough for the other nodes to answer before the client gives up.
        (usual * LATE_FACTOR).clamp(LATE_MIN, LATE_MAX).min(self.context.time_left() / 3)
    }

    fn replace_late(&mut self) {
        for &home in self.context.members.homes.iter() {
            // This node's own slot is filled by its disk, or by nobody sooner.
            let late = !self.quorum.is_filled(&home) && self.quorum.hopes_for(&home) == Some(home);
            if late && home != self.node.cluster.me.id {
                self.replace(home);
            }
        }
    }

    /// Stays until every home has the version or somebody keeps it for it, or nobody can.
    async fn finish(&mut self) {
        while let Some(ack) = self.acks.next().await {
            self.take(ack);
        }
    }

    fn take(&mut self, ack: Ack) {
        let Ack { asked, result } = ack;
        match result {
            Ok(_) if !self.counts(&asked) => {}
            Ok(true) => self.quorum.answered(asked),
            Ok(false) => self.quorum.answered_uncounted(asked),
            Err(error) => {
                self.quorum.failed(asked);
                self.errors.push(format!("{}: {error}", asked.node));
                if self.quorum.hopes_for(&asked.slot).is_none() {
                    self.replace(asked.slot);
                }
            }
        }
    }

    /// The version exists here and perhaps elsewhere, but not as safely as was asked for.
    fn missed(&self, code: FailureCode) -> Failure {
        let (need, got) = (self.need, self.quorum.got());
        let why = if self.errors.is_empty() {
            "the others did not answer in time".to_owned()
        } else {
            self.errors.join("; ")
        };
        let message = format!(
            "written to {} of {} replicas ({} of {} on disk, {} of {} home replicas) before the deadline: it may survive or not; {why}. Put it again, or see `dyn status`",
            got.replicas, need.replicas, got.durable, need.durable, got.homes, need.homes
        );
        unknown(&self.context.view, code, message)
    }
}

/// The rest of the walk behind the homes.
pub(super) fn fallbacks(node: &Shared, context: &Context, key: &Key) -> VecDeque<NodeId> {
    let walk = context.view.membership.ring().preference(key.partition).map(|member| member.id);
    walk.filter(|id| *id != node.cluster.me.id && !context.members.homes.contains(id)).collect()
}

async fn own_ack(asked: Asked, counts: bool, outcome: oneshot::Receiver<Result<(), StorageError>>) -> Ack {
    let result = outcome.await.unwrap_or(Err(StorageError::Closed));
    Ack { asked, result: result.map(|()| counts).map_err(|error| error.to_string()) }
}

/// Unites `held` into this node's record. Returns the epoch at which it counts.
async fn write_here(
    node: &Arc<Shared>,
    key: &Key,
    held: Held,
    conflict: Conflict,
    durability: Durability,
) -> Result<u64, TakeError> {
    let damaged = |error: DecodeError| StorageError::Damaged { reason: error.to_string() };
    let incoming = Incoming::verify(held.state, held.marks).map_err(damaged)?;
    let (sender, written) = oneshot::channel();
    node.replica.unite(key, incoming, conflict, durability, |outcome| drop(sender.send(outcome)))?;
    written.await.unwrap_or(Err(StorageError::Closed.into()))
}

async fn keep_hint(
    node: &Arc<Shared>,
    key: &Key,
    home: NodeId,
    held: Held,
    conflict: Conflict,
) -> Result<(), HintError> {
    let damaged = |error: DecodeError| StorageError::Damaged { reason: error.to_string() };
    let incoming = Incoming::verify(held.state, held.marks).map_err(damaged)?;
    let (sender, kept) = oneshot::channel();
    node.replica.unite_hint(key, home, incoming, conflict, |outcome| drop(sender.send(outcome)))?;
    kept.await.unwrap_or(Err(StorageError::Closed.into()))
}

/// The epoch at which another node has taken a state that has `dot`.
async fn given(
    node: &Arc<Shared>,
    to: NodeId,
    key: &Key,
    dot: Dot<Actor>,
    held: Held,
    source: &Source,
    how: How,
) -> Result<u64, String> {
    let _turn = match how.class {
        Class::Foreground => None,
        // Nobody waits for it any more.
        Class::Background => match node.background.turn(Work::HintPlacement).await {
            Some(turn) => Some(turn),
            None => return Err("other background work comes first".into()),
        },
    };
    let minted = held.state.clone();
    match send::give(node, to, key, source, held, how).await {
        // The same bytes, unless it was read again: not compared, they may be long.
        Ok((reply, taken)) if taken.as_ptr() == minted.as_ptr() || knows(&taken, dot) => Ok(reply.stamp.0),
        Ok(_) => Err(NOT_HERE.into()),
        Err(GiveError::Peer(PeerError::Refused(failure))) => {
            if failure.code == FailureCode::HintsFull {
                node.peers.hints_full(to);
            }
            Err(failure.message)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a state contains a version, or has replaced it.
fn knows(state: &Bytes, dot: Dot<Actor>) -> bool {
    State::decode(state.clone()).is_ok_and(|state| state.context().contains(&dot))
}
