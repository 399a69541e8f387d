//! Background work: one place that bounds all of it, and gives way to the foreground (paper, section 6.5).
//!
//! Whoever does something that no client waits for asks here first. How much may be under way follows the 99th percentile of the
//! foreground's latency: it shrinks quickly while that is above the target, and grows slowly else. The target is what the
//! foreground takes while there is nothing to do in the background, and a fifth more.
//!
//! *Fewer at once is not less.* On a fast network four pieces under way at once use all of a processor. So a share of less than
//! four is four with pauses: whoever has had a turn leaves its slot idle for as many times as long as it took.
//!
//! *Pieces are small where there is a foreground.* Whatever is under way, a request waits for what its node is doing at the moment, before anybody has seen it and begins to measure:
//! reading a hundred states is half a millisecond, and so is sending them.
//!
//! *What the foreground takes by itself has to be seen first.* After a start, bulk work waits for that while there is a
//! foreground, since nothing tells a slow disk from one that is busy with that work.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{metrics::Metrics, news::News, shared::Shared};

/// How many kinds there are.
const KINDS: usize = 6;

/// A share of one piece under way all the time.
const PIECE: u32 = 64;

/// The share at least: work goes on, however slow the foreground is. And at most.
const SHARE_MIN: u32 = 1;
const SHARE_MAX: u32 = 64 * PIECE;

/// The share at least of work that keeps writes on more than one disk, one small piece at a time: clients wait for it to end, if not now.
const SHARE_MIN_OF_WRITES: u32 = PIECE / 4;

/// The share with which work begins beside a foreground: more when that has been seen not to suffer.
const SHARE_BEGIN: u32 = 4 * PIECE;

/// In so many parts is done what could be done in one piece, where there is a foreground.
const PARTS: usize = 8;

/// Pieces under way at once, at least: one that takes long does not hold up all others.
const SLOTS_MIN: u32 = 4;

/// Pieces of one kind that may wait for their turn; more are dropped, for each kind has a way to come back to what it
/// left out (the next read, the next pass over the hints).
const WAITING_MAX: usize = 4096;

/// Other nodes' bulk work that is answered at once.
const ANSWERS_MAX: usize = 2;

/// Puts that have been answered and still wait for homes. Each holds its state.
const LINGERING_MAX: usize = 16_384;

/// The foreground's 99th percentile that background work must never exceed (four syncs of a slow disk), and below which it need
/// not give way.
const TARGET_P99_MAX: Duration = Duration::from_millis(50);
const TARGET_P99_MIN: Duration = Duration::from_micros(250);

/// For so many periods after the start at most bulk work waits until it is known what the foreground takes by itself.
const UNKNOWN_PERIODS_MAX: usize = 2 * PERIODS;

/// Pieces begun, and states moved, in a period with which the foreground is as good as alone. States count by themselves: where little may be under way, a few large pieces
/// are a lot of work, and what the foreground takes beside them must not be taken for what it takes by itself.
const CALM_WORK: u64 = 20;

/// How long a slot is idle at most: a piece that has waited for an answer in vain has not used anything meanwhile.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Foreground requests below which their latencies say nothing.
const SAMPLES_MIN: u64 = 500;

/// How often the share is set anew, and how many such periods are looked back at: fewer after a cut, so that the next one is
/// made for what has come of it.
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

impl Work {
    /// Whether there is much of it, which can wait.
    fn is_bulk(self) -> bool {
        matches!(self, Work::ReadRepair | Work::AntiEntropy | Work::TreeUpkeep | Work::Settlement)
    }

    fn share_min(self) -> u32 {
        if self.is_bulk() { SHARE_MIN } else { SHARE_MIN_OF_WRITES }
    }
}

/// A kind as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WorkLabel {
    work: Work,
}

/// A piece of work that may begin; it ends when this is dropped.
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    begun: Instant,
    work: Work,
    share: Arc<AtomicU32>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let share = self.share.load(Ordering::Relaxed).max(self.work.share_min());
        let pause = self.begun.elapsed() * pause_of(share) / PIECE;
        if let Some(permit) = self.permit.take()
            && !pause.is_zero()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                tokio::time::sleep(pause.min(PAUSE_MAX)).await;
                drop(permit);
            });
        }
    }
}

