//! Which puts this node has applied lately, so that a retry elsewhere does not become a second write.

use std::{
    collections::{BTreeMap, VecDeque},
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
/// Invariant: while one node says that a put was not applied there, it will not become the coordinator that writes it
/// for the first time. So if every home says *not applied*, the asker is the only one that can write it.
///
/// The interleaving that this is for: a first attempt is on its way (in a queue, its state sent out but not yet arrived,
/// its local write failed), a retry reaches another coordinator, every home says no, and the put is written twice. Hence
/// a put that a node has begun is *cannot say* until its outcome is known, and a node that has said no to one attempt does
/// not carry out an earlier one: its client has given it up, and would not learn that it may be a duplicate. Nor does one that has said *applied*, if what
/// was applied has been replaced and settled meanwhile, so that nothing of it is left and it would be written again.
///
/// *Not applied*, and *applied* once, are answered only if everything within the retry window is still remembered: starting and
/// forgetting early both move the moment from which that is true.
pub(crate) struct PutIds {
    /// No hash map: one that grows to a hundred thousand ids keeps every put waiting while it copies them.
    known: BTreeMap<PutId, Known>,
    /// The latest attempts whose coordinators were told that a put was applied.
    told: BTreeMap<PutId, u32>,
    order: VecDeque<(Instant, PutId)>,
    complete_since: Instant,
    ids_max: usize,
}

/// What is known of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Another coordinator has asked for it, in this attempt, and was told that it was not applied.
    Denied { attempt: u32 },
    /// This node is or was about to write it, and does not know of a success.
    Begun,
    /// It was applied under this dot, the latest that was learned of.
    Applied(Dot<Actor>),
    /// As `Applied`, and under another dot before. Which ones have been read or replaced since is not known.
    Twins(Dot<Actor>),
}

/// One attempt of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// As its client counts them.
    pub(crate) number: u32,
    /// Whether none of its outcomes can be unknown: there is none before it.
    pub(crate) is_first: bool,
}

/// A later attempt of this put is under way elsewhere, and was told whether this node had applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superseded;

/// What is known of a put that is found in its record, when memory says `seen` of it.
///
/// The record shows one version; that there was no other, replaced since, only memory knows.
pub(crate) fn applied_seen(seen: Seen) -> Seen {
    match seen {
        Seen::Applied | Seen::NotApplied => Seen::Applied,
        Seen::AppliedPerhapsTwice | Seen::CannotSay => Seen::AppliedPerhapsTwice,
    }
}

impl PutIds {
    pub(crate) fn new(now: Instant) -> PutIds {
        PutIds {
            known: BTreeMap::new(),
            told: BTreeMap::new(),
            order: VecDeque::new(),
            complete_since: now,
            ids_max: IDS_MAX,
        }
    }

    /// Remembers that `id` was applied under `dot`.
    pub(crate) fn remember(&mut self, id: PutId, dot: Dot<Actor>, now: Instant) {
        let known = match self.known.get(&id) {
            Some(Known::Applied(other)) if *other != dot => Known::Twins(dot),
            Some(Known::Twins(_)) => Known::Twins(dot),
            _ => Known::Applied(dot),
        };
        self.note(id, known, now);
    }

    /// This node is about to carry out an attempt of `id`, and to ask the others if it is not the first. Says what it knows
    /// itself.
    ///
    /// # Errors
    /// [`Superseded`] when a later attempt's coordinator was told that this node had not applied it.
    pub(crate) fn begin(&mut self, id: PutId, attempt: Attempt, now: Instant) -> Result<Seen, Superseded> {
        if let Some(Known::Denied { attempt: denied }) = self.known.get(&id)
            && (attempt.is_first || attempt.number < *denied)
        {
            return Err(Superseded);
        }
        let seen = self.peek(id, now);
        if !matches!(seen, Seen::Applied | Seen::AppliedPerhapsTwice) {
            self.note(id, Known::Begun, now);
        }
        Ok(seen)
    }

