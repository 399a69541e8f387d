//! How fast a change spreads, what gossip costs, and how often the detector is wrong, in simulated clusters.
//!
//! ```text
//! cargo run --release -p dynkv-gossip --example convergence [node-months per size, default 1]
//! ```
//!
//! It takes some ten minutes, most of them for the largest cluster, and 1.5 GB of memory.

mod wire;
mod world;

use std::time::Duration;

use dynkv_gossip::{Config, Gossip, GrowSet, Message, Payload};
use world::{Faults, Random, Traffic, World};

type Set = GrowSet<u64>;

/// Sizes are of ids with twelve characters.
fn size(message: &Message<u32, <Set as Payload>::Message>) -> usize {
    wire::message(
        message,
        |_| 13,
        |set| wire::map(set, |_| wire::DIGEST, |()| 1, |value| wire::number(*value.get())),
    )
}

const SECOND: Duration = Duration::from_secs(1);
const STATE_BYTES: usize = 100;

fn main() {
    let node_months = match std::env::args().nth(1).map(|months| months.parse::<f64>()) {
        None => 1.0,
        Some(Ok(months)) if months > 0.0 => months,
        Some(_) => {
            eprintln!("usage: convergence [node-months of false suspicions to look for, default 1]");
            std::process::exit(2);
        }
    };
    println!("Interval 1 s, latency 1 to 20 ms, ids of 12 characters, states of {STATE_BYTES} bytes.\n");
    spread();
    suspicions(node_months);
}

/// Latency as between two data centres, loss as given.
fn faults(loss: f64) -> Faults {
    Faults { latency: (Duration::from_millis(1), Duration::from_millis(20)), loss, ..Faults::NONE }
}

/// A cluster in which everybody knows everything.
fn cluster(nodes: u32, seed: u64, faults: Faults) -> World<Set> {
    let mut world = World::new(seed, Faults::NONE, size);
    let seeds: Vec<u32> = if nodes <= FULL_MAX { (0..3).collect() } else { (0..nodes).collect() };
    let mut config = Config::default();
    if nodes > FULL_MAX {
        config.nodes_max = 0;
    }
    for id in 0..nodes {
        let process = world.start(config, id, 1, &seeds, Set::new());
        if nodes <= FULL_MAX {
            world.node_mut(process).set_state(vec![0; STATE_BYTES]).expect("short");
        }
    }
    let complete = |world: &World<Set>| {
        nodes > FULL_MAX || world.alive().all(|node| node.states().len() == nodes as usize)
    };
    while !complete(&world) {
        world.run(SECOND);
    }
    world.faults = faults;
    world.run(60 * SECOND);
    world.traffic = Traffic::default();
    world
}

/// Above this size the tables of all nodes do not fit into one process: nodes carry the payload only, and have all
/// others as seeds.
const FULL_MAX: u32 = 1_000;

