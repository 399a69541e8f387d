//! Waiting for conditions, always with a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Long enough that only a bug waits for it.
pub const LONG: Duration = Duration::from_secs(20);

/// How often a condition is looked at again.
pub const TICK: Duration = Duration::from_millis(10);

/// Waits until `check` gives a value, and returns it.
///
/// # Panics
/// After [`LONG`]; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let give_up = Instant::now() + LONG;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < give_up, "waited {LONG:?} in vain: {what}");
        sleep(TICK).await;
    }
}

/// The outcome of `future`.
///
/// # Panics
/// When it takes longer than [`LONG`]; `what` says what was waited for.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LONG, future).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("waited {LONG:?} in vain: {what}"),
    }
}
