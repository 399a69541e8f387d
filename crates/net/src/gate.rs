//! Telling everybody that an endpoint closes, and waiting for those that serve.
//!
//! tokio's `watch` would do, but it wakes its waiters in a random order, and a simulation must repeat itself.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Open until closed, once; counts who is inside.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    inside: AtomicUsize,
    changed: Notify,
}

impl Gate {
    /// Enters, until the guard is dropped.
    pub(crate) fn enter(&self) -> Inside<'_> {
        self.inside.fetch_add(1, Ordering::AcqRel);
        Inside(self)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until the gate is closed.
    pub(crate) async fn closed(&self) {
        self.until(|| self.closed.load(Ordering::Acquire)).await;
    }

    /// Waits until nobody is inside.
    pub(crate) async fn empty(&self) {
        self.until(|| self.inside.load(Ordering::Acquire) == 0).await;
    }

    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Listening before looking, so that no change falls in between.
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }
}

/// Inside a gate while it lives.
pub(crate) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}