/// Admission to background work.
pub(crate) struct Background {
    slots: Arc<Semaphore>,
    waiting: Mutex<[usize; KINDS]>,
    answers: Arc<Semaphore>,
    lingering: Semaphore,
    foreground: Mutex<Window>,
    has_foreground: AtomicBool,
    share: Arc<AtomicU32>,
    /// Whether bulk work has to wait.
    held: AtomicBool,
    released: News,
    /// Pieces begun and states moved in this period.
    work: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Background {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Background {
        metrics.background_share.set(f64::from(SHARE_MAX / PIECE));
        Background {
            slots: Arc::new(Semaphore::new((SHARE_MAX / PIECE) as usize)),
            waiting: Mutex::default(),
            answers: Arc::new(Semaphore::new(ANSWERS_MAX)),
            lingering: Semaphore::new(LINGERING_MAX),
            foreground: Mutex::default(),
            has_foreground: AtomicBool::new(false),
            share: Arc::new(AtomicU32::new(SHARE_MAX)),
            // Until there has been time to see whether there is a foreground.
            held: AtomicBool::new(true),
            released: News::default(),
            work: AtomicU64::new(0),
            metrics,
        }
    }

    /// Waits for a turn. `None` when too many wait already: the work is to be left out.
    pub(crate) async fn turn(&self, work: Work) -> Option<Turn> {
        let label = WorkLabel { work };
        if !self.is_held(work)
            && let Ok(permit) = self.slots.clone().try_acquire_owned()
        {
            return Some(self.begin(permit, &label));
        }
        let Some(_waiting) = Waiting::enter(self, work) else {
            self.metrics.background_left_out.get_or_create(&label).inc();
            return None;
        };
        let mut released = self.released.listen();
        while self.is_held(work) {
            released.changed().await;
        }
        // The semaphore is never closed.
        let permit = self.slots.clone().acquire_owned().await.ok()?;
        Some(self.begin(permit, &label))
    }

    /// How much of what could be done in a piece of at most `max` is to be.
    pub(crate) fn piece(&self, max: usize) -> usize {
        if self.has_foreground.load(Ordering::Relaxed) { (max / PARTS).max(1) } else { max }
    }

    /// So many states were read for another node, or from one, in a piece.
    pub(crate) fn moved(&self, states: usize) {
        self.work.fetch_add(states as u64, Ordering::Relaxed);
    }

    fn is_held(&self, work: Work) -> bool {
        work.is_bulk() && self.held.load(Ordering::SeqCst)
    }

    fn begin(&self, permit: OwnedSemaphorePermit, label: &WorkLabel) -> Turn {
        self.metrics.background_begun.get_or_create(label).inc();
        self.turn_of(Some(permit), label.work)
    }

    fn turn_of(&self, permit: Option<OwnedSemaphorePermit>, work: Work) -> Turn {
        self.work.fetch_add(1, Ordering::Relaxed);
        Turn { permit, begun: Instant::now(), work, share: self.share.clone() }
    }

    /// Waits for a turn to answer bulk work of another node: this one's clients wait for it as well. Not one of the turns for work of its own: nodes that have used up all of
    /// theirs to ask would wait for each other.
    pub(crate) async fn turn_to_answer(&self) -> Turn {
        // The semaphore is never closed.
        let permit = self.answers.clone().acquire_owned().await.ok();
        self.turn_of(permit, Work::AntiEntropy)
    }

    fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
        if !held {
            self.released.tell();
        }
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

    /// Tells how long a client's request took, or what another node's client waits for.
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
    let mut slots = slots_of(share);
    let mut calm = Calm::default();
    // What could not be taken away yet, because it was in use.
    let mut owed = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let foreground = lock(&background.foreground).turn();
        background.has_foreground.store(foreground != Foreground::Absent, Ordering::Relaxed);
        calm.observe(foreground, background.work.swap(0, Ordering::Relaxed));
        background.hold(calm.must_be_waited_for(foreground));
        let (before, target) = (share, calm.target());
        background.metrics.background_target_seconds.set(target.as_secs_f64());
        if let Foreground::P99(p99) = foreground {
            background.metrics.foreground_p99_seconds.set(p99.as_secs_f64());
        }
        share = next_share(share, foreground, target);
        if share < before {
            *lock(&background.foreground) = Window::default();
        } else if calm.is_calm() && foreground != Foreground::Absent {
            share = share.min(SHARE_BEGIN);
        }
        let next = slots_of(share);
        if next > slots {
            let more = next - slots;
            let kept = more.min(owed);
            owed -= kept;
            background.slots.add_permits(more - kept);
        } else {
            owed += slots - next;
        }
        owed -= background.slots.forget_permits(owed);
        slots = next;
        background.share.store(share, Ordering::Relaxed);
        background.metrics.background_share.set(f64::from(share) / f64::from(PIECE));
    }
}

