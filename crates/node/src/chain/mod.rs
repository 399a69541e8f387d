//! Who serves a partition: a chain of configurations, of which the members of each agree on the next one. The ring says where data should be
//! ([`target`]), the chain where it is. The argument, and the interleavings that break simpler forms, are in docs/architecture.md, "Moving data".
//!
//! `book` is what this node knows and has promised; `answer` a member's side of a change, `change` a proposer's; `learn` how a node gets ready to be
//! a member, `hand_over` how it gives up what it need not hold, `leave` how it goes; `spread` makes configurations known, `progress` tells operators.
//!
//! # Invariants
//!
//! *An epoch has one configuration.* Promises and accepted values are on disk before they are told, and a disk that is lost or replaced is another holder.
//!
//! *Whoever has promised at an epoch serves nobody at it any more.* An answer counts as a home's only if it was given, or written, by a member that had not. For writes that is seen in the
//! transaction that makes them.
//!
//! *Nothing is dropped that a member lacks.* See `hand_over`.

pub(crate) mod answer;
mod book;
mod change;
pub(crate) mod hand_over;
pub(crate) mod learn;
pub(crate) mod leave;
pub(crate) mod progress;
pub(crate) mod spread;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{ChainReady, ChainReadyReply, Feature, Frame, Holder, Round};
use dynkv_ring::{NodeId, PartitionId};
use futures_util::{StreamExt, future::join_all, stream};
use tokio::time::{Instant, timeout};

pub(crate) use self::{
    book::{Chain, Members},
    learn::Learned,
    progress::Transfers,
    target::target,
};
use self::{
    change::{Attempted, Electorate, Gone, Voters, attempt},
    target::{Freshness, next},
};
use crate::{
    cluster::View,
    planted::{self, Bug},
    shared::Shared,
};

/// How often to look whether partitions are where they should be, when nothing happens.
const PERIOD: Duration = Duration::from_millis(500);

/// Partitions that are changed at once: strict requests wait on those that are.
const CHANGES_MAX: usize = 4;

/// A member that has been sealed for so long, and up to twice as long, proposes by itself.
const SEALED_MAX: Duration = Duration::from_secs(1);

/// After an attempt that was lost or aborted, at least, and up to twice as long.
const BACKOFF: Duration = Duration::from_millis(250);

const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// When to try again, and since when partitions have been sealed.
#[derive(Default)]
struct Pace {
    not_before: BTreeMap<u32, Instant>,
    /// The highest ballots that others have promised.
    highest: BTreeMap<u32, Round>,
    impatient_at: BTreeMap<u32, Instant>,
}

/// Sees to it that partitions get to where they should be, until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let mut cluster = node.cluster.subscribe();
    let mut chain = node.chain.subscribe();
    let mut pace = Pace::default();
    loop {
        learn::review(&node);
        if rests(&node) {
            pace = Pace::default();
        } else {
            learn::begin(&node).await;
            drive(&node, &mut pace).await;
        }
        let news = async {
            tokio::select! {
                biased;
                () = cluster.changed() => {}
                () = chain.changed() => {}
            }
        };
        drop(timeout(PERIOD, news).await);
    }
}

/// A change that this node proposes.
struct Proposal {
    partition: PartitionId,
    members: Arc<Members>,
    target: Vec<Holder>,
}

async fn drive(node: &Arc<Shared>, pace: &mut Pace) {
    let view = node.cluster.view();
    if node.cluster.serving(&view).is_err() || !view.features.is_on(Feature::Moving) {
        return;
    }
    let proposals = proposals(node, &view, pace);
    if proposals.is_empty() {
        return;
    }
    let said = ask(node, &view, &proposals).await;
    let attempts = proposals.into_iter().filter_map(|proposal| {
        let Proposal { partition, members, target } = proposal;
        let wanted =
            next(&members.holders, &target, |holder| said.ready.contains(&(holder.node, partition.0)));
        let is_moved = wanted.len() != members.holders.len()
            || wanted.iter().any(|holder| !members.holders.contains(holder));
        let electorate = Electorate::of(&view, &members, said.gone(&view, &members));
        let up = members
            .holders
            .iter()
            .filter(|holder| is_up(node, &holder.node) && has_its_disk(&view, holder))
            .count();
        // A seal that cannot be followed by a decision only stops requests.
        let may_decide = match &electorate.voters {
            Voters::Members => {
                Freshness::of(&view, members.holders.len()).may_choose(up, electorate.gone.nodes.len())
            }
            Voters::Everybody(_, nodes) => nodes.iter().all(|other| is_up(node, other)),
        };
        if !may_decide {
            return None;
        }
        let view = &view;
        let mut highest = pace.highest.get(&partition.0).copied().unwrap_or_default();
        (is_moved || node.chain.is_sealed(partition.0)).then_some(async move {
            let attempted = attempt(node, view, partition, &members, wanted, electorate, &mut highest).await;
            (partition, attempted, highest)
        })
    });
    let mut attempts = stream::iter(attempts.collect::<Vec<_>>()).buffer_unordered(CHANGES_MAX);
    while let Some((partition, attempted, highest)) = attempts.next().await {
        pace.highest.insert(partition.0, highest);
        node.metrics.configuration_attempts.inc();
        if attempted != Attempted::Decided {
            let jitter = Duration::from_millis(node.env.random() % BACKOFF.as_millis() as u64);
            pace.not_before.insert(partition.0, Instant::now() + BACKOFF + jitter);
        }
    }
}

