//! What happened, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use dynkv_client::Error;
use dynkv_client::proto::Outcome;
use hdrhistogram::Histogram;

/// Longer than any request may take.
const LATENCY_NS_MAX: u64 = 3600 * 1_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// What is told apart in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Get,
    Put,
    List,
    /// Read-modify-write: the get and the put together.
    Rmw,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Put => "put",
            Operation::List => "list",
            Operation::Rmw => "rmw",
        }
    }
}

/// Figures of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    fn new() -> Latency {
        let histogram = Histogram::new_with_max(LATENCY_NS_MAX, SIGNIFICANT_DIGITS);
        Latency(histogram.expect("the limits are ones that the histogram takes"))
    }

    fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos.max(1));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `share` of the operations did not exceed, in microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        micros(self.0.value_at_quantile(share))
    }

    pub(crate) fn max_us(&self) -> f64 {
        micros(self.0.max())
    }

    pub(crate) fn mean_us(&self) -> f64 {
        (self.0.mean() / 100.0).round() / 10.0
    }
}

/// To a tenth.
fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 100.0).round() / 10.0
}

/// What happened in a phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    latencies: BTreeMap<Operation, Latency>,
    /// Operations that succeeded.
    pub(crate) done: u64,
    /// Failed, and certainly nothing was done.
    pub(crate) not_done: u64,
    /// Failed, and it is unknown whether something was done.
    pub(crate) unknown: u64,
    /// Of a fixed rate's operations, those that could not begin in time.
    pub(crate) not_begun: u64,
    pub(crate) first_error: Option<Error>,
    /// Gets that returned several values.
    pub(crate) siblings: u64,
    /// The most values that a get returned.
    pub(crate) siblings_max: u64,
    /// Gets of keys that should have been there.
    pub(crate) absent: u64,
    /// Gets that were made only to learn the context for a put; not among the operations.
    pub(crate) contexts_read: u64,
    /// Bytes of keys and values written to new keys.
    pub(crate) inserted_bytes: u64,
}

impl Stats {
    /// An operation succeeded.
    pub(crate) fn done(&mut self, operation: Operation, latency: Duration) {
        self.done += 1;
        self.latencies.entry(operation).or_insert_with(Latency::new).record(latency);
    }

    /// An operation failed. It is counted, not timed: a quick refusal would make the store look fast.
    pub(crate) fn failed(&mut self, error: &Error) {
        match error.outcome() {
            Outcome::Unknown => self.unknown += 1,
            _ => self.not_done += 1,
        }
        self.first_error.get_or_insert_with(|| error.clone());
    }

    /// A get returned so many values of a key that should be there.
    pub(crate) fn got(&mut self, values: usize) {
        self.absent += u64::from(values == 0);
        self.siblings += u64::from(values > 1);
        self.siblings_max = self.siblings_max.max(values as u64);
    }

    pub(crate) fn errors(&self) -> u64 {
        self.not_done + self.unknown + self.not_begun
    }

    pub(crate) fn latencies(&self) -> impl Iterator<Item = (Operation, &Latency)> {
        self.latencies.iter().map(|(operation, latency)| (*operation, latency))
    }
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::FailureCode;

    use super::*;

    #[test]
    fn quantiles_have_three_digits() {
        let mut stats = Stats::default();
        for micros in 1..=10_000 {
            stats.done(Operation::Get, Duration::from_micros(micros));
        }
        let (operation, latency) = stats.latencies().next().unwrap();
        assert_eq!((operation.name(), latency.count(), stats.done), ("get", 10_000, 10_000));
        for (share, expected) in [(0.5, 5000.0), (0.99, 9900.0), (0.999, 9990.0)] {
            let seen = latency.quantile_us(share);
            assert!((seen / expected - 1.0).abs() < 0.001, "{share}: {seen}");
        }
        assert!((latency.max_us() / 10_000.0 - 1.0).abs() < 0.001);
        assert!((latency.mean_us() / 5000.5 - 1.0).abs() < 0.001);
    }

    #[test]
    fn any_duration_is_recorded() {
        let mut stats = Stats::default();
        stats.done(Operation::Put, Duration::ZERO);
        stats.done(Operation::Put, Duration::MAX);
        let (_, latency) = stats.latencies().next().unwrap();
        assert_eq!(latency.count(), 2);
        assert!(latency.max_us() >= 3.6e9);
    }

    #[test]
    fn failures_are_counted_by_what_is_certain() {
        let mut stats = Stats::default();
        stats.failed(&Error::NotDone { code: FailureCode::Quorum, node: None, message: "first".into() });
        stats.failed(&Error::Connect { message: "second".into() });
        stats.failed(&Error::Unknown { code: None, node: None, put_id: None, message: "third".into() });
        assert_eq!((stats.not_done, stats.unknown, stats.errors(), stats.done), (2, 1, 3, 0));
        assert_eq!(stats.first_error.as_ref().map(ToString::to_string).as_deref(), Some("first"));
        for values in [0, 1, 3, 2] {
            stats.got(values);
        }
        assert_eq!((stats.absent, stats.siblings, stats.siblings_max), (1, 2, 3));
    }
}