/// Pieces that may be under way at once.
fn slots_of(share: u32) -> usize {
    (share / PIECE).max(SLOTS_MIN) as usize
}

/// How many times as long as a piece took its slot is idle, in parts of [`PIECE`].
fn pause_of(share: u32) -> u32 {
    (SLOTS_MIN * PIECE * PIECE / share).saturating_sub(PIECE)
}

/// What is known of the clients' requests of the last few periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foreground {
    /// There were none.
    Absent,
    /// There were some, too few to have a percentile.
    Few,
    /// Their 99th percentile.
    P99(Duration),
}

/// The share after a look at the foreground.
fn next_share(share: u32, foreground: Foreground, target: Duration) -> u32 {
    match foreground {
        Foreground::P99(p99) if p99 > 2 * target => (share / 4).max(SHARE_MIN),
        Foreground::P99(p99) if p99 > target => (share / 2).max(SHARE_MIN),
        Foreground::P99(_) => (share + (share / 4).clamp(1, 2 * PIECE)).min(SHARE_MAX),
        Foreground::Few => share,
        Foreground::Absent => (share * 2).min(SHARE_MAX),
    }
}

/// What the foreground takes by itself.
#[derive(Default)]
struct Calm {
    p99: Option<Duration>,
    /// Periods since there was much to do in the background.
    periods: usize,
    /// Periods for which this was waited for.
    waited: usize,
}

impl Calm {
    fn observe(&mut self, foreground: Foreground, work: u64) {
        self.periods = if work < CALM_WORK { self.periods + 1 } else { 0 };
        if let Foreground::P99(p99) = foreground
            && self.is_calm()
        {
            // Half of what it was is forgotten within seven seconds.
            self.p99 = Some(self.p99.map_or(p99, |calm| (calm * 9 + p99) / 10));
        }
    }

    /// Whether there was little to do for so long that the percentile is not one of busier periods.
    fn is_calm(&self) -> bool {
        self.periods >= PERIODS
    }

    /// Whether bulk work has to wait for the figure.
    fn must_be_waited_for(&mut self, foreground: Foreground) -> bool {
        let wait = self.p99.is_none()
            && matches!(foreground, Foreground::P99(_))
            && self.waited < UNKNOWN_PERIODS_MAX;
        self.waited += usize::from(wait);
        wait
    }

