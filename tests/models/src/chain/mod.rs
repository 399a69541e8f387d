//! Who serves a partition: the chain of configurations. One partition, one key, a few nodes; every message is an atomic step
//! of who receives it, and may come late, again, out of order, or never (`README.md` says why that is enough).

mod bug;
mod change;
mod check;
mod duty;
mod members;
mod requests;
mod show;
mod state;
mod steps;
mod world;

pub use bug::Bug;
pub use members::{Config, Member, Members};
pub use state::{Faults, State, Step};
pub use world::{Bucket, Op, World};

use crate::engine::{Model, Seen, Violation};

/// What random schedules have to see sometimes: they prove nothing about what never happens in them.
pub const SOMETIMES: &[&str] = &[
    "a change is given up",
    "a configuration is learned from a request",
    "a departed target's hint goes after its push",
    "a hint is delivered",
    "a hint is kept",
    "a hint is refused by a target that is no member",
    "a member-to-be has read everything",
    "a node that is no member drops the partition",
    "a paused proposer finds its decision void",
    "a push starts over because the epoch has moved",
    "a put reaches a learner",
    "a sealed member promises again, higher",
    "a sealed member stores a sloppy put",
    "a smaller set of members is chosen",
    "a stale request is refused and goes on with the later configuration",
    "a target is chosen",
    "acknowledgements of several epochs unite",
    "an accepted value is taken over",
    "changes aborted",
    "changes decided",
    "everybody decides",
    "everybody decides, and no disk of a member is left",
    "lost disks",
    "members removed",
    "nodes leave",
    "pushes",
    "pushes of a departed target's hint",
    "restarts",
    "seals",
    "sloppy puts acknowledged",
    "strict puts acknowledged",
    "strict reads that had something to miss",
    "the end: nobody whom operators want is left",
    "the end: operators have got what they want",
    "what only lost disks had adopted is void",
    "what only lost disks had accepted is void",
];

impl World {
    fn take(&self, state: &mut State, step: &Step, seen: &mut Seen) -> Result<(), Violation> {
        match step {
            Step::Ask { .. } | Step::Teach { .. } | Step::StandIn { .. } | Step::Finish { .. } => {
                self.request(state, step, seen)?;
            }
            Step::Propose { .. }
            | Step::Prepare { .. }
            | Step::Choose { .. }
            | Step::Sync { .. }
            | Step::Accept { .. }
            | Step::Adopt { .. }
            | Step::Tell { .. } => self.change(state, step, seen)?,
            Step::Learn { .. }
            | Step::Repair { .. }
            | Step::Deliver { .. }
            | Step::Push { .. }
            | Step::DropHint { .. }
            | Step::Drop { .. } => self.duty(state, step, seen)?,
            Step::Retarget
            | Step::Restart { .. }
            | Step::LoseDisk { .. }
            | Step::Remove { .. }
            | Step::Leave { .. }
            | Step::Unseal { .. } => self.fault(state, step, seen),
        }
        check::always(self, state)
    }
}

impl Model for World {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        self.beginning()
    }

    fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        self.possible(state, steps);
    }

    fn weight(&self, step: &Step) -> u32 {
        let weight = self.weights[step.kind()] * 16;
        let slow = step.node().is_some_and(|node| self.slow.contains(&node));
        let weight = if slow { weight / 16 } else { weight };
        if step.is_heard() { weight } else { weight.div_ceil(8) }
    }

    fn apply(&self, state: &mut State, step: &Step, seen: &mut Seen) -> Result<(), Violation> {
        self.take(state, step, seen)
    }

    fn settle(&self, state: &mut State, taken: &mut Vec<Step>, seen: &mut Seen) -> Result<(), Violation> {
        self.come_to_rest(state, taken, seen)
    }

    fn show_step(&self, state: &State, step: &Step) -> String {
        self.words(state, step)
    }

    fn show_state(&self, state: &State) -> String {
        self.picture(state)
    }

    fn title(&self) -> String {
        self.describe()
    }
}
