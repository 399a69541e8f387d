//! Verifications that operators order: the [walk](super::scrub) through all that is stored, made at once and as fast as it is
//! told to, until what it found damaged is healed or cannot be.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use dynkv_proto::{
    Failure, FailureCode, KeyName, RunState, StopVerifyReply, VerifyPhase, VerifyReply, VerifyRun,
    VerifyStatusReply,
};
use tokio::time::{Instant, sleep};

use super::{
    scrub::{CHUNK_BYTES, Walk, Went, Witness},
    upkeep::RETRY_PAUSE,
};
use crate::{hints::check::Checked, record::parse_record_key, shared::Shared};

/// Bytes read in a second, unless an operator says otherwise: a fraction of what any disk does.
const RATE_BYTES: u64 = 32 * 1024 * 1024;

/// Slower than this it would hardly end.
const RATE_BYTES_MIN: u64 = 1024;

/// Records looked at in one go: half a millisecond from the cache.
const RECORDS: usize = 64;

/// After so many, whatever the rate: reading takes half of the time at most.
const PAUSE: Duration = Duration::from_millis(1);

/// What looking at a partition that holds nothing counts like, in records.
const PARTITION: usize = 4;

/// How long nothing needs to be healed until no more is expected: homes that answer do so within five seconds, and healing
/// tries again every five.
const HEALING: Duration = Duration::from_secs(12);
const HEALING_PERIOD: Duration = Duration::from_millis(100);

/// Damaged records whose healing is followed; as many are known at all.
const FOLLOWED_MAX: usize = 10_000;

/// Keys and errors told.
const KEYS_TOLD: usize = 100;
const ERRORS_TOLD: usize = 10;

/// Things that cannot be read at which a verification is given up.
const ERRORS_MAX: u64 = 1000;

/// The verification under way, or the latest.
#[derive(Default)]
pub(crate) struct Verification(Mutex<Option<Run>>);

struct Run {
    number: u64,
    state: RunState,
    phase: VerifyPhase,
    rate_bytes: u64,
    begun: Instant,
    ended: Option<Instant>,
    steps: u64,
    records: u64,
    hints: u64,
    bytes: u64,
    damaged: u64,
    /// The first of them, which are followed, and those that are not healed yet.
    followed: BTreeSet<Bytes>,
    unhealed: BTreeSet<Bytes>,
    hints_damaged: u64,
    /// As counted before it began, and when it ended.
    drifts_before: u64,
    drifts_after: Option<u64>,
    errors: u64,
    last_errors: VecDeque<String>,
}

impl Run {
    fn tell(&mut self, error: String) {
        if self.last_errors.len() == ERRORS_TOLD {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(error);
    }

    /// Looks which of the damaged ones are not healed yet.
    fn look_whether_healed(&mut self, node: &Shared) {
        let known: BTreeSet<Bytes> = node.replica.damaged.all().into_iter().collect();
        self.unhealed = self.followed.intersection(&known).cloned().collect();
    }

    fn end(&mut self, node: &Shared, state: RunState) {
        self.look_whether_healed(node);
        self.state = state;
        self.ended = Some(Instant::now());
        self.drifts_after = Some(node.metrics.tree_drifts.get());
    }

    fn is_running(&self) -> bool {
        self.state == RunState::Running
    }
}

impl Verification {
    fn latest(&self) -> MutexGuard<'_, Option<Run>> {
        // Counting is plain arithmetic: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the one under way.
    pub(super) fn running(&self) -> Option<u64> {
        self.latest().as_ref().filter(|run| run.is_running()).map(|run| run.number)
    }