    /// Nothing is left here of `id`, which was applied: this attempt would write it again.
    ///
    /// # Errors
    /// [`Superseded`] when a later attempt's coordinator was told that it was applied: that goes by what was applied first.
    pub(crate) fn write_again(&self, id: PutId, attempt: Attempt) -> Result<(), Superseded> {
        match self.told.get(&id) {
            Some(told) if attempt.is_first || attempt.number < *told => Err(Superseded),
            _ => Ok(()),
        }
    }

    /// The dot under which `id` was applied, if it is remembered.
    pub(crate) fn dot(&self, id: PutId) -> Option<Dot<Actor>> {
        match self.known.get(&id) {
            Some(Known::Applied(dot) | Known::Twins(dot)) => Some(*dot),
            _ => None,
        }
    }

    /// Whether `id` is remembered to have been applied more than once.
    pub(crate) fn has_twins(&self, id: PutId) -> bool {
        matches!(self.known.get(&id), Some(Known::Twins(_)))
    }

    /// Tells the coordinator of an attempt what is known of `id`. Having said *not applied*, this node carries out no
    /// earlier attempt.
    pub(crate) fn answer(&mut self, id: PutId, attempt: u32, now: Instant) -> Seen {
        let seen = self.peek(id, now);
        match self.known.get(&id) {
            None => self.note(id, Known::Denied { attempt }, now),
            Some(Known::Denied { attempt: before }) if *before < attempt => {
                self.note(id, Known::Denied { attempt }, now);
            }
            Some(Known::Applied(_) | Known::Twins(_)) => {
                let told = self.told.entry(id).or_default();
                *told = attempt.max(*told);
            }
            Some(Known::Denied { .. } | Known::Begun) => {}
        }
        seen
    }

    fn peek(&self, id: PutId, now: Instant) -> Seen {
        let complete = now.saturating_duration_since(self.complete_since) >= RETRY_WINDOW;
        match self.known.get(&id) {
            Some(Known::Applied(_)) if complete => Seen::Applied,
            Some(Known::Applied(_) | Known::Twins(_)) => Seen::AppliedPerhapsTwice,
            Some(Known::Begun) => Seen::CannotSay,
            _ if complete => Seen::NotApplied,
            _ => Seen::CannotSay,
        }
    }

    fn note(&mut self, id: PutId, known: Known, now: Instant) {
        self.forget_old(now);
        if self.known.insert(id, known).is_none() {
            self.order.push_back((now, id));
        }
        while self.order.len() > self.ids_max {
            if let Some((at, id)) = self.order.pop_front() {
                self.forget(id);
                self.complete_since = self.complete_since.max(at);
            }
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
            self.forget(id);
        }
    }

