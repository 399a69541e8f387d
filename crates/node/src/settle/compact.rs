//! What settlement makes of a state. Pure.

use dynkv_proto::{Actor, State, Version};
use dynkv_vclock::Siblings;

use crate::{
    planted::{self, Bug},
    record::Record,
    storage::StorageError,
};

/// What there is in a state to settle. The digest index says so of each record, so that none is read to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// Since when, in milliseconds since 1970 by the clocks of those who wrote it; 0: there is nothing. Only says when to try.
    pub(crate) since_ms: u64,
    /// Whether nothing would be left: such a state need not be read to be dropped.
    pub(crate) leaves_nothing: bool,
}

/// What there is in `state` to settle.
pub(crate) fn unsettled(state: &State) -> Unsettled {
    Unsettled { since_ms: since_ms(state), leaves_nothing: state.is_absent() }
}

fn since_ms(state: &State) -> u64 {
    let tombstone = state.siblings().values().any(|version| version.tombstone);
    let is_live = |actor: &Actor| state.siblings().iter().any(|(dot, _)| dot.actor == *actor);
    if state.siblings().is_empty() || tombstone || !state.context().actors().all(is_live) {
        // At least 1, also where nobody says when.
        state.latest_time().wall_ms().max(1)
    } else {
        0
    }
}

/// What is left of a settled state: its live values, and the context entries of their actors. `None`: nothing.
pub(crate) fn settled(state: State) -> Option<State> {
    let mut siblings: Siblings<Actor, Version> = state.into();
    siblings.retain(|_, version| !version.tombstone);
    siblings.compact();
    (!siblings.is_empty()).then(|| State::from(siblings))
}

/// What is left of a record whose state is settled, with that state decoded. Whoever has minted for it mints on only under an actor that is
/// left: counting again from 1, it would mint dots twice.
pub(super) fn settled_record(record: &Record) -> Result<Option<(Record, State)>, StorageError> {
    let Some(state) = settled(record.decode_state()?) else { return Ok(None) };
    let left = |actor: &Actor| {
        state.context().actors().any(|left| left == actor) || planted::is(Bug::CompactionKeepsActor)
    };
    let record = Record { local_actor: record.local_actor.filter(left), state: state.encode() };
    Ok(Some((record, state)))
}
