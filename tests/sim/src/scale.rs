//! What membership costs as clusters grow: folding the history, preference lists, a plan, and the gossip of a change.
//!
//! Times are of the CPU, not of the clock on the wall: others may use the machine, too. The gossip is simulated, and counts
//! seconds of its own and bytes.

use std::{hint::black_box, time::Duration};

use clap::Args;
use dynkv_gossip::{Config, GrowSet, Message, Payload};
use dynkv_ring::{
    Change, Entry, Founding, History, Member, Membership, NodeId, PartitionCount, Plan, Position,
};
use rustix::time::{ClockId, clock_gettime};

#[path = "../../../crates/gossip/examples/convergence/wire.rs"]
mod wire;
#[path = "../../../crates/gossip/examples/convergence/world.rs"]
mod world;

use world::{Faults, Random, Traffic, World};

/// Measure what membership costs in clusters of growing sizes, and print it as a table.
#[derive(Args, Debug)]
pub struct Scale {
    /// Sizes of the clusters, in nodes.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000", value_parser = clap::value_parser!(u32).range(4..=10_000))]
    nodes: Vec<u32>,
    /// Changes whose spread is measured, for each size.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
}

/// What is measured of one size.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Nodes.
    pub nodes: u32,
    /// Partitions.
    pub partitions: u32,
    /// The history in bytes.
    pub history_bytes: usize,
    /// To fold it.
    pub fold: Duration,
    /// To go on from there with the join of one more node.
    pub follow: Duration,
    /// One preference list, its first six nodes, position and partition of the key included.
    pub preference: Duration,
    /// To plan the join of one more node, as a node does that has folded the history.
    pub plan: Duration,
    /// Replicas that move for it.
    pub replicas_moved: usize,
    /// Seconds from a change at one node until all have it: half of the changes, and all but the slowest hundredth.
    pub spread_s: (f64, f64),
    /// Bytes that a node sends for a change, beyond what it sends without one.
    pub change_bytes: f64,
}

impl Scale {
    /// Measures, and prints a line for each size.
    pub fn run(&self) {
        println!(
            "| nodes | partitions | history | fold | one more join | preference list | plan of a join | replicas moved | gossip: p50 / p99 | bytes a node and change |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let mut before: Option<Figures> = None;
        for &nodes in &self.nodes {
            let figures = measure(nodes, self.changes);
            println!("{}", line(&figures));
            if let Some(before) = before {
                println!("{}", growth(&before, &figures));
            }
            before = Some(figures);
        }
    }
}

fn line(figures: &Figures) -> String {
    let Figures {
        nodes,
        partitions,
        history_bytes,
        fold,
        follow,
        preference,
        plan,
        replicas_moved,
        spread_s,
        change_bytes,
    } = figures;
    format!(
        "| {nodes} | {partitions} | {history_bytes} B | {:.2} ms | {:.2} ms | {} ns | {:.2} ms | {replicas_moved} | {:.1} / {:.1} s | {change_bytes:.0} |",
        fold.as_secs_f64() * 1e3,
        follow.as_secs_f64() * 1e3,
        preference.as_nanos(),
        plan.as_secs_f64() * 1e3,
        spread_s.0,
        spread_s.1,
    )
}

/// How many times as much as for the size before.
fn growth(before: &Figures, after: &Figures) -> String {
    let times = |before: f64, after: f64| format!("x {:.1}", after / before);
    let time = |of: fn(&Figures) -> Duration| times(of(before).as_secs_f64(), of(after).as_secs_f64());
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        times(before.nodes.into(), after.nodes.into()),
        times(before.partitions.into(), after.partitions.into()),
        times(before.history_bytes as f64, after.history_bytes as f64),
        time(|figures| figures.fold),
        time(|figures| figures.follow),
        time(|figures| figures.preference),
        time(|figures| figures.plan),
        times(before.replicas_moved as f64, after.replicas_moved as f64),
        times(before.spread_s.0, after.spread_s.0),
        times(before.change_bytes, after.change_bytes),
    )
}

/// One size. `changes` are spread by gossip.
pub fn measure(nodes: u32, changes: u32) -> Figures {
    let history = history(nodes);
    let (membership, fold) = timed(|| Membership::fold(&history));
    let join = Change::Join(member(nodes));
    let mut longer = history.clone();
    longer.insert(entry(u64::from(nodes) + 2, join.clone())).expect("there is room");
    let (_, follow) = timed(|| membership.follow(&longer));
    let (plan, planned) = timed(|| {
        Plan::following(&membership, &history, [join.clone()]).expect("there are partitions enough")
    });
    let (spread_s, change_bytes) = gossip(nodes, changes, &entry(2, join).to_bytes());
    Figures {
        nodes,
        partitions: membership.partitions().get(),
        history_bytes: history.to_bytes().len(),
        fold,
        follow,
        preference: preference(&membership),
        plan: planned,
        replicas_moved: plan.moves().len(),
        spread_s,
        change_bytes,
    }
}

