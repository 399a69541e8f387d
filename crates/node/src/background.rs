//! Background work: one place that bounds all of it, and gives way to the foreground (paper, section 6.5).
//!
//! Whoever does something that no client waits for asks here first. How many pieces may be under way at once follows the
//! 99th percentile of the foreground's latency: it shrinks quickly while that is above the target, and grows slowly else.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::{metrics::Metrics, shared::Shared};

/// How many kinds there are.
const KINDS: usize = 6;

/// Pieces under way at once, at least: work goes on, however slow the foreground is.
const SHARE_MIN: usize = 4;
const SHARE_MAX: usize = 64;

/// Pieces of one kind that may wait for their turn; more are dropped, for each kind has a way to come back to what it
/// left out (the next read, the next pass over the hints).
const WAITING_MAX: usize = 4096;

/// Puts that have been answered and still wait for homes. Each holds its state.
const LINGERING_MAX: usize = 16_384;

/// The foreground's 99th percentile that background work must not exceed: four syncs of a slow disk.
const TARGET_P99: Duration = Duration::from_millis(50);

/// Foreground requests below which their latencies say nothing.
const SAMPLES_MIN: u64 = 50;

/// How often the share is set anew, and how many such periods are looked back at.
const PERIOD: Duration = Duration::from_secs(1);
const PERIODS: usize = 10;

/// A kind of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
pub(crate) enum Work {
    /// Writing states back to replicas that a read found behind.
    ReadRepair,
    /// Finding a place for hints after the answer to a put.
    HintPlacement,
    /// Handing hints to their targets.
    HintDelivery,
    /// Comparing replicas, and moving states in which they differ.
    AntiEntropy,
    /// Building and checking Merkle trees.
    TreeUpkeep,
    /// Settling tombstones and old context entries.
    Settlement,
}

/// A kind as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WorkLabel {
    work: Work,
}

/// A piece of work that may begin; it ends when this is dropped.
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// Admission to background work.
pub(crate) struct Background {
    slots: Arc<Semaphore>,
    waiting: Mutex<[usize; KINDS]>,
    lingering: Semaphore,
    foreground: Mutex<Window>,
    metrics: Arc<Metrics>,
}

impl Background {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Background {
        metrics.background_share.set(SHARE_MAX as i64);
        Background {
            slots: Arc::new(Semaphore::new(SHARE_MAX)),
            waiting: Mutex::default(),
            lingering: Semaphore::new(LINGERING_MAX),
            foreground: Mutex::new(Window::default()),
            metrics,
        }
    }

    /// Waits for a turn. `None` when too many wait already: the work is to be left out.
    pub(crate) async fn turn(&self, work: Work) -> Option<Turn> {
        let label = WorkLabel { work };
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            self.metrics.background_begun.get_or_create(&label).inc();
            return Some(Turn { _permit: permit });
        }
        let Some(_waiting) = Waiting::enter(self, work) else {
            self.metrics.background_left_out.get_or_create(&label).inc();
            return None;
        };
        // The semaphore is never closed.
        let permit = self.slots.clone().acquire_owned().await.ok()?;
        self.metrics.background_begun.get_or_create(&label).inc();
        Some(Turn { _permit: permit })
    }

    /// Lets a put that has been answered stay for the homes that have not. `None` when too many do: what those homes lack is
    /// left to the repair of reads.
    pub(crate) fn linger(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.lingering.try_acquire().ok();
        if permit.is_none() {
            self.metrics.puts_left_early.inc();
        }
        permit
    }

    /// Tells how long a client's request took.
    pub(crate) fn observe_foreground(&self, took: Duration) {
        lock(&self.foreground).record(took);
    }
}

/// One that waits for its turn.
struct Waiting<'a> {
    background: &'a Background,
    work: Work,
}

