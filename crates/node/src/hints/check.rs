//! Reading hints to see whether they are whole.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::layout::{HINTS, Hint, Turn, hint_key, parse_hint_key, parse_turn_key, turn_key};
use crate::storage::{Space, Storage, StorageError};

/// What a page of the store of hints is like.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Entries looked at: hints, and their turns.
    pub(crate) seen: usize,
    pub(crate) hints: u64,
    pub(crate) bytes: u64,
    /// What is wrong, one text for each.
    pub(crate) damaged: Vec<String>,
}

/// Reads at most `max` entries from `from` on, or those with which `bytes_max` is reached. Says where to go on.
pub(crate) fn check_page(
    storage: &dyn Storage,
    from: &[u8],
    max: usize,
    bytes_max: u64,
) -> Result<(Checked, Option<Bytes>), StorageError> {
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, None);
    storage.scan(Space::Hints, &[], from, &mut |key, value| {
        if entries.len() == max || bytes >= bytes_max {
            next = Some(key);
            return ControlFlow::Break(());
        }
        bytes += (key.len() + value.len()) as u64;
        entries.push((key, value));
        ControlFlow::Continue(())
    })?;
    let mut checked = Checked { seen: entries.len(), bytes, ..Checked::default() };
    for (key, value) in entries {
        let is_hint = key.starts_with(HINTS);
        checked.hints += u64::from(is_hint);
        let outcome = match is_hint {
            true => check_hint(storage, &key, value.clone()),
            false => check_turn(storage, &key, value.clone()),
        };
        match outcome {
            Ok(()) => {}
            Err(StorageError::Damaged { reason }) => {
                // Unless it was delivered since, and perhaps begun anew.
                if storage.get(Space::Hints, &key)?.is_some_and(|now| now == value) {
                    checked.damaged.push(reason);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok((checked, next))
}

fn check_hint(storage: &dyn Storage, key: &Bytes, value: Bytes) -> Result<(), StorageError> {
    let (_, target) = parse_hint_key(key)?;
    let hint = Hint::decode(value)?;
    if !hint.record.decode_state()?.is_intact() {
        return Err(damaged("a value in a hint fails its checksum"));
    }
    match storage.get(Space::Hints, &turn_key(&target, hint.sequence))? {
        Some(turn) if Turn::decode(turn.clone())?.hint_key == *key => Ok(()),
        _ => Err(damaged("a hint has no turn: it would never be delivered")),
    }
}

fn check_turn(storage: &dyn Storage, key: &Bytes, value: Bytes) -> Result<(), StorageError> {
    let (target, _) = parse_turn_key(key)?;
    let turn = Turn::decode(value)?;
    let (record_key, _) = parse_hint_key(&turn.hint_key)?;
    match storage.get(Space::Hints, &hint_key(&record_key, &target))? {
        Some(_) => Ok(()),
        None => Err(damaged("a hint's turn names a hint that is not there")),
    }
}

fn damaged(reason: &str) -> StorageError {
    StorageError::Damaged { reason: reason.into() }
}
