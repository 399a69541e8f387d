//! One seed from beginning to end: plan, found, work under faults, heal, read everything, check.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dynkv_client::Client;
use dynkv_proto::BucketChange;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    checker::{Circumstances, Violation, check},
    disk::Speed,
    network::Weather,
    workload::{Bucket, Ending, GetRecord, History, Key, Session},
    world::World,
};

/// A fault that a run may draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed; its disk keeps all that was committed.
    Kill,
    /// A machine loses power; its disk keeps what was synced, and perhaps more.
    PowerLoss,
    /// Every machine loses power at the same moment.
    Blackout,
    /// A node cannot be reached, or cannot reach another, in one direction or both.
    Cut,
    /// Loss, doubling and long delays.
    Storm,
    /// A disk becomes a hundred times slower.
    SlowDisk,
    /// A disk fails every write after some.
    FailingDisk,
    /// A clock jumps.
    Clock,
    /// A disk is wiped while its node is down; at most one in a run, and every write goes to two disks.
    Wipe,
    /// An old copy is put in place of a disk; as [`Fault::Wipe`].
    Restore,
}

/// Everything a run draws from its seed before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes of the cluster.
    pub nodes: u8,
    /// Sessions at work.
    pub sessions: usize,
    /// How long they work.
    pub duration: Duration,
    /// Which faults happen.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of `seed`.
    pub fn draw(seed: u64) -> Plan {
        let mut random = StdRng::seed_from_u64(seed);
        let all = [
            Fault::Kill,
            Fault::PowerLoss,
            Fault::Blackout,
            Fault::Cut,
            Fault::Storm,
            Fault::SlowDisk,
            Fault::FailingDisk,
            Fault::Clock,
            Fault::Wipe,
            Fault::Restore,
        ];
        Plan {
            nodes: random.random_range(3..=5),
            sessions: random.random_range(2..=5),
            duration: Duration::from_secs(random.random_range(10..40)),
            faults: all.into_iter().filter(|_| random.random_bool(0.4)).collect(),
        }
    }

    fn loses_power(&self) -> bool {
        self.faults.contains(&Fault::PowerLoss) || self.faults.contains(&Fault::Blackout)
    }

    fn loses_a_disk(&self) -> bool {
        self.faults.contains(&Fault::Wipe) || self.faults.contains(&Fault::Restore)
    }
}

/// What was seen in a run: a harmless one proves nothing.
pub type Sightings = BTreeMap<&'static str, u64>;

/// How a run ended.
pub struct Report {
    /// What the plan was.
    pub plan: Plan,
    /// What happened in it.
    pub seen: Sightings,
    /// The broken promise, if one was.
    pub verdict: Result<(), Violation>,
    /// Every event.
    pub log: Vec<String>,
}

/// Runs `seed`.
///
/// # Panics
/// When the cluster does not come up or does not heal within its bounds: liveness is a promise, too.
pub fn run(seed: u64) -> Report {
    run_plan(seed, Plan::draw(seed))
}

/// Runs a plan with the choices of `seed`.
///
/// # Panics
/// As [`run`].
pub fn run_plan(seed: u64, plan: Plan) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O is memory only");
    let report = runtime.block_on(simulate(seed, plan));
    // Ghosts of crashed nodes may still wait for something.
    runtime.shutdown_background();
    report
}

const PARTITIONS: u32 = 8;
const REPLICAS: u8 = 3;

async fn simulate(seed: u64, plan: Plan) -> Report {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut world = World::new(random.next_u64(), plan.nodes);
    world.log.note(format!("{plan:?}"));
    world.found(PARTITIONS, REPLICAS).await;
    let admin = world.client(Duration::from_secs(10)).await;
    set_buckets(&admin, plan.loses_a_disk()).await;

    let history = Arc::new(Mutex::new(History::default()));
    let shared: Vec<Key> = keys(&mut random);
    let until = Instant::now() + plan.duration;
    let mut sessions = Vec::new();
    let mut keys = shared.clone();
    for number in 0..plan.sessions {
        let client = world.client(Duration::from_secs(5)).await;
        let own = [Bucket::Plain, Bucket::Strict].map(|bucket| Key {
            bucket,
            name: format!("own{number}"),
            owner: Some(number),
        });
        let mine = [&shared[..], &own[..]].concat();
        keys.extend(own);
        let session =
            Session::new(number, client, mine, history.clone(), world.log.clone(), random.next_u64());
        sessions.push(tokio::spawn(session.run(until)));
    }
    let mut nemesis = Nemesis {
        random: StdRng::seed_from_u64(random.next_u64()),
        disk_lost: false,
        seen: Sightings::new(),
    };
    nemesis.work(&mut world, &plan.faults, until).await;
    nemesis.heal(&mut world);
    for session in sessions {
        session.await.expect("a session does not panic");
    }
    let (last, repairs) = read_all(&mut world, &keys, random.next_u64()).await;
    let history = history.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut seen = nemesis.seen;
    sight(&mut seen, &history);
    seen.insert("repairs after healing", repairs.first);
    let circumstances = Circumstances { power_lost: plan.loses_power(), disk_lost: nemesis.disk_lost };
    let mut verdict = check(&history, &last, circumstances);
    if verdict.is_ok() && repairs.again > 0 {
        verdict = Err(Violation {
            promise: "after healing and one read of each key there is nothing to repair",
            key: "all".into(),
            what: format!("{} repairs in the second round", repairs.again),
        });
    }
    Report { plan, seen, verdict, log: world.log.lines() }
}

