//! Explores the models.

use std::{process::ExitCode, time::Instant};

use clap::{Args, Parser, Subcommand};
use dynkv_models::{
    chain::{Bug, SOMETIMES, World},
    engine::{
        Failure, Model,
        batch::{cores, walk_all},
        search::search,
        shrink::shrink,
    },
};

/// Explore the models of dynkv's protocols.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    model: Which,
}

#[derive(Subcommand)]
enum Which {
    /// The chain of configurations: who serves a partition.
    Chain(Explore),
}

/// At random, exhaustively, or with mistakes planted.
#[derive(Args)]
struct Explore {
    /// Random schedules.
    #[arg(long, default_value_t = 100_000)]
    schedules: u64,
    /// The first seed; a fresh one when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// All schedules of a small world of at most so many steps.
    #[arg(long, value_name = "DEPTH", conflicts_with_all = ["schedules", "seed"])]
    exhaustive: Option<usize>,
    /// Most states of an exhaustive search.
    #[arg(long, default_value_t = 50_000_000, requires = "exhaustive")]
    states: usize,
    /// Plant one mistake after the other, and see that each is caught.
    #[arg(long, conflicts_with_all = ["schedules", "exhaustive"])]
    planted: bool,
    /// Show the schedule that catches each planted mistake.
    #[arg(long, requires = "planted")]
    traces: bool,
    /// Schedules at once; one for each core when absent.
    #[arg(long)]
    jobs: Option<usize>,
}

/// From so many schedules on everything must have been seen to happen.
const SOMETIMES_FROM: u64 = 50_000;

fn main() -> ExitCode {
    let Which::Chain(explore) = Arguments::parse().model;
    let jobs = explore.jobs.unwrap_or_else(cores);
    let seed = explore.seed.unwrap_or_else(|| rand::random::<u64>() >> 16);
    match explore.exhaustive {
        _ if explore.planted => planted(seed, jobs, explore.traces),
        Some(depth) => exhaustive(depth, explore.states),
        None => at_random(explore.schedules, seed, jobs),
    }
}

fn at_random(schedules: u64, seed: u64, jobs: usize) -> ExitCode {
    println!("{schedules} schedules from seed {seed}, {jobs} at once");
    let begun = Instant::now();
    let batch = walk_all(schedules, jobs, |at| World::schedule(seed.wrapping_add(at), None));
    for (what, count) in batch.seen.sorted() {
        println!("{count:>12} {what}");
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} schedules in {seconds:.1} s, {:.0}/s", batch.walks, batch.walks as f64 / seconds);
    let Some((at, world, failure)) = batch.failed else {
        let never: Vec<&str> = SOMETIMES.iter().filter(|what| batch.seen.count(what) == 0).copied().collect();
        if batch.walks >= SOMETIMES_FROM && !never.is_empty() {
            println!("never seen, so the run proves nothing about it: {}", never.join(", "));
            return ExitCode::FAILURE;
        }
        println!("every promise held");
        return ExitCode::SUCCESS;
    };
    println!("seed {}: broken: {}\n", seed.wrapping_add(at), failure.violation);
    println!("{}", smaller(&world, failure));
    ExitCode::FAILURE
}

fn exhaustive(depth: usize, states: usize) -> ExitCode {
    let mut holds = true;
    for (about, world) in World::small() {
        println!("{about}");
        holds &= all_of(&world, depth, states);
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Searches one world. Whether every promise held.
fn all_of(world: &World, depth: usize, states: usize) -> bool {
    let begun = Instant::now();
    let search = search(world, depth, states);
    for (what, count) in search.seen.sorted() {
        println!("{count:>12} {what}");
    }
    println!(
        "{} states, {} steps, the longest walk {} steps, in {:.1} s: {}",
        search.states,
        search.steps,
        search.depth,
        begun.elapsed().as_secs_f64(),
        if search.complete { "complete" } else { "not complete" }
    );
    let Some(failure) = search.failed else {
        println!("every promise held\n");
        return true;
    };
    println!("{}", smaller(world, failure));
    false
}

fn planted(seed: u64, jobs: usize, traces: bool) -> ExitCode {
    println!("from seed {seed}");
    println!("{:<50} {:>9} of at most", "mistake", "schedules");
    let mut all = true;
    for &bug in Bug::ALL {
        let most = bug.schedules_max();
        let batch = walk_all(most, jobs, |at| World::schedule(seed.wrapping_add(at), Some(bug)));
        match batch.failed {
            Some((at, world, failure)) => {
                println!("{bug:<50} {:>9} of at most {most:<7} {}", at + 1, failure.violation.promise);
                if traces {
                    println!("{}", smaller(&world, failure));
                }
            }
            None => {
                all = false;
                println!("{bug:<50} not caught in {most}");
            }
        }
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn smaller<M: Model>(model: &M, failure: Failure<M::Step>) -> String {
    let steps = failure.walked().len();
    let small = shrink(model, failure);
    format!("{} of {steps} steps are left\n\n{}", small.walked().len(), small.show(model))
}
