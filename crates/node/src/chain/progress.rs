//! How far partitions have come that move to this node or away from it: for operators, and for metrics. Nothing is decided by it, and asking changes nothing.
//!
//! What is to move follows from the ring and the chain at any moment; only what was moved, and when, is counted, where states are taken over and given.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dynkv_proto::{
    Failure, FailureCode, Feature, LimitTransfersReply, Transfer, TransferState, TransfersReply,
};
use dynkv_ring::{NodeId, PartitionId};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Members, has_its_disk, is_up,
    learn::{is_read, ready, sources},
    rests,
    target::{Freshness, target},
};
use crate::{
    cluster::View,
    news::{Listener, News},
    shared::Shared,
};

/// How often it is looked whether anything has changed.
const PERIOD: Duration = Duration::from_secs(1);

/// What has not moved for so long deserves a look.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What a rate is taken over, and how finely.
const WINDOW: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(1);

/// The least limit, in bytes per second.
const LIMIT_MIN: u64 = 1024;

/// The latest error is told for so long.
const ERROR_TOLD: Duration = Duration::from_secs(30);

/// Partitions that stand alike with another node.
type Of = (TransferState, NodeId);

/// What moves between this node and others.
pub(crate) struct Transfers {
    pub(crate) limit: Limit,
    meters: Mutex<Meters>,
}

type Meters = BTreeMap<Of, Meter>;

/// What was moved between two nodes.
struct Meter {
    /// When anything was moved last, or has changed.
    moved_at: Instant,
    records: u64,
    bytes: u64,
    /// Bytes in each of the last few steps, with its beginning.
    steps: VecDeque<(Instant, u64)>,
    /// Partitions, and those of them that were read, when it was looked last.
    counted: (usize, usize),
    error: Option<(Instant, String)>,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        let steps = VecDeque::new();
        Meter { moved_at: now, records: 0, bytes: 0, steps, counted: (0, 0), error: None }
    }

    fn moved(&mut self, now: Instant, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
        self.moved_at = now;
        self.error = None;
        match self.steps.back_mut() {
            Some((begun, sum)) if now.duration_since(*begun) < STEP => *sum += bytes,
            _ => self.steps.push_back((now, bytes)),
        }
        while self.steps.front().is_some_and(|(begun, _)| now.duration_since(*begun) >= WINDOW) {
            self.steps.pop_front();
        }
    }

    fn rate(&self, now: Instant) -> u64 {
        let recent = || self.steps.iter().filter(|(begun, _)| now.duration_since(*begun) < WINDOW);
        let Some((begun, _)) = recent().next() else { return 0 };
        let took = now.duration_since(*begun).max(STEP).as_millis();
        let bytes: u64 = recent().map(|(_, bytes)| bytes).sum();
        (u128::from(bytes) * 1000 / took) as u64
    }
}

impl Default for Transfers {
    fn default() -> Transfers {
        Transfers { limit: Limit::new(), meters: Mutex::default() }
    }
}

impl Transfers {
    fn meters(&self) -> MutexGuard<'_, Meters> {
        // Counting is plain arithmetic: a panic elsewhere leaves nothing half done.
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, of: Of, bytes: u64) {
        let now = Instant::now();
        self.meters().entry(of).or_insert_with(|| Meter::new(now)).moved(now, bytes);
    }

    /// What went wrong between this node and `peer`.
    pub(super) fn failed(&self, state: TransferState, peer: NodeId, error: impl ToString) {
        let now = Instant::now();
        let mut meters = self.meters();
        meters.entry((state, peer)).or_insert_with(|| Meter::new(now)).error = Some((now, error.to_string()));
    }

    /// What had gone wrong has not this time.
    pub(super) fn succeeded(&self, state: TransferState, peer: NodeId) {
        if let Some(meter) = self.meters().get_mut(&(state, peer)) {
            meter.error = None;
        }
    }
}

/// This node has taken over a state that `peer` has given it for a partition.
pub(crate) fn pulled(node: &Shared, peer: NodeId, partition: PartitionId, bytes: u64) {
    if receives(node, &node.cluster.view(), partition, node.cluster.me.id) {
        node.metrics.transfer_bytes_received.inc_by(bytes);
        node.transfers.moved((TransferState::Receiving, peer), bytes);
    }
}