async fn set_buckets(admin: &Client, two_disks: bool) {
    let dw = if two_disks { "2" } else { "1" };
    let settings: [(Bucket, &[(&str, &str)]); 3] = [
        (Bucket::Plain, &[("dw", dw)]),
        (Bucket::Strict, &[("dw", "2"), ("pr", "2"), ("pw", "2")]),
        (Bucket::Lww, &[("dw", dw), ("conflict", "lww")]),
    ];
    for (bucket, properties) in settings {
        let mut change = BucketChange::new(bucket.name());
        for (property, value) in properties {
            change.set(property, value).expect("good properties");
        }
        admin.propose(change.to_change(), Vec::new()).await.expect("no faults yet");
    }
    // Exchanges happen every second with one random peer: every node has the properties long before this is over.
    tokio::time::sleep(Duration::from_secs(20)).await;
}

fn keys(random: &mut StdRng) -> Vec<Key> {
    let mut keys = Vec::new();
    for bucket in Bucket::ALL {
        for number in 0..random.random_range(1..=3) {
            keys.push(Key { bucket, name: format!("k{number}"), owner: None });
        }
    }
    keys
}

/// Draws faults and undoes them.
struct Nemesis {
    random: StdRng,
    disk_lost: bool,
    seen: Sightings,
}

impl Nemesis {
    async fn work(&mut self, world: &mut World, faults: &[Fault], until: Instant) {
        while Instant::now() < until {
            let pause = Duration::from_millis(self.random.random_range(200..3000));
            tokio::time::sleep(pause).await;
            self.revive(world, 0.5);
            if faults.is_empty() {
                continue;
            }
            let fault = faults[self.random.random_range(0..faults.len())];
            self.strike(world, fault);
        }
    }

    fn sighted(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Starts nodes that are down, each with `probability`.
    fn revive(&mut self, world: &mut World, probability: f64) {
        for index in 0..world.hosts.len() {
            if !world.is_up(index) && self.random.random_bool(probability) {
                world.start(index);
                self.sighted("restarts");
            }
        }
    }

    fn strike(&mut self, world: &mut World, fault: Fault) {
        let victim = self.random.random_range(0..world.hosts.len());
        match fault {
            Fault::Kill if world.is_up(victim) => {
                world.kill(victim);
                self.sighted("kills");
            }
            Fault::PowerLoss if world.is_up(victim) => {
                world.crash(victim);
                self.sighted("power losses");
            }
            Fault::Blackout => {
                (0..world.hosts.len())
                    .filter(|&index| world.is_up(index))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|index| world.crash(index));
                self.sighted("blackouts");
            }
            Fault::Cut => self.cut(world, victim),
            Fault::Storm => {
                let weather = Weather {
                    latency_max: Duration::from_millis(self.random.random_range(1..200)),
                    lost_percent: self.random.random_range(0..20),
                    doubled_percent: self.random.random_range(0..10),
                    ..Weather::FAIR
                };
                world.network.set_weather(weather);
                world.log.note(format!("{weather:?}"));
                self.sighted("storms");
            }
            Fault::SlowDisk => {
                let factor = self.random.random_range(1..=200);
                let speed = Speed { commit: Speed::USUAL.commit * factor, sync: Speed::USUAL.sync * factor };
                world.hosts[victim].disk.set_speed(speed);
                world
                    .log
                    .note(format!("the disk of {} takes {:?} to sync", world.hosts[victim].id, speed.sync));
                self.sighted("slow disks");
            }
            Fault::FailingDisk if world.is_up(victim) => {
                let commits = self.random.random_range(0..20);
                world.hosts[victim].disk.fail_after(commits);
                world
                    .log
                    .note(format!("the disk of {} fails after {commits} commits", world.hosts[victim].id));
                self.sighted("failing disks");
            }
            Fault::Clock => {
                let skew_ms = self.random.random_range(-30_000..30_000);
                world.set_skew(victim, skew_ms);
                self.sighted("clock jumps");
            }
            Fault::Wipe if !self.disk_lost => {
                world.kill(victim);
                world.hosts[victim].disk.wipe();
                world.log.note(format!("the disk of {} is wiped", world.hosts[victim].id));
                self.disk_lost = true;
                self.sighted("wiped disks");
            }
            Fault::Restore if !self.disk_lost => {
                let host = &mut world.hosts[victim];
                if let Some(backup) = host.backup.take() {
                    world.network.unbind(host.address);
                    host.disk.restore(&backup);
                    world.log.note(format!("an old copy is put in place of the disk of {}", host.id));
                    world.kill(victim);
                    self.disk_lost = true;
                    self.sighted("restored disks");
                } else {
                    host.backup = Some(host.disk.snapshot());
                }
            }
            _ => {}
        }
    }

