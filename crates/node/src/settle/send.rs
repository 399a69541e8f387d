//! Sending states: whoever is refused because what it sends was read too early promises what the other has promised, and reads it again.
//! It never sends under later marks what it has read under earlier ones.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    Conflict, FailureCode, Frame, Marks, ReplicaGet, ReplicaGetReply, ReplicaPut, ReplicaPutReply, Stamp,
};
use dynkv_ring::NodeId;
use thiserror::Error;
use tokio::time::Instant;

use super::TakeError;
use crate::{
    hints::Place,
    key::Key,
    peers::PeerError,
    planted::{self, Bug},
    shared::Shared,
    storage::StorageError,
};

/// Rounds that may come in between.
const ATTEMPTS: usize = 4;

/// Where what is sent is read.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// What the node holds of the key.
    At(Place, Conflict),
    /// The hint for this target.
    Hint(NodeId),
}

/// A state, and the marks under which it was read.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) state: Bytes,
    pub(crate) marks: Marks,
}

/// How to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) class: Class,
    pub(crate) durable: bool,
    pub(crate) hint_for: Option<NodeId>,
    pub(crate) timeout: Duration,
}

/// Why a state was not given.
#[derive(Debug, Error)]
pub(crate) enum GiveError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("nothing is left of it here")]
    Gone,
    #[error(transparent)]
    Here(#[from] TakeError),
}

impl From<StorageError> for GiveError {
    fn from(error: StorageError) -> GiveError {
        GiveError::Here(error.into())
    }
}

/// Reads what is to be sent.
pub(crate) fn read(node: &Shared, key: &Key, source: &Source) -> Result<Option<Held>, StorageError> {
    // Before the state: what is read later may be newer, and then only seems too old.
    let marks = node.replica.stamp(key).1;
    let record = match source {
        // Nothing damaged is spread.
        Source::At(Place::Home, _) => node.replica.read_intact(key)?,
        Source::At(place, conflict) => node.replica.held(key, place, *conflict)?,
        Source::Hint(target) => node.replica.hints.read(&key.record, target)?.map(|hint| hint.record),
    };
    Ok(record.map(|record| Held { state: record.state, marks }))
}

/// Sends `held` to `to`, or what `source` has become by then. Returns the reply, and what was taken.
pub(crate) async fn give(
    node: &Arc<Shared>,
    to: NodeId,
    key: &Key,
    source: &Source,
    mut held: Held,
    how: How,
) -> Result<(ReplicaPutReply, Bytes), GiveError> {
    let deadline = Instant::now() + how.timeout;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let request = ReplicaPut {
            bucket: key.bucket.clone(),
            key: key.key.clone().into(),
            stamp: Stamp(0, held.marks),
            durable: how.durable,
            hint_for: how.hint_for,
        };
        let frame = Frame::new(&request, held.state.clone());
        let left = deadline.saturating_duration_since(Instant::now());
        let failure = match node.peers.request::<ReplicaPutReply>(to, how.class, frame, left).await {
            Ok((reply, _)) => return Ok((reply, held.state)),
            Err(PeerError::Refused(failure))
                if failure.code == FailureCode::Behind && attempts < ATTEMPTS =>
            {
                failure
            }
            Err(error) => return Err(error.into()),
        };
        if planted::is(Bug::SettleRestamps) {
            held.marks = failure.marks;
            continue;
        }
        node.replica.marks.promise(key.partition.0, &failure.marks).await?;
        held = read(node, key, source)?.ok_or(GiveError::Gone)?;
    }
}

/// Asks `of` for what it holds of `key`, read after it has promised what this node has promised. Returns the marks under which it was read, and the state;
/// empty: nothing. It is not verified.
pub(crate) async fn ask(
    node: &Arc<Shared>,
    of: NodeId,
    key: &Key,
    timeout: Duration,
) -> Result<(Marks, Bytes), PeerError> {
    let request = ReplicaGet {
        bucket: key.bucket.clone(),
        key: key.key.clone().into(),
        stamp: node.replica.stamp(key),
        have: None,
        promise: true,
    };
    let frame = Frame::new(&request, Bytes::new());
    let (reply, state) = node.peers.request::<ReplicaGetReply>(of, Class::Background, frame, timeout).await?;
    Ok((reply.stamp.1, state))
}
