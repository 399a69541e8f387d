//! The phi-accrual failure detector.

use std::time::Duration;

/// What a [`PhiAccrual`] detector goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct DetectorConfig {
    /// The phi from which on a node is suspected. Default: 8, one wrong suspicion in 10^8 heartbeats if
    /// their intervals are as modelled.
    pub threshold: f64,
    /// Silence that does not count at all, for pauses of the node or of the network. Default: 500 ms.
    pub pause: Duration,
    /// The least standard deviation assumed of heartbeat intervals, so that a perfectly regular sender
    /// is not suspected for its first delay. Default: 200 ms.
    pub deviation_min: Duration,
    /// What each failed call adds to phi. Default: 2, so that the fourth failure makes a suspect.
    pub failure_phi: f64,
    /// Failures that come within this time of the last one counted are the same failure: the hundred
    /// calls that one pause makes late say no more than one of them. Default: 100 ms.
    pub failure_gap: Duration,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            threshold: 8.0,
            pause: Duration::from_millis(500),
            deviation_min: Duration::from_millis(200),
            failure_phi: 2.0,
            failure_gap: Duration::from_millis(100),
        }
    }
}

/// Says how surprising the silence of one node is (Hayashibara, Défago, Yared, Katayama: "The phi
/// accrual failure detector", 2004).
///
/// Instead of "up" or "down" it gives phi: a live node is silent for so long once in 10^phi heartbeats,
/// going by the intervals seen so far. What follows from a phi is the caller's decision;
/// [`is_suspect`](Self::is_suspect) compares it with a threshold. Outcomes of calls count too: a failure
/// raises phi at once, a success lowers it to nothing.
///
/// Times are durations since any fixed moment of a clock that does not go back. A time before the last
/// one counts as the last one.
///
/// # The model
///
/// Hayashibara et al. take heartbeat intervals as normally distributed, which fits a heart that is heard
/// directly. Through gossip one hears of a heartbeat after a random number of hops, and the intervals are
/// rather exponential; a normal tail would suspect live nodes all the time. So the intervals are
/// taken as gamma distributed, which has both as extremes, with mean and variance as estimated. With `r`
/// the silence in means and `k = mean² / variance`, Chernoff's bound on the gamma tail gives
///
/// ```text
/// P(silent for r means) <= e^(-k (r - 1 - ln r))        for r > 1
/// phi = k (r - 1 - ln r) / ln 10
/// ```
///
/// which is what [`phi`](Self::phi) returns (0 for `r <= 1`), plus the failed calls. Being an upper bound on the
/// probability it is the cautious side: it takes a little longer to suspect than the exact tail.
///
/// Mean and variance are moving averages in which an interval weighs 1/64; the expected interval stands
/// in for the first four. An interval counts as at most eight means, so an hour of partition does not
/// blind the detector, yet a heart that really slows down is followed within some beats.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use dynkv_gossip::{DetectorConfig, PhiAccrual};
///
/// let second = Duration::from_secs;
/// let mut node = PhiAccrual::new(DetectorConfig::default(), second(1), second(0));
/// for now in 1..=60 {
///     node.heartbeat(second(now));
/// }
/// assert!(node.phi(second(62)) < 1.0);
/// assert!(node.is_suspect(second(70)));
///
/// node.heartbeat(second(71));
/// assert!(!node.is_suspect(second(72)));
///
/// // Calls tell sooner.
/// for tenth in 0..10 {
///     node.failure(second(72) + Duration::from_millis(100) * tenth);
/// }
/// assert!(node.is_suspect(second(73)));
/// node.success(second(73));
/// assert_eq!(node.phi(second(73)), 0.0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PhiAccrual {
    config: DetectorConfig,
    /// Of intervals between heartbeats, in seconds.
    mean: f64,
    variance: f64,
    /// Intervals the averages stand for, up to `WINDOW`.
    intervals: u8,
    failures: u8,
    last_failure: Duration,
    last_heartbeat: Duration,
    /// The last heartbeat or success.
    last_sign: Duration,
}

