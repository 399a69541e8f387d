//! How much background work there may be, by what it does to the foreground: a share that shrinks quickly while what clients ask for takes
//! longer than its target, and grows slowly else. The target of each kind is what it takes while there is nothing to do in the background, and a fifth more.
//!
//! *Each kind for itself.* Gets take a fraction of what puts take, which wait for disks. Seen together they could take twice as long before anybody noticed.
//!
//! *What the foreground takes by itself has to be seen first.* After a start, bulk work waits for that while there is a
//! foreground, since nothing tells a slow disk from one that is busy with that work.
//!
//! *What was too much is remembered.* A share that grew by a quarter a second until clients felt it would be felt by a tenth of all
//! requests: it is seen seconds later, when it has doubled. So there is a ceiling, half of what was too much last, above which it grows by
//! a thirty-second a second. Work begins at a low one.

use std::time::Duration;

use hdrhistogram::Histogram;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

use super::{PIECE, SHARE_MAX, SHARE_MIN};
use crate::metrics::{Metrics, Operation};

/// The share with which work begins beside a foreground: more when that has been seen not to suffer.
const SHARE_BEGIN: u32 = PIECE / 32;

/// The share up to which work grows beside a foreground of so few requests that they have no percentile.
const SHARE_OF_FEW: u32 = PIECE;

/// The foreground's 99th percentile that background work must never exceed (four syncs of a slow disk), and below which it need
/// not give way.
const TARGET_P99_MAX: Duration = Duration::from_millis(50);
const TARGET_P99_MIN: Duration = Duration::from_micros(250);

/// For so many periods after the start at most bulk work waits until it is known what the foreground takes by itself.
const UNKNOWN_PERIODS_MAX: usize = 2 * PERIODS;

/// Pieces begun, and states moved, in a period with which the foreground is as good as alone. States count by themselves: where little may be under way, a few large pieces
/// are a lot of work, and what the foreground takes beside them must not be taken for what it takes by itself.
const CALM_WORK: u64 = 20;

/// Requests of a kind below which their latencies say nothing.
const SAMPLES_MIN: u64 = 500;

/// How many periods are looked back at: fewer after a cut, so that the next one is made for what has come of it.
const PERIODS: usize = 10;

/// How many kinds of requests there are.
const KINDS: usize = 4;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Asked {
    Get,
    /// Also a delete.
    Put,
    List,
    /// A write for a client of another node.
    Replica,
}

impl Asked {
    const ALL: [Asked; KINDS] = [Asked::Get, Asked::Put, Asked::List, Asked::Replica];
}

impl From<Operation> for Asked {
    fn from(operation: Operation) -> Asked {
        match operation {
            Operation::Get => Asked::Get,
            Operation::Put | Operation::Delete => Asked::Put,
            Operation::List => Asked::List,
        }
    }
}

/// A kind as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AskedLabel {
    asked: Asked,
}

/// What is known of the requests of one kind in the last few periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foreground {
    /// There were none.
    Absent,
    /// There were some, too few to have a percentile.
    Few,
    /// Their 99th percentile.
    P99(Duration),
}

/// The same of each kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    of: [Foreground; KINDS],
    /// Writes in the last period.
    writes: u64,
}

