//! Runs simulated clusters from seeds and reports the first broken promise.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use clap::Parser;
use dynkv_sim::run::{Report, Sightings, run};

/// Simulate whole clusters with faults, one from each seed, and check what the store promises.
#[derive(Parser)]
struct Arguments {
    /// How many clusters.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; a fresh one when absent.
    #[arg(long)]
    start: Option<u64>,
    /// Run just this seed.
    #[arg(long, conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// Print every event of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Clusters at once; one for each core when absent.
    #[arg(long)]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let report = run(seed);
        if arguments.trace || report.verdict.is_err() {
            report.log.iter().for_each(|line| println!("{line}"));
        }
        return conclude(seed, &report);
    }
    let start = arguments.start.unwrap_or_else(|| rand::random::<u64>() >> 16);
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("{} clusters from seed {start}, {jobs} at once", arguments.seeds);
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let seen = Mutex::new(Sightings::new());
    let failed: Mutex<Option<(u64, Report)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= arguments.seeds
                        || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
                    {
                        return;
                    }
                    let seed = start.wrapping_add(offset);
                    let report = run(seed);
                    for (what, count) in &report.seen {
                        *seen.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() +=
                            count;
                    }
                    if report.verdict.is_err() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((seed, report));
                    }
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.iter().for_each(|(what, count)| println!("{count:>9} {what}"));
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((seed, report)) => conclude(seed, &report),
        None => {
            println!("every promise held");
            ExitCode::SUCCESS
        }
    }
}

fn conclude(seed: u64, report: &Report) -> ExitCode {
    match &report.verdict {
        Ok(()) => {
            println!("seed {seed}: every promise held");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed}: {violation}");
            println!("{:?}", report.plan);
            println!("to see it: cargo run --release -p dynkv-sim -- --seed {seed} --trace");
            ExitCode::FAILURE
        }
    }
}
