//! The state of a world, and the steps that lead from one to the next.

use super::members::{Config, Member, Members};

/// A set of writes: bit i is the put that is operation i.
///
/// A set is enough. Writes that nobody has read are siblings, and siblings are kept until a later write covers them; so what a replica
/// holds of a key is a join of what it was sent. A store of sets that lose none lose nothing when elements are replaced by greater ones.
pub(super) type Writes = u16;

/// A node, and what its present disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// How often the disk was replaced.
    pub disk: u8,
    /// Removed, or left by itself: it does nothing any more.
    pub gone: bool,
    /// The highest configuration that it knows. On disk.
    pub config: Config,
    /// The highest ballot promised in this epoch, 0 is none. On disk.
    pub promise: u8,
    /// The ballot and members accepted in this epoch. On disk.
    pub accepted: Option<(u8, Members)>,
    /// Serves although it has promised; only with a planted bug.
    pub unsealed: bool,
    /// The epoch that it may become a member of, 0 is none: forbids to drop the partition. On disk.
    pub joining: u8,
    /// What it holds of the key. On disk.
    pub data: Writes,
    /// Hints that it keeps, by target. On disk.
    pub hints: Vec<Hint>,
    /// Writes it has let in and not yet put on disk. In memory.
    pub admitted: Vec<Admitted>,
    /// What it is handing over. In memory.
    pub pushes: Vec<Push>,
    /// Disks that it knows to be lost, or of nodes that are gone: it is told nothing by them any more. On disk.
    pub barred: Members,
}

/// Writes kept for a member that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hint {
    /// The member.
    pub target: Member,
    /// The writes.
    pub writes: Writes,
}

/// A write between its check of the epoch and the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Admitted {
    /// The put.
    pub op: u8,
    /// The epoch it was let in at.
    pub epoch: u8,
}

/// What a node that is no member hands to every member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Push {
    /// The target of the hint that is handed over; none for the node's own data.
    pub hint: Option<Member>,
    /// What is handed over.
    pub writes: Writes,
    /// Who has it on disk.
    pub done: Members,
}

/// An acknowledgement of a put, or a reply to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ack {
    /// Who answered.
    pub node: u8,
    /// Whose place it fills: its own, or that of a hint's target.
    pub slot: Member,
    /// The epoch of the request.
    pub epoch: u8,
}

/// How far an operation of a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// It has been answered.
    pub done: bool,
    /// The configurations its coordinator has worked with, the latest last; empty before it begins. Of a strict request only the latest
    /// matters.
    pub configs: Vec<Config>,
    /// The answers that may count.
    pub acks: Vec<Ack>,
    /// A read: writes acknowledged before it began.
    pub must: Writes,
    /// A read: what the replies contain.
    pub got: Writes,
}

/// An attempt to change the configuration. Its ballot is its number and 1. It is in the memory of the node that makes it; when that
/// crashes, only its messages travel on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Who makes it.
    pub by: Member,
    /// It is forgotten, or over: what it has sent may arrive, no answer counts.
    pub ended: bool,
    /// The configuration to be followed by another.
    pub config: Config,
    /// Who has promised.
    pub promised: Members,
    /// The accepted value of the highest ballot among the promises.
    pub best: Option<(u8, Members)>,
    /// The members chosen for the next epoch.
    pub choice: Option<Members>,
    /// Where everybody decides: every node with the disk it had at the choice. Otherwise nobody.
    pub roster: Members,
    /// Who has to have everything acknowledged before that is put to the vote.
    pub need: Members,
    /// Who has to be read for that.
    pub sources: Members,
    /// What each of those who need it has read so far.
    pub reading: Vec<Reading>,
    /// Who has everything, and is joining.
    pub synced: Members,
    /// Who has accepted, as far as the proposer has heard.
    pub accepted: Members,
    /// Who has accepted.
    pub took: Members,
}

/// How far a member-to-be has read the sealed members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// The member-to-be.
    pub by: Member,
    /// One bit for each source and chunk.
    pub chunks: u32,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// By node id.
    pub nodes: Vec<Node>,
    /// By operation.
    pub ops: Vec<Progress>,
    /// By ballot.
    pub proposals: Vec<Proposal>,
    /// Which of the world's targets operators want.
    pub target: u8,
    /// Faults that have happened, by kind.
    pub faults: Faults,
    /// What no node knows: the members of each epoch that was decided.
    pub chosen: Vec<Members>,
    /// What no node knows: who has ever adopted each of them. What they told of it may still arrive.
    pub knew: Vec<Members>,
    /// What no node knows: configurations that were adopted by disks that are lost, all of them, and by nobody else.
    pub void: Vec<Void>,
    /// What no node knows: acknowledged puts.
    pub acked: Writes,
    /// What no node knows: how many disks that held a write are lost, by operation.
    pub lost: Vec<u8>,
}

