//! Who mints: incarnations and births.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dynkv_proto::Actor;
use dynkv_vclock::CausalContext;

use crate::{
    env::Env,
    planted::{self, Bug},
};

/// The actors of one process start.
///
/// Invariant: no dot is ever minted twice, whatever becomes of the disk. The incarnation is random, so that another
/// start (or another process on a copy of the disk) shares no actor with this one; births are counted per process, so
/// that two records never share one either.
pub(crate) struct Actors {
    env: Arc<Env>,
    incarnation: AtomicU64,
    births: AtomicU64,
}

impl Actors {
    pub(crate) fn new(env: Arc<Env>) -> Actors {
        let incarnation = AtomicU64::new(draw(&env));
        Actors { env, incarnation, births: AtomicU64::new(0) }
    }

    /// The actor to mint under for a record whose field says `local`, whose context is `stored`, for a writer who
    /// brings `context`.
    ///
    /// It goes on under `local` only if this incarnation wrote that field, and if the writer has not seen later dots of
    /// it: those would be dots that this record has lost.
    pub(crate) fn choose(
        &self,
        local: Option<Actor>,
        stored: &CausalContext<Actor>,
        context: &CausalContext<Actor>,
    ) -> Actor {
        let incarnation = self.incarnation.load(Ordering::SeqCst);
        match local {
            Some(actor)
                if (actor.0 == incarnation || planted::is(Bug::ActorReusedAfterRestart))
                    && context.highest(&actor) <= stored.highest(&actor) =>
            {
                actor
            }
            _ if planted::is(Bug::HintSharesActor) => Actor(incarnation, 0),
            _ => Actor(incarnation, self.births.fetch_add(1, Ordering::SeqCst)),
        }
    }

    /// After a local write that failed, or whose outcome is unknown: its dot may be on disk or on a replica while the
    /// record here does not know it. Nothing is minted under the old incarnation again.
    pub(crate) fn renew(&self) {
        if planted::is(Bug::DotReusedAfterFailedWrite) {
            return;
        }
        self.incarnation.store(draw(&self.env), Ordering::SeqCst);
    }
}

/// Zero would make (0, 0), which a record stores for "no actor".
fn draw(env: &Env) -> u64 {
    env.random().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynkv_vclock::Dot;

    fn seen(actor: Actor, counter: u64) -> CausalContext<Actor> {
        (1..=counter).map(|counter| Dot { actor, counter }).collect()
    }

    #[test]
    fn an_actor_goes_on_only_in_its_own_incarnation_and_never_behind_a_context() {
        let actors = Actors::new(Arc::new(Env::fixed(5)));
        let none = CausalContext::new();
        let first = actors.choose(None, &none, &none);
        assert_eq!(actors.choose(Some(first), &seen(first, 3), &seen(first, 3)), first);
        assert_eq!(actors.choose(Some(first), &seen(first, 3), &none), first);

        // Another start wrote the field, the record is behind the writer, or there is no field: each begins a birth.
        let elsewhere = Actor(first.0 + 1, first.1);
        let births = [
            actors.choose(Some(elsewhere), &seen(elsewhere, 3), &none),
            actors.choose(Some(first), &seen(first, 2), &seen(first, 3)),
            actors.choose(None, &none, &none),
        ];
        for (i, birth) in births.iter().enumerate() {
            assert!(*birth != first && *birth != elsewhere && !births[..i].contains(birth));
        }
    }

    #[test]
    fn a_failed_write_ends_the_incarnation() {
        let actors = Actors::new(Arc::new(Env::fixed(5)));
        let none = CausalContext::new();
        let before = actors.choose(None, &none, &none);
        actors.renew();
        let after = actors.choose(Some(before), &none, &none);
        assert_ne!(before.0, after.0);
    }
}