    fn target(&self) -> Duration {
        self.p99.map_or(TARGET_P99_MAX, |calm| (calm * 6 / 5).clamp(TARGET_P99_MIN, TARGET_P99_MAX))
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

    /// Begins the next period. Tells of all of them.
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
    use futures_util::FutureExt;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_share_gives_way_quickly_and_comes_back_slowly() {
        let target = 10 * MS;
        let next = |share, p99_ms: u32| next_share(share, Foreground::P99(p99_ms * MS), target);
        assert_eq!(next(64 * PIECE, 11), 32 * PIECE);
        assert_eq!(next(64 * PIECE, 21), 16 * PIECE);
        assert_eq!(next(SHARE_MIN, 21), SHARE_MIN);
        assert_eq!(next(32 * PIECE, 10), 34 * PIECE);
        assert_eq!(next(SHARE_MIN, 10), SHARE_MIN + 1);
        assert_eq!(next(SHARE_MAX, 10), SHARE_MAX);
        assert_eq!(next(100, 10), 125);
        assert_eq!(next_share(20, Foreground::Few, target), 20);
        assert_eq!(next_share(20, Foreground::Absent, target), 40);
    }

    #[test]
    fn below_four_at_once_a_share_is_four_with_pauses() {
        for (share, slots, times_idle) in [
            (64 * PIECE, 64, 0),
            (4 * PIECE, 4, 0),
            (PIECE, 4, 3),
            (SHARE_MIN_OF_WRITES, 4, 15),
            (SHARE_MIN, 4, 255),
        ] {
            assert_eq!(slots_of(share), slots);
            assert_eq!(pause_of(share), times_idle * PIECE, "{share}");
        }
    }

    #[test]
    fn the_target_follows_what_the_foreground_takes_by_itself() {
        let mut calm = Calm::default();
        assert_eq!(calm.target(), TARGET_P99_MAX);
        (0..100).for_each(|_| calm.observe(Foreground::P99(10 * MS), 0));
        assert_eq!(calm.target(), 12 * MS);
        // What it takes beside much to do says nothing.
        (0..100).for_each(|_| calm.observe(Foreground::P99(40 * MS), CALM_WORK));
        assert_eq!(calm.target(), 12 * MS);
        (0..PERIODS - 1).for_each(|_| calm.observe(Foreground::P99(40 * MS), 0));
        assert_eq!(calm.target(), 12 * MS);
        (0..100).for_each(|_| calm.observe(Foreground::P99(40 * MS), 0));
        assert!(calm.target() > 40 * MS);
        (0..200).for_each(|_| calm.observe(Foreground::P99(MS / 10), 0));
        assert_eq!(calm.target(), TARGET_P99_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_idle_after_a_piece() {
        let background = Background::new(Arc::new(Metrics::new()));
        background.slots.forget_permits((SHARE_MAX / PIECE) as usize - 1);
        background.share.store(PIECE, Ordering::Relaxed);
        let turn = background.turn(Work::HintDelivery).await;
        tokio::time::advance(10 * MS).await;
        drop(turn);
        let begun = Instant::now();
        assert!(background.turn(Work::HintDelivery).await.is_some());
        assert!((30 * MS..33 * MS).contains(&begun.elapsed()));
    }

    #[test]
    fn pieces_are_small_where_there_is_a_foreground() {
        let background = Background::new(Arc::new(Metrics::new()));
        assert_eq!([1, 128].map(|max| background.piece(max)), [1, 128]);
        background.has_foreground.store(true, Ordering::Relaxed);
        assert_eq!([1, 128].map(|max| background.piece(max)), [1, 16]);
    }

    #[tokio::test]
    async fn bulk_work_waits_until_it_is_known_whether_there_is_a_foreground() {
        let background = Background::new(Arc::new(Metrics::new()));
        let mut turn = std::pin::pin!(background.turn(Work::AntiEntropy));
        assert!(turn.as_mut().now_or_never().is_none());
        assert!(background.turn(Work::HintDelivery).await.is_some(), "writes do not wait");
        background.hold(false);
        assert!(turn.await.is_some());
    }

    #[test]
    fn what_the_foreground_takes_by_itself_is_waited_for_but_not_for_ever() {
        let mut calm = Calm::default();
        assert!(!calm.must_be_waited_for(Foreground::Absent));
        assert!(!calm.must_be_waited_for(Foreground::Few));
        // Not calm for some reason.
        (0..UNKNOWN_PERIODS_MAX).for_each(|_| assert!(calm.must_be_waited_for(Foreground::P99(MS))));
        assert!(!calm.must_be_waited_for(Foreground::P99(MS)));
        let mut calm = Calm::default();
        for _ in 1..PERIODS {
            calm.observe(Foreground::P99(MS), 0);
            assert!(calm.must_be_waited_for(Foreground::P99(MS)));
        }
        calm.observe(Foreground::P99(MS), 0);
        assert!(!calm.must_be_waited_for(Foreground::P99(MS)), "it is known");
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

    #[tokio::test]
    async fn what_would_wait_too_long_is_left_out() {
        let background = Background::new(Arc::new(Metrics::new()));
        let mut turns = Vec::new();
        for _ in 0..SHARE_MAX / PIECE {
            turns.push(background.turn(Work::HintDelivery).await);
        }
        let waiting: Vec<_> =
            (0..WAITING_MAX).map(|_| Waiting::enter(&background, Work::HintDelivery)).collect();
        assert!(background.turn(Work::HintDelivery).await.is_none(), "too many wait");
        assert!(
            Waiting::enter(&background, Work::HintPlacement).is_some(),
            "each kind has a queue of its own"
        );
        drop(waiting);
        turns.pop();
        assert!(background.turn(Work::HintDelivery).await.is_some());
    }
}