impl Seen {
    pub(super) fn is_absent(&self) -> bool {
        self.of.iter().all(|foreground| *foreground == Foreground::Absent)
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    fn p99s(&self) -> impl Iterator<Item = (Asked, Duration)> {
        Asked::ALL.into_iter().zip(self.of).filter_map(|(asked, foreground)| match foreground {
            Foreground::P99(p99) => Some((asked, p99)),
            Foreground::Absent | Foreground::Few => None,
        })
    }
}

/// What is to be from now on.
pub(super) struct Next {
    pub(super) share: u32,
    /// Whether bulk work is to wait.
    pub(super) held: bool,
    /// Whether it was more before.
    pub(super) is_cut: bool,
}

/// Sets the share, once in each period.
pub(super) struct Controller {
    share: u32,
    ceiling: u32,
    calm: Calm,
}

impl Default for Controller {
    fn default() -> Controller {
        Controller { share: SHARE_MAX, ceiling: SHARE_MAX, calm: Calm::default() }
    }
}

impl Controller {
    /// The share after a look at the foreground, and at the pieces that were begun and the states that were moved in this period.
    pub(super) fn step(&mut self, seen: &Seen, work: u64) -> Next {
        self.calm.observe(seen, work);
        let before = self.share;
        self.follow(seen);
        let is_cut = self.share < before;
        if !is_cut && self.calm.is_calm() && !seen.is_absent() {
            self.share = self.share.min(SHARE_BEGIN);
            self.ceiling = self.ceiling.min(SHARE_BEGIN);
        }
        Next { share: self.share, held: self.calm.must_be_waited_for(seen), is_cut }
    }

    fn follow(&mut self, seen: &Seen) {
        if seen.is_absent() {
            self.share = (2 * self.share).min(SHARE_MAX);
            self.ceiling = SHARE_MAX;
            return;
        }
        // How many times as long as it should the slowest kind takes.
        let excess = seen.p99s().map(|(asked, p99)| p99.div_duration_f64(self.calm.target(asked)));
        let grown = |share: u32, part: u32| (share + (share / part).clamp(1, 2 * PIECE)).min(SHARE_MAX);
        let Some(excess) = excess.reduce(f64::max) else {
            self.share = self.share.max(grown(self.share, 4).min(SHARE_OF_FEW));
            return;
        };
        if excess > 1.0 {
            self.ceiling = (self.share / 2).max(SHARE_MIN);
            self.share = (self.share / if excess > 2.0 { 4 } else { 2 }).max(SHARE_MIN);
        } else if self.share < self.ceiling {
            self.share = grown(self.share, 4).min(self.ceiling);
        } else {
            self.share = grown(self.share, 32);
            self.ceiling = self.share;
        }
    }

    pub(super) fn tell(&self, seen: &Seen, metrics: &Metrics) {
        for (asked, p99) in seen.p99s() {
            let label = AskedLabel { asked };
            metrics.foreground_p99_seconds.get_or_create(&label).set(p99.as_secs_f64());
            let target = self.calm.target(asked);
            metrics.background_target_seconds.get_or_create(&label).set(target.as_secs_f64());
        }
    }
}

/// What the foreground takes by itself.
#[derive(Default)]
struct Calm {
    p99: [Option<Duration>; KINDS],
    /// Periods since there was much to do in the background.
    periods: usize,
    /// Periods for which this was waited for.
    waited: usize,
}

impl Calm {
    fn observe(&mut self, seen: &Seen, work: u64) {
        self.periods = if work < CALM_WORK { self.periods + 1 } else { 0 };
        if !self.is_calm() {
            return;
        }
        for (asked, p99) in seen.p99s() {
            let calm = &mut self.p99[asked as usize];
            // Half of what it was is forgotten within seven seconds.
            *calm = Some(calm.map_or(p99, |calm| (calm * 9 + p99) / 10));
        }
    }

    /// Whether there was little to do for so long that the percentiles are not those of busier periods.
    fn is_calm(&self) -> bool {
        self.periods >= PERIODS
    }

    /// Whether bulk work has to wait for the figures.
    fn must_be_waited_for(&mut self, seen: &Seen) -> bool {
        let unknown = seen.p99s().any(|(asked, _)| self.p99[asked as usize].is_none());
        let wait = unknown && self.waited < UNKNOWN_PERIODS_MAX;
        self.waited += usize::from(wait);
        wait
    }

    fn target(&self, asked: Asked) -> Duration {
        let target = |calm: Duration| (calm * 6 / 5).clamp(TARGET_P99_MIN, TARGET_P99_MAX);
        self.p99[asked as usize].map_or(TARGET_P99_MAX, target)
    }
}

/// Latencies of each kind.
#[derive(Default)]
pub(super) struct Windows([Window; KINDS]);

impl Windows {
    pub(super) fn record(&mut self, asked: Asked, took: Duration) {
        self.0[asked as usize].record(took);
    }

