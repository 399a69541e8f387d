//! Puts and reads.

use super::{
    bug::Bug,
    check,
    members::{Config, Member},
    state::{Ack, Admitted, Node, State, Step},
    world::{Op, World},
};
use crate::engine::{Seen, Violation};

impl World {
    pub(super) fn request(&self, state: &mut State, step: &Step, seen: &mut Seen) -> Result<(), Violation> {
        match *step {
            Step::Ask { op, to, epoch, heard } => {
                let config = self.begin(state, op, epoch);
                self.ask(state, op, to, config, heard, seen)
            }
            Step::Teach { op, node } => {
                state.node_mut(node).data |= 1 << op;
                seen.note("a put reaches a learner");
                if self.has(Bug::JoinerCountedEarly) {
                    let config = current(state, op);
                    let slot = state.member(node);
                    return self.credit(state, op, Ack { node, slot, epoch: config.epoch }, seen);
                }
                Ok(())
            }
            Step::StandIn { op, slot, node, epoch, heard } => {
                let config = self.begin(state, op, epoch);
                check::adopt(state, node, config)?;
                state.node_mut(node).keep_hint(slot, 1 << op);
                seen.note("a hint is kept");
                if heard { self.credit(state, op, Ack { node, slot, epoch }, seen) } else { Ok(()) }
            }
            Step::Finish { node, op, epoch, heard } => {
                let slot = state.member(node);
                let finished = state.node_mut(node);
                finished.admitted.retain(|write| *write != Admitted { op, epoch });
                finished.data |= 1 << op;
                if heard { self.credit(state, op, Ack { node, slot, epoch }, seen) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// The configuration under which a request is sent. A request that has not begun begins with it: what was acknowledged until its
    /// first message arrives was acknowledged before it began.
    fn begin(&self, state: &mut State, op: u8, epoch: u8) -> Config {
        let must = state.acked & self.readable(op) & self.strict_puts();
        let config = Config { epoch, members: state.chosen[usize::from(epoch)] };
        let progress = &mut state.ops[usize::from(op)];
        if progress.configs.is_empty() {
            progress.configs.push(config);
            progress.must = must;
        }
        config
    }

    fn ask(
        &self,
        state: &mut State,
        op: u8,
        to: Member,
        config: Config,
        heard: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let kind = self.ops[usize::from(op)];
        let strict = !matches!(kind, Op::Put { strict: false, .. });
        let put = matches!(kind, Op::Put { .. });
        if state.node(to.node()).config.epoch < config.epoch {
            check::adopt(state, to.node(), config)?;
            seen.note("a configuration is learned from a request");
        }
        let node = state.node(to.node());
        if !self.is_right_epoch(node, to, config, put) {
            let newer = node.config;
            if heard {
                self.advance(state, op, newer, seen);
            }
            return Ok(());
        }
        if strict && !self.is_unsealed(node, put) {
            return Ok(());
        }
        if put && node.is_sealed() && !strict {
            seen.note("a sealed member stores a sloppy put");
        }
        let ack = Ack { node: to.node(), slot: to, epoch: config.epoch };
        if !put {
            let data = node.data & self.readable(op);
            if heard {
                state.ops[usize::from(op)].got |= data;
                return self.credit(state, op, ack, seen);
            }
            return Ok(());
        }
        let node = state.node_mut(to.node());
        if self.admits {
            node.admitted.push(Admitted { op, epoch: config.epoch });
            node.admitted.sort_unstable();
            return Ok(());
        }
        node.data |= 1 << op;
        if heard { self.credit(state, op, ack, seen) } else { Ok(()) }
    }

    /// Whether a member takes a request under `config`: it is at exactly that epoch.
    fn is_right_epoch(&self, node: &Node, member: Member, config: Config, put: bool) -> bool {
        let takes = self.has(if put { Bug::OldEpochAccepted } else { Bug::EpochUncheckedOnReads });
        node.config.epoch == config.epoch || (takes && node.config.members.contains(member))
    }

    /// Whether a member serves strict requests.
    fn is_unsealed(&self, node: &Node, put: bool) -> bool {
        !node.is_sealed() || self.has(if put { Bug::NoSealOnPuts } else { Bug::NoSealOnReads })
    }

    /// Whether a member that lacks a write would answer a strict read under `config` now.
    pub(super) fn would_miss(&self, state: &State, member: Member, config: Config, write: u8) -> bool {
        let node = state.node(member.node());
        // Who is behind learns of the configuration from the request, and is not sealed in it.
        let behind = node.config.epoch < config.epoch;
        let answers =
            behind || (self.is_right_epoch(node, member, config, false) && self.is_unsealed(node, false));
        state.is_live(member) && answers && node.data >> write & 1 == 0
    }

    /// The coordinator learns of a later configuration.
    fn advance(&self, state: &mut State, op: u8, newer: Config, seen: &mut Seen) {
        let strict_put = matches!(self.ops[usize::from(op)], Op::Put { strict: true, .. });
        let read = matches!(self.ops[usize::from(op)], Op::Read { .. });
        let progress = &mut state.ops[usize::from(op)];
        if progress.configs.last().is_some_and(|last| last.epoch >= newer.epoch) {
            return;
        }
        seen.note("a stale request is refused and goes on with the later configuration");
        if read || (strict_put && !self.has(Bug::StrictAcksKept)) {
            progress.acks.clear();
            progress.got = 0;
        }
        if read || strict_put {
            progress.configs.clear();
        }
        progress.configs.push(newer);
    }

    /// An answer arrives at the coordinator.
    fn credit(&self, state: &mut State, op: u8, ack: Ack, seen: &mut Seen) -> Result<(), Violation> {
        let kind = self.ops[usize::from(op)];
        let strict = !matches!(kind, Op::Put { strict: false, .. });
        let progress = &mut state.ops[usize::from(op)];
        let Some(&config) = progress.configs.last().filter(|_| !progress.done) else { return Ok(()) };
        if strict && ack.epoch != config.epoch && !self.has(Bug::StrictAcksKept) {
            return Ok(());
        }
        progress.acks.push(ack);
        progress.acks.sort_unstable();
        progress.acks.dedup();
        let bucket = self.bucket(op);
        let asked = if matches!(kind, Op::Read { .. }) { bucket.r } else { bucket.w };
        let enough = asked.min(config.members.len());
        let count = if strict {
            slots(&progress.acks)
        } else {
            matched(&progress.acks, self.has(Bug::HolderIsTarget))
        };
        if count < usize::from(enough) {
            return Ok(());
        }
        if progress.acks.iter().any(|ack| ack.epoch != config.epoch) {
            seen.note("acknowledgements of several epochs unite");
        }
        let (must, got) = (progress.must, progress.got);
        // What is over is forgotten, so that states differ only in what matters.
        *progress = super::state::Progress { done: true, ..Default::default() };
        match kind {
            Op::Put { strict, .. } => {
                state.acked |= 1 << op;
                seen.note(if strict { "strict puts acknowledged" } else { "sloppy puts acknowledged" });
                Ok(())
            }
            Op::Read { .. } => {
                seen.note("strict reads answered");
                if must != 0 {
                    seen.note("strict reads that had something to miss");
                }
                check::read(self, state, op, must, got)
            }
        }
    }
}

fn current(state: &State, op: u8) -> Config {
    *state.ops[usize::from(op)].configs.last().expect("a put teaches after it has begun")
}

/// Different members that answered for themselves.
fn slots(acks: &[Ack]) -> usize {
    let slots: super::members::Members = acks.iter().map(|ack| ack.slot).collect();
    usize::from(slots.len())
}

/// The greatest number of answers of which no two share a node, be it as the one that answered or as the one it stands in for. (That no two
/// are of one node or fill one slot is not enough: where n1 keeps a hint for n2 and n2 one for n1, the first delivery makes
/// one disk of two.)
fn matched(acks: &[Ack], twice: bool) -> usize {
    let Some((first, rest)) = acks.split_first() else { return 0 };
    let crossed = |ack: &Ack| ack.node == first.slot.node() || ack.slot.node() == first.node;
    let apart = |ack: &&Ack| ack.node != first.node && ack.slot != first.slot && (twice || !crossed(ack));
    let apart: Vec<Ack> = rest.iter().filter(apart).copied().collect();
    matched(rest, twice).max(1 + matched(&apart, twice))
}