/// A configuration that nobody knows any more, in whose place there is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Void {
    /// It.
    pub config: Config,
    /// Who knew it.
    pub knew: Members,
}

/// Faults so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Restarts of a process.
    pub restarts: u8,
    /// Disks that were lost and replaced.
    pub disks: u8,
    /// Nodes that died and were removed.
    pub removals: u8,
    /// Copies that background work made.
    pub copies: u8,
}

/// One atomic step. `heard`: whether the answer reaches who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    /// A request under the configuration of `epoch` reaches a member.
    Ask { op: u8, to: Member, epoch: u8, heard: bool },
    /// A put reaches a node that learns.
    Teach { op: u8, node: u8 },
    /// A sloppy put under the configuration of `epoch` reaches a node that keeps it for a member.
    StandIn { op: u8, slot: Member, node: u8, epoch: u8, heard: bool },
    /// A write that was let in is on disk.
    Finish { node: u8, op: u8, epoch: u8, heard: bool },
    /// A node that is at `epoch` wants another configuration.
    Propose { epoch: u8, by: u8 },
    /// Prepare reaches a member.
    Prepare { proposal: u8, to: Member, heard: bool },
    /// The proposer has promises enough, and chooses.
    Choose { proposal: u8, abort: bool },
    /// A member-to-be reads a chunk from a sealed member.
    Sync { proposal: u8, by: Member, from: Member, chunk: u8 },
    /// Accept reaches a member.
    Accept { proposal: u8, to: Member, heard: bool },
    /// The proposer, which knows that it is decided, takes it into effect, or finds it void.
    Adopt { proposal: u8, by: u8 },
    /// A node hears of the configuration of `epoch`.
    Tell { epoch: u8, node: u8 },
    /// Operators want the next target.
    Retarget,
    /// A node that learns copies what a member holds.
    Learn { node: u8, from: u8 },
    /// A member copies what another holds.
    Repair { node: u8, from: u8 },
    /// A hint reaches its target, which is a member.
    Deliver { node: u8, target: Member, heard: bool },
    /// What a node hands over reaches a member: a hint, or its own data.
    Push { node: u8, hint: Option<Member>, to: Member, heard: bool },
    /// A hint whose target is no member goes.
    DropHint { node: u8, target: Member },
    /// A node that is no member drops the partition.
    Drop { node: u8 },
    /// A process ends and starts again.
    Restart { node: u8 },
    /// A disk is lost and replaced by an empty one.
    LoseDisk { node: u8 },
    /// A node dies and is removed.
    Remove { node: u8 },
    /// A node leaves.
    Leave { node: u8 },
    /// A seal times out: a planted bug.
    Unseal { node: u8 },
}

impl Step {
    /// How many kinds there are.
    pub const KINDS: usize = 23;

    /// Its kind.
    pub fn kind(&self) -> usize {
        match self {
            Self::Ask { .. } => 0,
            Self::Teach { .. } => 1,
            Self::StandIn { .. } => 2,
            Self::Finish { .. } => 3,
            Self::Propose { .. } => 4,
            Self::Prepare { .. } => 5,
            Self::Choose { .. } => 6,
            Self::Sync { .. } => 7,
            Self::Accept { .. } => 8,
            Self::Tell { .. } => 9,
            Self::Retarget => 10,
            Self::Learn { .. } => 11,
            Self::Repair { .. } => 12,
            Self::Deliver { .. } => 13,
            Self::Push { .. } => 14,
            Self::DropHint { .. } => 15,
            Self::Drop { .. } => 16,
            Self::Restart { .. } => 17,
            Self::LoseDisk { .. } => 18,
            Self::Remove { .. } => 19,
            Self::Leave { .. } => 20,
            Self::Unseal { .. } => 21,
            Self::Adopt { .. } => 22,
        }
    }

    /// The node that takes it, but for what clients decide by themselves, and a proposer's choice.
    pub fn node(&self) -> Option<u8> {
        match *self {
            Self::Ask { to, .. } | Self::Prepare { to, .. } | Self::Accept { to, .. } => Some(to.node()),
            Self::Teach { node, .. }
            | Self::StandIn { node, .. }
            | Self::Finish { node, .. }
            | Self::Tell { node, .. }
            | Self::Learn { node, .. }
            | Self::Repair { node, .. }
            | Self::Deliver { node, .. }
            | Self::Push { node, .. }
            | Self::DropHint { node, .. }
            | Self::Drop { node }
            | Self::Restart { node }
            | Self::LoseDisk { node }
            | Self::Remove { node }
            | Self::Leave { node }
            | Self::Unseal { node } => Some(node),
            Self::Sync { by, .. } => Some(by.node()),
            Self::Propose { by, .. } | Self::Adopt { by, .. } => Some(by),
            Self::Choose { .. } | Self::Retarget => None,
        }
    }