    /// Begins the next period. Tells of the last few.
    pub(super) fn turn(&mut self) -> Seen {
        let writes = [Asked::Put, Asked::Replica].map(|asked| self.0[asked as usize].latest());
        Seen { writes: writes.into_iter().sum(), of: self.0.each_mut().map(Window::turn) }
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

    /// How many there were in this period.
    fn latest(&self) -> u64 {
        self.periods[self.current].len()
    }

    fn turn(&mut self) -> Foreground {
        let samples: u64 = self.periods.iter().map(Histogram::len).sum();
        let foreground = match samples {
            0 => Foreground::Absent,
            1..SAMPLES_MIN => Foreground::Few,
            _ => {
                let mut all = self.periods[0].clone();
                for period in &self.periods[1..] {
                    all.add(period).expect("all have the same bounds");
                }
                Foreground::P99(Duration::from_micros(all.value_at_quantile(0.99)))
            }
        };
        self.current = (self.current + 1) % PERIODS;
        self.periods[self.current].reset();
        foreground
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Gets that take so long, and nothing else.
    fn gets(p99: Duration) -> Seen {
        only_gets(Foreground::P99(p99))
    }

    fn only_gets(gets: Foreground) -> Seen {
        Seen { of: [gets, Foreground::Absent, Foreground::Absent, Foreground::Absent], writes: 0 }
    }

    fn few() -> Seen {
        only_gets(Foreground::Few)
    }

    const NONE: Seen = Seen { of: [Foreground::Absent; KINDS], writes: 0 };

    /// One that knows that gets take 10 ms by themselves and puts 20, with work to do.
    fn controller(share: u32, ceiling: u32) -> Controller {
        let p99 = [Some(10 * MS), Some(20 * MS), None, None];
        Controller { share, ceiling, calm: Calm { p99, ..Calm::default() } }
    }

    fn after(share: u32, ceiling: u32, seen: Seen) -> (u32, u32) {
        let mut controller = controller(share, ceiling);
        controller.step(&seen, CALM_WORK);
        (controller.share, controller.ceiling)
    }

    #[test]
    fn the_share_gives_way_quickly_and_comes_back_slowly() {
        let next = |share, ceiling, p99_ms: u32| after(share, ceiling, gets(p99_ms * MS));
        assert_eq!(next(64 * PIECE, SHARE_MAX, 13), (32 * PIECE, 32 * PIECE));
        assert_eq!(next(64 * PIECE, SHARE_MAX, 25), (16 * PIECE, 32 * PIECE));
        assert_eq!(next(SHARE_MIN, SHARE_MIN, 25), (SHARE_MIN, SHARE_MIN));
        // Quickly to what was good, and from there on hardly.
        assert_eq!(next(400, 1000, 12), (500, 1000));
        assert_eq!(next(900, 1000, 12), (1000, 1000));
        assert_eq!(next(1000, 1000, 12), (1031, 1031));
        assert_eq!(next(32 * PIECE, SHARE_MAX, 12), (34 * PIECE, SHARE_MAX));
        assert_eq!(next(SHARE_MAX, SHARE_MAX, 12), (SHARE_MAX, SHARE_MAX));
        assert_eq!(after(20, 10, few()), (25, 10));
        assert_eq!(after(PIECE - 1, 10, few()), (PIECE, 10));
        assert_eq!(after(2 * PIECE, 10, few()), (2 * PIECE, 10));
        assert_eq!(after(20, 10, NONE), (40, SHARE_MAX));
    }

    #[test]
    fn each_kind_counts_for_itself() {
        let seen = |get_ms: u32, put_ms: u32| {
            let [get, put] = [get_ms, put_ms].map(|ms| Foreground::P99(ms * MS));
            Seen { of: [get, put, Foreground::Absent, Foreground::Few], writes: 0 }
        };
        assert_eq!(after(1000, 1000, seen(12, 24)), (1031, 1031));
        assert_eq!(after(1000, 1000, seen(13, 20)), (500, 500));
        assert_eq!(after(1000, 1000, seen(10, 25)), (500, 500));
        assert_eq!(after(1000, 1000, seen(25, 1)), (250, 500));
    }

    #[test]
    fn work_begins_with_little() {
        let mut controller = controller(SHARE_MAX, SHARE_MAX);
        for _ in 0..PERIODS {
            controller.step(&gets(10 * MS), 0);
        }
        assert_eq!((controller.share, controller.ceiling), (SHARE_BEGIN, SHARE_BEGIN));
        for _ in 0..100 {
            controller.step(&gets(10 * MS), CALM_WORK);
        }
        assert!(controller.share > 8 * SHARE_BEGIN, "{}", controller.share);
        controller.step(&NONE, CALM_WORK);
        assert_eq!(controller.ceiling, SHARE_MAX);
    }

    #[test]
    fn the_target_follows_what_the_foreground_takes_by_itself() {
        let mut calm = Calm::default();
        assert_eq!(calm.target(Asked::Get), TARGET_P99_MAX);
        (0..100).for_each(|_| calm.observe(&gets(10 * MS), 0));
        assert_eq!(calm.target(Asked::Get), 12 * MS);
        assert_eq!(calm.target(Asked::Put), TARGET_P99_MAX);
        // What it takes beside much to do says nothing.
        (0..100).for_each(|_| calm.observe(&gets(40 * MS), CALM_WORK));
        assert_eq!(calm.target(Asked::Get), 12 * MS);
        (0..PERIODS - 1).for_each(|_| calm.observe(&gets(40 * MS), 0));
        assert_eq!(calm.target(Asked::Get), 12 * MS);
        (0..100).for_each(|_| calm.observe(&gets(40 * MS), 0));
        assert!(calm.target(Asked::Get) > 40 * MS);
        (0..200).for_each(|_| calm.observe(&gets(MS / 10), 0));
        assert_eq!(calm.target(Asked::Get), TARGET_P99_MIN);
    }

    #[test]
    fn what_the_foreground_takes_by_itself_is_waited_for_but_not_for_ever() {
        let mut calm = Calm::default();
        assert!(!calm.must_be_waited_for(&NONE));
        assert!(!calm.must_be_waited_for(&few()));
        // Not calm for some reason.
        (0..UNKNOWN_PERIODS_MAX).for_each(|_| assert!(calm.must_be_waited_for(&gets(MS))));
        assert!(!calm.must_be_waited_for(&gets(MS)));
        let mut calm = Calm::default();
        for _ in 1..PERIODS {
            calm.observe(&gets(MS), 0);
            assert!(calm.must_be_waited_for(&gets(MS)));
        }
        calm.observe(&gets(MS), 0);
        assert!(!calm.must_be_waited_for(&gets(MS)), "it is known");
    }

    #[test]
    fn a_slow_second_is_forgotten_after_the_window() {
        let mut window = Window::default();
        assert_eq!(window.turn(), Foreground::Absent);
        (0..SAMPLES_MIN - 1).for_each(|_| window.record(200 * MS));
        assert_eq!(window.turn(), Foreground::Few);
        window.record(200 * MS);
        let p99 = |window: &mut Window| match window.turn() {
            Foreground::P99(p99) => p99,
            other => panic!("{other:?}"),
        };
        assert!(p99(&mut window) > 100 * MS);
        for _ in 2..PERIODS {
            assert!(p99(&mut window) > 100 * MS);
        }
        assert_eq!(window.turn(), Foreground::Few);
        assert_eq!(window.turn(), Foreground::Absent);
        (0..SAMPLES_MIN).for_each(|_| window.record(MS));
        assert!(p99(&mut window) <= 2 * MS);
    }
}
