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
            Step::Propose { epoch, by } => {
                let config = Config { epoch, members: state.chosen[usize::from(epoch)] };
                state.proposals.push(Proposal::new(config, state.member(by)));
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
            Step::Adopt { proposal, by } => self.take_effect(state, proposal, by, seen),
            Step::Tell { epoch, node } => {
                check::adopt(state, node, Config { epoch, members: state.chosen[usize::from(epoch)] })
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
        if heard && !attempt.ended && attempt.choice.is_none() {
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
        let sealed = attempt.promised.and(config.members).len();
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

    /// Whether the members whose disks are left can never be enough, whoever of them promises.
    pub(super) fn is_too_few(&self, state: &State, config: Config) -> bool {
        let m = config.members.len();
        let live = config.members.iter().filter(|&member| state.is_live(member)).count() as u8;
        let gone = config.members.iter().filter(|member| state.node(member.node()).gone).count() as u8;
        let (w, r) = (self.least_w(config), self.least_r(config));
        live < config.majority() || live < m - w + 1 || live + gone < m - r.min(w) + 1
    }

    /// How a proposer may go on: `None`, not yet; nobody, as usual; or everybody, where the members alone are too few:
    ///
    /// - every node that is not gone has promised, with the disk it has. So every member has promised, or its disk is lost or it is
    ///   gone: a put that no promise shows was on lost disks alone;
    /// - so has the node of every other proposer, whose decision is void with that or known by now.
    pub(super) fn may_choose(&self, state: &State, attempt: &Proposal) -> Option<Members> {
        if !attempt.promised.contains(attempt.by) && !self.has(Bug::ProposerNotPromised) {
            return None;
        }
        let members = attempt.config.members;
        let everybody = if self.has(Bug::EverybodyButOthers) {
            state.roster().and(members.or(self.wanted(state)))
        } else {
            state.roster()
        };
        let all = everybody.without(attempt.promised).is_empty() && !everybody.is_empty();
        if all && self.is_too_few(state, attempt.config) {
            return Some(everybody);
        }
        self.is_enough(state, attempt).then_some(Members::default())
    }

    fn choose(&self, state: &mut State, proposal: u8, abort: bool, seen: &mut Seen) {
        let wanted = self.wanted(state);
        let attempt = &state.proposals[usize::from(proposal)];
        let roster = self.may_choose(state, attempt).expect("the step is possible");
        let live: Members = attempt.promised.iter().filter(|&member| state.is_live(member)).collect();
        let attempt = &mut state.proposals[usize::from(proposal)];
        let current = attempt.config.members;
        attempt.roster = roster;
        attempt.sources = attempt.promised.and(current);
        if !roster.is_empty() {
            attempt.sources = attempt.sources.and(live);
        }
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
        if attempt.sources.is_empty() {
            // There is nobody left to read.
            attempt.need = Members::default();
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
        let promised = usize::from(attempt.promised.and(config.members).len());
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
        let (config, roster) = (attempt.config, attempt.roster);
        let members = attempt.choice.expect("the step comes after the choice");
        check::adopt(state, to.node(), config)?;
        let without = state.disks_without(roster);
        let node = state.node_mut(to.node());
        node.promise = node.promise.max(proposal + 1);
        node.unsealed = false;
        node.accepted = Some((proposal + 1, members));
        if !roster.is_empty() && !self.has(Bug::LostDiskTells) {
            node.barred = node.barred.or(without);
        }
        let attempt = &mut state.proposals[usize::from(proposal)];
        attempt.took.insert(to);
        if heard && !attempt.ended {
            attempt.accepted.insert(to);
        }
        let attempt = &state.proposals[usize::from(proposal)];
        if attempt.is_taken() && (roster.is_empty() || state.may_adopt(attempt, proposal + 1)) {
            if usize::from(config.epoch) + 1 == state.chosen.len() {
                seen.note(if members == config.members { "changes aborted" } else { "changes decided" });
            }
            check::choose(state, Config { epoch: config.epoch + 1, members }, seen)?;
        }
        let attempt = &state.proposals[usize::from(proposal)];
        if self.has(Bug::ToldBeforeAdopted) && !attempt.ended && self.is_decided(state, attempt) {
            let by = attempt.by;
            check::choose(state, Config { epoch: config.epoch + 1, members }, seen)?;
            state.knew[usize::from(config.epoch) + 1].insert(by);
        }
        Ok(())
    }

    /// The proposer knows that its choice is decided. It adopts it before it tells anybody: if its node has promised more
    /// meanwhile, another proposer may have gone on without those who accepted.
    fn take_effect(&self, state: &mut State, proposal: u8, by: u8, seen: &mut Seen) -> Result<(), Violation> {
        let attempt = &mut state.proposals[usize::from(proposal)];
        let members = attempt.choice.expect("what is decided was chosen");
        let next = Config { epoch: attempt.config.epoch + 1, members };
        let everybody = !attempt.roster.is_empty();
        let nobody_left = attempt.sources.is_empty();
        attempt.end();
        if state.node(by).promise > proposal + 1 && !self.has(Bug::DecisionDespitePromise) {
            seen.note("a paused proposer finds its decision void");
            return Ok(());
        }
        if everybody {
            seen.note("everybody decides");
            if nobody_left {
                seen.note("everybody decides, and no disk of a member is left");
            }
        }
        check::adopt(state, by, next)
    }

    /// Whether the proposer knows that the next configuration is decided.
    pub(super) fn is_decided(&self, state: &State, attempt: &Proposal) -> bool {
        if !attempt.roster.is_empty() {
            let missing = attempt.roster.without(attempt.accepted).len();
            let most = missing < attempt.roster.len().div_ceil(2);
            return missing == 0 || (most && self.has(Bug::EverybodyMajority));
        }
        let gone = attempt.config.members.iter().filter(|member| state.node(member.node()).gone);
        let dead = gone.filter(|&member| !attempt.accepted.contains(member)).count() as u8;
        let votes = attempt.accepted.len() + if self.has(Bug::DeadVote) { dead } else { 0 };
        let needed = if self.has(Bug::DecidedAfterOneAccept) { 1 } else { attempt.config.majority() };
        !attempt.accepted.is_empty() && votes >= needed
    }
}

impl Proposal {
    fn new(config: Config, by: Member) -> Self {
        Self {
            by,
            ended: false,
            config,
            promised: Members::default(),
            best: None,
            choice: None,
            roster: Members::default(),
            need: Members::default(),
            sources: Members::default(),
            reading: Vec::new(),
            synced: Members::default(),
            accepted: Members::default(),
            took: Members::default(),
        }
    }

    /// Whether those have accepted who decide, whoever knows it.
    pub(super) fn is_taken(&self) -> bool {
        if self.roster.is_empty() {
            self.took.len() >= self.config.majority()
        } else {
            self.roster.without(self.took).is_empty()
        }
    }

    /// Its proposer has forgotten it, or it is over: only what it has sent may still arrive.
    pub(super) fn end(&mut self) {
        if !self.need.without(self.synced).is_empty() {
            self.choice = None;
        }
        let nobody = Members::default();
        (self.promised, self.need, self.sources, self.synced, self.accepted) =
            (nobody, nobody, nobody, nobody, nobody);
        self.best = None;
        self.reading.clear();
        self.ended = true;
    }
}