    /// Changes what is told of a verification, unless it has ended.
    fn change<T>(&self, number: u64, change: impl FnOnce(&mut Run) -> T) -> Option<T> {
        let mut latest = self.latest();
        latest.as_mut().filter(|run| run.number == number && run.is_running()).map(change)
    }
}

/// Begins a verification, or gives the one under way another rate.
pub(crate) fn start(node: &Shared, rate_bytes: Option<u64>) -> Result<VerifyReply, Failure> {
    let view = node.cluster.view();
    if let Err(reason) = node.cluster.serving(&view) {
        return Err(Failure::not_done(FailureCode::NotServing, reason.to_string()));
    }
    let trees = &node.replica.trees;
    let mut latest = trees.verification.latest();
    let rate_bytes = rate_bytes.map(|rate| rate.max(RATE_BYTES_MIN));
    let started = latest.as_ref().is_none_or(|run| !run.is_running());
    if started {
        let number = latest.as_ref().map_or(0, |run| run.number) + 1;
        *latest = Some(Run {
            number,
            state: RunState::Running,
            phase: VerifyPhase::Records,
            rate_bytes: rate_bytes.unwrap_or(RATE_BYTES),
            begun: Instant::now(),
            ended: None,
            steps: 0,
            records: 0,
            hints: 0,
            bytes: 0,
            damaged: 0,
            followed: BTreeSet::new(),
            unhealed: BTreeSet::new(),
            hints_damaged: 0,
            drifts_before: node.metrics.tree_drifts.get(),
            drifts_after: None,
            errors: 0,
            last_errors: VecDeque::new(),
        });
        trees.wake.notify_one();
    } else if let (Some(run), Some(rate_bytes)) = (latest.as_mut(), rate_bytes) {
        run.rate_bytes = rate_bytes;
        trees.wake.notify_one();
    }
    drop(latest);
    let run = told(node).expect("one was begun, if there was none");
    Ok(VerifyReply { started, run })
}

/// How the verification stands.
pub(crate) fn status(node: &Shared) -> VerifyStatusReply {
    VerifyStatusReply { node: node.cluster.me.id, run: told(node) }
}

/// Ends the verification under way.
pub(crate) fn stop(node: &Shared) -> StopVerifyReply {
    let verification = &node.replica.trees.verification;
    let stopped = verification
        .running()
        .and_then(|number| verification.change(number, |run| run.end(node, RunState::Stopped)));
    StopVerifyReply { stopped: stopped.is_some(), run: told(node) }
}

fn told(node: &Shared) -> Option<VerifyRun> {
    let trees = &node.replica.trees;
    let hints: u64 = node.replica.hints.totals().values().map(|totals| totals.hints).sum();
    let mut latest = trees.verification.latest();
    let run = latest.as_mut()?;
    if run.is_running() {
        run.look_whether_healed(node);
    }
    let ms = |since: Instant, until: Instant| until.duration_since(since).as_millis() as u64;
    let now = Instant::now();
    // Records by the index and once more against it; hints and their turns.
    let steps_all = match run.state {
        RunState::Done => run.steps,
        _ => (2 * trees.entries() + 2 * hints).max(run.steps),
    };
    let name = |record: &Bytes| {
        let (bucket, key) = parse_record_key(record)?;
        Some(KeyName { bucket, key: key.into() })
    };
    // Those that are not followed may or may not be healed.
    let not_followed = run.damaged.saturating_sub(run.followed.len() as u64);
    Some(VerifyRun {
        number: run.number,
        state: run.state,
        phase: run.phase,
        rate_bytes: run.rate_bytes,
        age_ms: ms(run.begun, now),
        took_ms: ms(run.begun, run.ended.unwrap_or(now)),
        steps: run.steps,
        steps_all,
        records: run.records,
        hints: run.hints,
        bytes: run.bytes,
        damaged: run.damaged,
        healed: run.damaged - not_followed - run.unhealed.len() as u64,
        hints_damaged: run.hints_damaged,
        drifts: run.drifts_after.unwrap_or(node.metrics.tree_drifts.get()).saturating_sub(run.drifts_before),
        errors: run.errors,
        last_errors: run.last_errors.iter().cloned().collect(),
        unhealed: run.unhealed.iter().filter_map(name).take(KEYS_TOLD).collect(),
    })
}

/// Carries a verification on, in turns.
pub(super) struct Verifier {
    pub(super) number: u64,
    walk: Walk,
    /// Records seen since the last pause.
    seen: usize,
    /// Bytes that were read and are still to be waited for, as of `since`.
    owed_bytes: u64,
    since: Instant,
    /// Once the walk is at its end: how many records are still to be healed, and since when it is so many.
    healing: Option<(usize, Instant)>,
}

impl Verifier {
    pub(super) fn new(node: &Shared, number: u64) -> Verifier {
        // What the slow check has read of a partition would be left out.
        node.replica.trees.give_up_checks();
        let since = Instant::now();
        Verifier { number, walk: Walk::default(), seen: 0, owed_bytes: 0, since, healing: None }
    }

