//! What this client knows of each key, so that its writes replace one another instead of standing side by side.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynkv_client::Context;
use tokio::sync::Notify;

/// So many keys' contexts are remembered, of about 150 bytes each; a key whose context was forgotten is read again.
const SLOTS_MAX: u64 = 1 << 20;

/// The contexts of many keys. A key is written by one task at a time: two writes of one key at once are siblings by
/// definition, which is not what is to be measured.
#[derive(Debug)]
pub(crate) struct Contexts {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    /// By key number, modulo.
    slots: Vec<Slot>,
    claimed: HashSet<u64>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    key: u64,
    /// How many writes of keys in this slot have begun.
    writes: u64,
    context: Option<Context>,
}

/// The right to write a key; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    contexts: Arc<Contexts>,
    pub(crate) key: u64,
}

/// When a read began, as far as writes of the key are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

impl Contexts {
    pub(crate) fn new(keys: u64) -> Contexts {
        let slots = keys.saturating_mul(2).clamp(1, SLOTS_MAX) as usize;
        let state = State { slots: vec![Slot::default(); slots], claimed: HashSet::new() };
        Contexts { state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write `key`, unless somebody has it.
    pub(crate) fn try_claim(self: &Arc<Self>, key: u64) -> Option<Claim> {
        let mut state = self.state();
        if !state.claimed.insert(key) {
            return None;
        }
        state.slot(key).writes += 1;
        drop(state);
        Some(Claim { contexts: self.clone(), key })
    }

    /// Waits for the right to write `key`.
    pub(crate) async fn claim(self: &Arc<Self>, key: u64) -> Claim {
        loop {
            // Before looking, so that what is freed in between is noticed.
            let freed = self.freed.notified();
            if let Some(claim) = self.try_claim(key) {
                return claim;
            }
            freed.await;
        }
    }

    /// To be called when a read of `key` begins.
    pub(crate) fn before_read(&self, key: u64) -> Seen {
        Seen(self.state().slot(key).writes)
    }

    /// A read that began at `seen` returned `context`. That covers more than what the last write knew of, unless a write
    /// began in the meantime.
    pub(crate) fn read(&self, key: u64, seen: Seen, context: Context) {
        let mut state = self.state();
        if !state.claimed.contains(&key) && state.slot(key).writes == seen.0 {
            *state.slot(key) = Slot { key, writes: seen.0, context: Some(context) };
        }
    }

    /// Something else has written `key`: what was known of it is out of date.
    pub(crate) fn forget(&self, key: u64) {
        let mut state = self.state();
        let slot = state.slot(key);
        slot.writes += 1;
        if slot.key == key {
            slot.context = None;
        }
    }
}

impl State {
    fn slot(&mut self, key: u64) -> &mut Slot {
        let index = (key % self.slots.len() as u64) as usize;
        &mut self.slots[index]
    }
}

impl Claim {
    /// What the next write is to replace, if that is known.
    pub(crate) fn context(&self) -> Option<Context> {
        let mut state = self.contexts.state();
        let slot = state.slot(self.key);
        slot.context.clone().filter(|_| slot.key == self.key)
    }

    /// What is known after a write; nothing after one whose outcome is unknown.
    pub(crate) fn wrote(&self, context: Option<Context>) {
        let mut state = self.contexts.state();
        let slot = state.slot(self.key);
        *slot = Slot { key: self.key, writes: slot.writes, context };
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.contexts.state().claimed.remove(&self.key);
        self.contexts.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::ContextToken;
    use dynkv_client::ring::Position;

    use super::*;

    fn context(number: u128) -> Context {
        Context::from_bytes(ContextToken::blind(Position(number << 64)).encode()).unwrap()
    }

    #[test]
    fn a_key_is_written_by_one_at_a_time() {
        let contexts = Arc::new(Contexts::new(10));
        let claim = contexts.try_claim(3).unwrap();
        assert!(contexts.try_claim(3).is_none() && contexts.try_claim(4).is_some());
        drop(claim);
        assert!(contexts.try_claim(3).is_some());
    }

    #[tokio::test]
    async fn who_waits_for_a_key_gets_it() {
        let contexts = Arc::new(Contexts::new(10));
        let claim = contexts.try_claim(3).unwrap();
        let waiting = tokio::spawn({
            let contexts = contexts.clone();
            async move { contexts.claim(3).await.key }
        });
        tokio::task::yield_now().await;
        drop(claim);
        assert_eq!(waiting.await.unwrap(), 3);
    }

    #[test]
    fn the_freshest_context_is_kept() {
        let contexts = Arc::new(Contexts::new(10));
        let claim = contexts.try_claim(3).unwrap();
        assert_eq!(claim.context(), None);
        claim.wrote(Some(context(1)));
        drop(claim);

        let seen = contexts.before_read(3);
        contexts.read(3, seen, context(2));
        assert_eq!(contexts.try_claim(3).unwrap().context(), Some(context(2)));

        // A write began after the read did: what the read returned may be older.
        let seen = contexts.before_read(3);
        contexts.try_claim(3).unwrap().wrote(Some(context(3)));
        contexts.read(3, seen, context(2));
        let claim = contexts.try_claim(3).unwrap();
        let seen = contexts.before_read(3);
        contexts.read(3, seen, context(2));
        assert_eq!(claim.context(), Some(context(3)));
        claim.wrote(None);
        assert_eq!(claim.context(), None);
        drop(claim);

        contexts.try_claim(3).unwrap().wrote(Some(context(4)));
        contexts.forget(3);
        assert_eq!(contexts.try_claim(3).unwrap().context(), None);
    }

    #[test]
    fn keys_that_share_a_slot_do_not_share_a_context() {
        let contexts = Arc::new(Contexts::new(1));
        contexts.try_claim(0).unwrap().wrote(Some(context(1)));
        assert_eq!(contexts.try_claim(2).unwrap().context(), None);
        contexts.forget(2);
        assert_eq!(contexts.try_claim(0).unwrap().context(), Some(context(1)));
        contexts.try_claim(2).unwrap().wrote(Some(context(2)));
        assert_eq!(contexts.try_claim(0).unwrap().context(), None);
    }
}
