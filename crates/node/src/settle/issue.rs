//! An issuer's side of rounds. The first home of a partition issues them, one at a time; nothing depends on that but work.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    FailureCode, Frame, Message, Request, Round, SettleDecide, SettleDrop, SettleKey, SettleMarks,
    SettlePrepare, SettlePrepareReply,
};
use dynkv_ring::NodeId;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    answer::{self, Refusal},
    candidates::{Walk, is_due},
};
use crate::{
    background::Work,
    cluster::View,
    key::Key,
    metrics::{Abandoned, AbandonedLabel},
    peers::PeerError,
    planted::{self, Bug},
    shared::Shared,
    storage::StorageError,
    trees::index::Entered,
};

/// Between two passes over all partitions, at least and at most; in between a sixteenth of the shortest grace.
const PERIOD_MIN: Duration = Duration::from_secs(1);
const PERIOD_MAX: Duration = Duration::from_secs(600);

/// After a page of the index, at least; else so many times what it took.
const PAGE_PAUSE_MIN: Duration = Duration::from_millis(2);
const PAGE_PAUSE_FACTOR: u32 = 20;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Settles until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    loop {
        let mut news = node.cluster.subscribe();
        let period = pass(&node).await;
        let begun = Instant::now();
        let mut next = begun + period;
        // A grace that was shortened does not wait for what the longer one has said.
        while timeout_at(next, news.changed()).await.is_ok() {
            next = next.min(begun + period_of(&node.cluster.view()));
        }
    }
}

fn period_of(view: &View) -> Duration {
    let graces = view.buckets.iter().map(|(_, properties)| properties.grace_ms);
    let grace_ms = graces.chain([view.buckets.get("").grace_ms]).min().unwrap_or(u64::MAX);
    Duration::from_millis(grace_ms / 16).clamp(PERIOD_MIN, PERIOD_MAX)
}

/// Goes through all partitions that this node issues rounds for. Returns when to do so again.
async fn pass(node: &Arc<Shared>) -> Duration {
    let view = node.cluster.view();
    if node.cluster.serving(&view).is_err() {
        return PERIOD_MIN;
    }
    let (mut paused, mut reason) = (0, String::new());
    for partition in view.membership.partitions().ids() {
        if node.chain.members(partition).homes.first() != Some(&node.cluster.me.id) {
            continue;
        }
        if let Some(why) = walk(node, &view, partition.0).await {
            paused += 1;
            reason = why;
        }
    }
    node.metrics.settle_paused.set(paused);
    node.settling_paused.set(reason);
    period_of(&view)
}

/// Settles what is to be settled in one partition. Says why nothing settles there, if that is so.
async fn walk(node: &Arc<Shared>, view: &Arc<View>, partition: u32) -> Option<String> {
    let mut walk = Walk::new(view, partition)?;
    loop {
        let _turn = node.background.turn(Work::Settlement).await?;
        let began = Instant::now();
        let (keys, more) = match walk.page(node, view) {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(partition, %error, "the digest index cannot be read: nothing settles");
                return Some(error.to_string());
            }
        };
        let took = began.elapsed();
        if !keys.is_empty() {
            if let Some(reason) = missing(node, view) {
                return Some(reason);
            }
            settle(node, view, walk.partition(), keys).await;
        }
        if !more {
            return None;
        }
        sleep((took * PAGE_PAUSE_FACTOR).max(PAGE_PAUSE_MIN)).await;
    }
}

/// Which member is out of reach, so that no round can succeed.
fn missing(node: &Shared, view: &View) -> Option<String> {
    let members = view.membership.members().map(|state| state.member.id);
    let down: Vec<NodeId> =
        members.filter(|id| *id != node.cluster.me.id && !node.peers.is_reachable(*id)).collect();
    let first = down
        .first()
        .filter(|_| !planted::is(Bug::SettleReachableOnly) && !planted::is(Bug::TombstoneByTime))?;
    Some(format!(
        "{} of the members cannot be reached, {first} for one: tombstones and old context entries stay until it is back or removed",
        down.len()
    ))
}

async fn settle(node: &Arc<Shared>, view: &Arc<View>, partition: u32, keys: Vec<SettleKey>) {
    node.metrics.settle_rounds.inc();
    let counter = node.replica.marks.promised(partition).0.saturating_add(1);
    let members = asked(node, view, partition);
    let mut attempt =
        Attempt { node, view, partition, round: Round(counter, node.env.random()), members, behind: None };
    match attempt.run(keys).await {
        Ok(()) => {
            node.metrics.settle_decided.inc();
        }
        Err(reason) => {
            node.metrics.settle_abandoned.get_or_create(&AbandonedLabel { reason }).inc();
            attempt.give_up().await;
        }
    }
}

/// Settles `key`, of which this node has a damaged record that need not be read to be dropped, if it is time for that. Nobody else may have anything of
/// it, so the first home would not begin.
pub(crate) async fn settle_damaged(
    node: &Arc<Shared>,
    view: &Arc<View>,
    key: &Key,
) -> Result<(), StorageError> {
    let Some(Entered { digest, unsettled }) = node.replica.trees.entered_now(&key.at())? else {
        return Ok(());
    };
    let is_time = unsettled.leaves_nothing && is_due(view, &key.bucket, unsettled, node.env.wall_ms());
    if is_time && node.cluster.serving(view).is_ok() && missing(node, view).is_none() {
        let asked = SettleKey { bucket: key.bucket.clone(), key: key.key.clone().into(), digest };
        settle(node, view, key.partition.0, vec![asked]).await;
    }
    Ok(())
}

