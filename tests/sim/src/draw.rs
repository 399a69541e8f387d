//! Plans drawn from seeds.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    buckets::Bucket,
    disk::{Operation, Trouble},
    history::Key,
    network::{Latency, Weather},
    plan::{Fault, Kind, MemberChange, Place, Plan, Release, SessionPlan, WARM_UP_MS_MIN, What, Work},
};

/// From this seed on members change in every third plan. Those below have been kept for what was found with them, when members did not.
const MOVING_SEEDS: u64 = 1_000_000;

impl Plan {
    /// The plan of `seed`, with some of all kinds of faults.
    pub fn draw(seed: u64) -> Plan {
        let mut random = StdRng::seed_from_u64(seed);
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| random.random_bool(0.35)).collect();
        Plan::draw_with(seed, &kinds)
    }

    /// The plan of `seed`, with faults of these kinds only.
    pub fn draw_with(seed: u64, kinds: &[Kind]) -> Plan {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        let nodes = random.random_range(3..=5);
        let session_count = random.random_range(2..=5);
        let duration_ms = random.random_range(10_000..40_000);
        let mut plan = Plan {
            seed,
            nodes,
            spares: 0,
            old: 0,
            zones: 0,
            seedless: false,
            two_disks: kinds.iter().any(|kind| kind.loses_disk()),
            lost_at_once: 1,
            grace_ms: draw_grace(seed),
            keys: draw_keys(&mut random),
            sessions: (0..session_count).map(|number| SessionPlan::draw(number, &mut random)).collect(),
            warm_up_ms: if random.random_bool(0.5) { WARM_UP_MS_MIN } else { 70_000 },
            duration_ms,
            faults: Vec::new(),
        };
        plan.draw_faults(&mut random, kinds);
        if seed >= MOVING_SEEDS && seed.is_multiple_of(3) {
            plan.draw_changes();
        }
        plan
    }

    /// Changes of members, by a generator of their own. Three are left at any time, and one disk is lost at most.
    pub fn draw_changes(&mut self) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x6d6f_7665);
        let mut active: Vec<usize> = (0..self.nodes).collect();
        let spares = random.random_range(1..=3);
        let mut unused: Vec<usize> = (self.nodes..self.nodes + spares).collect();
        self.nodes += spares;
        self.spares += spares;
        let mut at_ms = 0;
        for _ in 0..random.random_range(1..=5) {
            at_ms += random.random_range(100..self.duration_ms / 3);
            let mut take = |from: &mut Vec<usize>| from.swap_remove(random.random_range(0..from.len()));
            let may_die = !self.loses_disk();
            let change = match at_ms % 5 {
                0 | 1 if !unused.is_empty() => {
                    let joins = unused.remove(0);
                    active.push(joins);
                    MemberChange::Join(joins)
                }
                2 if active.len() > 3 => MemberChange::Leave(take(&mut active)),
                3 if active.len() > 3 && may_die => MemberChange::Remove(take(&mut active)),
                4 if !unused.is_empty() && may_die => {
                    let (old, new) = (take(&mut active), unused.remove(0));
                    active.push(new);
                    MemberChange::Replace(old, new)
                }
                _ => {
                    let node = take(&mut active);
                    active.push(node);
                    MemberChange::Weight(node, random.random_range(1..=5))
                }
            };
            self.two_disks |= change.victim().is_some();
            self.faults.push(Fault { at_ms, lasts_ms: 0, what: What::Change(change) });
        }
    }

    fn draw_faults(&mut self, random: &mut StdRng, kinds: &[Kind]) {
        let mut kinds = kinds.to_vec();
        // Half of the runs are quick to mend, half let faults pile up.
        let lasts_ms_max = if random.random_bool(0.5) { 3_000 } else { 10_000 };
        let mut at_ms = 0;
        while !kinds.is_empty() {
            at_ms += random.random_range(200..3000);
            if at_ms >= self.duration_ms {
                break;
            }
            let kind = kinds[random.random_range(0..kinds.len())];
            if kind.loses_disk() {
                kinds.retain(|kind| !kind.loses_disk());
            }
            let lasts_ms = match kind {
                // Longer than idle timeouts and retry windows, now and then.
                Kind::Pause => {
                    let most = if random.random_bool(0.3) { 60_000 } else { 6_000 };
                    random.random_range(500..most)
                }
                _ => random.random_range(100..lasts_ms_max),
            };
            let what = draw_what(kind, random, self.nodes, self.sessions.len(), at_ms);
            self.faults.push(Fault { at_ms, lasts_ms, what });
        }
    }
}

