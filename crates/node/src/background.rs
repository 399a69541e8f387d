//! Background work: one place that bounds all of it, and gives way to the foreground (paper, section 6.5).
//!
//! Whoever does something that no client waits for asks here first. How much may be under way follows the 99th percentiles of the
//! foreground's latencies ([`share`]).
//!
//! *Fewer at once is not less.* On a fast network four pieces under way at once use all of a processor. So a share of less than
//! four is four with pauses: whoever has had a turn leaves its slot idle for as many times as long as it took.
//!
//! *Pieces are small where there is a foreground.* Whatever is under way, a request waits for what its node is doing at the moment, before anybody has seen it and begins to measure:
//! reading a hundred states is half a millisecond, and so is sending them.

mod share;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};

pub(crate) use self::share::{Asked, AskedLabel};
use self::share::{Controller, Windows};
use crate::{metrics::Metrics, news::News, shared::Shared};

/// How often the share is set anew.
const PERIOD: Duration = Duration::from_secs(1);

/// How many kinds there are.
const KINDS: usize = 7;

/// A share of one piece under way all the time.
const PIECE: u32 = 4096;

/// The share at least: work goes on, however slow the foreground is. And at most.
const SHARE_MIN: u32 = PIECE / 64;
const SHARE_MAX: u32 = 64 * PIECE;

/// The share at least of work that keeps writes on more than one disk, and of what a new member reads, one small piece at a time: clients wait for it to end, if not now.
const SHARE_MIN_OF_WRITES: u32 = PIECE / 4;

/// The time that a state in an answer is taken to use before there was any.
const STATE_NS: u64 = 30_000;

/// In so many parts is done what could be done in one piece, where there is a foreground.
const PARTS: usize = 8;

/// States looked at before others have their turn: some 50 microseconds.
const AT_ONCE: usize = 4;

/// Pieces under way at once, at least: one that takes long does not hold up all others.
const SLOTS_MIN: u32 = 4;

/// Pieces of one kind that may wait for their turn; more are dropped, for each kind has a way to come back to what it
/// left out (the next read, the next pass over the hints).
const WAITING_MAX: usize = 4096;

/// Which part of the share of other answers those have that can wait: to who is to become a member where no replica is missing.
const PART_THAT_CAN_WAIT: u32 = 4;

/// Other nodes' bulk work of one class that is answered at once.
const ANSWERS_MAX: usize = 2;

/// Puts that have been answered and still wait for homes. Each holds its state.
const LINGERING_MAX: usize = 16_384;

/// How long a slot is idle at most: a piece that has waited for an answer in vain has not used anything meanwhile.
const PAUSE_MAX: Duration = Duration::from_millis(500);

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
    /// Reading what this node needs to become a member.
    Joining,
    /// Building and checking Merkle trees.
    TreeUpkeep,
    /// Settling tombstones and old context entries.
    Settlement,
}

impl Work {
    /// Whether there is much of it, which can wait.
    fn is_bulk(self) -> bool {
        !matches!(self, Work::HintPlacement | Work::HintDelivery)
    }

    fn share_min(self) -> u32 {
        match self {
            Work::HintPlacement | Work::HintDelivery | Work::Joining => SHARE_MIN_OF_WRITES,
            Work::ReadRepair | Work::AntiEntropy | Work::TreeUpkeep | Work::Settlement => SHARE_MIN,
        }
    }
}

/// A kind as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WorkLabel {
    work: Work,
}

/// How fast work goes on.
struct Pace {
    share: AtomicU32,
    /// The share at least of answers to other nodes' bulk work.
    share_min_of_answers: AtomicU32,
    /// Pieces begun and states moved in this period.
    work: AtomicU64,
    /// What a state in an answer has used lately.
    state_ns: AtomicU64,
}

/// A piece of work that may begin; it ends when this is dropped.
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    begun: Instant,
    waited: Duration,
    states: u64,
    answer: Option<Answer>,
    work: Work,
    pace: Arc<Pace>,
}

/// For whom another node's bulk work is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Somebody lacks what he should have.
    Mends,
    /// Somebody is to have what enough others have: nothing is lost by taking longer.
    CanWait,
}

impl Answer {
    const ALL: [Answer; 2] = [Answer::Mends, Answer::CanWait];

    /// Which part of the share it has.
    fn part(self) -> u32 {
        match self {
            Answer::Mends => 1,
            Answer::CanWait => PART_THAT_CAN_WAIT,
        }
    }
}