/// Whom a round asks, besides this node: every member, whether it is a home or not.
fn asked(node: &Shared, view: &View, partition: u32) -> Vec<NodeId> {
    let homes = &node.chain.members(dynkv_ring::PartitionId(partition)).homes;
    let is_asked = |id: &NodeId| {
        let left_out = planted::is(Bug::SettleHomesOnly) && !homes.contains(id)
            || planted::is(Bug::SettleSomeHomes) && !homes.iter().take(2).any(|home| home == id)
            || planted::is(Bug::SettleReachableOnly) && !node.peers.is_reachable(*id);
        *id != node.cluster.me.id && !left_out
    };
    view.membership.members().map(|state| state.member.id).filter(is_asked).collect()
}

/// One round.
struct Attempt<'a> {
    node: &'a Arc<Shared>,
    view: &'a Arc<View>,
    partition: u32,
    round: Round,
    members: Vec<NodeId>,
    /// A promise of another member's that is above the round's.
    behind: Option<Round>,
}

impl Attempt<'_> {
    async fn run(&mut self, keys: Vec<SettleKey>) -> Result<(), Abandoned> {
        let (partition, round, view) = (self.partition, self.round, self.view.digest);
        if planted::is(Bug::TombstoneByTime) {
            return self.drop_everywhere(keys).await;
        }
        // First of all: an old disk, also this node's, must be found out before it agrees to anything.
        let mut decided = self.node.replica.marks.told(partition).decided;
        for answer in self.ask_all(&SettleMarks { partition }).await {
            decided = decided.max(self.taken(answer)?.marks.decided);
        }
        let prepare = SettlePrepare { partition, round, view, decided, keys: keys.clone() };
        // Nobody has to be first: until the last one has promised, those who have refuse what the others send.
        let own = answer::prepare(self.node, prepare.clone());
        let (own, others) = tokio::join!(own, self.ask_all(&prepare));
        let mut answers = vec![own.map_err(|refusal| self.refused(&refusal))?];
        for answer in others {
            answers.push(self.taken(answer)?);
        }
        let keys = agreed(keys, &answers);
        if keys.is_empty() {
            return Err(Abandoned::Differs);
        }
        if !planted::is(Bug::SettleTwoPhases) {
            let decide = SettleDecide { partition, round, view };
            let own = answer::decide(self.node, decide.clone());
            let (own, others) = tokio::join!(own, self.ask_all(&decide));
            own.map_err(|refusal| self.refused(&refusal))?;
            for answer in others {
                self.taken(answer)?;
            }
        }
        self.drop_everywhere(keys).await
    }

    /// Whoever does not get it keeps what has gone elsewhere, and gives it back to the others: that is settled once more.
    async fn drop_everywhere(&self, keys: Vec<SettleKey>) -> Result<(), Abandoned> {
        let drop = SettleDrop { partition: self.partition, round: self.round, keys };
        let own = answer::drop_settled(self.node, drop.clone());
        let (own, others) = tokio::join!(own, self.ask_all(&drop));
        if let Err(error) = own {
            tracing::debug!(%error, "what is settled was not dropped");
        }
        for error in others.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "what is settled was not dropped by another node");
        }
        Ok(())
    }

    /// Tells the others that they need not wait for more.
    async fn give_up(&self) {
        if let Some(promise) = self.behind {
            // The next round is above it.
            drop(self.node.replica.marks.submit_promise(self.partition, promise, |_| {}));
        }
        let _ = self.drop_everywhere(Vec::new()).await;
    }

    async fn ask_all<R: Request + Clone>(&self, request: &R) -> Vec<Result<R::Reply, PeerError>>
    where
        R::Reply: Message,
    {
        let asked = self.members.iter().map(|member| async move {
            let frame = Frame::new(request, Bytes::new());
            let answer =
                self.node.peers.request::<R::Reply>(*member, Class::Background, frame, CALL_TIMEOUT).await;
            answer.map(|(reply, _)| reply)
        });
        join_all(asked).await
    }

    fn taken<R>(&mut self, answer: Result<R, PeerError>) -> Result<R, Abandoned> {
        answer.map_err(|error| match error {
            PeerError::Refused(failure) => {
                if failure.code == FailureCode::Behind {
                    self.behind = self.behind.max(Some(failure.marks.promise));
                }
                tracing::debug!(%failure, "a settlement round was refused");
                Abandoned::Refused
            }
            error => {
                tracing::debug!(%error, "a settlement round had no answer");
                Abandoned::Unreachable
            }
        })
    }

    fn refused(&mut self, refusal: &Refusal) -> Abandoned {
        tracing::debug!(%refusal, "a settlement round was refused by its issuer");
        Abandoned::Refused
    }
}

/// The keys to which everybody has said yes.
fn agreed(keys: Vec<SettleKey>, answers: &[SettlePrepareReply]) -> Vec<SettleKey> {
    let no: std::collections::BTreeSet<u32> =
        answers.iter().flat_map(|answer| answer.no.iter().copied()).collect();
    let yes = |(at, key): (u32, SettleKey)| (!no.contains(&at)).then_some(key);
    (0..).zip(keys).filter_map(yes).collect()
}