/// How many intervals the expected one stands for.
const PRIOR: u8 = 4;
/// The weight of the newest interval is at least one in this many.
const WINDOW: u8 = 64;
/// An interval counts as at most this many means.
const MEANS_MAX: f64 = 8.0;
/// Failures remembered: few, so that a node that is back is believed after a few heartbeats.
const FAILURES_MAX: u8 = 8;

impl PhiAccrual {
    /// A detector for a node that is taken to be alive `now`, with heartbeats expected about every
    /// `expected_interval`. A rough guess will do; too short a guess suspects early in the beginning.
    #[must_use]
    pub fn new(config: DetectorConfig, expected_interval: Duration, now: Duration) -> Self {
        let mean = expected_interval.as_secs_f64();
        Self {
            config,
            mean,
            variance: mean * mean,
            intervals: PRIOR,
            failures: 0,
            last_failure: now,
            last_heartbeat: now,
            last_sign: now,
        }
    }

    /// Takes note of a heartbeat. To be called once for each: two packets with the same heartbeat are one.
    ///
    /// It also takes back one failure. Not all of them: a heartbeat may have come by way of another node
    /// while calls to this one go on failing.
    pub fn heartbeat(&mut self, now: Duration) {
        let interval = now.saturating_sub(self.last_heartbeat).as_secs_f64().min(MEANS_MAX * self.mean());
        self.intervals = (self.intervals + 1).min(WINDOW);
        let weight = 1.0 / f64::from(self.intervals);
        let off = interval - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
        self.last_heartbeat = self.last_heartbeat.max(now);
        self.last_sign = self.last_sign.max(now);
        self.failures = self.failures.saturating_sub(1);
    }

    /// Takes note of a call that was answered: the node was alive, and can be reached from here.
    pub fn success(&mut self, now: Duration) {
        self.last_sign = self.last_sign.max(now);
        self.failures = 0;
    }

    /// Takes note of a call that failed for want of an answer. (An answer that says "no" is a
    /// [`success`](Self::success).)
    pub fn failure(&mut self, now: Duration) {
        if self.failures == 0 || now.saturating_sub(self.last_failure) >= self.config.failure_gap {
            self.failures = (self.failures + 1).min(FAILURES_MAX);
            self.last_failure = self.last_failure.max(now);
        }
    }

    /// Takes `gap` off the silence that there has been until `now`: it was the observer who slept.
    pub fn excuse(&mut self, gap: Duration, now: Duration) {
        for last in [&mut self.last_sign, &mut self.last_heartbeat] {
            *last = last.saturating_add(gap).min(now.max(*last));
        }
    }

    /// How suspicious the node is: 0 and up, growing while it is silent.
    #[must_use]
    pub fn phi(&self, now: Duration) -> f64 {
        let silence = now.saturating_sub(self.last_sign).saturating_sub(self.config.pause).as_secs_f64();
        let means = silence / self.mean();
        let by_silence = if means > 1.0 {
            let deviation_min = self.config.deviation_min.as_secs_f64();
            let shape = self.mean() * self.mean() / self.variance.max(deviation_min * deviation_min);
            shape * (means - 1.0 - means.ln()) * std::f64::consts::LOG10_E
        } else {
            0.0
        };
        by_silence + f64::from(self.failures) * self.config.failure_phi
    }

    /// Whether phi has reached the threshold.
    #[must_use]
    pub fn is_suspect(&self, now: Duration) -> bool {
        self.phi(now) >= self.config.threshold
    }

    /// The heartbeat or success that was last.
    #[must_use]
    pub fn last_sign(&self) -> Duration {
        self.last_sign
    }

    /// The mean interval between heartbeats, as estimated.
    #[must_use]
    pub fn mean_interval(&self) -> Duration {
        Duration::from_secs_f64(self.mean.max(0.0))
    }

    /// The mean, never 0: many heartbeats at one instant must not make every instant suspicious.
    fn mean(&self) -> f64 {
        self.mean.max(self.config.deviation_min.as_secs_f64()).max(1e-9)
    }
}
