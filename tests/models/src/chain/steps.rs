//! Which steps are possible in a state: only such as change it.

use super::{
    bug::Bug,
    members::{Config, Member, Members},
    state::{Proposal, State, Step},
    world::{Op, World},
};

impl World {
    pub(super) fn possible(&self, state: &State, steps: &mut Vec<Step>) {
        self.change_steps(state, steps);
        self.duty_steps(state, steps);
        if !self.calm {
            self.request_steps(state, steps);
            self.fault_steps(state, steps);
        }
    }

    /// A step whose answer arrives, and in some worlds the same with an answer that is lost.
    fn answered(&self, steps: &mut Vec<Step>, step: impl Fn(bool) -> Step) {
        steps.push(step(true));
        if self.lossy && !self.calm {
            steps.push(step(false));
        }
    }

    /// The same for what a proposer has sent. One that has forgotten its attempt hears no answer.
    fn reply(&self, attempt: &Proposal, steps: &mut Vec<Step>, step: impl Fn(bool) -> Step) {
        if !attempt.ended {
            self.answered(steps, step);
        } else if !self.calm {
            steps.push(step(false));
        }
    }

    /// Whether what a proposer sends to a member reaches it.
    fn is_reached(&self, state: &State, attempt: &Proposal, to: Member) -> bool {
        state.is_live(to) && !state.node(to.node()).barred.contains(attempt.by)
    }

