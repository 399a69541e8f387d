//! The next configuration: seals, what members-to-be read, the vote, the decision.

use super::{
    bug::Bug,
    check,
    members::{Config, Member, Members},
    state::{Proposal, Reading, State, Step, Writes},
    world::World,
};
use crate::engine::{Seen, Violation};

impl World {
    pub(super) fn change(&self, state: &mut State, step: &Step, seen: &mut Seen) -> Result<(), Violation> {
        match *step {
            Step::Propose { epoch } => {
                let config = Config { epoch, members: state.chosen[usize::from(epoch)] };
                state.proposals.push(Proposal::new(config));
                seen.note("changes proposed");
                Ok(())
            }
            Step::Prepare { proposal, to, heard } => self.prepare(state, proposal, to, heard, seen),
            Step::Choose { proposal, abort } => {
                self.choose(state, proposal, abort, seen);
                Ok(())
            }
            Step::Sync { proposal, by, from, chunk } => self.sync(state, proposal, by, from, chunk, seen),
            Step::Accept { proposal, to, heard } => self.accept(state, proposal, to, heard, seen),
            Step::Tell { proposal, node } => {
                let attempt = &state.proposals[usize::from(proposal)];
                let members = attempt.choice.expect("what is decided was chosen");
                let next = Config { epoch: attempt.config.epoch + 1, members };
                check::adopt(state, node, next)
            }
            _ => Ok(()),
        }
    }

    fn prepare(
        &self,
        state: &mut State,
        proposal: u8,
        to: Member,
        heard: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let config = state.proposals[usize::from(proposal)].config;
        check::adopt(state, to.node(), config)?;
        let node = state.node_mut(to.node());
        if node.is_sealed() {
            seen.note("a sealed member promises again, higher");
        }
        node.promise = proposal + 1;
        node.unsealed = false;
        seen.note("seals");
        let accepted = node.accepted;
        let attempt = &mut state.proposals[usize::from(proposal)];
        if heard && attempt.choice.is_none() {
            attempt.promised.insert(to);
            attempt.best = attempt.best.max(accepted);
        }
        Ok(())
    }

    /// Whether those who have promised are enough, with those who are gone in their place where that is allowed:
    ///
    /// - a majority has promised, so that a value that may have been decided is among what they accepted;
    /// - they are one of every `w` members that may have acknowledged a put, so that new members can read it from them;
    /// - with those who are gone, who serve nobody either, they leave no `r` or `w` members that could still serve.
    ///
    /// Where somebody has accepted a value, the majority is enough: its proposer had the other two, and no seal has been broken since.
    pub(super) fn is_enough(&self, state: &State, attempt: &Proposal) -> bool {
        let config = attempt.config;
        let m = config.members.len();
        let sealed = attempt.promised.len();
        let gone = config.members.iter().filter(|member| state.node(member.node()).gone);
        let dead = gone.filter(|&member| !attempt.promised.contains(member)).count() as u8;
        let (mut w, mut r) = (self.least_w(config), self.least_r(config));
        if self.has(Bug::QFromW) {
            r = m;
        }
        if self.has(Bug::QFromR) {
            w = m;
        }
        let votes = sealed + if self.has(Bug::DeadVote) { dead } else { 0 };
        let read = sealed + if self.has(Bug::DeadStandInForData) { dead } else { 0 };
        let less = u8::from(self.has(Bug::QMinusOne));
        let (majority, every_put, no_quorum) =
            (config.majority() - less, m - w + 1 - less, m - r.min(w) + 1 - less);
        let taken_over = attempt.best.is_some() && !self.has(Bug::AcceptedValueIgnored);
        votes >= majority && (taken_over || read >= every_put && sealed + dead >= no_quorum) && sealed > 0
    }

    fn choose(&self, state: &mut State, proposal: u8, abort: bool, seen: &mut Seen) {
        let wanted = self.wanted(state);
        let attempt = &mut state.proposals[usize::from(proposal)];
        let current = attempt.config.members;
        attempt.sources = attempt.promised;
        if let (Some((_, members)), false) = (attempt.best, self.has(Bug::AcceptedValueIgnored)) {
            attempt.choice = Some(members);
            seen.note("an accepted value is taken over");
            return;
        }
        let next = if abort { current } else { wanted };
        seen.note(if abort { "a change is given up" } else { "a target is chosen" });
        attempt.choice = Some(next);
        attempt.need = if next.len() < current.len() {
            seen.note("a smaller set of members is chosen");
            if self.has(Bug::ShrinkWithoutSync) { next.without(current) } else { next }
        } else {
            next.without(current)
        };
        if self.has(Bug::JoinWithoutSync) {
            attempt.need = Members::default();
        }
        if self.has(Bug::SyncFromUnsealed) {
            attempt.sources = current;
        }
    }

