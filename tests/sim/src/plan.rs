//! What a run will be, as data: drawn from a seed or written by hand, and cut down when it fails.

use std::{fmt, time::Duration};

use dynkv_proto::FeatureSet;
use rand::{SeedableRng, rngs::StdRng};

use crate::{buckets::Bucket, disk::Trouble, history::Key, network::Weather, workload::Step};

/// Everything about a run. The same plan gives the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For all that is too small to be planned: the fates of datagrams, certificates, what crashes lose.
    pub seed: u64,
    /// Nodes, three of them homes of each key.
    pub nodes: usize,
    /// The last so many of them are no members of the cluster at first.
    pub spares: usize,
    /// The first so many of them begin with [`Release::Old`].
    pub old: usize,
    /// Nodes are in so many zones in turn; zero: in none.
    pub zones: usize,
    /// Whether processes that are started after the founding know nobody but whom their disk names.
    pub seedless: bool,
    /// Whether every bucket that can writes to two disks: needed when a disk may be lost.
    pub two_disks: bool,
    /// Where disks are lost: how many, before others have what they held.
    pub lost_at_once: u32,
    /// How long keys rest before their tombstones and old context entries may go; the default of a day, if it is not said.
    pub grace_ms: Option<u64>,
    /// Keys that every random session works on.
    pub keys: Vec<Key>,
    /// Who works.
    pub sessions: Vec<SessionPlan>,
    /// How long all nodes run before anything happens: a node that is younger than the retry window cannot say of a put that
    /// it was not applied.
    pub warm_up_ms: u64,
    /// How long they work and faults happen.
    pub duration_ms: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPlan {
    /// Its number, which stays when others are left out.
    pub number: usize,
    /// For its choices.
    pub seed: u64,
    /// How long it waits for an answer before the outcome is unknown.
    pub timeout_ms: u64,
    /// What it does.
    pub work: Work,
}

/// What a session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Anything, to the plan's keys and to keys of its own.
    Random,
    /// This.
    Steps(Vec<Step>),
}

/// Something that goes wrong for a while. Each is whole in itself: leaving one out leaves no other half done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, since the work began.
    pub at_ms: u64,
    /// How long until it is mended.
    pub lasts_ms: u64,
    /// What.
    pub what: What,
}

/// What goes wrong. Nodes are meant by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A process is killed; its disk keeps all that was committed.
    Kill(usize),
    /// A machine loses power; its disk keeps what was synced, and perhaps more.
    PowerLoss(usize),
    /// Every machine loses power at the same moment.
    Blackout,
    /// A process stands still (see [`crate::gate`]).
    Pause(usize),
    /// Nothing gets through from one to the other.
    Cut(Place, Place),
    /// Nothing gets through between the nodes listed and the other nodes; clients reach them all.
    Split(Vec<usize>),
    /// Nothing gets through between the nodes and clients listed (by index and session) and all others: whoever is with nodes
    /// that are no homes of a key has nobody else to ask.
    Island(Vec<usize>, Vec<usize>),
    /// Loss, doubling and long delays.
    Storm(Weather),
    /// Datagrams from and to a node take longer by so many milliseconds, and its disk a hundred times as long.
    SlowNode(usize, u64),
    /// A disk takes so many times as long.
    SlowDisk(usize, u32),
    /// Operations of a disk fail.
    Trouble(usize, Trouble),
    /// A disk has no room.
    FullDisk(usize),
    /// A clock is off by so many milliseconds.
    Clock(usize, i64),
    /// A node comes back at another address.
    Move(usize),
    /// A node comes back with an empty disk.
    Wipe(usize),
    /// A node comes back with a copy of its disk that is so many milliseconds old.
    Restore(usize, u64),
    /// A second process runs on a copy of a node's disk, at another address.
    Clone(usize),
    /// A node is stopped hard and comes back with another version.
    Restart(usize, Release),
    /// An operator switches on what only new versions know.
    Enable,
    /// A second process runs under a node's name on an empty disk, at another address.
    Twin(usize),
    /// A bit flips in about one of so many records of a disk.
    Rot(usize, u32),
    /// A node's digest index loses or changes about one of so many entries: nobody knows how.
    Drift(usize, u32),
    /// An operator changes the members.
    Change(MemberChange),
}

