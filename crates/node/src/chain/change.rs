//! A proposer's side of the change to another configuration: single-decree Paxos among the present members, with everybody sealed who has promised.
//!
//! Any node may propose. Who does is a matter of work alone: the first member that is up, and every member that has been sealed for too long.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    Accepted, ChainAccept, ChainAcceptReply, ChainJoin, ChainPrepare, ChainPrepareReply, Configuration,
    Digest, Frame, Holder, Message, Request, Round, Vote,
};
use dynkv_ring::{NodeId, PartitionId};
use futures_util::future::join_all;

use super::{answer, book::Members, spread, target::Freshness};
use crate::{
    cluster::View,
    planted::{self, Bug},
    shared::Shared,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a member-to-be may read what it lacks, while the partition is sealed.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempted {
    /// The partition has another epoch now.
    Decided,
    /// Too few members have answered, or another proposal was in the way.
    Lost,
    /// Members-to-be could not read everything; the members stay as they are, at another epoch.
    Aborted,
}

/// Members that serve nobody any more.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) nodes: Vec<NodeId>,
    /// The disks that some of them have by now.
    pub(super) replaced: Vec<Holder>,
}

/// Who is to promise and accept.
pub(super) enum Voters {
    /// The members of the partition.
    Members,
    /// All members of the cluster, under this view: those of the partition that are left can never be enough.
    Everybody(Digest, Vec<NodeId>),
}

/// Who is to vote, and who cannot.
pub(super) struct Electorate {
    pub(super) voters: Voters,
    pub(super) gone: Gone,
}

impl Electorate {
    pub(super) fn of(view: &View, members: &Members, gone: Gone) -> Electorate {
        let left = members.holders.iter().filter(|holder| !gone.nodes.contains(&holder.node)).count();
        let voters = match Freshness::of(view, members.holders.len()).may_choose(left, gone.nodes.len()) {
            true => Voters::Members,
            // One that never had a disk has never known anything.
            false => {
                let known = view.membership.members().filter(|state| state.disk.is_some());
                Voters::Everybody(view.digest, known.map(|state| state.member.id).collect())
            }
        };
        Electorate { voters, gone }
    }
}

/// Proposes that `wanted` follow on `members` under a ballot above `highest`, which becomes the highest one heard of.
pub(super) async fn attempt(
    node: &Arc<Shared>,
    view: &View,
    partition: PartitionId,
    members: &Arc<Members>,
    wanted: Vec<Holder>,
    electorate: Electorate,
    highest: &mut Round,
) -> Attempted {
    let known = node.chain.promised(partition.0).max(*highest);
    let ballot = Round(known.0.saturating_add(1), node.env.random());
    let proposal = Proposal { node, partition: partition.0, members, ballot, electorate };
    let Some(promises) = proposal.prepare(view, highest).await else { return Attempted::Lost };
    let (chosen, aborted) = match promises.accepted {
        Some(accepted) if !planted::is(Bug::AcceptedIgnored) => (accepted.members, false),
        _ => match proposal.join(&wanted, &promises.sealed).await {
            true => (wanted, false),
            // Most of the members are lost: with them there is nothing to go back to.
            false if matches!(proposal.electorate.voters, Voters::Everybody(..)) => return Attempted::Lost,
            // The members themselves need nothing.
            false => (members.holders.clone(), true),
        },
    };
    match proposal.accept(chosen).await {
        true if aborted => Attempted::Aborted,
        true => Attempted::Decided,
        false => Attempted::Lost,
    }
}

struct Proposal<'a> {
    node: &'a Arc<Shared>,
    partition: u32,
    members: &'a Arc<Members>,
    ballot: Round,
    electorate: Electorate,
}

/// What the members have promised.
struct Promises {
    /// Those who have.
    sealed: Vec<NodeId>,
    /// What was accepted under the highest ballot.
    accepted: Option<Accepted>,
}

