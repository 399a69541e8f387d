//! Which puts this node has applied lately, so that a retry elsewhere does not become a second write.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use dynkv_proto::{Actor, PutId, Seen};
use dynkv_vclock::Dot;
use tokio::time::Instant;

/// How long a client may go on retrying one put. Its default deadline is 5 s; the longest accepted is this.
pub(crate) const RETRY_WINDOW: Duration = Duration::from_secs(60);

/// Ids remembered: 100 bytes each with the bookkeeping, so about 10 MB when full.
const IDS_MAX: usize = 100_000;

/// Recent put ids, in bounded memory.
///
/// Invariant: `NotApplied` is answered only if every put applied here within the retry window is still remembered.
/// Starting and forgetting early both move the moment from which that is true.
pub(crate) struct PutIds {
    /// Only looked up, never walked: its order is not deterministic.
    dots: HashMap<PutId, Dot<Actor>>,
    order: VecDeque<(Instant, PutId)>,
    complete_since: Instant,
    ids_max: usize,
}

impl PutIds {
    pub(crate) fn new(now: Instant) -> PutIds {
        PutIds { dots: HashMap::new(), order: VecDeque::new(), complete_since: now, ids_max: IDS_MAX }
    }

    /// Remembers that `id` was applied under `dot`.
    pub(crate) fn remember(&mut self, id: PutId, dot: Dot<Actor>, now: Instant) {
        self.forget_old(now);
        if self.dots.insert(id, dot).is_none() {
            self.order.push_back((now, id));
        }
        while self.order.len() > self.ids_max {
            if let Some((at, id)) = self.order.pop_front() {
                self.dots.remove(&id);
                self.complete_since = self.complete_since.max(at);
            }
        }
    }

    /// The dot under which `id` was applied, if it is remembered.
    pub(crate) fn dot(&self, id: PutId) -> Option<Dot<Actor>> {
        self.dots.get(&id).copied()
    }

    /// What can be said about `id`.
    pub(crate) fn seen(&self, id: PutId, now: Instant) -> Seen {
        if self.dots.contains_key(&id) {
            Seen::Applied
        } else if now.saturating_duration_since(self.complete_since) >= RETRY_WINDOW {
            Seen::NotApplied
        } else {
            Seen::CannotSay
        }
    }

    /// Ids remembered now.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front().copied() {
            // Twice the window: a put is applied up to a window after its first attempt, and asked for up to one later.
            if now.saturating_duration_since(at) < 2 * RETRY_WINDOW {
                break;
            }
            self.order.pop_front();
            self.dots.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOT: Dot<Actor> = Dot { actor: Actor(1, 0), counter: 1 };

    #[test]
    fn a_young_memory_cannot_say_no() {
        let start = Instant::now();
        let mut ids = PutIds::new(start);
        assert_eq!(ids.seen(PutId(1), start), Seen::CannotSay);
        assert_eq!(ids.seen(PutId(1), start + RETRY_WINDOW), Seen::NotApplied);
        ids.remember(PutId(1), DOT, start);
        assert_eq!(ids.seen(PutId(1), start + RETRY_WINDOW), Seen::Applied);
        assert_eq!(ids.dot(PutId(1)), Some(DOT));
    }

    #[test]
    fn forgetting_under_pressure_is_admitted() {
        let start = Instant::now();
        let mut ids = PutIds { ids_max: 2, ..PutIds::new(start) };
        let later = start + 2 * RETRY_WINDOW;
        for id in 1..=3 {
            ids.remember(PutId(id), DOT, later);
        }
        assert_eq!(ids.len(), 2);
        assert_eq!(ids.seen(PutId(1), later), Seen::CannotSay);
        assert_eq!(ids.seen(PutId(3), later), Seen::Applied);
        assert_eq!(ids.seen(PutId(9), later + RETRY_WINDOW), Seen::NotApplied);
    }

    #[test]
    fn old_ids_go() {
        let start = Instant::now();
        let mut ids = PutIds::new(start);
        ids.remember(PutId(1), DOT, start);
        ids.remember(PutId(2), DOT, start + 2 * RETRY_WINDOW);
        assert_eq!(ids.len(), 1);
        assert_eq!(ids.dot(PutId(1)), None);
    }
}