impl Waiting<'_> {
    fn enter(background: &Background, work: Work) -> Option<Waiting<'_>> {
        let mut waiting = lock(&background.waiting);
        let waiting = &mut waiting[work as usize];
        (*waiting < WAITING_MAX).then(|| {
            *waiting += 1;
            Waiting { background, work }
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.background.waiting)[self.work as usize] -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counting cannot panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the share again and again, until the node stops.
pub(crate) async fn control(node: Arc<Shared>) {
    let background = &node.background;
    let mut share = SHARE_MAX;
    // What could not be taken away yet, because it was in use.
    let mut owed = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let p99 = lock(&background.foreground).turn();
        let next = next_share(share, p99);
        if next > share {
            let more = next - share;
            let kept = more.min(owed);
            owed -= kept;
            background.slots.add_permits(more - kept);
        } else {
            owed += share - next;
        }
        owed -= background.slots.forget_permits(owed);
        share = next;
        background.metrics.background_share.set(share as i64);
    }
}

/// The share after a look at the foreground's 99th percentile; `None`: hardly anybody is there.
fn next_share(share: usize, p99: Option<Duration>) -> usize {
    match p99 {
        Some(p99) if p99 > TARGET_P99 => (share / 2).max(SHARE_MIN),
        Some(_) => (share + 2).min(SHARE_MAX),
        None => (share * 2).min(SHARE_MAX),
    }
}

/// Latencies of the last few periods.
struct Window {
    periods: [Histogram<u32>; PERIODS],
    current: usize,
}

impl Default for Window {
    fn default() -> Window {
        // Microseconds up to a minute, two digits: 4 KiB each.
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 1).expect("the bounds are valid");
        Window { periods: std::array::from_fn(|_| histogram()), current: 0 }
    }
}

impl Window {
    fn record(&mut self, took: Duration) {
        self.periods[self.current].saturating_record(took.as_micros() as u64);
    }

    /// Begins the next period. Returns the 99th percentile of all of them, if there are enough to have one.
    fn turn(&mut self) -> Option<Duration> {
        let samples: u64 = self.periods.iter().map(Histogram::len).sum();
        let p99 = (samples >= SAMPLES_MIN).then(|| {
            let mut all = self.periods[0].clone();
            for period in &self.periods[1..] {
                all.add(period).expect("all have the same bounds");
            }
            Duration::from_micros(all.value_at_quantile(0.99))
        });
        self.current = (self.current + 1) % PERIODS;
        self.periods[self.current].reset();
        p99
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_share_gives_way_quickly_and_comes_back_slowly() {
        let slow = Some(TARGET_P99 + MS);
        let quick = Some(TARGET_P99);
        assert_eq!(next_share(64, slow), 32);
        assert_eq!(next_share(SHARE_MIN, slow), SHARE_MIN);
        assert_eq!(next_share(32, quick), 34);
        assert_eq!(next_share(SHARE_MAX, quick), SHARE_MAX);
        assert_eq!(next_share(20, None), 40);
    }

    #[test]
    fn a_slow_second_is_forgotten_after_the_window() {
        let mut window = Window::default();
        assert_eq!(window.turn(), None);
        (0..100).for_each(|_| window.record(200 * MS));
        assert!(window.turn().is_some_and(|p99| p99 > TARGET_P99));
        for _ in 1..PERIODS {
            assert!(window.turn().is_some());
        }
        assert_eq!(window.turn(), None);
        (0..100).for_each(|_| window.record(MS));
        assert!(window.turn().is_some_and(|p99| p99 <= TARGET_P99));
    }

    #[tokio::test]
    async fn what_would_wait_too_long_is_left_out() {
        let background = Background::new(Arc::new(Metrics::new()));
        let mut turns = Vec::new();
        for _ in 0..SHARE_MAX {
            turns.push(background.turn(Work::ReadRepair).await);
        }
        let waiting: Vec<_> =
            (0..WAITING_MAX).map(|_| Waiting::enter(&background, Work::ReadRepair)).collect();
        assert!(background.turn(Work::ReadRepair).await.is_none(), "too many wait");
        assert!(
            Waiting::enter(&background, Work::HintDelivery).is_some(),
            "each kind has a queue of its own"
        );
        drop(waiting);
        turns.pop();
        assert!(background.turn(Work::ReadRepair).await.is_some());
    }
}