    /// The bit of a chunk of the source with this number.
    pub(super) fn chunk_bit(&self, source: usize, chunk: u8) -> u32 {
        1 << (source * usize::from(self.chunks) + usize::from(chunk))
    }

    fn sync(
        &self,
        state: &mut State,
        proposal: u8,
        by: Member,
        from: Member,
        chunk: u8,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let attempt = &state.proposals[usize::from(proposal)];
        let config = attempt.config;
        let sources = attempt.sources;
        let at = sources.iter().position(|source| source == from).expect("the step names a source");
        check::adopt(state, by.node(), config)?;
        let read = state.node(from.node()).data & self.chunk_of(chunk);
        state.node_mut(by.node()).data |= read;
        let bit = self.chunk_bit(at, chunk);
        let attempt = &mut state.proposals[usize::from(proposal)];
        let promised = usize::from(attempt.promised.len());
        let chunks = match attempt.reading.iter_mut().find(|reading| reading.by == by) {
            Some(reading) => {
                reading.chunks |= bit;
                reading.chunks
            }
            None => {
                attempt.reading.push(Reading { by, chunks: bit });
                attempt.reading.sort_unstable_by_key(|reading| reading.by);
                bit
            }
        };
        let whole = |source: usize| {
            let first = if self.has(Bug::LostChunk) { self.chunks - 1 } else { 0 };
            (first..self.chunks).all(|chunk| chunks & self.chunk_bit(source, chunk) != 0)
        };
        let read = (0..usize::from(sources.len())).filter(|&source| whole(source)).count();
        let enough = if self.has(Bug::SyncFromUnsealed) { promised } else { usize::from(sources.len()) };
        if read >= enough {
            attempt.synced.insert(by);
            attempt.reading.retain(|reading| reading.by != by);
            let node = state.node_mut(by.node());
            node.joining = node.joining.max(config.epoch + 1);
            seen.note("a member-to-be has read everything");
        }
        Ok(())
    }

    /// The writes of a chunk.
    fn chunk_of(&self, chunk: u8) -> Writes {
        let chunks = usize::from(self.chunks);
        (0..16).filter(|bit| bit % chunks == usize::from(chunk)).map(|bit| 1 << bit).sum()
    }

    fn accept(
        &self,
        state: &mut State,
        proposal: u8,
        to: Member,
        heard: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let attempt = &state.proposals[usize::from(proposal)];
        let config = attempt.config;
        let members = attempt.choice.expect("the step comes after the choice");
        check::adopt(state, to.node(), config)?;
        let node = state.node_mut(to.node());
        node.promise = node.promise.max(proposal + 1);
        node.unsealed = false;
        node.accepted = Some((proposal + 1, members));
        let attempt = &mut state.proposals[usize::from(proposal)];
        attempt.took.insert(to);
        if heard {
            attempt.accepted.insert(to);
        }
        if attempt.took.len() >= config.majority() {
            if usize::from(config.epoch) + 1 == state.chosen.len() {
                seen.note(if members == config.members { "changes aborted" } else { "changes decided" });
            }
            check::choose(state, Config { epoch: config.epoch + 1, members })?;
        }
        Ok(())
    }

    /// Whether the proposer knows that the next configuration is decided.
    pub(super) fn is_decided(&self, state: &State, attempt: &Proposal) -> bool {
        let gone = attempt.config.members.iter().filter(|member| state.node(member.node()).gone);
        let dead = gone.filter(|&member| !attempt.accepted.contains(member)).count() as u8;
        let votes = attempt.accepted.len() + if self.has(Bug::DeadVote) { dead } else { 0 };
        let needed = if self.has(Bug::DecidedAfterOneAccept) { 1 } else { attempt.config.majority() };
        !attempt.accepted.is_empty() && votes >= needed
    }
}

impl Proposal {
    fn new(config: Config) -> Self {
        Self {
            config,
            promised: Members::default(),
            best: None,
            choice: None,
            need: Members::default(),
            sources: Members::default(),
            reading: Vec::new(),
            synced: Members::default(),
            accepted: Members::default(),
            took: Members::default(),
        }
    }
}
