//! Telling several tasks that something has changed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// Counts changes and wakes whoever waits for one, in the order in which they began to wait. tokio's watch channel wakes
/// them in an order that it draws at random, and a simulation would not repeat itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct News(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    changes: AtomicU64,
    notify: Notify,
}

/// Waits for changes.
#[derive(Clone, Debug)]
pub struct Listener {
    news: News,
    seen: u64,
}

impl News {
    /// Something has changed.
    pub(crate) fn tell(&self) {
        self.0.changes.fetch_add(1, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Hears of changes from now on.
    pub(crate) fn listen(&self) -> Listener {
        Listener { news: self.clone(), seen: self.changes() }
    }

    /// How often something has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::SeqCst)
    }
}

impl Listener {
    /// Waits until something has changed since this was last awaited, or [marked](Listener::mark_unchanged), or made.
    pub async fn changed(&mut self) {
        self.until_changed().await;
        self.mark_unchanged();
    }

    /// The same, without taking it as heard.
    pub async fn until_changed(&self) {
        loop {
            // Before the look: a change in between wakes it.
            let notified = self.news.0.notify.notified();
            if self.has_changed() {
                return;
            }
            notified.await;
        }
    }

    /// Whether something has changed that has not been heard.
    pub fn has_changed(&self) -> bool {
        self.news.changes() != self.seen
    }

    /// Takes everything up to now as heard.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.news.changes();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_change_is_heard_once_and_none_is_missed() {
        let news = News::default();
        let mut listener = news.listen();
        assert!(listener.changed().now_or_never().is_none());
        news.tell();
        news.tell();
        assert!(listener.changed().now_or_never().is_some());
        assert!(listener.changed().now_or_never().is_none());
        news.tell();
        listener.mark_unchanged();
        let mut late = news.listen();
        let mut waiting = Box::pin(listener.changed());
        assert!(waiting.as_mut().now_or_never().is_none());
        news.tell();
        assert!(waiting.as_mut().now_or_never().is_some());
        assert!(late.changed().now_or_never().is_some());
    }
}