    /// Whether the answer reaches who asked.
    pub fn is_heard(&self) -> bool {
        match self {
            Self::Ask { heard, .. }
            | Self::StandIn { heard, .. }
            | Self::Finish { heard, .. }
            | Self::Prepare { heard, .. }
            | Self::Accept { heard, .. }
            | Self::Deliver { heard, .. }
            | Self::Push { heard, .. } => *heard,
            _ => true,
        }
    }
}

impl Node {
    /// Sealed: serves nobody in this epoch.
    pub fn is_sealed(&self) -> bool {
        (self.promise > 0 || self.accepted.is_some()) && !self.unsealed
    }

    /// How far it has handed over the hint of this target, or its own data.
    pub fn push(&self, hint: Option<Member>) -> Option<&Push> {
        self.pushes.iter().find(|push| push.hint == hint)
    }

    /// What it keeps for `target`.
    pub fn hint(&self, target: Member) -> Writes {
        self.hints.iter().find(|hint| hint.target == target).map_or(0, |hint| hint.writes)
    }

    /// Everything of the key that its disk holds, wherever.
    pub fn holds(&self) -> Writes {
        self.hints.iter().fold(self.data, |all, hint| all | hint.writes)
    }

    /// Puts `writes` to what it keeps for `target`.
    pub fn keep_hint(&mut self, target: Member, writes: Writes) {
        match self.hints.iter_mut().find(|hint| hint.target == target) {
            Some(hint) => hint.writes |= writes,
            None => {
                self.hints.push(Hint { target, writes });
                self.hints.sort_unstable_by_key(|hint| hint.target);
            }
        }
    }

    /// Removes what it keeps for `target`.
    pub fn drop_hint(&mut self, target: Member) {
        self.hints.retain(|hint| hint.target != target);
    }
}

impl State {
    /// The member that a node is at present.
    pub fn member(&self, node: u8) -> Member {
        Member::new(node, self.nodes[usize::from(node)].disk)
    }

    /// A node.
    pub fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    /// A node, to change it.
    pub fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// Whether a member can be reached: its disk is the node's, and the node is not gone.
    pub fn is_live(&self, member: Member) -> bool {
        let node = self.node(member.node());
        !node.gone && node.disk == member.disk()
    }

    /// Ids of nodes that are not gone.
    pub fn present(&self) -> impl Iterator<Item = u8> {
        (0u8..).zip(&self.nodes).filter(|(_, node)| !node.gone).map(|(id, _)| id)
    }

    /// Every node that is not gone, with the disk it has.
    pub fn roster(&self) -> Members {
        self.present().map(|node| self.member(node)).collect()
    }

    /// Disks that are lost, and those of nodes that are gone.
    pub fn lost_disks(&self) -> Members {
        let ids = (0u8..).zip(&self.nodes);
        ids.flat_map(|(id, node)| (0..node.disk + u8::from(node.gone)).map(move |disk| Member::new(id, disk)))
            .collect()
    }

    /// The disks that everybody decides without: of nodes that are gone, and those that came before the ones in the roster.
    pub fn disks_without(&self, roster: Members) -> Members {
        let earlier = roster.iter().flat_map(|last| (0..last.disk()).map(move |disk| (last.node(), disk)));
        let decides = |id: u8| roster.iter().any(|member| member.node() == id);
        let gone = (0u8..).zip(&self.nodes).filter(|&(id, node)| node.gone && !decides(id));
        let gone = gone.flat_map(|(id, node)| (0..=node.disk).map(move |disk| (id, disk)));
        earlier.chain(gone).map(|(id, disk)| Member::new(id, disk)).collect()
    }

    /// Whether the proposer of the attempt with this ballot will adopt what it has chosen, if it hears that it is decided.
    pub fn may_adopt(&self, attempt: &Proposal, ballot: u8) -> bool {
        let node = self.node(attempt.by.node());
        !attempt.ended && node.config.epoch == attempt.config.epoch && node.promise <= ballot
    }

    /// Whether the configuration of `epoch` may reach a node: one that has adopted it is or was there to tell it.
    pub fn can_hear(&self, node: u8, epoch: u8) -> bool {
        let knew = self.knew.get(usize::from(epoch));
        knew.is_some_and(|knew| !knew.without(self.node(node).barred).is_empty())
    }

    /// Whether a node knows of no membership of its own in force or to come.
    pub fn is_outside(&self, node: u8) -> bool {
        !self.node(node).config.members.contains(self.member(node))
    }
}

impl Node {
    /// A node with an empty disk.
    pub fn empty(disk: u8, config: Config) -> Self {
        Self {
            disk,
            gone: false,
            config,
            promise: 0,
            accepted: None,
            unsealed: false,
            joining: 0,
            data: 0,
            hints: Vec::new(),
            admitted: Vec::new(),
            pushes: Vec::new(),
            barred: Members::default(),
        }
    }
}
