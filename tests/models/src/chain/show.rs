//! Steps and states in words.

use super::{
    check::writes,
    members::Member,
    state::{State, Step, Writes},
    world::{Op, World},
};

impl World {
    /// A put is `a`, `b`, ...; a read is `read 1`, ...
    pub(super) fn name(&self, op: u8) -> String {
        let before = &self.ops[..usize::from(op)];
        let strict = matches!(self.ops[usize::from(op)], Op::Put { strict: true, .. });
        match self.ops[usize::from(op)] {
            Op::Put { .. } => {
                let letter = char::from(b'a' + op);
                format!("{} put {letter}", if strict { "strict" } else { "sloppy" })
            }
            Op::Read { .. } => {
                let reads = before.iter().filter(|op| matches!(op, Op::Read { .. })).count();
                format!("read {}", reads + 1)
            }
        }
    }

    /// The world's numbers.
    pub(super) fn describe(&self) -> String {
        let buckets: Vec<String> =
            self.buckets.iter().map(|bucket| format!("r = {}, w = {}", bucket.r, bucket.w)).collect();
        let ops: Vec<String> = (0u8..)
            .zip(&self.ops)
            .map(|(op, kind)| {
                let (Op::Put { bucket, .. } | Op::Read { bucket }) = kind;
                format!("{} ({})", self.name(op), buckets[*bucket])
            })
            .collect();
        format!("{} nodes, targets {:?}; {}", self.nodes, self.targets, ops.join(", "))
    }

    pub(super) fn words(&self, state: &State, step: &Step) -> String {
        let lost = |heard: bool| if heard { "" } else { "; the answer is lost" };
        let name = |node: u8| state.member(node);
        match *step {
            Step::Ask { op, to, epoch, heard } => {
                format!(
                    "{} asks {to} under epoch {epoch}{}{}",
                    self.name(op),
                    self.met(state, to, epoch),
                    lost(heard)
                )
            }
            Step::Teach { op, node } => format!("{} reaches {}, which learns", self.name(op), name(node)),
            Step::StandIn { op, slot, node, epoch, heard } => {
                let who = name(node);
                format!("{} under epoch {epoch}: {who} keeps a hint for {slot}{}", self.name(op), lost(heard))
            }
            Step::Finish { node, op, epoch, heard } => {
                format!("{} has put {} of epoch {epoch} on disk{}", name(node), self.name(op), lost(heard))
            }
            Step::Propose { epoch, by } => {
                let wanted = self.wanted(state);
                format!(
                    "proposal {}, of {}: epoch {epoch} is to be followed; wanted is {wanted}",
                    state.proposals.len() + 1,
                    name(by)
                )
            }
            Step::Prepare { proposal, to, heard } => {
                format!("proposal {}: {to} promises and is sealed{}", proposal + 1, lost(heard))
            }
            Step::Choose { proposal, abort } => {
                let attempt = &state.proposals[usize::from(proposal)];
                let what = match attempt.best {
                    Some((ballot, members)) => {
                        format!("{members}, accepted by somebody for proposal {ballot}")
                    }
                    None if abort => format!("{} again", attempt.config.members),
                    None => self.wanted(state).to_string(),
                };
                let all = self.may_choose(state, attempt).is_some_and(|roster| !roster.is_empty());
                format!(
                    "proposal {}: promises of {} are enough{}; it chooses {what}",
                    proposal + 1,
                    attempt.promised,
                    if all { " for everybody to decide" } else { "" }
                )
            }
            Step::Sync { proposal, by, from, chunk } => {
                let chunk = if self.chunks > 1 { format!("chunk {chunk} of ") } else { String::new() };
                format!("proposal {}: {by} reads {chunk}{from}", proposal + 1)
            }
            Step::Accept { proposal, to, heard } => {
                format!("proposal {}: {to} accepts{}", proposal + 1, lost(heard))
            }
            Step::Adopt { proposal, by } => {
                format!(
                    "proposal {} is decided, and {} adopts that, if it has not promised more",
                    proposal + 1,
                    name(by)
                )
            }
            Step::Tell { epoch, node } => {
                let members = state.chosen[usize::from(epoch)];
                format!("{} learns of epoch {epoch} {members}", name(node))
            }
            Step::Retarget => {
                format!("operators now want {:?}", self.targets[usize::from(state.target) + 1])
            }
            Step::Learn { node, from } => format!("{} learns, copies from {}", name(node), name(from)),
            Step::Repair { node, from } => format!("{} is repaired from {}", name(node), name(from)),
            Step::Deliver { node, target, heard } => {
                format!("{} delivers its hint to {target}{}", name(node), lost(heard))
            }
            Step::Push { node, hint, to, heard } => {
                let what = hint.map_or("what it holds".to_owned(), |target| format!("its hint for {target}"));
                format!("{} hands {what} to {to}{}", name(node), lost(heard))
            }
            Step::DropHint { node, target } => format!("{} drops its hint for {target}", name(node)),
            Step::Drop { node } => format!("{} drops the partition", name(node)),
            Step::Restart { node } => format!("{} restarts", name(node)),
            Step::LoseDisk { node } => format!("{} loses its disk", name(node)),
            Step::Remove { node } => format!("{} dies and is removed", name(node)),
            Step::Leave { node } => format!("{} leaves", name(node)),
            Step::Unseal { node } => format!("{} is sealed no more, its time is up", name(node)),
        }
    }

    /// What a request of `epoch` finds at a member.
    fn met(&self, state: &State, to: Member, epoch: u8) -> String {
        let node = state.node(to.node());
        match node.config.epoch {
            own if own > epoch => format!(" (it is at epoch {own})"),
            own if own < epoch => format!(" (it was at epoch {own})"),
            _ if node.is_sealed() => " (sealed)".to_owned(),
            _ => String::new(),
        }
    }

    pub(super) fn picture(&self, state: &State) -> String {
        let mut lines = Vec::new();
        for (id, node) in (0u8..).zip(&state.nodes) {
            let mut line =
                format!("     {}: {}, holds {}", state.member(id), node.config, letters(node.data));
            if node.gone {
                line = format!("     {}: gone", state.member(id));
            }
            if node.promise > 0 {
                line.push_str(&format!(", promised {}", node.promise));
            }
            if let Some((ballot, members)) = node.accepted {
                line.push_str(&format!(", accepted {ballot} {members}"));
            }
            if node.joining > 0 {
                line.push_str(&format!(", joining {}", node.joining));
            }
            for hint in &node.hints {
                line.push_str(&format!(", hint for {}: {}", hint.target, letters(hint.writes)));
            }
            for write in &node.admitted {
                line.push_str(&format!(", has let in {}", letters(1 << write.op)));
            }
            lines.push(line);
        }
        let decided: Vec<String> = state.chosen.iter().map(ToString::to_string).collect();
        lines.push(format!("     decided {}, acknowledged {}", decided.join(" "), letters(state.acked)));
        lines.join("\n")
    }
}

fn letters(set: Writes) -> String {
    let letters: Vec<String> = writes(set).map(|write| char::from(b'a' + write).to_string()).collect();
    if letters.is_empty() { "nothing".to_owned() } else { letters.join(" ") }
}
