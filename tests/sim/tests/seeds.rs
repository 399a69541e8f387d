//! Seeds that must hold: some fresh ones, those that once found a bug, and the same seed twice.

use dynkv_sim::run::{Fault, Plan, Report, Sightings, run, run_plan};

fn check(seed: u64, report: &Report) {
    if let Err(violation) = &report.verdict {
        report.log.iter().for_each(|line| println!("{line}"));
        panic!("seed {seed}: {violation}");
    }
}

/// Threads of their own: each simulation is single-threaded, and a machine has more than one core.
fn run_all(seeds: impl Iterator<Item = u64>) -> Sightings {
    let (mut even, mut odd) = (Vec::new(), Vec::new());
    seeds.enumerate().for_each(|(i, seed)| if i % 2 == 0 { even.push(seed) } else { odd.push(seed) });
    let mut seen = Sightings::new();
    std::thread::scope(|scope| {
        let workers = [even, odd].map(|seeds| {
            scope.spawn(move || {
                let run_one = |seed| {
                    let report = run(seed);
                    check(seed, &report);
                    report.seen
                };
                seeds.into_iter().map(run_one).collect::<Vec<_>>()
            })
        });
        for worker in workers {
            let reports = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for (what, count) in reports.into_iter().flatten() {
                *seen.entry(what).or_default() += count;
            }
        }
    });
    seen
}

/// Fresh seeds for every build: the clock chooses where they start, and a failure names its seed.
#[test]
fn fresh_seeds_hold_and_things_do_happen() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    let start = now.as_secs() * 1000;
    println!("from seed {start}");
    let seen = run_all(start..start + 60);
    // A harmless workload cannot pass for a proof.
    for what in [
        "kills",
        "power losses",
        "blackouts",
        "cuts",
        "storms",
        "failing disks",
        "restarts",
        "puts done",
        "puts unknown",
        "gets with siblings",
        "repairs after healing",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "no {what} in {seen:?}");
    }
}

#[test]
fn seeds_that_once_found_a_bug_hold() {
    // 1040, before the plans drew blackouts: a put on its way was denied by every home and written twice. It draws another
    // plan now; the rule that mends it is held by the table of `put_ids.rs`.
    // 20006: a retry found its own version and another home's, and did not say that there may be a duplicate.
    // 20087: fails when the homes are not asked about a retry.
    let seeds = [1040, 20006, 20087];
    run_all(seeds.into_iter());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [7, 1040] {
        let (first, second) = (run(seed), run(seed));
        check(seed, &first);
        assert_eq!(first.log, second.log, "seed {seed}");
    }
}

/// Without faults nothing is unknown, refused or lost, and nobody has to be repaired.
#[test]
fn without_faults_every_request_is_answered() {
    for seed in 0..3 {
        let report = run_plan(seed, Plan { faults: Vec::new(), ..Plan::draw(seed) });
        check(seed, &report);
        for what in ["puts refused", "puts unknown", "gets failed", "possible duplicates"] {
            assert_eq!(report.seen[what], 0, "seed {seed}: {what} in {:?}", report.seen);
        }
        assert!(report.seen["puts done"] > 20, "{:?}", report.seen);
    }
}

/// Two coordinators at once: every run cuts links, so that clients go elsewhere with their retries.
#[test]
fn retries_elsewhere_do_not_write_twice_unsaid() {
    for seed in 0..6 {
        let faults = vec![Fault::Cut, Fault::FailingDisk, Fault::Kill];
        let report = run_plan(seed, Plan { faults, ..Plan::draw(seed) });
        check(seed, &report);
    }
}