/// Half of the nodes founded the cluster, as far as that is possible; the others have joined one after the other. At least eight
/// partitions for each node, as far as that is possible.
fn history(nodes: u32) -> History {
    let founders = (nodes / 2).min(Founding::MAX_MEMBERS as u32);
    let partitions = (nodes * 8).next_power_of_two().clamp(256, PartitionCount::MAX.get());
    let founding = Founding {
        cluster: "scale".into(),
        partitions: PartitionCount::new(partitions).expect("a power of two within the limits"),
        replicas: 3,
        members: (0..founders).map(member).collect(),
    };
    let mut history = History::new();
    let mut add = |time, change| {
        history.insert(entry(time, change)).expect("there is room");
    };
    add(1, Change::Found(founding));
    for node in founders..nodes {
        add(u64::from(node) + 2, Change::Join(member(node)));
    }
    history
}

fn member(node: u32) -> Member {
    Member::new(id(node)).with_zone(format!("zone-{}", node % 5))
}

fn id(node: u32) -> NodeId {
    format!("node-{node:05}").parse().expect("a good id")
}

fn entry(time: u64, change: Change) -> Entry {
    Entry::new(time, id(0), change).expect("a good change")
}

/// The mean over many keys.
fn preference(membership: &Membership) -> Duration {
    const KEYS: u32 = 200_000;
    let ring = membership.ring();
    let ((), time) = timed(|| {
        for key in 0..KEYS {
            let partition = Position::of("carts", &key.to_be_bytes()).partition(ring.partitions());
            black_box(ring.preference(partition).take(6).last());
        }
    });
    time / KEYS
}

/// What `work` gives, and the CPU that this thread has spent on it.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let parts = u64::try_from(time.tv_sec).ok().zip(u32::try_from(time.tv_nsec).ok());
        parts.map_or(Duration::ZERO, |(seconds, nanoseconds)| Duration::new(seconds, nanoseconds))
    };
    let begun = now();
    let done = work();
    (done, now().saturating_sub(begun))
}

type Set = GrowSet<Vec<u8>>;

/// Sizes are of ids with twelve characters.
fn size(message: &Message<u32, <Set as Payload>::Message>) -> usize {
    let bytes = |len: usize| wire::number(len as u64) + len;
    wire::message(
        message,
        |_| 13,
        |set| wire::map(set, |_| wire::DIGEST, |()| 1, |value| bytes(value.get().len())),
    )
}

/// Others that a node may draw. In a cluster it is all of them; a random few spread a change as well, and fit into memory for
/// ten thousand nodes at once.
const PEERS_MAX: u64 = 64;

/// Spreads changes, one after the other, through nodes that gossip nothing else: rounds take a second, messages 1 to 20 ms, none is lost.
fn gossip(nodes: u32, changes: u32, entry: &[u8]) -> ((f64, f64), f64) {
    const IDLE_S: u64 = 20;
    let mut random = Random(nodes.into());
    let faults = Faults { latency: (Duration::from_millis(1), Duration::from_millis(20)), ..Faults::NONE };
    let mut world: World<Set> = World::new(nodes.into(), faults, size);
    // Nobody keeps a table of all others: what that costs depends on their states, not on changes.
    let mut config = Config::default();
    config.nodes_max = 0;
    for node in 0..nodes {
        let peers: Vec<u32> = match u64::from(nodes) {
            few if few <= PEERS_MAX => (0..nodes).filter(|other| *other != node).collect(),
            many => {
                (0..PEERS_MAX).map(|_| random.below(many) as u32).filter(|other| *other != node).collect()
            }
        };
        world.start(config, node, 1, &peers, Set::new());
    }
    world.run(Duration::from_secs(5));
    world.traffic = Traffic::default();
    world.run(Duration::from_secs(IDLE_S));
    let idle_per_s = world.traffic.bytes as f64 / IDLE_S as f64;

    let mut spread_s = Vec::new();
    let mut beyond = 0.0;
    for change in 0..changes {
        let mut news = entry.to_vec();
        news.extend(change.to_be_bytes());
        let at = random.below(nodes.into()) as usize;
        world.node_mut(at).payload_mut().insert(news.clone()).expect("there is room");
        let (begun, bytes) = (world.now, world.traffic.bytes);
        while !world.alive().all(|node| node.payload().contains(&news)) {
            world.run(Duration::from_millis(50));
        }
        spread_s.push((world.now - begun).as_secs_f64());
        // Until it is passed on unasked no more.
        world.run(Duration::from_secs(10));
        let idle = idle_per_s * (world.now - begun).as_secs_f64();
        beyond += (world.traffic.bytes - bytes) as f64 - idle;
    }
    spread_s.sort_by(f64::total_cmp);
    let at =
        |share: f64| spread_s[((spread_s.len() as f64 * share).ceil() as usize).clamp(1, spread_s.len()) - 1];
    ((at(0.5), at(0.99)), beyond / f64::from(nodes) / f64::from(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_is_measured() {
        let figures = measure(10, 2);
        assert_eq!((figures.nodes, figures.partitions), (10, 256));
        assert!(
            figures.replicas_moved >= 3 * 256 / 11 && figures.spread_s.0 > 0.0 && figures.change_bytes > 0.0,
            "{figures:?}"
        );
        assert_eq!(line(&figures).matches('|').count(), growth(&figures, &figures).matches('|').count());
    }
}