    fn request_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let known = known(state);
        for (op, (kind, progress)) in (0u8..).zip(self.ops.iter().zip(&state.ops)) {
            if progress.done {
                continue;
            }
            let begun = !progress.configs.is_empty();
            // Of equal operations the first one begins first: which is which does not matter.
            let waits = (0..usize::from(op)).any(|other| {
                self.ops[other] == *kind && state.ops[other].configs.is_empty() && !state.ops[other].done
            });
            let early = known.last().is_none_or(|last| last.epoch < self.from_epoch[usize::from(op)]);
            if !begun && (waits || early) {
                continue;
            }
            let configs = if begun { &progress.configs } else { &known };
            for &config in configs {
                self.ask_steps(state, op, config, steps);
            }
            let Op::Put { strict, .. } = kind else { continue };
            if begun && !strict {
                configs.iter().for_each(|&config| self.stand_in_steps(state, op, config, steps));
            }
            if begun && self.duties {
                let current = configs[configs.len() - 1];
                for node in state.present().filter(|&node| {
                    let wanted = self.targets[usize::from(state.target)].contains(&node);
                    wanted && !current.members.contains(state.member(node)) && state.is_outside(node)
                }) {
                    if state.node(node).data >> op & 1 == 0 {
                        steps.push(Step::Teach { op, node });
                    }
                }
            }
        }
    }

    fn ask_steps(&self, state: &State, op: u8, config: Config, steps: &mut Vec<Step>) {
        let progress = &state.ops[usize::from(op)];
        let strict = !matches!(self.ops[usize::from(op)], Op::Put { strict: false, .. });
        for to in config.members.iter().filter(|&to| state.is_live(to)) {
            let node = state.node(to.node());
            let answered = progress.acks.iter().any(|ack| ack.slot == to && ack.epoch == config.epoch);
            let waiting = node.admitted.iter().any(|write| write.op == op);
            let newer = progress.configs.last().is_none_or(|last| last.epoch < node.config.epoch);
            if node.config.epoch < config.epoch && !state.can_hear(to.node(), config.epoch) {
                continue;
            }
            let changes = if node.config.epoch > config.epoch {
                newer || self.has(Bug::OldEpochAccepted) || self.has(Bug::EpochUncheckedOnReads)
            } else {
                let refused = strict && node.config.epoch == config.epoch && node.is_sealed();
                let despite = self.has(Bug::NoSealOnPuts) || self.has(Bug::NoSealOnReads);
                !refused || despite
            };
            if changes && !answered && !waiting {
                self.answered(steps, |heard| Step::Ask { op, to, epoch: config.epoch, heard });
            }
        }
    }

    fn stand_in_steps(&self, state: &State, op: u8, config: Config, steps: &mut Vec<Step>) {
        let acks = &state.ops[usize::from(op)].acks;
        for slot in config.members.iter() {
            let reached = |&node: &u8| {
                state.node(node).config.epoch >= config.epoch || state.can_hear(node, config.epoch)
            };
            for node in state.present().filter(|&node| node != slot.node()).filter(reached) {
                if !acks.iter().any(|ack| ack.slot == slot && ack.node == node) {
                    self.answered(steps, |heard| Step::StandIn {
                        op,
                        slot,
                        node,
                        epoch: config.epoch,
                        heard,
                    });
                }
            }
        }
    }

    fn change_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if !self.calm && state.proposals.len() < usize::from(self.proposals_max) {
            let wanted = self.wanted(state);
            for config in known(state) {
                let stuck = config.members.iter().any(|member| {
                    let node = state.node(member.node());
                    state.is_live(member) && node.config.epoch == config.epoch && node.is_sealed()
                });
                if stuck || (wanted != config.members && !wanted.is_empty()) {
                    let able = |&by: &u8| !state.node(by).gone && state.node(by).config == config;
                    let able = self.proposers.iter().copied().filter(able);
                    steps.extend(able.map(|by| Step::Propose { epoch: config.epoch, by }));
                }
            }
        }
        for (proposal, attempt) in (0u8..).zip(&state.proposals) {
            self.prepare_steps(state, proposal, attempt, steps);
            self.accept_steps(state, proposal, attempt, steps);
            let by = attempt.by.node();
            let knows = !attempt.ended && self.is_decided(state, attempt);
            if knows && state.node(by).config.epoch == attempt.config.epoch {
                steps.push(Step::Adopt { proposal, by });
            }
        }
        for node in state.present() {
            let later = state.node(node).config.epoch + 1..state.chosen.len() as u8;
            let heard = later.filter(|&epoch| self.can_be_told(state, node, epoch));
            steps.extend(heard.map(|epoch| Step::Tell { epoch, node }));
        }
    }

    /// Whether a node can be told the configuration of `epoch`; in the calm only by those who are there.
    fn can_be_told(&self, state: &State, node: u8, epoch: u8) -> bool {
        let knew = state.knew[usize::from(epoch)];
        let there = || knew.iter().any(|member| state.is_live(member));
        if self.calm { there() } else { state.can_hear(node, epoch) }
    }

    fn prepare_steps(&self, state: &State, proposal: u8, attempt: &Proposal, steps: &mut Vec<Step>) {
        let ballot = proposal + 1;
        let config = attempt.config;
        let asked = if self.is_too_few(state, config) { state.roster() } else { config.members };
        let own: Members = [attempt.by].into_iter().collect();
        let asked = if self.has(Bug::ProposerNotPromised) { asked } else { asked.or(own) };
        for to in asked.iter().filter(|&to| self.is_reached(state, attempt, to)) {
            let node = state.node(to.node());
            let promise = if node.config.epoch == attempt.config.epoch { node.promise } else { 0 };
            let news = promise < ballot
                || (promise == ballot
                    && attempt.choice.is_none()
                    && !attempt.ended
                    && !attempt.promised.contains(to));
            let finished = node.admitted.is_empty() || self.has(Bug::SealBeforeAdmitted);
            if node.config.epoch <= attempt.config.epoch && news && finished {
                self.reply(attempt, steps, |heard| Step::Prepare { proposal, to, heard });
            }
        }
        if attempt.choice.is_none() && !attempt.ended && self.may_choose(state, attempt).is_some() {
            let taken_over = attempt.best.is_some() && !self.has(Bug::AcceptedValueIgnored);
            let wanted = self.wanted(state);
            if taken_over || (wanted != attempt.config.members && !wanted.is_empty()) {
                steps.push(Step::Choose { proposal, abort: false });
            }
            if !taken_over && (!self.calm || wanted == attempt.config.members) {
                steps.push(Step::Choose { proposal, abort: true });
            }
        }
    }

    fn accept_steps(&self, state: &State, proposal: u8, attempt: &Proposal, steps: &mut Vec<Step>) {
        let Some(choice) = attempt.choice else { return };
        let missing = attempt.need.without(attempt.synced);
        for by in missing.iter().filter(|&by| state.is_live(by)) {
            if state.node(by.node()).config.epoch > attempt.config.epoch {
                continue;
            }
            for (at, from) in attempt.sources.iter().enumerate() {
                let source = state.node(from.node());
                let still = state.is_live(from) && source.config.epoch == attempt.config.epoch;
                if !still || !(source.is_sealed() || self.has(Bug::SyncFromUnsealed)) {
                    continue;
                }
                let done = attempt.reading.iter().find(|reading| reading.by == by);
                let done = done.map_or(0, |reading| reading.chunks);
                for chunk in 0..self.chunks {
                    if done & self.chunk_bit(at, chunk) == 0 {
                        steps.push(Step::Sync { proposal, by, from, chunk });
                    }
                }
            }
        }
        if !missing.is_empty() {
            return;
        }
        let ballot = proposal + 1;
        let asked = if attempt.roster.is_empty() { attempt.config.members } else { attempt.roster };
        for to in asked.iter().filter(|&to| self.is_reached(state, attempt, to)) {
            let node = state.node(to.node());
            let same = node.config.epoch == attempt.config.epoch;
            let promised = if same { node.promise } else { 0 };
            let unheard = !attempt.accepted.contains(to) && !attempt.ended;
            let news = unheard || (same && node.accepted != Some((ballot, choice)));
            let allowed = promised <= ballot || (self.has(Bug::PromiseIgnored) && !attempt.took.contains(to));
            let finished = node.admitted.is_empty() || self.has(Bug::SealBeforeAdmitted);
            if node.config.epoch <= attempt.config.epoch && news && allowed && finished {
                self.reply(attempt, steps, |heard| Step::Accept { proposal, to, heard });
            }
        }
    }

    fn duty_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for id in state.present() {
            let node = state.node(id);
            for write in &node.admitted {
                let (op, epoch) = (write.op, write.epoch);
                self.answered(steps, |heard| Step::Finish { node: id, op, epoch, heard });
            }
            for hint in &node.hints {
                let target = hint.target;
                if node.config.members.contains(target) {
                    if self.can_deliver(state, id, target) {
                        self.answered(steps, |heard| Step::Deliver { node: id, target, heard });
                    }
                } else {
                    self.push_steps(state, id, Some(target), steps);
                    if self.may_drop_hint(state, id, target) {
                        steps.push(Step::DropHint { node: id, target });
                    }
                }
            }
            if self.duties && node.data != 0 && self.goal(state, id).is_some() {
                self.push_steps(state, id, None, steps);
                if self.may_drop(state, id) {
                    steps.push(Step::Drop { node: id });
                }
            }
        }
        self.copy_steps(state, steps);
    }

    fn push_steps(&self, state: &State, id: u8, hint: Option<Member>, steps: &mut Vec<Step>) {
        let node = state.node(id);
        let Some(goal) = self.push_goal(state, id, hint) else { return };
        let writes = hint.map_or(node.data, |target| node.hint(target));
        let done = node.push(hint).filter(|push| self.still(push.writes, writes));
        for to in goal.iter().filter(|&to| state.is_live(to)) {
            if done.is_none_or(|push| !push.done.contains(to)) {
                self.answered(steps, |heard| Step::Push { node: id, hint, to, heard });
            }
        }
    }

    fn copy_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if !self.calm && state.faults.copies >= self.faults_max.copies {
            return;
        }
        for node in state.present() {
            for from in state.present().filter(|&from| from != node) {
                if state.node(from).data & !state.node(node).data == 0 || state.is_outside(from) {
                    continue;
                }
                let same = state.node(from).config == state.node(node).config;
                if same && !state.is_outside(node) {
                    steps.push(Step::Repair { node, from });
                } else if !self.calm
                    && state.is_outside(node)
                    && self.targets[usize::from(state.target)].contains(&node)
                {
                    steps.push(Step::Learn { node, from });
                }
            }
        }
    }

    fn fault_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let (faults, most) = (state.faults, self.faults_max);
        if usize::from(state.target) + 1 < self.targets.len() {
            steps.push(Step::Retarget);
        }
        for id in state.present() {
            let node = state.node(id);
            if faults.restarts < most.restarts {
                steps.push(Step::Restart { node: id });
            }
            if faults.disks < most.disks && node.disk < 3 {
                steps.push(Step::LoseDisk { node: id });
            }
            if faults.removals < most.removals {
                steps.push(Step::Remove { node: id });
            }
            if self.duties && self.may_leave(state, id) {
                steps.push(Step::Leave { node: id });
            }
            if self.has(Bug::SealTimesOut) && node.is_sealed() {
                steps.push(Step::Unseal { node: id });
            }
        }
    }
}

/// The configurations that somebody knows.
pub(super) fn known(state: &State) -> Vec<Config> {
    let mut known: Vec<Config> = state.present().map(|node| state.node(node).config).collect();
    known.sort_unstable();
    known.dedup();
    known
}
