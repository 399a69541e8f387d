//! What a node owes for what it holds: hints, handing over, dropping, leaving; and copies that help but that nothing rests on.

use super::{
    bug::Bug,
    check,
    members::{Member, Members},
    state::{Proposal, Push, State, Step, Writes},
    world::World,
};
use crate::engine::{Seen, Violation};

impl World {
    pub(super) fn duty(&self, state: &mut State, step: &Step, seen: &mut Seen) -> Result<(), Violation> {
        match *step {
            Step::Learn { node, from } | Step::Repair { node, from } => {
                state.node_mut(node).data |= state.node(from).data;
                state.faults.copies += u8::from(!self.calm);
                Ok(())
            }
            Step::Deliver { node, target, heard } => self.deliver(state, node, target, heard, seen),
            Step::Push { node, hint, to, heard } => self.push(state, node, hint, to, heard, seen),
            Step::DropHint { node, target } => {
                let holder = state.node_mut(node);
                holder.drop_hint(target);
                holder.pushes.retain(|push| push.hint != Some(target));
                seen.note("a departed target's hint goes after its push");
                Ok(())
            }
            Step::Drop { node } => {
                let me = state.member(node);
                let dropping = state.node_mut(node);
                dropping.data = 0;
                dropping.pushes.retain(|push| push.hint.is_some());
                if !self.has(Bug::ReadingOutlivesDrop) {
                    let reading = state.proposals.iter_mut().map(|attempt| &mut attempt.reading);
                    reading.for_each(|reading| reading.retain(|reading| reading.by != me));
                }
                seen.note("a node that is no member drops the partition");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a delivery changes something: the target is a member and takes it, or knows better than the holder.
    pub(super) fn can_deliver(&self, state: &State, holder: u8, target: Member) -> bool {
        let newer = state.node(target.node()).config.epoch > state.node(holder).config.epoch;
        state.is_live(target) && (!state.is_outside(target.node()) || newer)
    }

    fn deliver(
        &self,
        state: &mut State,
        holder: u8,
        target: Member,
        heard: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        if state.is_outside(target.node()) {
            seen.note("a hint is refused by a target that is no member");
            let config = state.node(target.node()).config;
            return if heard { check::adopt(state, holder, config) } else { Ok(()) };
        }
        let writes = state.node(holder).hint(target);
        state.node_mut(target.node()).data |= writes;
        if heard {
            state.node_mut(holder).drop_hint(target);
            seen.note("a hint is delivered");
        }
        Ok(())
    }

    /// To whom a node that is no member hands its data; none, while it is a member as far as it knows.
    pub(super) fn goal(&self, state: &State, id: u8) -> Option<Members> {
        let node = state.node(id);
        if state.is_outside(id) {
            return Some(node.config.members);
        }
        let (_, next) = node.accepted.filter(|_| self.has(Bug::DropBeforeDecision))?;
        (!next.contains(state.member(id))).then_some(next)
    }

    pub(super) fn push_goal(&self, state: &State, id: u8, hint: Option<Member>) -> Option<Members> {
        match hint {
            Some(target) => Some(state.node(id).config.members).filter(|members| !members.contains(target)),
            None => self.goal(state, id),
        }
    }

    /// Whether what is handed over is still what there is.
    pub(super) fn still(&self, pushed: Writes, held: Writes) -> bool {
        pushed == held || (self.has(Bug::DropWhatCameLater) && pushed & held != 0)
    }

    fn push(
        &self,
        state: &mut State,
        id: u8,
        hint: Option<Member>,
        to: Member,
        heard: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let (mine, theirs) = (state.node(id).config, state.node(to.node()).config);
        if theirs.epoch > mine.epoch {
            seen.note("a push starts over because the epoch has moved");
            return if heard { check::adopt(state, id, theirs) } else { Ok(()) };
        }
        if theirs.epoch < mine.epoch {
            check::adopt(state, to.node(), mine)?;
        }
        let node = state.node(id);
        let held = hint.map_or(node.data, |target| node.hint(target));
        let mut push = match node.push(hint) {
            Some(push) if self.still(push.writes, held) => push.clone(),
            _ => Push { hint, writes: held, done: Members::default() },
        };
        state.node_mut(to.node()).data |= push.writes;
        if heard {
            push.done.insert(to);
            let pushes = &mut state.node_mut(id).pushes;
            pushes.retain(|push| push.hint != hint);
            pushes.push(push);
            pushes.sort_unstable_by_key(|push| push.hint);
            seen.note(if hint.is_some() { "pushes of a departed target's hint" } else { "pushes" });
        }
        Ok(())
    }

    /// Whether every member has on disk what the node would drop.
    fn is_pushed(&self, state: &State, id: u8, hint: Option<Member>) -> bool {
        let node = state.node(id);
        let held = hint.map_or(node.data, |target| node.hint(target));
        let goal = self.push_goal(state, id, hint);
        let push = node.push(hint).filter(|push| self.still(push.writes, held));
        push.zip(goal).is_some_and(|(push, goal)| {
            goal.without(push.done).is_empty() || (hint.is_some() && self.has(Bug::DepartedHintToOne))
        })
    }

    pub(super) fn may_drop(&self, state: &State, id: u8) -> bool {
        let joining = state.node(id).joining != 0 && !self.has(Bug::DropDespiteJoining);
        !joining && (self.is_pushed(state, id, None) || self.has(Bug::DropWithoutPush))
    }

    pub(super) fn may_drop_hint(&self, state: &State, id: u8, target: Member) -> bool {
        self.is_pushed(state, id, Some(target)) || self.has(Bug::DepartedHintDropped)
    }

    /// Whether a node that shall not serve any more may go: it holds nothing.
    pub(super) fn may_leave(&self, state: &State, id: u8) -> bool {
        let node = state.node(id);
        let asked = !self.targets[usize::from(state.target)].contains(&id);
        let free = node.config.epoch > 0
            && state.is_outside(id)
            && node.joining == 0
            && node.holds() == 0
            && node.admitted.is_empty();
        asked && (free || (self.has(Bug::OneStepLeave) && !state.is_outside(id)))
    }

    pub(super) fn fault(&self, state: &mut State, step: &Step, seen: &mut Seen) {
        match *step {
            Step::Retarget => {
                state.target += 1;
                seen.note("operators change their mind");
            }
            Step::Restart { node } => {
                let restarted = state.node_mut(node);
                restarted.admitted.clear();
                restarted.pushes.clear();
                if self.has(Bug::SealNotPersisted) {
                    restarted.promise = 0;
                }
                if self.has(Bug::AcceptedNotPersisted) {
                    restarted.accepted = None;
                }
                if self.has(Bug::JoiningNotPersisted) {
                    restarted.joining = 0;
                }
                forget_attempts(state, node);
                state.faults.restarts += 1;
                seen.note("restarts");
            }
            Step::LoseDisk { node } => {
                lose(state, node);
                let founding = super::members::Config { epoch: 0, members: state.chosen[0] };
                let disk = state.node(node).disk + 1;
                *state.node_mut(node) = super::state::Node::empty(disk, founding);
                // Whoever is lost has not met this disk.
                state.node_mut(node).barred = state.lost_disks();
                forget_attempts(state, node);
                state.faults.disks += 1;
                seen.note("lost disks");
            }
            Step::Remove { node } => {
                lose(state, node);
                let was_member = !state.is_outside(node);
                self.go(state, node);
                state.faults.removals += 1;
                seen.note(if was_member { "members removed" } else { "others removed" });
            }
            Step::Leave { node } => {
                self.go(state, node);
                seen.note("nodes leave");
            }
            Step::Unseal { node } => state.node_mut(node).unsealed = true,
            _ => {}
        }
    }

    /// A node does nothing any more. What it held is out of reach.
    fn go(&self, state: &mut State, id: u8) {
        let node = state.node(id);
        let (disk, config) = (node.disk, node.config);
        *state.node_mut(id) = super::state::Node { gone: true, ..super::state::Node::empty(disk, config) };
        forget_attempts(state, id);
    }
}

/// What a node has proposed ends with its process.
fn forget_attempts(state: &mut State, id: u8) {
    let own = state.proposals.iter_mut().filter(|attempt| attempt.by.node() == id && !attempt.ended);
    own.for_each(Proposal::end);
}

/// Counts the writes that a disk takes with it.
fn lose(state: &mut State, id: u8) {
    let held = state.node(id).holds();
    let lost = state.lost.iter_mut().enumerate();
    lost.filter(|(op, _)| held >> op & 1 == 1).for_each(|(_, count)| *count += 1);
}
