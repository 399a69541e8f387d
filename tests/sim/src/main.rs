//! Runs simulated clusters from seeds and reports the first broken promise.

use std::{process::ExitCode, time::Duration, time::Instant};

use clap::{Parser, Subcommand};
use dynkv_sim::{
    batch::{Batch, cores, run_all},
    plan::Plan,
    report::{Report, never},
    run::run,
    scale::Scale,
    shrink::shrink,
};

/// Simulate whole clusters with faults, one from each seed, and check what the store promises.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many clusters.
    #[arg(long, default_value_t = 100)]
    seeds: usize,
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
    /// Plant one bug after the other in the nodes, and see that each is caught.
    #[arg(long, conflicts_with_all = ["seeds", "start", "seed"])]
    planted: bool,
    /// Plant only bugs with this in their names.
    #[arg(long, requires = "planted", default_value = "")]
    bug: String,
    /// For how many seconds to make a failing run smaller.
    #[arg(long, default_value_t = 60)]
    shrink_s: u64,
}

#[derive(Subcommand)]
enum Command {
    Scale(Scale),
}

/// From so many clusters on everything must have been seen to happen.
const SOMETIMES_FROM: usize = 300;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Scale(scale)) = arguments.command {
        scale.run();
        return ExitCode::SUCCESS;
    }
    let jobs = arguments.jobs.unwrap_or_else(cores);
    if arguments.planted {
        return planted(jobs, &arguments.bug);
    }
    let budget = Duration::from_secs(arguments.shrink_s);
    if let Some(seed) = arguments.seed {
        let report = run(seed);
        if arguments.trace {
            print!("{}", report.trace());
        }
        return match report.verdict {
            Ok(()) => {
                println!("seed {seed}: every promise held");
                ExitCode::SUCCESS
            }
            Err(_) => fail(report, budget),
        };
    }
    let start = arguments.start.unwrap_or_else(|| rand::random::<u64>() >> 16);
    println!("{} clusters from seed {start}, {jobs} at once", arguments.seeds);
    let begun = Instant::now();
    let Batch { seen, runs, failed } =
        run_all(arguments.seeds, jobs, |at| Plan::draw(start.wrapping_add(at as u64)));
    seen.iter().for_each(|(what, count)| println!("{count:>9} {what}"));
    println!("{runs} clusters in {:.1} s", begun.elapsed().as_secs_f64());
    if let Some(report) = failed {
        return fail(*report, budget);
    }
    let never = never(&seen);
    if runs >= SOMETIMES_FROM && !never.is_empty() {
        println!("never seen, so the run proves nothing about it: {}", never.join(", "));
        return ExitCode::FAILURE;
    }
    println!("every promise held");
    ExitCode::SUCCESS
}

fn fail(report: Report, budget: Duration) -> ExitCode {
    let seed = report.plan.seed;
    println!("seed {seed}: {}", report.verdict.as_ref().map_or_else(ToString::to_string, |()| String::new()));
    println!("making it smaller, for at most {budget:?}");
    let (faults, sessions) = (report.plan.faults.len(), report.plan.sessions.len());
    let shrunk = shrink(report, budget);
    let plan = &shrunk.report.plan;
    println!(
        "{} of {faults} faults and {} of {sessions} clients are left after {} runs\n",
        plan.faults.len(),
        plan.sessions.len(),
        shrunk.runs
    );
    println!("{}", shrunk.report.failure());
    println!("to see all of it: cargo run --release -p dynkv-sim -- --seed {seed} --trace");
    ExitCode::FAILURE
}

/// Hunts for all planted bugs, and says for each what caught it.
#[cfg(dynkv_planted)]
fn planted(jobs: usize, name: &str) -> ExitCode {
    use dynkv_sim::planted::{Caught, hunt_all};

    println!("{:<28} {:>5} of at most {:<5} by", "bug", "seeds", "");
    let hunted = hunt_all(jobs, name, |Caught { bug, seeds_max, caught }| {
        let name = format!("{bug:?}");
        match caught {
            Some((seeds, by)) => println!("{name:<28} {seeds:>5} of at most {seeds_max:<5} {by}"),
            None => println!("{name:<28} not caught within {seeds_max} seeds"),
        }
    });
    if hunted.iter().all(|hunt| hunt.caught.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(dynkv_planted))]
fn planted(_: usize, _: &str) -> ExitCode {
    println!("{}", dynkv_sim::planted::HOW_TO_BUILD);
    ExitCode::FAILURE
}
