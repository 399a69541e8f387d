//! What must hold: at all times, at the end of a read, and when everything has come to rest.

use super::{
    members::{Config, Member, Members},
    state::{Progress, State, Step, Void, Writes},
    steps::known,
    world::World,
};
use crate::engine::{Seen, Violation};

/// Two different configurations of one epoch.
const ONE: &str = "an epoch has one configuration";
const FRESH: &str = "a strict read returns every write acknowledged before it began";
const MEMBERS: &str = "an acknowledged strict write is on all members but m - w";
const COPIES: &str = "an acknowledged write is on as many nodes as promised";
const REST: &str = "what is under way comes to an end";
const SURVIVES: &str = "an acknowledged write is on every member in the end";

/// A configuration is decided, or taken for decided. It stays so as long as there is a disk that has it
/// for good.
pub(super) fn choose(state: &mut State, config: Config, seen: &mut Seen) -> Result<(), Violation> {
    let epoch = usize::from(config.epoch);
    match state.chosen.get(epoch) {
        Some(members) if *members == config.members => return Ok(()),
        Some(&members) => {
            let other = Config { epoch: config.epoch, members };
            if let Some(member) = left_of(state, other) {
                let what = format!("epoch {epoch} is {members}, which {member} has, and {}", config.members);
                return Violation::of(ONE, what);
            }
            forget_from(state, epoch, seen);
        }
        None => {}
    }
    state.chosen.push(config.members);
    state.knew.push(Members::default());
    Ok(())
}

/// A disk that is not lost and has a configuration for good: it has adopted it, or one that follows it, or was one of the majority of
/// members that accepted it. Where everybody has accepted, only the proposer has it for good, unless it has promised more since.
fn left_of(state: &State, config: Config) -> Option<Member> {
    let taken = (1u8..).zip(&state.proposals).filter(|(_, attempt)| {
        attempt.config.epoch + 1 == config.epoch
            && attempt.choice == Some(config.members)
            && attempt.is_taken()
    });
    let accepted = taken.map(|(ballot, attempt)| {
        if attempt.roster.is_empty() {
            return attempt.took;
        }
        [attempt.by].into_iter().filter(|_| state.may_adopt(attempt, ballot)).collect()
    });
    let all = accepted.chain(state.knew[usize::from(config.epoch)..].iter().copied());
    all.flat_map(Members::iter).find(|&member| state.is_live(member))
}

/// What was decided from an epoch on is void: the disks that had it are lost.
fn forget_from(state: &mut State, epoch: usize, seen: &mut Seen) {
    for (at, members) in state.chosen.split_off(epoch).into_iter().enumerate() {
        let config = Config { epoch: (epoch + at) as u8, members };
        let knew = state.knew[epoch + at];
        if knew.is_empty() {
            seen.note("what only lost disks had accepted is void");
        } else {
            seen.note("what only lost disks had adopted is void");
            state.void.push(Void { config, knew });
        }
    }
    state.knew.truncate(epoch);
    // A coordinator is a node. Whoever has worked under what is void is lost.
    let begun =
        |progress: &&mut Progress| progress.configs.iter().any(|config| usize::from(config.epoch) >= epoch);
    for progress in state.ops.iter_mut().filter(begun) {
        *progress = Progress { done: true, ..Progress::default() };
    }
}

/// A node learns of a configuration; the highest epoch wins.
pub(super) fn adopt(state: &mut State, id: u8, config: Config) -> Result<(), Violation> {
    // What becomes void has been noted when this was decided.
    choose(state, config, &mut Seen::default())?;
    let me = state.member(id);
    let node = state.node(id);
    if node.config.epoch >= config.epoch {
        return Ok(());
    }
    state.knew[usize::from(config.epoch)].insert(me);
    let node = state.node_mut(id);
    node.config = config;
    node.promise = 0;
    node.accepted = None;
    node.unsealed = false;
    node.pushes.clear();
    if node.joining <= config.epoch {
        node.joining = 0;
    }
    Ok(())
}

/// A strict read has been answered with `got`.
pub(super) fn read(world: &World, state: &State, op: u8, must: Writes, got: Writes) -> Result<(), Violation> {
    match writes(must & !got).find(|&write| is_promised(world, state, write)) {
        Some(write) => Violation::of(FRESH, format!("{} misses {}", world.name(op), world.name(write))),
        None => Ok(()),
    }
}