    fn cut(&mut self, world: &mut World, victim: usize) {
        if self.random.random_bool(0.3) {
            world.network.mend();
            world.log.note("all links are mended");
            return;
        }
        let other = self.random.random_range(0..world.hosts.len());
        let (a, b) = (world.hosts[victim].address.ip(), world.hosts[other].address.ip());
        world.network.cut(a, b);
        let both = self.random.random_bool(0.5);
        if both {
            world.network.cut(b, a);
        }
        let arrow = if both { "and" } else { "to" };
        world.log.note(format!(
            "nothing gets through from {} {arrow} {}",
            world.hosts[victim].id, world.hosts[other].id
        ));
        self.sighted("cuts");
    }

    /// Ends all faults. Nodes whose disk has failed are restarted.
    fn heal(&mut self, world: &mut World) {
        world.log.note("all faults end");
        world.network.mend();
        world.network.set_weather(Weather::FAIR);
        for index in 0..world.hosts.len() {
            world.hosts[index].disk.set_speed(Speed::USUAL);
            if world.is_up(index) {
                world.kill(index);
            }
            world.start(index);
        }
    }
}

/// Repairs made in the first and in the second round of reads.
struct Repairs {
    first: u64,
    again: u64,
}

/// Reads every key from all replicas, twice, and says what the second round saw.
async fn read_all(world: &mut World, keys: &[Key], seed: u64) -> (Vec<GetRecord>, Repairs) {
    let client = world.client(Duration::from_secs(10)).await;
    let history = Arc::new(Mutex::new(History::default()));
    let mut session = Session::new(99, client.clone(), Vec::new(), history.clone(), world.log.clone(), seed);
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let before = repairs(&client).await;
        for key in keys {
            read_until_answered(&mut session, key).await;
        }
        // Repairs follow the answers; stragglers are waited for two seconds.
        tokio::time::sleep(Duration::from_secs(5)).await;
        rounds.push(repairs(&client).await - before);
    }
    let gets = std::mem::take(&mut history.lock().unwrap_or_else(PoisonError::into_inner).gets);
    (gets.into_iter().skip(keys.len()).collect(), Repairs { first: rounds[0], again: rounds[1] })
}

async fn read_until_answered(session: &mut Session, key: &Key) {
    let begun = Instant::now();
    while session.get_with(key, Some(REPLICAS)).await.is_none() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{key} cannot be read a minute after all faults are over"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Read repairs made by all nodes so far.
async fn repairs(client: &Client) -> u64 {
    let mut sum = 0;
    let nodes: Vec<_> = client.view().membership().members().map(|state| state.member.id).collect();
    for node in nodes {
        let text = client.metrics(node).await.expect("no faults any more");
        let line = text.lines().find_map(|line| line.strip_prefix("dynkv_read_repairs_total "));
        sum += line.and_then(|number| number.parse::<u64>().ok()).expect("every node counts its repairs");
    }
    sum
}

fn sight(seen: &mut Sightings, history: &History) {
    let mut count = |what, n: usize| *seen.entry(what).or_default() += n as u64;
    let ended = |wanted: fn(&Ending) -> bool| history.puts.iter().filter(|put| wanted(&put.ending)).count();
    count("puts done", ended(|ending| matches!(ending, Ending::Done { .. })));
    count("puts refused", ended(|ending| *ending == Ending::NotDone));
    count("puts unknown", ended(|ending| *ending == Ending::Unknown));
    count(
        "possible duplicates",
        ended(|ending| matches!(ending, Ending::Done { possible_duplicate: true, .. })),
    );
    count("gets done", history.gets.len());
    count("gets failed", history.gets_failed);
    count("gets with siblings", history.gets.iter().filter(|get| get.versions.len() > 1).count());
}
