//! Worlds: how many nodes, who serves at the beginning, what operators and clients want, which faults there are.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    bug::Bug,
    members::{Config, Member, Members},
    state::{Faults, Node, Progress, State, Step, Writes},
};

/// How many answers a bucket's requests need, before they are capped to the number of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Replies of a strict read.
    pub r: u8,
    /// Durable acknowledgements of a put.
    pub w: u8,
}

/// What a client does, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A put; `strict` counts members only.
    Put {
        /// Which bucket.
        bucket: usize,
        /// `pw = w`.
        strict: bool,
    },
    /// A strict read, of one bucket.
    Read {
        /// Which bucket.
        bucket: usize,
    },
}

/// A world. It bounds what happens, not in which order.
#[derive(Clone, Debug)]
pub struct World {
    /// How many nodes.
    pub nodes: u8,
    /// The members of epoch 0.
    pub founding: Vec<u8>,
    /// What operators want, one after the other: the nodes that shall serve.
    pub targets: Vec<Vec<u8>>,
    /// The buckets. A write is in one of them; both are of one partition.
    pub buckets: Vec<Bucket>,
    /// What clients do; each once, in any order.
    pub ops: Vec<Op>,
    /// From which epoch on each of them may begin.
    pub from_epoch: Vec<u8>,
    /// Nodes of whose steps a random walk takes fewer: as if they were cut off.
    pub slow: Vec<u8>,
    /// Most proposals.
    pub proposals_max: u8,
    /// The nodes that propose.
    pub proposers: Vec<u8>,
    /// Most faults of each kind.
    pub faults_max: Faults,
    /// Answers may be lost.
    pub lossy: bool,
    /// A write is let in and finished in two steps.
    pub admits: bool,
    /// Nodes that learn get puts, nodes that are no members hand over what they hold, drop it and leave.
    pub duties: bool,
    /// In how many chunks a member is read.
    pub chunks: u8,
    /// How likely each kind of step is.
    pub weights: [u32; Step::KINDS],
    /// A planted mistake.
    pub bug: Option<Bug>,
    /// A random walk ends after so many steps.
    pub steps_max: usize,
    /// No client, no operator and no fault any more: what is under way is finished.
    pub calm: bool,
}

/// Usual weights, in the order of [`Step::kind`].
const WEIGHTS: [u32; Step::KINDS] =
    [24, 4, 6, 24, 16, 24, 30, 24, 24, 16, 6, 2, 1, 8, 10, 8, 10, 6, 3, 3, 6, 6, 24];

