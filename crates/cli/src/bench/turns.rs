//! When each operation begins.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The turn to make one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// From 0.
    pub(crate) number: u64,
    /// When the operation was to begin, if there is a plan: its latency counts from then, however late it really begins.
    /// Otherwise a slow answer would also keep back the requests that would have shown that it is slow (Tene's "coordinated
    /// omission").
    pub(crate) intended: Option<Instant>,
}

/// Hands out turns to workers.
#[derive(Debug)]
pub(crate) enum Turns {
    /// Closed loop: a worker begins as soon as it has ended. Ends after `count` turns, or at `until`.
    Closed { taken: AtomicU64, count: u64, until: Option<Instant> },
    /// Open loop: one turn every `period`, whether or not earlier ones have ended.
    Open(Open),
}

/// Turns at a fixed rate.
#[derive(Debug)]
pub(crate) struct Open {
    taken: AtomicU64,
    released: AtomicU64,
    start: Instant,
    period: Duration,
    count: u64,
    /// Turns that are due and not taken.
    due: Semaphore,
    workers: usize,
    /// What has not begun by then does not begin any more.
    give_up: Instant,
}

impl Turns {
    pub(crate) fn counted(count: u64) -> Turns {
        Turns::Closed { taken: AtomicU64::new(0), count, until: None }
    }

    pub(crate) fn until(until: Instant) -> Turns {
        Turns::Closed { taken: AtomicU64::new(0), count: u64::MAX, until: Some(until) }
    }

    /// `rate` turns per second for `time`, beginning now. `workers` ask for them, and those that are late by more than
    /// `patience` at the end are left out.
    pub(crate) fn at_rate(rate: f64, time: Duration, workers: usize, patience: Duration) -> Turns {
        let start = Instant::now();
        let count = (rate * time.as_secs_f64()).round().max(1.0) as u64;
        Turns::Open(Open {
            taken: AtomicU64::new(0),
            released: AtomicU64::new(0),
            start,
            period: Duration::from_secs_f64(1.0 / rate),
            count,
            due: Semaphore::new(0),
            workers,
            give_up: start + time + patience,
        })
    }

    /// The next turn; `None` when there are no more.
    pub(crate) async fn next(&self) -> Option<Turn> {
        match self {
            Turns::Closed { taken, count, until } => {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return None;
                }
                let number = taken.fetch_add(1, Ordering::Relaxed);
                (number < *count).then_some(Turn { number, intended: None })
            }
            Turns::Open(open) => open.next().await,
        }
    }

    /// How many turns of the plan nobody took.
    pub(crate) fn left_out(&self) -> u64 {
        match self {
            Turns::Closed { .. } => 0,
            Turns::Open(open) => open.count.saturating_sub(open.taken.load(Ordering::Relaxed)),
        }
    }

    /// Releases turns as they become due, from a thread of its own: tokio's timers are a millisecond coarse.
    pub(crate) fn keep_time(self: &Arc<Self>) {
        if !matches!(**self, Turns::Open(_)) {
            return;
        }
        let turns: Weak<Turns> = Arc::downgrade(self);
        thread::spawn(move || {
            while let Some(turns) = turns.upgrade()
                && let Turns::Open(open) = &*turns
                && let Some(next) = open.release(Instant::now())
            {
                drop(turns);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
    }
}

impl Open {
    /// Neither drifts nor overflows: in nanoseconds, from the start.
    fn intended(&self, number: u64) -> Instant {
        let nanos = self.period.as_nanos().saturating_mul(number.into());
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Releases what is due at `now`; says when the next one will be.
    fn release(&self, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.start).as_nanos() / self.period.as_nanos().max(1);
        let due = u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1).min(self.count);
        let before = self.released.fetch_max(due, Ordering::Relaxed);
        self.due.add_permits(due.saturating_sub(before) as usize);
        if due < self.count {
            return Some(self.intended(due));
        }
        // Each worker must learn that there are no more.
        self.due.add_permits(self.workers);
        None
    }

    async fn next(&self) -> Option<Turn> {
        // Nobody closes the semaphore.
        self.due.acquire().await.ok()?.forget();
        if Instant::now() >= self.give_up {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number < self.count).then(|| Turn { number, intended: Some(self.intended(number)) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::{sleep, sleep_until};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Stands in for the thread, under paused time.
    fn keep_simulated_time(turns: &Arc<Turns>) {
        let turns = turns.clone();
        tokio::spawn(async move {
            let Turns::Open(open) = &*turns else { return };
            while let Some(next) = open.release(Instant::now()) {
                sleep_until(next).await;
            }
        });
    }

    /// Latencies in turn order: every operation takes 1 ms, but the server stands still from 400 to 600 ms.
    async fn with_a_stall(turns: Turns, workers: usize) -> Vec<Duration> {
        let turns = Arc::new(turns);
        keep_simulated_time(&turns);
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let turns = turns.clone();
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while let Some(turn) = turns.next().await {
                    let begun = turn.intended.unwrap_or_else(Instant::now);
                    if (400..600).contains(&start.elapsed().as_millis()) {
                        sleep_until(start + 600 * MS).await;
                    }
                    sleep(MS).await;
                    latencies.push((turn.number, begun.elapsed()));
                }
                latencies
            });
        }
        let mut latencies: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        latencies.sort_unstable();
        latencies.into_iter().map(|(_, latency)| latency).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_shows_in_the_open_loop_in_full() {
        let open = Turns::at_rate(500.0, 1000 * MS, 4, 1000 * MS);
        let latencies = with_a_stall(open, 4).await;
        assert_eq!(latencies.len(), 500);
        // One every 2 ms: those of 400 to 600 ms wait until 600, each 2 ms less than the one before.
        let late = latencies.iter().filter(|latency| **latency > 10 * MS).count();
        assert!((95..=130).contains(&late), "{late}");
        let middle = latencies[250];
        assert!(middle >= 100 * MS && middle <= 115 * MS, "{middle:?}");
        assert_eq!(latencies[100], MS);

        // The closed loop sends nothing while it waits, and sees four slow answers only.
        let closed = with_a_stall(Turns::until(Instant::now() + 1000 * MS), 4).await;
        assert_eq!(closed.iter().filter(|latency| **latency > 10 * MS).count(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_much_too_late_is_left_out_and_told() {
        let turns = Arc::new(Turns::at_rate(1000.0, 100 * MS, 1, 50 * MS));
        keep_simulated_time(&turns);
        let mut taken = 0;
        while turns.next().await.is_some() {
            taken += 1;
            sleep(10 * MS).await;
        }
        assert!((14..=16).contains(&taken), "{taken}");
        assert_eq!(taken + turns.left_out(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_handed_out_once() {
        let turns = Turns::counted(3);
        let mut numbers = Vec::new();
        while let Some(turn) = turns.next().await {
            numbers.push(turn.number);
        }
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(turns.next().await, None);
        assert_eq!(turns.left_out(), 0);
        assert_eq!(Turns::until(Instant::now()).next().await, None);
    }

    #[tokio::test]
    async fn the_thread_releases_every_turn() {
        let turns = Arc::new(Turns::at_rate(100_000.0, 10 * MS, 1, Duration::from_secs(60)));
        turns.keep_time();
        let mut count = 0;
        while turns.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 1000);
    }
}