    fn forget(&mut self, id: PutId) {
        self.known.remove(&id);
        self.told.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Attempt = Attempt { number: 0, is_first: true };

    fn retry(number: u32) -> Attempt {
        Attempt { number, is_first: false }
    }

    const DOT: Dot<Actor> = Dot { actor: Actor(1, 0), counter: 1 };

    #[test]
    fn a_young_memory_cannot_say_no() {
        let start = Instant::now();
        let mut ids = PutIds::new(start);
        assert_eq!(ids.answer(PutId(1), 1, start), Seen::CannotSay);
        assert_eq!(ids.answer(PutId(2), 1, start + RETRY_WINDOW), Seen::NotApplied);
        ids.remember(PutId(1), DOT, start);
        assert_eq!(ids.answer(PutId(1), 1, start), Seen::AppliedPerhapsTwice);
        assert_eq!(ids.answer(PutId(1), 1, start + RETRY_WINDOW), Seen::Applied);
        assert_eq!(ids.dot(PutId(1)), Some(DOT));
    }

    #[test]
    fn a_put_on_its_way_is_not_denied_and_a_denied_one_is_not_begun() {
        let start = Instant::now();
        let later = start + RETRY_WINDOW;
        let mut ids = PutIds::new(start);
        assert_eq!(ids.begin(PutId(1), FIRST, later), Ok(Seen::NotApplied));
        assert_eq!(ids.answer(PutId(1), 1, later), Seen::CannotSay);
        assert_eq!(ids.begin(PutId(1), FIRST, later), Ok(Seen::CannotSay), "the same coordinator may go on");

        assert_eq!(ids.answer(PutId(2), 2, later), Seen::NotApplied);
        assert_eq!(ids.begin(PutId(2), FIRST, later), Err(Superseded));
        assert_eq!(ids.begin(PutId(2), retry(1), later), Err(Superseded));
        assert_eq!(ids.answer(PutId(2), 4, later), Seen::NotApplied);
        assert_eq!(ids.answer(PutId(2), 3, later), Seen::NotApplied);
        assert_eq!(ids.begin(PutId(2), retry(3), later), Err(Superseded), "the latest one counts");
        assert_eq!(ids.begin(PutId(2), retry(5), later), Ok(Seen::NotApplied));
        assert_eq!(ids.answer(PutId(2), 5, later), Seen::CannotSay, "two retries at once");

        ids.remember(PutId(2), DOT, later);
        assert_eq!(ids.begin(PutId(2), retry(1), later), Ok(Seen::Applied));
        assert_eq!(ids.answer(PutId(2), 6, later), Seen::Applied);
    }

    /// What was applied has been replaced and settled since. Were it written again, two versions of an unflagged put would be there.
    #[test]
    fn what_a_later_attempt_was_told_of_is_not_written_again_by_an_earlier_one() {
        let start = Instant::now();
        let later = start + RETRY_WINDOW;
        let mut ids = PutIds::new(start);
        ids.remember(PutId(1), DOT, later);
        assert_eq!(ids.write_again(PutId(1), FIRST), Ok(()));
        assert_eq!(ids.answer(PutId(1), 2, later), Seen::Applied);
        assert_eq!(ids.answer(PutId(1), 1, later), Seen::Applied);
        for (attempt, expected) in [(FIRST, Err(Superseded)), (retry(1), Err(Superseded)), (retry(2), Ok(()))]
        {
            assert_eq!(ids.write_again(PutId(1), attempt), expected);
        }
        assert_eq!(ids.write_again(PutId(2), retry(1)), Ok(()));
    }

    /// A client that does not count its attempts.
    #[test]
    fn a_first_attempt_is_earlier_than_any_other() {
        let start = Instant::now();
        let mut ids = PutIds::new(start);
        assert_eq!(ids.answer(PutId(1), 0, start), Seen::CannotSay);
        assert_eq!(ids.begin(PutId(1), FIRST, start), Err(Superseded));
        assert_eq!(ids.begin(PutId(1), retry(0), start), Ok(Seen::CannotSay));
    }

    /// The interleaving that this is for, found by the simulator: two coordinators have written a put, a third client has
    /// replaced both versions, and a retry must still say that there may be a duplicate.
    #[test]
    fn twins_are_remembered_after_they_are_gone() {
        let start = Instant::now();
        let mut ids = PutIds::new(start);
        ids.remember(PutId(1), DOT, start);
        ids.remember(PutId(1), DOT, start);
        assert_eq!(ids.answer(PutId(1), 1, start + RETRY_WINDOW), Seen::Applied);
        assert!(!ids.has_twins(PutId(1)));
        let twin = Dot { counter: 2, ..DOT };
        ids.remember(PutId(1), twin, start);
        ids.remember(PutId(1), twin, start);
        assert!(ids.has_twins(PutId(1)));
        assert_eq!(ids.answer(PutId(1), 1, start + RETRY_WINDOW), Seen::AppliedPerhapsTwice);
        assert_eq!(ids.dot(PutId(1)), Some(twin));
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
        assert_eq!(ids.answer(PutId(3), 1, later), Seen::AppliedPerhapsTwice);
        assert_eq!(ids.answer(PutId(3), 1, later + RETRY_WINDOW), Seen::Applied);
        assert_eq!(ids.answer(PutId(1), 1, later), Seen::CannotSay);
        assert_eq!(ids.answer(PutId(9), 1, later + RETRY_WINDOW), Seen::NotApplied);
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
