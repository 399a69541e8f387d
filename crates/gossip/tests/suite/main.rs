//! What the crate promises, held against simulated clusters and plain oracles.

mod conflict;
mod convergence;
mod detector;
mod hostile;
mod reconcile;
#[cfg(feature = "serde")]
mod serde;
mod strangers;
#[path = "../../examples/convergence/wire.rs"]
mod wire;
#[path = "../../examples/convergence/world.rs"]
mod world;

use std::time::Duration;

use dynkv_gossip::{GrowSet, Latest, MapMessage, Message, Payload, VersionedMap};

/// What a store would carry: its history, its configurations, its rounds.
type Carried = (GrowSet<Vec<u8>>, VersionedMap<u16, Latest<u64>>, GrowSet<u64>);
type Wire = Message<u32, <Carried as Payload>::Message>;

const SECOND: Duration = Duration::from_secs(1);

/// Bytes of a message, with ids as numbers.
fn size(message: &Wire) -> usize {
    let set = |set: &MapMessage<_, _, ()>| wire::map(set, |_| wire::DIGEST, |()| 1, |_| 40);
    wire::message(
        message,
        |id| wire::number(u64::from(*id)),
        |(history, configurations, rounds)| {
            1 + history.as_ref().map_or(1, set)
                + configurations.as_ref().map_or(1, |map| {
                    wire::map(map, |key| wire::number(u64::from(*key)), |v| wire::number(*v), |_| 20)
                })
                + rounds.as_ref().map_or(1, |rounds| wire::map(rounds, |_| wire::DIGEST, |()| 1, |_| 9))
        },
    )
}