/// `peer` has taken a state from this node.
pub(crate) fn pushed(node: &Shared, peer: NodeId, partition: PartitionId, bytes: u64) {
    if !node.chain.members(partition).homes.contains(&node.cluster.me.id) {
        node.transfers.moved((TransferState::HandingOver, peer), bytes);
    }
}

/// Whether `other` is to become a member of a partition: it reads what it lacks by itself, as fast as it may.
pub(crate) fn receives(node: &Shared, view: &View, partition: PartitionId, other: NodeId) -> bool {
    let members = node.chain.members(partition);
    target(view, partition).iter().any(|holder| holder.node == other && !members.holders.contains(holder))
}

/// What is to move, as of now.
#[derive(Default)]
struct Survey {
    to_receive: u32,
    to_give_up: u32,
    by: BTreeMap<Of, Partitions>,
}

#[derive(Default)]
struct Partitions {
    all: Vec<u32>,
    read: Vec<u32>,
    /// Members that are out of reach, and without whom these partitions do not go on.
    missing: Vec<NodeId>,
}

impl Survey {
    fn of(&mut self, state: TransferState, peer: NodeId) -> &mut Partitions {
        self.by.entry((state, peer)).or_default()
    }

    fn make(node: &Shared) -> Survey {
        let view = node.cluster.view();
        let mut survey = Survey::default();
        if node.cluster.serving(&view).is_err() {
            return survey;
        }
        let me = node.cluster.me.id;
        for partition in view.membership.partitions().ids() {
            let (members, target) = (node.chain.members(partition), target(&view, partition));
            match target.iter().find(|holder| holder.node == me) {
                Some(mine) if !members.holders.contains(mine) => {
                    survey.to_receive += 1;
                    survey.receives(node, &view, partition, &members);
                }
                Some(_) => {}
                None if node.chain.holds(partition.0) => {
                    survey.to_give_up += 1;
                    let next = target.iter().filter(|holder| !members.holders.contains(holder));
                    match members.homes.contains(&me) {
                        true => next.for_each(|holder| {
                            survey.of(TransferState::Serving, holder.node).all.push(partition.0);
                        }),
                        false => {
                            let missing = members.homes.iter().filter(|home| !is_up(node, home));
                            let missing: Vec<NodeId> = missing.copied().collect();
                            for home in members.homes.iter() {
                                let given = survey.of(TransferState::HandingOver, *home);
                                given.all.push(partition.0);
                                given.missing.extend(&missing);
                            }
                        }
                    }
                }
                None => {}
            }
        }
        survey
    }

    fn receives(&mut self, node: &Shared, view: &View, partition: PartitionId, members: &Members) {
        if !ready(node, &[partition.0]).is_empty() {
            // The first of the members that is up proposes it.
            let left = members.holders.iter().filter(|holder| has_its_disk(view, holder));
            let left: Vec<NodeId> = left.map(|holder| holder.node).collect();
            let freshness = Freshness::of(view, members.holders.len());
            let may_choose = |up: usize| freshness.may_choose(up, members.holders.len() - left.len());
            let all = view.membership.members().map(|state| state.member.id);
            let needed = if may_choose(left.len()) { left.clone() } else { all.collect() };
            let missing: Vec<NodeId> = needed.into_iter().filter(|home| !is_up(node, home)).collect();
            let first = members.homes.iter().find(|home| is_up(node, home)).or(members.homes.first());
            let received = self.of(TransferState::Received, first.copied().unwrap_or(node.cluster.me.id));
            received.all.push(partition.0);
            if !may_choose(left.len().saturating_sub(missing.len())) {
                received.missing.extend(missing);
            }
            return;
        }
        for peer in sources(node, view, members) {
            let receiving = self.of(TransferState::Receiving, peer);
            receiving.all.push(partition.0);
            if is_read(node, partition, &peer) {
                receiving.read.push(partition.0);
            }
        }
    }
}

/// Notes whether anything has changed, and sets the gauges, until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    loop {
        review(&node);
        sleep(PERIOD).await;
    }
}

