//! Many plans, as many at once as there are cores: each simulation is single-threaded.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    plan::Plan,
    report::{Report, Sightings, add},
    run::run_plan,
};

/// What came of a batch.
#[derive(Debug)]
pub struct Batch {
    /// What all runs saw together.
    pub seen: Sightings,
    /// Runs that were made.
    pub runs: usize,
    /// A run that failed; none was begun after it.
    pub failed: Option<Box<Report>>,
}

/// Cores of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the plans that `plan` makes of 0 to `count` - 1, up to the first that fails.
pub fn run_all(count: usize, jobs: usize, plan: impl Fn(usize) -> Plan + Sync) -> Batch {
    let next = AtomicUsize::new(0);
    let batch = Mutex::new(Batch { seen: Sightings::new(), runs: 0, failed: None });
    let lock = || batch.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count || lock().failed.is_some() {
                        return;
                    }
                    let report = run_plan(&plan(at));
                    let mut batch = lock();
                    batch.runs += 1;
                    add(&mut batch.seen, &report.seen);
                    if report.verdict.is_err() {
                        batch.failed.get_or_insert_with(|| Box::new(report));
                    }
                }
            });
        }
    });
    batch.into_inner().unwrap_or_else(PoisonError::into_inner)
}