impl World {
    /// Small worlds for the exhaustive search, with what each is about, the smallest first.
    pub fn small() -> Vec<(&'static str, Self)> {
        let put = Op::Put { bucket: 0, strict: true };
        let sloppy = Op::Put { bucket: 0, strict: false };
        let read = Op::Read { bucket: 0 };
        let replace = Self {
            nodes: 4,
            founding: vec![0, 1, 2],
            targets: vec![vec![0, 1, 3]],
            buckets: vec![Bucket { r: 2, w: 2 }],
            ops: Vec::new(),
            from_epoch: Vec::new(),
            slow: Vec::new(),
            proposals_max: 1,
            proposers: vec![0],
            faults_max: Faults::default(),
            lossy: false,
            admits: false,
            duties: false,
            chunks: 1,
            weights: WEIGHTS,
            bug: None,
            steps_max: 200,
            calm: false,
        };
        let small =
            |ops: &[Op]| Self { ops: ops.to_vec(), from_epoch: vec![0; ops.len()], ..replace.clone() };
        vec![
            (
                "one member becomes two, then the other alone; two puts, a read",
                Self {
                    nodes: 2,
                    founding: vec![0],
                    targets: vec![vec![0, 1], vec![1]],
                    proposals_max: 2,
                    duties: true,
                    ..small(&[put, put, read])
                },
            ),
            ("one of three members is replaced; a put, a read", small(&[put, read])),
            (
                "one of two members is replaced, hands over and drops; a sloppy put",
                Self {
                    nodes: 3,
                    founding: vec![0, 1],
                    targets: vec![vec![0, 2]],
                    duties: true,
                    ..small(&[sloppy])
                },
            ),
            (
                "the only member loses its disk, everybody decides, two proposers; a put",
                Self {
                    nodes: 3,
                    founding: vec![0],
                    targets: vec![vec![0, 1]],
                    proposals_max: 2,
                    proposers: vec![0, 1],
                    faults_max: Faults { disks: 1, ..Faults::default() },
                    ..small(&[put])
                },
            ),
            (
                "one of three members is replaced, by two proposers, with a restart; a put",
                Self {
                    proposals_max: 2,
                    proposers: vec![0, 3],
                    faults_max: Faults { restarts: 1, ..Faults::default() },
                    ..small(&[put])
                },
            ),
            (
                "two members lose their disks, everybody decides, two proposers; a put",
                Self {
                    nodes: 3,
                    founding: vec![0, 1],
                    targets: vec![vec![0, 2]],
                    proposals_max: 2,
                    proposers: vec![0, 2],
                    faults_max: Faults { disks: 2, ..Faults::default() },
                    ..small(&[put])
                },
            ),
            (
                "two nodes, two disks are lost, everybody decides, three proposals; nobody writes",
                Self {
                    nodes: 2,
                    founding: vec![0],
                    targets: vec![vec![0, 1]],
                    proposals_max: 3,
                    proposers: vec![0, 1],
                    faults_max: Faults { disks: 2, ..Faults::default() },
                    ..small(&[])
                },
            ),
            ("one of three members is replaced; two puts, a read", small(&[put, put, read])),
            ("one of three members is replaced; two puts, two reads", small(&[put, put, read, read])),
        ]
    }

    /// A world from a seed.
    pub fn draw(seed: u64, bug: Option<Bug>) -> Self {
        let random = &mut SmallRng::seed_from_u64(seed);
        let (n, buckets): (u8, &[(u8, u8)]) = match random.random_range(0..8) {
            0..=2 => (3, &[(2, 2)]),
            3 => (3, &[(1, 3)]),
            4 => (3, &[(3, 1)]),
            5 => (3, &[(1, 3), (3, 1)]),
            6 => (5, &[(2, 4), (4, 2)]),
            _ => (5, &[(3, 3)]),
        };
        let buckets: Vec<Bucket> = buckets.iter().map(|&(r, w)| Bucket { r, w }).collect();
        // Few members, disks that fail, news that spreads slowly: the members alone are soon too few, and what was decided is forgotten.
        let fragile = random.random_bool(0.25) || bug.is_some_and(Bug::is_of_few);
        let members = if fragile { random.random_range(1..=2) } else { n };
        let (nodes, wanted) =
            if fragile { (random.random_range(3..=4), 2) } else { (n + random.random_range(1..=3), n) };
        let founding = some(random, nodes, members);
        let targets = (0..random.random_range(1..=3)).map(|_| some(random, nodes, wanted)).collect();
        let mut ops = Vec::new();
        let each_max = if fragile { 1 } else { 4 };
        for _ in 0..random.random_range(1..=each_max) {
            let strict = random.random_bool(0.6);
            ops.push(Op::Put { bucket: random.random_range(0..buckets.len()), strict });
        }
        for _ in 0..random.random_range(1..=each_max) {
            ops.push(Op::Read { bucket: random.random_range(0..buckets.len()) });
        }
        let from_epoch = ops.iter().map(|_| [0, 0, 1, 2][random.random_range(0..4)]).collect();
        let slow = (0..random.random_range(0..=2)).map(|_| random.random_range(0..nodes)).collect();
        let mut proposers: Vec<u8> =
            (0..random.random_range(1..=3)).map(|_| random.random_range(0..nodes)).collect();
        proposers.sort_unstable();
        proposers.dedup();
        let mut weights = WEIGHTS;
        if fragile {
            weights[Step::Tell { epoch: 0, node: 0 }.kind()] = 2;
            weights[Step::Adopt { proposal: 0, by: 0 }.kind()] = 4;
            weights[Step::LoseDisk { node: 0 }.kind()] = 10;
        }
        // Some kinds of steps are rare in this world, others frequent: what happens only when one waits for long happens, too.
        for weight in &mut weights {
            *weight = match random.random_range(0..6) {
                0 => weight.div_ceil(8),
                1 => *weight * 6,
                _ => *weight,
            };
        }
        Self {
            nodes,
            founding,
            targets,
            buckets,
            ops,
            from_epoch,
            slow,
            proposals_max: random.random_range(1..=5),
            proposers,
            faults_max: Faults {
                restarts: random.random_range(0..=2),
                disks: if fragile { random.random_range(1..=3) } else { random.random_range(0..=2) },
                removals: random.random_range(0..=if fragile { 2 } else { 1 }),
                copies: random.random_range(0..=3),
            },
            lossy: random.random_bool(0.5),
            duties: true,
            admits: random.random_bool(0.5),
            chunks: random.random_range(1..=2),
            weights,
            bug,
            steps_max: random.random_range(40..=160),
            calm: false,
        }
    }

