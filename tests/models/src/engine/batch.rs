//! Many walks, as many at once as there are cores.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{Failure, Model, Seen, walk::walk};

/// What came of a batch.
#[derive(Debug)]
pub struct Batch<M: Model> {
    /// Walks that were made.
    pub walks: u64,
    /// What all of them saw together.
    pub seen: Seen,
    /// The first that broke a promise: its number, its model, and the walk.
    pub failed: Option<(u64, M, Failure<M::Step>)>,
}

/// Cores of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Makes walks 0 to `count` - 1, up to the first that breaks a promise. `draw` gives a walk's model, its seed, and the steps it may
/// take; walks before the one that failed have all been made, so its number says how many it took to find it.
pub fn walk_all<M>(count: u64, jobs: usize, draw: impl Fn(u64) -> (M, u64, usize) + Sync) -> Batch<M>
where
    M: Model + Send,
    M::Step: Send,
{
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let batch = Mutex::new(Batch { walks: 0, seen: Seen::default(), failed: None });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                let (mut seen, mut walks, mut failed) = (Seen::default(), 0, None);
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    let (model, seed, steps_max) = draw(at);
                    walks += 1;
                    if let Err(failure) = walk(&model, seed, steps_max, &mut seen) {
                        stop.store(true, Ordering::Relaxed);
                        failed = Some((at, model, failure));
                    }
                }
                let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
                batch.walks += walks;
                batch.seen.unite(&seen);
                let earlier = batch.failed.as_ref().map_or(u64::MAX, |(at, ..)| *at);
                if failed.as_ref().is_some_and(|(at, ..)| *at < earlier) {
                    batch.failed = failed;
                }
            });
        }
    });
    batch.into_inner().unwrap_or_else(PoisonError::into_inner)
}