impl Proposal<'_> {
    async fn prepare(&self, view: &View, highest: &mut Round) -> Option<Promises> {
        let Proposal { node, partition, members, ballot, electorate: Electorate { voters, gone } } = self;
        let (partition, ballot) = (*partition, *ballot);
        if !answer::knows(node, &gone.replaced) {
            return None;
        }
        let (everybody, voters) = match voters {
            Voters::Members => (None, members.homes.len()),
            Voters::Everybody(view, nodes) => (Some(*view), nodes.len()),
        };
        let replaced = gone.replaced.clone();
        let request = ChainPrepare { partition, epoch: members.epoch, ballot, replaced, everybody };
        // This node promises, too, whether it is a member or not: if it goes on to promise more, what it decides is void.
        let own = node.chain.prepare(partition, members.epoch, ballot, true);
        let votes = self.ask(&request, own, |reply: ChainPrepareReply| reply.vote).await;
        let mut promises = Promises { sealed: Vec::new(), accepted: None };
        let me = node.cluster.me.id;
        let mut promised = Vec::new();
        for (voter, vote) in votes {
            *highest = vote.promised.max(*highest);
            if vote.configuration.epoch != members.epoch || vote.promised != ballot {
                continue;
            }
            promised.push(voter);
            // With another disk than a member's it is none.
            let is_member = match voter == me {
                true => node.chain.is_sealed(partition),
                false => members.homes.contains(&voter) && !gone.nodes.contains(&voter),
            };
            if is_member {
                promises.sealed.push(voter);
            }
            let accepted = vote.accepted.into_iter().next();
            if accepted.as_ref().map(|accepted| accepted.ballot)
                > promises.accepted.as_ref().map(|accepted| accepted.ballot)
            {
                promises.accepted = accepted;
            }
        }
        let gone = gone.nodes.iter().filter(|home| !promises.sealed.contains(home));
        let freshness = Freshness::of(view, members.holders.len());
        let enough = match promises.accepted {
            _ if !promised.contains(&me) => false,
            _ if everybody.is_some() => promised.len() == voters,
            // Its proposer had the rest.
            Some(_) => freshness.is_majority(promises.sealed.len()),
            None => freshness.may_choose(promises.sealed.len(), gone.count()),
        };
        enough.then_some(promises)
    }

    /// Has those who lack something read everything. With fewer members than before, everybody may.
    async fn join(&self, wanted: &[Holder], sealed: &[NodeId]) -> bool {
        let shrinks = wanted.len() < self.members.holders.len() && !planted::is(Bug::ShrinkWithoutSync);
        let readers: Vec<NodeId> = wanted
            .iter()
            .filter(|holder| shrinks || !self.members.holders.contains(holder))
            .map(|holder| holder.node)
            .collect();
        let asked = readers.into_iter().map(|reader| async move {
            let sources = self.sources(sealed).into_iter().filter(|source| *source != reader).collect();
            if reader == self.node.cluster.me.id {
                return super::learn::join(self.node, self.partition, self.members.epoch, sources).await.is_ok();
            }
            let request = ChainJoin { partition: self.partition, epoch: self.members.epoch, sources };
            let frame = Frame::new(&request, Bytes::new());
            let answer = self.node.peers.request::<dynkv_proto::ChainJoinReply>(reader, Class::Foreground, frame, JOIN_TIMEOUT).await;
            if let Err(error) = &answer {
                tracing::debug!(partition = self.partition, %reader, %error, "a member-to-be has not read everything");
            }
            answer.is_ok()
        });
        join_all(asked).await.into_iter().all(|joined| joined)
    }

    /// Whom to read: one of them, or several that have finished it, has whatever was acknowledged.
    fn sources(&self, sealed: &[NodeId]) -> Vec<NodeId> {
        let unsealed: Vec<NodeId> =
            self.members.homes.iter().copied().filter(|home| !sealed.contains(home)).collect();
        match planted::is(Bug::ReadFromUnsealed) && !unsealed.is_empty() {
            true => unsealed,
            false => sealed.to_vec(),
        }
    }

    async fn accept(&self, chosen: Vec<Holder>) -> bool {
        let Proposal { node, partition, members, ballot, .. } = *self;
        let decided = Configuration { partition, epoch: members.epoch + 1, members: chosen.clone() };
        if planted::is(Bug::AdoptedBeforeDecided) {
            spread::adopt(node, vec![decided.clone()]).await;
        }
        let accepted = Accepted { ballot, members: chosen.clone() };
        let (everybody, needed) = match &self.electorate.voters {
            Voters::Members if planted::is(Bug::DecidedAfterOne) => (false, 1),
            Voters::Members => (false, members.holders.len() / 2 + 1),
            Voters::Everybody(_, nodes) => (true, nodes.len()),
        };
        let request = ChainAccept { partition, epoch: members.epoch, ballot, members: chosen, everybody };
        let own = node.chain.accept(partition, members.epoch, accepted, everybody);
        let votes = self.ask(&request, own, |reply: ChainAcceptReply| reply.vote).await;
        let is_mine = |vote: &Vote| {
            vote.configuration.epoch == members.epoch
                && vote.accepted.first().is_some_and(|accepted| accepted.ballot == ballot)
        };
        let got = votes.iter().filter(|(_, vote)| is_mine(vote)).count();
        if got < needed || !spread::adopt_own(node, decided.clone(), ballot).await {
            return false;
        }
        let told: Vec<NodeId> =
            members.homes.iter().copied().chain(decided.members.iter().map(|holder| holder.node)).collect();
        spread::tell(node, told, decided).await;
        true
    }

    /// Asks all voters, and this node. Later configurations that they know are taken over.
    async fn ask<R: Request + Clone>(
        &self,
        request: &R,
        own: impl Future<Output = Result<Vote, crate::storage::StorageError>>,
        vote: impl Fn(R::Reply) -> Vote,
    ) -> Vec<(NodeId, Vote)>
    where
        R::Reply: Message,
    {
        let me = self.node.cluster.me.id;
        let voters = match &self.electorate.voters {
            Voters::Members => &*self.members.homes,
            Voters::Everybody(_, nodes) => nodes,
        };
        let others = voters.iter().filter(|voter| **voter != me);
        let asked = others.map(|voter| async {
            let frame = Frame::new(request, Bytes::new());
            let answer =
                self.node.peers.request::<R::Reply>(*voter, Class::Foreground, frame, CALL_TIMEOUT).await;
            (*voter, answer)
        });
        let (own, others) = tokio::join!(own, join_all(asked));
        let mut votes: Vec<(NodeId, Vote)> = own.ok().map(|own| (me, own)).into_iter().collect();
        for (voter, answer) in others {
            match answer {
                Ok((reply, _)) => votes.push((voter, vote(reply))),
                Err(error) => {
                    tracing::debug!(partition = self.partition, %voter, %error, "a node has not voted");
                }
            }
        }
        let later = votes
            .iter()
            .map(|(_, vote)| vote.configuration.clone())
            .filter(|other| other.epoch > self.members.epoch);
        spread::adopt(self.node, later.collect()).await;
        votes
    }
}