/// What an operator does to the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node joins.
    Join(usize),
    /// A node leaves.
    Leave(usize),
    /// A node is killed for ever, and removed.
    Remove(usize),
    /// A node is removed, which may still live, or come back.
    Exclude(usize),
    /// A node is killed for ever, and another one takes its place.
    Replace(usize, usize),
    /// A node gets another weight.
    Weight(usize, u32),
}

impl MemberChange {
    /// The node that is killed for ever.
    pub fn victim(self) -> Option<usize> {
        match self {
            MemberChange::Remove(node) | MemberChange::Replace(node, _) => Some(node),
            _ => None,
        }
    }

    /// Whether what a node holds is lost to the others.
    pub fn loses_disk(self) -> bool {
        self.victim().is_some() || matches!(self, MemberChange::Exclude(_))
    }
}

/// A version of the software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It knows no features of the protocol.
    Old,
    /// It knows all.
    New,
}

impl Release {
    /// What it knows.
    pub fn features(self) -> FeatureSet {
        match self {
            Release::Old => FeatureSet::default(),
            Release::New => FeatureSet::known(),
        }
    }
}

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A node, by its index.
    Node(usize),
    /// A client, by the number of its session.
    Session(usize),
    /// Whoever changes the members.
    Operator,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is a variant of `What`")]
pub enum Kind {
    Kill,
    PowerLoss,
    Blackout,
    Pause,
    Cut,
    Split,
    Storm,
    SlowNode,
    SlowDisk,
    Trouble,
    FullDisk,
    Clock,
    Move,
    Wipe,
    Restore,
    Clone,
    Rot,
    Drift,
    Change,
    Upgrade,
    Twin,
}

impl Kind {
    /// All of them but changes of members, which are drawn by themselves, of versions, and twins: one that is cut off from the node whose name it has takes its place.
    pub const ALL: [Kind; 18] = [
        Kind::Kill,
        Kind::PowerLoss,
        Kind::Blackout,
        Kind::Pause,
        Kind::Cut,
        Kind::Split,
        Kind::Storm,
        Kind::SlowNode,
        Kind::SlowDisk,
        Kind::Trouble,
        Kind::FullDisk,
        Kind::Clock,
        Kind::Move,
        Kind::Wipe,
        Kind::Restore,
        Kind::Clone,
        Kind::Rot,
        Kind::Drift,
    ];

    /// Whether it costs a disk, or some of one, of which a run may lose one.
    pub fn loses_disk(self) -> bool {
        matches!(self, Kind::Wipe | Kind::Restore | Kind::Clone | Kind::Rot)
    }

    /// What it is called in a summary.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Kill => "kills",
            Kind::PowerLoss => "power losses",
            Kind::Blackout => "blackouts",
            Kind::Pause => "pauses",
            Kind::Cut => "cuts",
            Kind::Split => "splits",
            Kind::Storm => "storms",
            Kind::SlowNode => "slow nodes",
            Kind::SlowDisk => "slow disks",
            Kind::Trouble => "failing disks",
            Kind::FullDisk => "full disks",
            Kind::Clock => "clock jumps",
            Kind::Move => "moves",
            Kind::Wipe => "wiped disks",
            Kind::Restore => "restored disks",
            Kind::Clone => "cloned disks",
            Kind::Rot => "rotten disks",
            Kind::Drift => "drifted indexes",
            Kind::Change => "changes of members",
            Kind::Upgrade => "upgrades",
            Kind::Twin => "twins",
        }
    }
}