    /// Goes on until `until`, or until there is nothing to do for now. Says when to go on.
    pub(super) async fn go_on(&mut self, node: &Arc<Shared>, until: Instant) -> Instant {
        let verification = &node.replica.trees.verification;
        loop {
            let (number, phase) = (self.number, self.walk.phase());
            let seen = verification.change(number, |run| {
                if self.healing.is_none() {
                    run.phase = phase;
                }
                (run.rate_bytes, run.bytes / run.records.max(1))
            });
            let now = Instant::now();
            // Stopped meanwhile.
            let Some((rate_bytes, record_bytes)) = seen else { return now };
            if let Some(healing) = self.healing {
                self.look_whether_healed(node, healing);
                return now + HEALING_PERIOD;
            }
            let due = self.due(now, rate_bytes);
            if due > now || now >= until {
                return due;
            }
            // Large ones a few at a time, or one page would be far above the rate.
            let max = (CHUNK_BYTES / record_bytes.max(1)).clamp(1, RECORDS as u64) as usize;
            let mut witness = Ordered { node, number, bytes: 0 };
            let went = self.walk.go_on(node, max, &mut witness).await;
            self.owed_bytes += witness.bytes;
            match went {
                Went::On(seen) => {
                    self.seen += seen + PARTITION;
                    if self.seen >= RECORDS {
                        self.seen = 0;
                        sleep(PAUSE).await;
                    }
                }
                Went::Nowhere => return Instant::now() + RETRY_PAUSE,
                Went::ToTheEnd => {
                    self.healing = Some((usize::MAX, Instant::now()));
                    verification.change(number, |run| run.phase = VerifyPhase::Healing);
                    node.replica.damaged.wake.notify_one();
                }
            }
        }
    }

    /// When what was read is paid for, at the rate of now.
    fn due(&mut self, now: Instant, rate_bytes: u64) -> Instant {
        let paid = now.saturating_duration_since(self.since).as_secs_f64() * rate_bytes as f64;
        self.owed_bytes = self.owed_bytes.saturating_sub(paid as u64);
        self.since = now;
        now + Duration::from_secs_f64(self.owed_bytes as f64 / rate_bytes as f64)
    }

    fn look_whether_healed(&mut self, node: &Arc<Shared>, (left, since): (usize, Instant)) {
        let now = Instant::now();
        node.replica.trees.verification.change(self.number, |run| {
            run.look_whether_healed(node);
            if run.unhealed.is_empty() || now - since >= HEALING {
                run.end(node, RunState::Done);
            } else if run.unhealed.len() < left {
                self.healing = Some((run.unhealed.len(), now));
            }
        });
    }
}

/// The witness of a verification that was ordered.
struct Ordered<'a> {
    node: &'a Shared,
    number: u64,
    /// Read since the piece began.
    bytes: u64,
}

impl Ordered<'_> {
    fn change(&self, change: impl FnOnce(&mut Run)) {
        self.node.replica.trees.verification.change(self.number, change);
    }
}

impl Witness for Ordered<'_> {
    fn record(&mut self, record: &Bytes, bytes: u64, whole: bool) {
        self.bytes += bytes;
        self.change(|run| {
            run.steps += 1;
            run.records += 1;
            run.bytes += bytes;
            if !whole {
                run.damaged += 1;
                if run.followed.len() < FOLLOWED_MAX {
                    // Copied: the record's name may be a slice of its block.
                    let record = Bytes::copy_from_slice(record);
                    run.followed.insert(record);
                }
            }
        });
    }

    fn listed(&mut self, records: u64, bytes: u64) {
        self.bytes += bytes;
        self.change(|run| run.steps += records);
    }

    fn hints(&mut self, checked: &Checked) {
        self.bytes += checked.bytes;
        self.change(|run| {
            run.steps += checked.seen as u64;
            run.hints += checked.hints;
            run.bytes += checked.bytes;
            run.hints_damaged += checked.damaged.len() as u64;
            checked.damaged.iter().for_each(|reason| run.tell(reason.clone()));
        });
    }

    fn error(&mut self, error: String) {
        let node = self.node;
        self.change(|run| {
            run.errors += 1;
            run.tell(error);
            if run.errors >= ERRORS_MAX {
                run.end(node, RunState::Failed);
            }
        });
    }
}