fn review(node: &Shared) {
    let survey = if rests(node) { Survey::default() } else { Survey::make(node) };
    let now = Instant::now();
    let mut stalled = 0;
    let mut meters = node.transfers.meters();
    meters.retain(|of, _| survey.by.contains_key(of));
    for (of, partitions) in &survey.by {
        let meter = meters.entry(*of).or_insert_with(|| Meter::new(now));
        let counted = (partitions.all.len(), partitions.read.len());
        if meter.counted != counted {
            meter.counted = counted;
            meter.moved_at = now;
        }
        stalled += i64::from(is_stalled(node, of.0, now.duration_since(meter.moved_at)));
    }
    node.metrics.partitions_to_receive.set(survey.to_receive.into());
    node.metrics.partitions_to_give_up.set(survey.to_give_up.into());
    node.metrics.transfers_stalled.set(stalled);
}

/// Whether it is more than the operator's limit, or the other side's work, that is waited for.
fn is_stalled(node: &Shared, state: TransferState, idle: Duration) -> bool {
    let waits = match state {
        // The receiving side tells.
        TransferState::Serving => true,
        TransferState::Receiving => node.transfers.limit.is_waited_for(),
        TransferState::Received | TransferState::HandingOver => false,
    };
    idle >= STALLED_AFTER && !waits
}

/// How it stands.
pub(crate) fn status(node: &Shared) -> TransfersReply {
    let Survey { to_receive, to_give_up, by } = Survey::make(node);
    let now = Instant::now();
    let meters = node.transfers.meters();
    let transfer = |((state, peer), partitions): (Of, Partitions)| {
        let meter = meters.get(&(state, peer));
        let idle = meter.map_or(Duration::ZERO, |meter| now.duration_since(meter.moved_at));
        Transfer {
            state,
            peer,
            reason: reason(node, state, peer, &partitions, meter.and_then(|meter| recent(meter, now))),
            partitions: partitions.all,
            read: partitions.read,
            records: meter.map_or(0, |meter| meter.records),
            bytes: meter.map_or(0, |meter| meter.bytes),
            rate_bytes: meter.map_or(0, |meter| meter.rate(now)),
            idle_ms: idle.as_millis() as u64,
            stalled: is_stalled(node, state, idle),
        }
    };
    TransfersReply {
        node: node.cluster.me.id,
        limit_bytes: node.transfers.limit.get(),
        to_receive,
        to_give_up,
        transfers: by.into_iter().map(transfer).collect(),
        misplaced: super::misplaced(node).is_some(),
    }
}

fn recent(meter: &Meter, now: Instant) -> Option<&str> {
    let (at, error) = meter.error.as_ref()?;
    (now.duration_since(*at) < ERROR_TOLD).then_some(error)
}

fn reason(
    node: &Shared,
    state: TransferState,
    peer: NodeId,
    partitions: &Partitions,
    error: Option<&str>,
) -> String {
    let out_of_reach = peer != node.cluster.me.id && !node.peers.is_reachable(peer);
    let is_on = |feature| node.cluster.view().features.is_on(feature);
    if let Some(failed) = node.replica.storage.failed() {
        return failed.to_string();
    }
    match (state, error) {
        // As where a disk was lost: nobody may join or leave.
        (TransferState::Received, _) if !is_on(Feature::Moving) => {
            format!(
                "read; waits until the feature {moving} is on: `dyn cluster enable {moving}`",
                moving = Feature::Moving
            )
        }
        (TransferState::Received, _) if !partitions.missing.is_empty() => {
            format!("their members cannot agree without {}, out of reach", names(&partitions.missing))
        }
        _ if out_of_reach => format!("{peer} is out of reach"),
        (TransferState::HandingOver, None) if !partitions.missing.is_empty() => {
            format!("kept until {}, out of reach, has them, too", names(&partitions.missing))
        }
        (_, Some(error)) => error.to_owned(),
        (TransferState::Receiving, None) if node.transfers.limit.is_waited_for() => {
            "waits for the limit".into()
        }
        (TransferState::Receiving, None) if partitions.all.len() == partitions.read.len() => {
            "read; waits for the other members".into()
        }
        (TransferState::Received, None) => "read; waits until the members agree on it".into(),
        (TransferState::Serving, None) => format!("until {peer} serves them"),
        (TransferState::Receiving | TransferState::HandingOver, None) => String::new(),
    }
}