    /// The random schedule of a seed: its world, the seed of its steps, and how many of them there may be.
    pub fn schedule(seed: u64, bug: Option<Bug>) -> (Self, u64, usize) {
        let world = Self::draw(seed, bug);
        let steps_max = world.steps_max;
        (world, seed, steps_max)
    }

    /// Whether this mistake is planted.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The bucket of an operation.
    pub fn bucket(&self, op: u8) -> Bucket {
        match self.ops[usize::from(op)] {
            Op::Put { bucket, .. } | Op::Read { bucket } => self.buckets[bucket],
        }
    }

    /// The least w of all buckets, at most the number of members.
    pub fn least_w(&self, config: Config) -> u8 {
        self.buckets.iter().map(|bucket| bucket.w).min().unwrap_or(1).min(config.members.len())
    }

    /// The least r of all buckets, at most the number of members.
    pub fn least_r(&self, config: Config) -> u8 {
        self.buckets.iter().map(|bucket| bucket.r).min().unwrap_or(1).min(config.members.len())
    }

    /// The puts whose bucket a read reads.
    pub fn readable(&self, read: u8) -> Writes {
        let Op::Read { bucket: wanted } = self.ops[usize::from(read)] else { return 0 };
        let puts = self.ops.iter().enumerate().map(|(op, kind)| match kind {
            Op::Put { bucket, .. } if *bucket == wanted => 1 << op,
            _ => 0,
        });
        puts.sum()
    }

    /// The strict puts.
    pub fn strict_puts(&self) -> Writes {
        let strict = |(op, kind): (usize, &Op)| match kind {
            Op::Put { strict: true, .. } => 1 << op,
            _ => 0,
        };
        self.ops.iter().enumerate().map(strict).sum()
    }

    /// What operators want at present, as members, without those that are gone.
    pub fn wanted(&self, state: &State) -> Members {
        let target = &self.targets[usize::from(state.target)];
        target.iter().filter(|&&node| !state.node(node).gone).map(|&node| state.member(node)).collect()
    }

    pub(super) fn beginning(&self) -> State {
        let members: Members = self.founding.iter().map(|&node| Member::new(node, 0)).collect();
        let node = Node::empty(0, Config { epoch: 0, members });
        State {
            nodes: vec![node; usize::from(self.nodes)],
            ops: vec![Progress::default(); self.ops.len()],
            proposals: Vec::new(),
            target: 0,
            faults: Faults::default(),
            chosen: vec![members],
            knew: vec![(0..self.nodes).map(|node| Member::new(node, 0)).collect()],
            void: Vec::new(),
            acked: 0,
            lost: vec![0; self.ops.len()],
        }
    }
}

/// Some of the nodes: n, now and then fewer.
fn some(random: &mut SmallRng, nodes: u8, n: u8) -> Vec<u8> {
    let count = if random.random_bool(0.75) { n } else { random.random_range(1..=n) };
    let mut all: Vec<u8> = (0..nodes).collect();
    let mut chosen = Vec::new();
    for _ in 0..count {
        chosen.push(all.swap_remove(random.random_range(0..all.len())));
    }
    chosen.sort_unstable();
    chosen
}