impl What {
    /// Whether it costs a disk, or some of one.
    pub fn loses_disk(&self) -> bool {
        match self {
            What::Change(change) => change.loses_disk(),
            other => other.kind().loses_disk(),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            What::Kill(_) => Kind::Kill,
            What::PowerLoss(_) => Kind::PowerLoss,
            What::Blackout => Kind::Blackout,
            What::Pause(_) => Kind::Pause,
            What::Cut(..) => Kind::Cut,
            What::Split(_) | What::Island(..) => Kind::Split,
            What::Storm(_) => Kind::Storm,
            What::SlowNode(..) => Kind::SlowNode,
            What::SlowDisk(..) => Kind::SlowDisk,
            What::Trouble(..) => Kind::Trouble,
            What::FullDisk(_) => Kind::FullDisk,
            What::Clock(..) => Kind::Clock,
            What::Move(_) => Kind::Move,
            What::Wipe(_) => Kind::Wipe,
            What::Restore(..) => Kind::Restore,
            What::Clone(_) => Kind::Clone,
            What::Twin(_) => Kind::Twin,
            What::Rot(..) => Kind::Rot,
            What::Drift(..) => Kind::Drift,
            What::Change(_) => Kind::Change,
            What::Restart(..) | What::Enable => Kind::Upgrade,
        }
    }
}

/// Views travel every second, to one random peer at least: every node has the buckets' properties long before this is over.
pub const WARM_UP_MS_MIN: u64 = 20_000;

impl Plan {
    /// A plan in which nothing happens, to be written on.
    pub fn quiet(seed: u64, nodes: usize, duration_ms: u64) -> Plan {
        Plan {
            seed,
            nodes,
            spares: 0,
            old: 0,
            zones: 0,
            seedless: false,
            two_disks: false,
            lost_at_once: 1,
            grace_ms: None,
            keys: Vec::new(),
            sessions: Vec::new(),
            warm_up_ms: WARM_UP_MS_MIN,
            duration_ms,
            faults: Vec::new(),
        }
    }

    /// With a fault more.
    pub fn fault(mut self, at_ms: u64, lasts_ms: u64, what: What) -> Plan {
        self.two_disks |= what.loses_disk();
        self.faults.push(Fault { at_ms, lasts_ms, what });
        self
    }

    /// With tombstones and old context entries that may go after so many milliseconds.
    pub fn grace(mut self, grace_ms: u64) -> Plan {
        self.grace_ms = Some(grace_ms);
        self
    }

    /// With a session more that takes these steps.
    pub fn session(mut self, steps: Vec<Step>) -> Plan {
        let number = self.sessions.len();
        let seed = self.seed ^ ((number as u64 + 1) << 32);
        let work = Work::Steps(steps);
        self.sessions.push(SessionPlan { number, seed, timeout_ms: 5_000, work });
        self
    }

    /// With some sessions more that do anything to `keys`.
    pub fn random_sessions(mut self, count: usize, keys: &[Key]) -> Plan {
        let mut random = StdRng::seed_from_u64(self.seed);
        self.keys.extend_from_slice(keys);
        let first = self.sessions.len();
        self.sessions.extend((first..first + count).map(|number| SessionPlan::draw(number, &mut random)));
        self
    }