/// Each once.
fn names(nodes: &[NodeId]) -> String {
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Sets the limit.
pub(crate) fn limit(node: &Shared, bytes: Option<u64>) -> Result<LimitTransfersReply, Failure> {
    if bytes.is_some_and(|bytes| bytes < LIMIT_MIN) {
        let message =
            format!("a limit of less than {LIMIT_MIN} bytes in a second would stop what moves: allow more");
        return Err(Failure::not_done(FailureCode::Invalid, message));
    }
    Ok(LimitTransfersReply { before_bytes: node.transfers.limit.set(bytes) })
}

/// How many bytes may be received in a second. What is asked for may be longer than expected: that is waited for before the next question.
pub(crate) struct Limit {
    state: Mutex<LimitState>,
    changed: News,
}

struct LimitState {
    bytes: Option<u64>,
    /// When what was received so far will have been within the limit.
    free_at: Instant,
    waiting: usize,
}

impl Limit {
    fn new() -> Limit {
        let state = LimitState { bytes: None, free_at: Instant::now(), waiting: 0 };
        Limit { state: Mutex::new(state), changed: News::default() }
    }

    fn state(&self) -> MutexGuard<'_, LimitState> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Option<u64> {
        self.state().bytes
    }

    fn set(&self, bytes: Option<u64>) -> Option<u64> {
        let before = {
            let mut state = self.state();
            // What was waited for under the old limit is not owed under the new one.
            state.free_at = Instant::now();
            std::mem::replace(&mut state.bytes, bytes)
        };
        self.changed.tell();
        before
    }

    fn is_waited_for(&self) -> bool {
        self.state().waiting > 0
    }

    /// Waits until more may be received.
    pub(crate) async fn free(&self) {
        let mut changed: Option<Listener> = None;
        let mut waiting = None;
        loop {
            let free_at = {
                let state = self.state();
                if state.bytes.is_none() || state.free_at <= Instant::now() {
                    return;
                }
                state.free_at
            };
            waiting.get_or_insert_with(|| Waiting::enter(self));
            let changed = changed.get_or_insert_with(|| self.changed.listen());
            drop(timeout(free_at.duration_since(Instant::now()), changed.changed()).await);
        }
    }

    /// So many bytes were received.
    pub(crate) fn spend(&self, bytes: u64) {
        let mut state = self.state();
        if let Some(limit) = state.bytes {
            let took = Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64);
            state.free_at = state.free_at.max(Instant::now()) + took;
        }
    }
}

/// One that waits for the limit.
struct Waiting<'a>(&'a Limit);

impl Waiting<'_> {
    fn enter(limit: &Limit) -> Waiting<'_> {
        limit.state().waiting += 1;
        Waiting(limit)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_that_of_the_last_ten_seconds() {
        let mut meter = Meter::new(Instant::now());
        assert_eq!(meter.rate(Instant::now()), 0);
        for _ in 0..30 {
            meter.moved(Instant::now(), 100);
            meter.moved(Instant::now(), 100);
            advance(S).await;
        }
        assert_eq!((meter.records, meter.bytes), (60, 6000));
        assert!((200..=230).contains(&meter.rate(Instant::now())), "{}", meter.rate(Instant::now()));
        advance(5 * S).await;
        assert!((80..=120).contains(&meter.rate(Instant::now())), "{}", meter.rate(Instant::now()));
        advance(5 * S).await;
        assert_eq!(meter.rate(Instant::now()), 0);
        assert!(meter.steps.len() <= 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_kept_on_average_and_can_be_changed_while_it_is_waited_for() {
        let limit = Limit::new();
        limit.spend(1 << 40);
        assert!(limit.free().now_or_never().is_some(), "there is none");
        assert_eq!(limit.set(Some(1000)), None);
        let begun = Instant::now();
        for _ in 0..10 {
            limit.free().await;
            limit.spend(5000);
        }
        limit.free().await;
        let took = begun.elapsed();
        assert!((50 * S..51 * S).contains(&took), "{took:?}");

        limit.spend(1 << 30);
        let mut waits = std::pin::pin!(limit.free());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(limit.is_waited_for());
        assert_eq!(limit.set(None), Some(1000));
        waits.await;
        assert!(!limit.is_waited_for());
        // What was received without a limit is not owed.
        limit.spend(1 << 40);
        limit.set(Some(1000));
        assert!(limit.free().now_or_never().is_some());
    }
}
