//! What trees and comparisons cost, from 10^4 to 10^8 keys, with 1 to 10^5 differences.
//!
//! ```text
//! cargo run --release -p dynkv-merkle --example cost [exponent of the most keys, default 8]
//! ```
//!
//! Entries are computed when they are read, not kept, so 10^8 keys take 273 MB, and some seconds.

mod exchange;
mod keys;

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use dynkv_merkle::{Entries, Entry, Roots, Span, Tree};
use exchange::Exchange;
use keys::{Keys, Random};
use rustix::time::{ClockId, clock_gettime};

/// User and system time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let before = cpu();
    let result = work();
    *spent += cpu() - before;
    result
}

fn main() {
    let exponent = match std::env::args().nth(1).map(|exponent| exponent.parse::<u32>()) {
        None => 8,
        Some(Ok(exponent @ 4..=8)) => exponent,
        Some(_) => {
            eprintln!("usage: cost [exponent of the most keys, 4 to 8, default 8]");
            std::process::exit(2);
        }
    };
    let counts: Vec<u64> = (4..=exponent).map(|exponent| 10u64.pow(exponent)).collect();
    upkeep(&counts);
    for partitions_bits in [0, 8] {
        comparisons(&counts, partitions_bits);
    }
}

/// The cost of a tree by itself.
fn upkeep(counts: &[u64]) {
    println!(
        "One tree: CPU of an update that replaces a digest at a random position, of building and of loading.\n"
    );
    println!("| keys | leaves | bytes a key | update ns | build M entries/s | save ms | load ms |");
    println!("|---|---|---|---|---|---|---|");
    for count in counts {
        const UPDATES: usize = 1_000_000;
        let mut random = Random(1);
        let mut tree = Tree::with_depth(Span::ALL, Tree::depth_for(*count));
        let sample: Vec<Entry> =
            (0..UPDATES).map(|_| Entry { position: random.wide(), digest: random.wide() }).collect();
        let (mut update, mut build, mut save, mut load) = Default::default();
        timed(&mut update, || {
            for entry in &sample {
                tree.update(entry.position, Some(!entry.digest), Some(entry.digest)).expect("in the span");
            }
        });
        let built = timed(&mut build, || Tree::from_entries(Span::ALL, tree.depth(), sample.iter().copied()));
        assert_eq!(built.expect("in the span").len(), UPDATES as u64);
        let saved = timed(&mut save, || tree.to_bytes());
        let loaded = timed(&mut load, || Tree::from_bytes(&saved));
        assert_eq!(loaded.as_ref(), Ok(&tree));
        println!(
            "| {count} | 2^{} | {:.2} | {:.0} | {:.1} | {:.1} | {:.1} |",
            tree.depth(),
            tree.heap_bytes() as f64 / *count as f64,
            update.as_nanos() as f64 / UPDATES as f64,
            UPDATES as f64 / build.as_secs_f64() / 1e6,
            save.as_secs_f64() * 1e3,
            load.as_secs_f64() * 1e3,
        );
    }
    println!();
}

/// A store that counts what is read from it.
struct Counting<'a>(&'a Keys, &'a Cell<usize>);

impl Entries for Counting<'_> {
    type Error = Infallible;

    fn entries(&self, first: u128, last: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Infallible> {
        let before = page.len();
        self.0.entries(first, last, max, page)?;
        self.1.set(self.1.get() + page.len() - before);
        Ok(())
    }
}

/// One partition on two nodes.
struct Pair {
    keys: Keys,
    tree: Tree,
    changed: Keys,
    changed_tree: Tree,
}

#[derive(Default)]
struct Cost {
    bytes: usize,
    requests: usize,
    rounds: usize,
    found: usize,
    initiator: Duration,
    responder: Duration,
}