impl Turn {
    /// Waits for another node, which uses nothing here.
    pub(crate) async fn wait<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let answer = answer.await;
        self.waited += begun.elapsed();
        answer
    }

    /// So many states were read for another node, or from one.
    pub(crate) fn moved(&mut self, states: usize) {
        self.states += states as u64;
        self.pace.work.fetch_add(states as u64, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Pace { share, share_min_of_answers, state_ns, .. } = &*self.pace;
        let used = self.begun.elapsed().saturating_sub(self.waited);
        if let Some(each) = (used.as_nanos() as u64).checked_div(self.states)
            && self.answer.is_some()
        {
            // Of two that end at once one may be lost.
            state_ns.store((7 * state_ns.load(Ordering::Relaxed) + each) / 8, Ordering::Relaxed);
        }
        let share = share.load(Ordering::Relaxed);
        let share = match self.answer {
            None => share.max(self.work.share_min()),
            Some(answer) => share.max(share_min_of_answers.load(Ordering::Relaxed)) / answer.part(),
        };
        let pause = used * pause_of(share) / PIECE;
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
    /// Of each class its own, or what can wait would hold up the rest with its pauses.
    answers: [Arc<Semaphore>; Answer::ALL.len()],
    lingering: Semaphore,
    foreground: Mutex<Windows>,
    has_foreground: AtomicBool,
    pace: Arc<Pace>,
    /// Whether bulk work has to wait.
    held: AtomicBool,
    released: News,
    metrics: Arc<Metrics>,
}

impl Background {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Background {
        metrics.background_share.set(f64::from(SHARE_MAX / PIECE));
        Background {
            slots: Arc::new(Semaphore::new((SHARE_MAX / PIECE) as usize)),
            waiting: Mutex::default(),
            answers: Answer::ALL.map(|_| Arc::new(Semaphore::new(ANSWERS_MAX))),
            lingering: Semaphore::new(LINGERING_MAX),
            foreground: Mutex::default(),
            has_foreground: AtomicBool::new(false),
            pace: Arc::new(Pace {
                share: AtomicU32::new(SHARE_MAX),
                share_min_of_answers: AtomicU32::new(SHARE_MIN),
                work: AtomicU64::new(0),
                state_ns: AtomicU64::new(STATE_NS),
            }),
            // Until there has been time to see whether there is a foreground.
            held: AtomicBool::new(true),
            released: News::default(),
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

    fn is_held(&self, work: Work) -> bool {
        work.is_bulk() && self.held.load(Ordering::SeqCst)
    }

    fn begin(&self, permit: OwnedSemaphorePermit, label: &WorkLabel) -> Turn {
        self.metrics.background_begun.get_or_create(label).inc();
        self.turn_of(Some(permit), label.work, None)
    }

    fn turn_of(&self, permit: Option<OwnedSemaphorePermit>, work: Work, answer: Option<Answer>) -> Turn {
        self.pace.work.fetch_add(1, Ordering::Relaxed);
        let (begun, waited) = (Instant::now(), Duration::ZERO);
        Turn { permit, begun, waited, states: 0, answer, work, pace: self.pace.clone() }
    }

    /// A turn for what clients wait for: at once, and without a pause.
    pub(crate) fn turn_at_once(&self, work: Work) -> Turn {
        self.turn_of(None, work, None)
    }

    /// Waits for a turn to answer bulk work of another node: this one's clients wait for it as well. Not one of the turns for work of its own: nodes that have used up all of
    /// theirs to ask would wait for each other.
    pub(crate) async fn turn_to_answer(&self, answer: Answer) -> Turn {
        // The semaphore is never closed.
        let permit = self.answers[answer as usize].clone().acquire_owned().await.ok();
        self.turn_of(permit, Work::AntiEntropy, Some(answer))
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

    /// Tells how long it took what a client asked for.
    pub(crate) fn observe_foreground(&self, asked: Asked, took: Duration) {
        lock(&self.foreground).record(asked, took);
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

/// Lets clients have their turn, now and then: after the state number `done`, from 0 on, of many that are looked at one after the other.
pub(crate) async fn give_way(done: usize) {
    if done % AT_ONCE == AT_ONCE - 1 {
        tokio::task::yield_now().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counting cannot panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the share again and again, until the node stops.
pub(crate) async fn control(node: Arc<Shared>) {
    let background = &node.background;
    let mut controller = Controller::default();
    let mut slots = slots_of(SHARE_MAX);
    // What could not be taken away yet, because it was in use.
    let mut owed = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let seen = lock(&background.foreground).turn();
        background.has_foreground.store(!seen.is_absent(), Ordering::Relaxed);
        let next = controller.step(&seen, background.pace.work.swap(0, Ordering::Relaxed));
        controller.tell(&seen, &background.metrics);
        background.hold(next.held);
        if next.is_cut {
            // The next cut is made for what has come of this one.
            *lock(&background.foreground) = Windows::default();
        }
        let share = next.share;
        let wanted = slots_of(share);
        if wanted > slots {
            let more = wanted - slots;
            let kept = more.min(owed);
            owed -= kept;
            background.slots.add_permits(more - kept);
        } else {
            owed += slots - wanted;
        }
        owed -= background.slots.forget_permits(owed);
        slots = wanted;
        background.pace.share.store(share, Ordering::Relaxed);
        let keeping_up = share_to_keep_up(seen.writes(), background.pace.state_ns.load(Ordering::Relaxed));
        background.pace.share_min_of_answers.store(keeping_up, Ordering::Relaxed);
        background.metrics.background_share.set(f64::from(share) / f64::from(PIECE));
    }
}

/// Pieces that may be under way at once.
fn slots_of(share: u32) -> usize {
    (share / PIECE).max(SLOTS_MIN) as usize
}

/// The share with which half as many states are answered as clients write in the same time. Whoever becomes a member reads each of those writes from one of several:
/// with less it would never have read all, where the foreground takes longer than its target for some other reason.
fn share_to_keep_up(writes: u64, state_ns: u64) -> u32 {
    // A process that was stopped in the midst of an answer has used hours.
    let used_ns = writes.saturating_mul(state_ns) / 2 / ANSWERS_MAX as u64 * u64::from(SLOTS_MIN);
    let share = used_ns.saturating_mul(u64::from(PIECE)) / PERIOD.as_nanos() as u64;
    // At most a piece all the time.
    (share.min(u64::from(PIECE)) as u32).max(SHARE_MIN)
}

/// How many times as long as a piece took its slot is idle, in parts of [`PIECE`].
fn pause_of(share: u32) -> u32 {
    (SLOTS_MIN * PIECE * PIECE / share).saturating_sub(PIECE)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

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

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_idle_after_a_piece() {
        let background = Background::new(Arc::new(Metrics::new()));
        background.slots.forget_permits((SHARE_MAX / PIECE) as usize - 1);
        background.pace.share.store(PIECE, Ordering::Relaxed);
        let turn = background.turn(Work::HintDelivery).await;
        tokio::time::advance(10 * MS).await;
        drop(turn);
        let begun = Instant::now();
        assert!(background.turn(Work::HintDelivery).await.is_some());
        assert!((30 * MS..33 * MS).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_for_is_not_paused_for() {
        let background = Background::new(Arc::new(Metrics::new()));
        background.slots.forget_permits((SHARE_MAX / PIECE) as usize - 1);
        background.pace.share.store(PIECE, Ordering::Relaxed);
        let mut turn = background.turn(Work::HintDelivery).await.expect("nobody waits");
        turn.wait(tokio::time::sleep(10 * MS)).await;
        drop(turn);
        let begun = Instant::now();
        assert!(background.turn(Work::HintDelivery).await.is_some());
        assert!(begun.elapsed() < 5 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_can_wait_has_a_quarter_of_the_share() {
        for (answer, idle) in [(Answer::Mends, 30 * MS), (Answer::CanWait, 150 * MS)] {
            let background = Background::new(Arc::new(Metrics::new()));
            background.answers[answer as usize].forget_permits(ANSWERS_MAX - 1);
            background.pace.share.store(PIECE, Ordering::Relaxed);
            let turn = background.turn_to_answer(answer).await;
            tokio::time::advance(10 * MS).await;
            drop(turn);
            let other = Answer::ALL.into_iter().find(|other| *other != answer).expect("there are two");
            assert!(background.turn_to_answer(other).now_or_never().is_some(), "one holds up the other");
            let begun = Instant::now();
            background.turn_to_answer(answer).await;
            assert!((idle..idle + 3 * MS).contains(&begun.elapsed()), "{answer:?}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn answers_keep_up_with_what_clients_write() {
        assert_eq!(share_to_keep_up(0, 30_000), SHARE_MIN);
        // A hundred states take 5 ms, in two slots of four.
        assert_eq!(share_to_keep_up(1000, 50_000), PIECE * 5 / 100);
        assert_eq!(share_to_keep_up(u64::from(u32::MAX), 50_000), PIECE);
        assert_eq!(share_to_keep_up(1_000_000, u64::MAX), PIECE);
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