/// What holds in every state.
pub(super) fn always(world: &World, state: &State) -> Result<(), Violation> {
    for void in &state.void {
        let node = state.present().find(|&id| !void.knew.without(state.node(id).barred).is_empty());
        if let Some(node) = node {
            let (node, config) = (state.member(node), void.config);
            return Violation::of(ONE, format!("{node} may still be told the void {config}"));
        }
    }
    let members = state.chosen[state.chosen.len() - 1];
    for write in writes(state.acked) {
        let name = world.name(write);
        let has = |id: u8| state.node(id).data >> write & 1 == 1;
        if is_promised(world, state, write) && world.strict_puts() >> write & 1 == 1 {
            // A lost disk counts as one that has it: it is charged to dw - 1.
            let lack = members.iter().filter(|&member| state.is_live(member) && !has(member.node())).count();
            let may_lack = members.len() - world.bucket(write).w.min(members.len());
            if let Some(config) = known(state).into_iter().find(|&config| stale(world, state, config, write))
            {
                return Violation::of(FRESH, format!("a read under {config} can miss {name} now"));
            }
            if lack > usize::from(may_lack) {
                let epoch = state.chosen.len() - 1;
                let what = format!("{name} is missing on {lack} members of epoch {epoch} {members}");
                return Violation::of(MEMBERS, what);
            }
        }
        let copies = state.nodes.iter().filter(|node| node.holds() >> write & 1 == 1).count();
        let lost = usize::from(state.lost[usize::from(write)]);
        let promised = usize::from(promised_copies(world, state, write));
        if copies + lost < promised {
            let what = format!("{name} is on {copies} disks, {lost} are lost, {promised} were promised");
            return Violation::of(COPIES, what);
        }
    }
    Ok(())
}

/// Whether a read that begins now can miss a write: enough members would answer that lack it. (Reads that take their time are
/// steps of their own.)
fn stale(world: &World, state: &State, config: Config, write: u8) -> bool {
    let replies = world.bucket(write).r.min(config.members.len());
    let missing = config.members.iter().filter(|&member| world.would_miss(state, member, config, write));
    missing.count() >= usize::from(replies)
}

/// How many disks are promised to hold a write: `w`, capped to the smallest number of members there ever was.
fn promised_copies(world: &World, state: &State, write: u8) -> u8 {
    let void = state.void.iter().map(|void| void.config.members);
    let smallest = state.chosen.iter().copied().chain(void).map(Members::len).min().unwrap_or(0);
    world.bucket(write).w.min(smallest)
}

/// Whether so few disks with a write are lost that it has to be there.
fn is_promised(world: &World, state: &State, write: u8) -> bool {
    state.lost[usize::from(write)] < promised_copies(world, state, write)
}

/// The numbers of writes.
pub(super) fn writes(writes: Writes) -> impl Iterator<Item = u8> {
    (0..16).filter(move |bit| writes >> bit & 1 == 1)
}

impl World {
    /// Lets everything that is under way end, and operators get what they want; then checks that every acknowledged write is there.
    pub(super) fn come_to_rest(
        &self,
        state: &mut State,
        taken: &mut Vec<Step>,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let calm = World { calm: true, duties: true, ..self.clone() };
        let mut settled = false;
        for _ in 0..4 {
            calm.finish(state, taken, seen)?;
            let Some(&config) = known(state).last() else { return Ok(()) };
            let sealed = config.members.iter().any(|member| state.node(member.node()).is_sealed());
            settled = config.members == self.wanted(state) && !sealed;
            if settled || self.wanted(state).is_empty() {
                break;
            }
            let by = state.present().find(|&node| state.node(node).config == config);
            let step = Step::Propose { epoch: config.epoch, by: by.expect("somebody knows it") };
            taken.push(step);
            calm.take(state, &step, seen)?;
        }
        let members = state.chosen[state.chosen.len() - 1];
        if !settled {
            if !self.wanted(state).is_empty() {
                return self.stuck(format!("{members} do not give way"));
            }
            seen.note("the end: nobody whom operators want is left");
            return Ok(());
        }
        seen.note("the end: operators have got what they want");
        for write in writes(state.acked).filter(|&write| is_promised(self, state, write)) {
            let lacks = |id: u8| state.node(id).data >> write & 1 == 0;
            if let Some(member) = members.iter().find(|member| lacks(member.node())) {
                return Violation::of(SURVIVES, format!("{} is not on {member}", self.name(write)));
            }
        }
        for id in state.present().filter(|&id| state.is_outside(id)) {
            if state.node(id).holds() != 0 {
                return self.stuck(format!("{} still holds something", state.member(id)));
            }
        }
        Ok(())
    }

    /// Something does not end. That is no proof that a planted mistake breaks a promise of safety, so the hunt goes on.
    fn stuck(&self, what: String) -> Result<(), Violation> {
        if self.bug.is_some() { Ok(()) } else { Violation::of(REST, what) }
    }

    /// Takes whatever step is possible in the calm, until none is.
    fn finish(&self, state: &mut State, taken: &mut Vec<Step>, seen: &mut Seen) -> Result<(), Violation> {
        let mut steps = Vec::new();
        for _ in 0..1000 {
            steps.clear();
            self.possible(state, &mut steps);
            let Some(step) = steps.first() else { return Ok(()) };
            taken.push(*step);
            self.take(state, step, seen)?;
        }
        self.stuck("a thousand steps, and more to come".to_owned())
    }
}
