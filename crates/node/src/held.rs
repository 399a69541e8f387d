//! Showing operators what this node itself holds of a key.

use bytes::Bytes;
use dynkv_proto::{
    Failure, FailureCode, Held, HeldReply, HeldState, HeldVersion, KEY_BYTES_MAX, State, check_bucket_name,
};
use dynkv_ring::NodeId;

use crate::{key::Key, record::Record, shared::Shared, storage::StorageError};

/// Answers with this node's record of a key and its hints about it. Nothing is changed, and nobody is asked.
pub(crate) fn held(node: &Shared, request: Held) -> Result<(HeldReply, Bytes), Failure> {
    let view = node.cluster.view();
    let refused = |code, message: String| Failure::not_done(code, message);
    node.cluster.serving(&view).map_err(|reason| refused(FailureCode::NotServing, reason.to_string()))?;
    check_bucket_name(&request.bucket).map_err(|error| refused(FailureCode::Invalid, error.to_string()))?;
    if request.key.len() > KEY_BYTES_MAX as usize {
        let message = format!("the key has {} bytes, the limit is {KEY_BYTES_MAX}", request.key.len());
        return Err(refused(FailureCode::TooLarge, message));
    }
    let me = node.cluster.me.id;
    let key = Key::new(request.bucket, request.key.0, view.membership.partitions());
    let home = node.chain.members(key.partition).homes.contains(&me);
    let (mut states, mut damaged) = (Vec::new(), Vec::new());
    // Also of a node that is no home any more.
    let record = node.replica.read_intact(&key);
    let hints = node.replica.hints.totals().into_keys().map(|target| {
        let hint = node.replica.hints.read(&key.record, &target);
        (Some(target), hint.map(|hint| hint.map(|hint| hint.record)))
    });
    for (hint_for, record) in std::iter::once((None, record)).chain(hints) {
        match record.and_then(|record| record.map(|record| shown(hint_for, &record)).transpose()) {
            Ok(Some(state)) => states.push(state),
            Ok(None) => {}
            Err(StorageError::Damaged { reason }) => damaged.push(match hint_for {
                None => format!("the record: {reason}"),
                Some(target) => format!("the hint for {target}: {reason}"),
            }),
            Err(error) => {
                return Err(refused(FailureCode::Storage, format!("node {me}: {error}")));
            }
        }
    }
    Ok((HeldReply { node: me, home, states, damaged }, Bytes::new()))
}

fn shown(hint_for: Option<NodeId>, record: &Record) -> Result<HeldState, StorageError> {
    let state: State = record.decode_state()?;
    if !state.is_intact() {
        return Err(StorageError::Damaged { reason: "a value fails its checksum".into() });
    }
    let versions = state.siblings().iter().map(|(dot, version)| HeldVersion {
        actor: dot.actor,
        counter: dot.counter,
        time_ms: version.time.wall_ms(),
        tombstone: version.tombstone,
        len: version.value.len() as u64,
    });
    Ok(HeldState {
        hint_for,
        digest: record.digest()?,
        bytes: record.state.len() as u64,
        versions: versions.collect(),
        context: state.context().clone(),
    })
}
