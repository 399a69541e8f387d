//! How the view of the cluster is kept up to date.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{Digest, FailureCode, Frame, View, ViewReply};
use dynkv_ring::NodeId;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use crate::Error;
use crate::attempts::{Attempts, Repeat, Setback};
use crate::inner::{Inner, lock};
use crate::request::{Call, Circle, Target, read_reply};

/// How long one node may take to tell its view.
const VIEW_LIMIT: Duration = Duration::from_secs(1);
/// While histories spread, answers differ: one digest asks for one refresh in this time. So do nodes that are lost, all
/// together.
const NEWS_PAUSE: Duration = Duration::from_secs(1);

impl Inner {
    /// Takes note of the digest of `node`'s history: if it is not ours, ours is refreshed in the background.
    pub(crate) fn observe(&self, node: NodeId, digest: Digest) {
        if digest == Digest::default() || digest == self.view().digest() {
            return;
        }
        let now = Instant::now();
        {
            let mut news = lock(&self.news);
            if news
                .is_some_and(|(known, at)| known == digest && now.saturating_duration_since(at) < NEWS_PAUSE)
            {
                return;
            }
            *news = Some((digest, now));
        }
        if let Some(client) = self.me.upgrade() {
            self.pool.runtime().spawn(async move {
                let deadline = Instant::now() + client.options.timeout;
                if let Err(error) = client.refresh(Some(node), deadline).await {
                    tracing::debug!(%error, "the view was not refreshed");
                }
            });
        }
    }

    /// Brings the view up to date, by asking `first` or whoever is likely to answer. Whoever comes while a refresh is
    /// under way waits for that one. Says why if no node could be asked.
    pub(crate) async fn refresh(&self, first: Option<NodeId>, deadline: Instant) -> Result<(), Error> {
        let before = self.refreshed.load(Ordering::Acquire);
        let expired =
            || Error::refused(FailureCode::Timeout, "no node told its view in time: allow a longer timeout");
        let _one_at_a_time = timeout_at(deadline, self.refreshing.lock()).await.map_err(|_| expired())?;
        if self.refreshed.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let call = Call {
            target: Target::Any,
            preferred: first,
            repeat: Repeat::Read,
            class: Class::Foreground,
            deadline,
        };
        let view = self.view();
        let mut attempts = Attempts::new(Repeat::Read);
        for node in self.candidates(&view, &call, Circle::Near) {
            let limit = attempts.limit(deadline.saturating_duration_since(Instant::now())).min(VIEW_LIMIT);
            let request = || Frame::new(&View { view: view.digest() }, Bytes::new());
            let answered = self.ask(&view, node, Class::Foreground, limit, request).await;
            match answered.and_then(|frame| self.learn(&frame)) {
                Ok(()) => return Ok(()),
                Err(setback) => {
                    self.blame(node, &setback);
                    attempts.after(node, setback);
                }
            }
        }
        // All that we knew may have moved; a seed may stand for whoever is there now.
        for seed in &self.seeds {
            let limit = attempts.limit(deadline.saturating_duration_since(Instant::now())).min(VIEW_LIMIT);
            if self.ask_seed(seed, limit).await.is_ok() {
                return Ok(());
            }
        }
        Err(attempts.into_error())
    }

    /// Asks whoever is at the address `seed` for its view.
    pub(crate) async fn ask_seed(&self, seed: &str, limit: Duration) -> Result<(), String> {
        let asked = async {
            let (_, connection) = self.pool.at(seed).await?;
            let request = Frame::new(&View { view: self.view().digest() }, Bytes::new());
            let frame = connection
                .call(Class::Foreground, request, limit)
                .await
                .map_err(|error| error.to_string())?;
            self.learn(&frame).map_err(|setback| setback.to_string())
        };
        let late = || Err(format!("no answer within {} ms", limit.as_millis()));
        timeout(limit, asked).await.unwrap_or_else(|_| late())
    }

    /// Takes over what a node told of its view.
    fn learn(&self, frame: &Frame) -> Result<(), Setback> {
        let reply: ViewReply = read_reply(frame)?;
        let united = self.update(|view| view.united(reply));
        united.map_err(|error| Setback::NoAnswer(error.to_string()))?;
        self.refreshed.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Refreshes the view from time to time, and when a node was lost, which may have moved: until the last client is dropped.
    pub(crate) fn start_refreshing(&self) {
        let (me, every) = (self.me.clone(), self.options.refresh_interval.max(Duration::from_millis(1)));
        let lost = self.pool.lost();
        let task = self.pool.runtime().spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once, when the view is fresh.
            ticks.tick().await;
            loop {
                let earliest = Instant::now() + NEWS_PAUSE;
                tokio::select! {
                    // In this order, because a simulation must repeat itself.
                    biased;
                    _ = ticks.tick() => {}
                    () = async { lost.notified().await; sleep_until(earliest).await } => {}
                }
                let Some(client) = me.upgrade() else { return };
                let deadline = Instant::now() + client.options.timeout;
                if let Err(error) = client.refresh(None, deadline).await {
                    tracing::debug!(%error, "the view was not refreshed");
                }
            }
        });
        self.refresher.get_or_init(|| task.abort_handle());
    }
}