/// Whether every partition is where it should be, as far as this node can do anything for it.
pub(crate) fn rests(node: &Shared) -> bool {
    node.chain.rests(node.cluster.view().digest, || misplaced(node).is_none())
}

/// A partition that is not where it should be.
pub(crate) fn misplaced(node: &Shared) -> Option<PartitionId> {
    let view = node.cluster.view();
    let me = node.cluster.me.id;
    view.membership.member(&me)?;
    view.membership.partitions().ids().find(|partition| {
        let (members, target) = (node.chain.members(*partition), target(&view, *partition));
        let is_there = members.holders.len() == target.len()
            && target.iter().all(|holder| members.holders.contains(holder));
        !is_there
            || node.chain.holds(partition.0) != members.homes.contains(&me)
            || node.chain.is_sealed(partition.0)
    })
}

/// One that is gone is not, though nobody may have tried to reach it.
fn is_up(node: &Shared, other: &NodeId) -> bool {
    let is_member = || node.cluster.view().membership.member(other).is_some();
    *other == node.cluster.me.id || node.peers.is_reachable(*other) && is_member()
}

/// The changes that this node should propose now.
fn proposals(node: &Shared, view: &View, pace: &mut Pace) -> Vec<Proposal> {
    let now = Instant::now();
    let me = node.cluster.me.id;
    let mut proposals = Vec::new();
    for partition in view.membership.partitions().ids() {
        let members = node.chain.members(partition);
        let target = target(view, partition);
        let there = members.holders.len() == target.len()
            && target.iter().all(|holder| members.holders.contains(holder));
        let sealed = node.chain.is_sealed(partition.0);
        if !sealed {
            pace.impatient_at.remove(&partition.0);
        }
        if there && !sealed {
            continue;
        }
        let impatient_at = *pace.impatient_at.entry(partition.0).or_insert_with(|| {
            now + SEALED_MAX + Duration::from_millis(node.env.random() % SEALED_MAX.as_millis() as u64)
        });
        // Where all members are gone, those who are to follow them.
        let next = target.iter().map(|holder| &holder.node);
        if planted::is(Bug::SealTimesOut) && sealed && impatient_at <= now {
            node.chain.unseal(partition.0);
        }
        let is_first = members.homes.iter().chain(next).find(|home| is_up(node, home)) == Some(&me);
        let mine = is_first && !there || sealed && impatient_at <= now;
        let waits = pace.not_before.get(&partition.0).is_some_and(|at| *at > now);
        if !mine || waits || target.is_empty() {
            continue;
        }
        proposals.push(Proposal { partition, members, target });
    }
    proposals
}

/// What nodes say of themselves.
#[derive(Default)]
struct Said {
    /// Who holds about everything of which partition.
    ready: BTreeSet<(NodeId, u32)>,
    /// Disks that are admitted.
    disks: BTreeMap<NodeId, u64>,
}

impl Said {
    /// Members that serve nobody any more, for certain: those that are gone from the cluster, and those whose node has another disk.
    fn gone(&self, view: &View, members: &Members) -> Gone {
        let mut gone = Gone::default();
        for member in &members.holders {
            let first_disk = view.membership.member(&member.node).and_then(|state| state.first_disk);
            let disk = if member.disk == Holder::FIRST_DISK { first_disk } else { Some(member.disk) };
            let now = self.disks.get(&member.node).filter(|now| Some(**now) != disk);
            gone.replaced.extend(now.map(|now| Holder { node: member.node, disk: *now }));
            if now.is_some() || view.membership.departure(&member.node).is_some() {
                gone.nodes.push(member.node);
            }
        }
        gone
    }
}

/// Asks those who are to become members, and those whose disk is another one by now.
async fn ask(node: &Arc<Shared>, view: &View, proposals: &[Proposal]) -> Said {
    let mut asked: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    for Proposal { partition, members, target } in proposals {
        for holder in target.iter().filter(|holder| !members.holders.contains(holder)) {
            asked.entry(holder.node).or_default().push(partition.0);
        }
        for holder in members.holders.iter().filter(|holder| !has_its_disk(view, holder)) {
            asked.entry(holder.node).or_default();
        }
    }
    let asked = asked.into_iter().map(|(other, partitions)| async move {
        if other == node.cluster.me.id {
            return Some((other, answer::ready(node, &ChainReady { partitions })));
        }
        let frame = Frame::new(&ChainReady { partitions }, Bytes::new());
        let answer =
            node.peers.request::<ChainReadyReply>(other, Class::Background, frame, CALL_TIMEOUT).await;
        Some((other, answer.ok()?.0))
    });
    let mut said = Said::default();
    for (other, ChainReadyReply { partitions, disk }) in join_all(asked).await.into_iter().flatten() {
        said.ready.extend(partitions.into_iter().map(|partition| (other, partition)));
        said.disks.extend(disk.map(|disk| (other, disk)));
    }
    said
}

/// Whether a member's node still has the disk with which it is one, as far as the history says.
fn has_its_disk(view: &View, member: &Holder) -> bool {
    target::holder(view, &member.node).as_ref() == Some(member)
}