impl SessionPlan {
    pub(crate) fn draw(number: usize, random: &mut StdRng) -> SessionPlan {
        let timeout_ms = if random.random_bool(0.7) { 5_000 } else { random.random_range(200..10_000) };
        SessionPlan { number, seed: random.random(), timeout_ms, work: Work::Random }
    }
}

/// By a generator of its own.
fn draw_grace(seed: u64) -> Option<u64> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x96ace);
    random.random_bool(0.6).then(|| [0, 200, 1_000, 3_000][random.random_range(0..4)])
}

fn draw_keys(random: &mut StdRng) -> Vec<Key> {
    let mut buckets = Bucket::ALL.to_vec();
    while buckets.len() > 3 {
        buckets.swap_remove(random.random_range(0..buckets.len()));
    }
    let mut keys = Vec::new();
    for bucket in buckets {
        for number in 0..random.random_range(1..=3) {
            keys.push(Key::shared(bucket, &format!("k{number}")));
        }
    }
    keys
}

fn draw_what(kind: Kind, random: &mut StdRng, nodes: usize, sessions: usize, at_ms: u64) -> What {
    let node = random.random_range(0..nodes);
    match kind {
        Kind::Change => What::Change(MemberChange::Weight(node, random.random_range(1..=5))),
        Kind::Upgrade => What::Restart(node, Release::New),
        Kind::Kill => What::Kill(node),
        Kind::PowerLoss => What::PowerLoss(node),
        Kind::Blackout => What::Blackout,
        Kind::Pause => What::Pause(node),
        Kind::Cut => {
            let other = match random.random_range(0..3) {
                0 => Place::Session(random.random_range(0..sessions)),
                _ => Place::Node((node + random.random_range(1..nodes)) % nodes),
            };
            match random.random_bool(0.5) {
                true => What::Cut(Place::Node(node), other),
                false => What::Cut(other, Place::Node(node)),
            }
        }
        Kind::Split => {
            let side: Vec<usize> = (0..nodes).filter(|_| random.random_bool(0.4)).collect();
            let side = if side.is_empty() { vec![node] } else { side };
            match random.random_bool(0.5) {
                true => What::Split(side),
                false => What::Island(side, (0..sessions).filter(|_| random.random_bool(0.6)).collect()),
            }
        }
        Kind::Storm => What::Storm(draw_weather(random)),
        Kind::SlowNode => What::SlowNode(node, random.random_range(2..500)),
        Kind::SlowDisk => What::SlowDisk(node, random.random_range(2..=400)),
        Kind::Trouble => {
            let operation = if random.random_bool(0.7) { Operation::Write } else { Operation::Read };
            let times = if random.random_bool(0.5) { 1 } else { u32::MAX };
            What::Trouble(node, Trouble { operation, after: random.random_range(0..20), times })
        }
        Kind::FullDisk => What::FullDisk(node),
        Kind::Clock => What::Clock(node, random.random_range(-45_000..45_000)),
        Kind::Move => What::Move(node),
        Kind::Wipe => What::Wipe(node),
        Kind::Restore => What::Restore(node, random.random_range(0..=at_ms)),
        Kind::Clone => What::Clone(node),
        Kind::Twin => What::Twin(node),
        Kind::Rot => What::Rot(node, random.random_range(1..=8)),
        Kind::Drift => What::Drift(node, random.random_range(2..=8)),
    }
}

fn draw_weather(random: &mut StdRng) -> Weather {
    let latency = if random.random_bool(0.5) {
        Latency::Uniform {
            min: Duration::from_micros(100),
            max: Duration::from_millis(random.random_range(1..200)),
        }
    } else {
        Latency::LongTail { typical: Duration::from_micros(random.random_range(100..5_000)) }
    };
    Weather { latency, lost_percent: random.random_range(0..20), doubled_percent: random.random_range(0..10) }
}