fn spread() {
    println!(
        "Rounds (seconds) from a change at one node until all have it; bytes sent by a node in a second:"
    );
    println!(
        "idle; from a change to its full spread; and, at the end, while every node has a new state every 10 s."
    );
    println!("Above {FULL_MAX} nodes: the payload only, no states and no others' heartbeats.\n");
    println!(
        "| nodes | changes | p50 | p99 | p50, 5 % loss | p99, 5 % loss | idle B/s | change B/s | busy B/s | largest message |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (nodes, changes) in
        [(10, 1_000), (30, 1_000), (100, 1_000), (300, 300), (1_000, 100), (3_000, 200), (10_000, 100)]
    {
        let mut world = cluster(nodes, u64::from(nodes), faults(0.0));
        world.run(30 * SECOND);
        let idle = world.traffic.bytes as f64 / f64::from(nodes) / 30.0;
        world.traffic = Traffic::default();
        let (good, bytes) = changes_spread(&mut world, changes);
        world.faults = faults(0.05);
        let (lossy, _) = changes_spread(&mut world, changes);
        world.faults = faults(0.0);
        let largest = world.traffic.largest;
        let busy = if nodes <= FULL_MAX { format!("{:.0}", busy(&mut world)) } else { "-".to_owned() };
        println!(
            "| {nodes} | {changes} | {:.1} | {:.1} | {:.1} | {:.1} | {idle:.0} | {bytes:.0} | {busy} | {largest} |",
            percentile(&good, 0.50),
            percentile(&good, 0.99),
            percentile(&lossy, 0.50),
            percentile(&lossy, 0.99),
        );
    }
    println!();
}

/// How many rounds each change took; bytes per node and second while it spread.
fn changes_spread(world: &mut World<Set>, changes: u64) -> (Vec<f64>, f64) {
    let step = Duration::from_millis(50);
    let nodes = world.nodes.len() as f64;
    let (mut rounds, mut bytes, mut seconds) = (Vec::new(), 0, 0.0);
    for _ in 0..changes {
        world.run(Duration::from_micros(world.random.clone().below(3_000_000)));
        let news = world.random.next();
        let at = world.random.below(world.nodes.len() as u64) as usize;
        world.node_mut(at).payload_mut().insert(news).expect("room");
        let (start, bytes_before) = (world.now, world.traffic.bytes);
        while !world.alive().all(|node| node.payload().contains(&news)) {
            world.run(step);
        }
        rounds.push((world.now - start).as_secs_f64());
        seconds += (world.now - start).as_secs_f64();
        bytes += world.traffic.bytes - bytes_before;
    }
    rounds.sort_by(f64::total_cmp);
    (rounds, bytes as f64 / nodes / seconds)
}

/// Bytes per node and second while every node has a new state every ten seconds.
fn busy(world: &mut World<Set>) -> f64 {
    const SECONDS: u64 = 60;
    let nodes = world.nodes.len();
    let bytes_before = world.traffic.bytes;
    for second in 0..SECONDS as usize {
        for process in (0..nodes).filter(|process| process % 10 == second % 10) {
            world.node_mut(process).set_state(vec![second as u8; STATE_BYTES]).expect("short");
        }
        world.run(SECOND);
    }
    (world.traffic.bytes - bytes_before) as f64 / nodes as f64 / SECONDS as f64
}

fn suspicions(node_months: f64) {
    println!("Suspicions of live nodes under 5 % loss and a pause of 200 ms of every node about every 10 s,");
    println!(
        "by heartbeats alone; then the seconds until a node that has died is suspected by the others.\n"
    );
    println!(
        "| nodes | node-months | false suspicions | per node-month | largest phi | detected, p50 s | p99 s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for nodes in [3, 10, 30, 100] {
        let faults =
            Faults { pauses: Some((Duration::from_millis(200), Duration::from_secs(10))), ..faults(0.05) };
        let mut world = cluster(nodes, 7, faults);
        let time = Duration::from_secs_f64(node_months * 30.0 * 86_400.0 / f64::from(nodes));
        let mut watch = Watch::new(nodes);
        world.run_watched(time, |process, node, now| watch.look(process, node, now));
        let detected = detection(&mut world);
        println!(
            "| {nodes} | {node_months} | {} | {:.2} | {:.1} | {:.1} | {:.1} |",
            watch.suspicions,
            watch.suspicions as f64 / node_months,
            watch.phi_max,
            percentile(&detected, 0.50),
            percentile(&detected, 0.99),
        );
    }
}

/// Counts how often a node begins to suspect another.
struct Watch {
    suspected: Vec<Vec<bool>>,
    suspicions: u64,
    phi_max: f64,
}

impl Watch {
    fn new(nodes: u32) -> Self {
        let suspected = vec![vec![false; nodes as usize]; nodes as usize];
        Self { suspected, suspicions: 0, phi_max: 0.0 }
    }

    fn look(&mut self, process: usize, node: &Gossip<u32, Set>, now: Duration) {
        for (other, suspected) in self.suspected[process].iter_mut().enumerate() {
            let Some(phi) = node.phi(&(other as u32), now) else { continue };
            let suspect = phi >= Config::default().detector.threshold;
            self.suspicions += u64::from(suspect && !*suspected);
            *suspected = suspect;
            self.phi_max = self.phi_max.max(phi);
        }
    }
}

/// Kills nodes, one after the other, and returns when each of the others suspected it.
fn detection(world: &mut World<Set>) -> Vec<f64> {
    let mut seconds = Vec::new();
    let mut random = Random(11);
    let nodes = world.nodes.len();
    for _ in 0..(nodes / 3).min(10) {
        let dead = random.below(nodes as u64) as usize;
        if world.nodes[dead].is_none() {
            continue;
        }
        world.kill(dead);
        let died = world.now;
        let mut open: Vec<usize> = (0..nodes).filter(|process| world.nodes[*process].is_some()).collect();
        while !open.is_empty() {
            world.run(Duration::from_millis(100));
            let now = world.now;
            open.retain(|process| {
                let suspect = world.node(*process).is_suspect(&(dead as u32), now);
                if suspect {
                    seconds.push((now - died).as_secs_f64());
                }
                !suspect
            });
        }
    }
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