fn comparisons(counts: &[u64], bits: u8) {
    println!(
        "{} tree(s): a comparison, that of the roots included. Round trips: when all is asked at once that can be, and with 8 requests",
        1 << bits
    );
    println!(
        "under way in each tree. Of the differences, a third each is missing, changed, and extra. CPU includes computing the entries"
    );
    println!("that are read.\n");
    println!(
        "| keys | differences | round trips | with 8 | requests | bytes | bytes a difference | least: 32 each | all digests | entries read | CPU ms, initiator | responder |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for count in counts {
        let mut pairs: Vec<Pair> = (0..1 << bits)
            .map(|index| {
                let span = Span::new(bits, index).expect("an index below the number of spans");
                let [keys, changed] = [0; 2].map(|_| Keys::new(span, count >> bits));
                let tree = Tree::from_entries(span, keys.depth(), keys.all()).expect("in the span");
                Pair { keys, changed_tree: tree.clone(), tree, changed }
            })
            .collect();
        let total: u64 = pairs.iter().map(|pair| pair.tree.len()).sum();
        let mut random = Random(2);
        let mut differences = 0;
        for goal in [1, 10, 100, 1_000, 10_000, 100_000].into_iter().filter(|goal| goal <= count) {
            while differences < goal {
                let pair = &mut pairs[random.below(1 << bits) as usize];
                let kind = differences % 3;
                differences += u64::from(pair.changed.change(&mut random, kind, &mut pair.changed_tree));
            }
            let read = Cell::new(0);
            let all_at_once = compare(&pairs, bits, usize::MAX, &read);
            read.set(0);
            let cost = compare(&pairs, bits, 8, &read);
            assert_eq!((cost.found as u64, all_at_once.found as u64), (goal, goal));
            // What a comparison may cost at most: 64 KiB and 1 KiB for each difference, and never more than all digests.
            let bytes_max = (1024 * (64 + goal)).min(32 * total);
            assert!(cost.bytes.max(all_at_once.bytes) as u64 <= bytes_max);
            println!(
                "| {total} | {goal} | {} | {} | {} | {} | {:.0} | {} | {} | {} | {:.2} | {:.2} |",
                all_at_once.rounds,
                cost.rounds,
                cost.requests,
                cost.bytes,
                cost.bytes as f64 / goal as f64,
                32 * goal,
                32 * total,
                read.get(),
                cost.initiator.as_secs_f64() * 1e3,
                cost.responder.as_secs_f64() * 1e3,
            );
        }
    }
    println!();
}

fn compare(pairs: &[Pair], bits: u8, under_way_max: usize, read: &Cell<usize>) -> Cost {
    let mut cost = Cost { rounds: 1, requests: 1, ..Cost::default() };
    let roots = |trees: &mut dyn Iterator<Item = &Tree>| Roots::new(bits, trees).expect("each span once");
    let (here, request) = timed(&mut cost.initiator, || {
        let here = roots(&mut pairs.iter().map(|pair| &pair.tree));
        let request = here.request(7);
        (here, request)
    });
    let reply = timed(&mut cost.responder, || {
        roots(&mut pairs.iter().map(|pair| &pair.changed_tree)).answer(&request).expect("spans of one size")
    });
    let differing =
        timed(&mut cost.initiator, || here.compare(&request, &reply)).expect("spans of one size").differing;
    cost.bytes += request.to_bytes().len() + reply.to_bytes().len();
    let mut rounds_max = 0;
    for (span, depth) in &differing {
        let pair = &pairs[span.index() as usize];
        let mut exchange = Exchange::new(&pair.tree, *depth, 7, differing.len());
        let store = Counting(&pair.keys, read);
        while timed(&mut cost.initiator, || exchange.ask(&pair.tree, &store, under_way_max)) {
            timed(&mut cost.responder, || {
                exchange.answer(&pair.changed_tree, &Counting(&pair.changed, read));
            });
            timed(&mut cost.initiator, || exchange.take(&pair.tree));
        }
        cost.bytes += exchange.bytes;
        cost.requests += exchange.requests;
        cost.found += exchange.differences.len();
        rounds_max = rounds_max.max(exchange.rounds);
    }
    cost.rounds += rounds_max;
    cost
}