    /// The work's length.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.duration_ms)
    }

    /// Buckets in use.
    pub fn buckets(&self) -> Vec<Bucket> {
        let own = Bucket::OWN.into_iter().filter(|_| !self.sessions.is_empty());
        let mut buckets: Vec<Bucket> = self.all_keys().iter().map(|key| key.bucket).chain(own).collect();
        buckets.sort();
        buckets.dedup();
        buckets
    }

    /// The keys of random sessions' own.
    pub fn own_keys(number: usize) -> Vec<Key> {
        let own = |bucket| Key { bucket, name: format!("own{number}"), owner: Some(number) };
        Bucket::OWN.into_iter().map(own).collect()
    }

    /// Every key that somebody may write.
    pub fn all_keys(&self) -> Vec<Key> {
        let mut keys = self.keys.clone();
        for session in &self.sessions {
            match &session.work {
                Work::Random => keys.extend(Plan::own_keys(session.number)),
                Work::Steps(steps) => keys.extend(steps.iter().map(|step| step.key.clone())),
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    /// Whether machines lose power.
    pub fn loses_power(&self) -> bool {
        self.has(|kind| matches!(kind, Kind::PowerLoss | Kind::Blackout))
    }

    /// Whether a disk is lost.
    pub fn loses_disk(&self) -> bool {
        self.faults.iter().any(|fault| fault.what.loses_disk())
    }

    /// Whether the members change.
    pub fn moves(&self) -> bool {
        self.has(|kind| kind == Kind::Change)
    }

    /// With so many nodes more that are no members at first.
    pub fn spares(mut self, spares: usize) -> Plan {
        self.nodes += spares;
        self.spares += spares;
        self
    }

    /// So many disks are lost before others have what they held.
    pub fn lost_at_once(mut self, disks: u32) -> Plan {
        self.lost_at_once = disks;
        self
    }

    /// With an old version on all nodes that there are so far.
    pub fn old(mut self) -> Plan {
        self.old = self.nodes;
        self
    }

    /// With nodes in so many zones, in turn.
    pub fn zones(mut self, zones: usize) -> Plan {
        self.zones = zones;
        self
    }

    /// Each node has one at least.
    pub fn partitions(&self) -> u32 {
        if self.nodes > 8 { 16 } else { 8 }
    }

    /// Whether a node goes on with another disk, or another content of it.
    pub fn replaces_disk(&self) -> bool {
        self.has(|kind| kind.loses_disk() && kind != Kind::Rot)
    }

    /// Nodes of which a process ever runs on a copy of a disk.
    pub fn runs_old_disks(&self) -> impl Iterator<Item = usize> {
        self.faults.iter().filter_map(|fault| match fault.what {
            What::Restore(node, _) | What::Clone(node) => Some(node),
            _ => None,
        })
    }

    /// Whether nodes compare their replicas. In every other plan they do not: comparisons mend what hints and reads should have
    /// mended, and nobody would see that those did not.
    pub fn compares_replicas(&self) -> bool {
        self.seed.is_multiple_of(2)
    }

    /// Whether tombstones may go before the end: their grace is short, or an index may have forgotten since when they are there. The
    /// grace only says when all members are asked.
    pub fn may_settle(&self) -> bool {
        self.grace_ms.is_some() || self.has(|kind| kind == Kind::Drift)
    }

    /// Whether no disk spoils what it holds.
    pub fn keeps_indexes(&self) -> bool {
        !self.has(|kind| matches!(kind, Kind::Rot | Kind::Drift))
    }

    /// Whether no process ends and no disk fails.
    pub fn keeps_processes(&self) -> bool {
        !self.has(|kind| {
            !matches!(
                kind,
                Kind::Pause
                    | Kind::Cut
                    | Kind::Split
                    | Kind::Storm
                    | Kind::SlowNode
                    | Kind::SlowDisk
                    | Kind::Clock
            )
        })
    }

    fn has(&self, wanted: impl Fn(Kind) -> bool) -> bool {
        self.faults.iter().any(|fault| wanted(fault.what.kind()))
    }
}

fn node(index: usize) -> String {
    format!("n{}", index + 1)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Node(index) => f.write_str(&node(*index)),
            Place::Session(number) => write!(f, "client s{number}"),
            Place::Operator => f.write_str("the operator"),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::Old => "old",
            Release::New => "new",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Kill(index) => write!(f, "{} is killed", node(*index)),
            What::PowerLoss(index) => write!(f, "{} loses power", node(*index)),
            What::Blackout => f.write_str("all nodes lose power"),
            What::Pause(index) => write!(f, "{} stands still", node(*index)),
            What::Cut(from, to) => write!(f, "nothing gets from {from} to {to}"),
            What::Split(side) => {
                let side: Vec<String> = side.iter().map(|index| node(*index)).collect();
                write!(f, "{} cut off from the other nodes", side.join(" and "))
            }
            What::Island(nodes, sessions) => {
                let nodes = nodes.iter().map(|index| node(*index));
                let all: Vec<String> =
                    nodes.chain(sessions.iter().map(|number| format!("client s{number}"))).collect();
                write!(f, "{} cut off from all others", all.join(" and "))
            }
            What::Storm(weather) => write!(f, "{weather}"),
            What::SlowNode(index, by_ms) => write!(f, "{} is slow by {by_ms} ms", node(*index)),
            What::SlowDisk(index, factor) => {
                write!(f, "the disk of {} takes {factor} times as long", node(*index))
            }
            What::Trouble(index, Trouble { operation, after, times }) => {
                let times = if *times == u32::MAX { "all".to_owned() } else { times.to_string() };
                write!(f, "the disk of {} fails {times} {operation}s after {after}", node(*index))
            }
            What::FullDisk(index) => write!(f, "the disk of {} is full", node(*index)),
            What::Clock(index, skew_ms) => write!(f, "the clock of {} is off by {skew_ms} ms", node(*index)),
            What::Move(index) => write!(f, "{} moves to another address", node(*index)),
            What::Wipe(index) => write!(f, "{} loses its disk and gets an empty one", node(*index)),
            What::Restore(index, age_ms) => {
                write!(f, "{} gets a copy of its disk that is {age_ms} ms old", node(*index))
            }
            What::Clone(index) => {
                write!(f, "a second process runs on a copy of the disk of {}", node(*index))
            }
            What::Twin(index) => {
                write!(f, "a second process runs under the name of {} on an empty disk", node(*index))
            }
            What::Rot(index, one_in) => {
                write!(f, "a bit flips in one of {one_in} records on the disk of {}", node(*index))
            }
            What::Drift(index, one_in) => {
                write!(f, "one of {one_in} entries of the digest index of {} goes wrong", node(*index))
            }
            What::Restart(index, release) => {
                write!(f, "{} is restarted with the {release} version", node(*index))
            }
            What::Enable => f.write_str("what new versions know is switched on"),
            What::Change(MemberChange::Join(index)) => write!(f, "{} joins", node(*index)),
            What::Change(MemberChange::Leave(index)) => write!(f, "{} leaves", node(*index)),
            What::Change(MemberChange::Remove(index)) => write!(f, "{} dies and is removed", node(*index)),
            What::Change(MemberChange::Exclude(index)) => write!(f, "{} is removed", node(*index)),
            What::Change(MemberChange::Replace(old, new)) => {
                write!(f, "{} dies and is replaced by {}", node(*old), node(*new))
            }
            What::Change(MemberChange::Weight(index, weight)) => {
                write!(f, "{} gets the weight {weight}", node(*index))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms for {} ms: {}", self.at_ms, self.lasts_ms, self.what)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        writeln!(
            f,
            "seed {}: {} nodes, {} of them spare, warm for {} ms, at work for {} ms, keys {}{}",
            self.seed,
            self.nodes,
            self.spares,
            self.warm_up_ms,
            self.duration_ms,
            keys.join(" "),
            if self.two_disks { ", every write to two disks" } else { "" }
        )?;
        if self.old > 0 {
            writeln!(f, "  {} begin with the old version", self.old)?;
        }
        if let Some(grace_ms) = self.grace_ms {
            writeln!(f, "  tombstones may go after {grace_ms} ms")?;
        }
        for SessionPlan { number, timeout_ms, work, .. } in &self.sessions {
            match work {
                Work::Random => writeln!(f, "  s{number} does anything, waits {timeout_ms} ms for answers")?,
                Work::Steps(steps) => writeln!(f, "  s{number} takes {} steps", steps.len())?,
            }
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))
    }
}
