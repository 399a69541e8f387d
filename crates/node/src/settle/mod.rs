//! Settlement: tombstones and old context entries go once every member has agreed that nobody has anything older. The argument, with
//! the interleavings that break simpler forms, is in docs/architecture.md, "Settlement".
//!
//! `marks` is what a member has promised, agreed to and seen decided for each partition; `answer` a member's side of a round,
//! `issue` the issuer's, for keys that `candidates` finds; `compact` what becomes of a state. `admission` lets new disks in
//! and old ones go.
//!
//! # Invariants
//!
//! *A state is sent with marks that were durable before it was read.* So marks that are too low may be sent, and are refused, but never any that are too high.
//!
//! *A state is taken only if its marks are not behind.* The check is made in the transaction that unites it.
//!
//! *A yes is said in the transaction that raises the promise to the round, or never.* Whoever has promised a round because others had
//! says no more about it: it may have sent what it held before.

pub(crate) mod admission;
pub(crate) mod answer;
mod candidates;
pub(crate) mod compact;
mod issue;
pub(crate) mod marks;
pub(crate) mod send;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

use dynkv_proto::Marks;
use thiserror::Error;

pub(crate) use self::issue::{run, settle_damaged};
use crate::storage::StorageError;

/// Why a state was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TakeError {
    /// It was read before this node promised what it has promised by now.
    #[error("it was read before this replica promised settlement round {}: it is to be read again", .0.promise)]
    Behind(Marks),
    /// The others have settled what this node has not agreed to: its disk is old.
    #[error("this node's disk has missed settlement round {}, which is decided: it is an old one and is set aside", .0.decided)]
    OldDisk(Marks),
    /// The partition is elsewhere.
    #[error("this node does not hold partition {partition}")]
    NotHeld {
        /// The partition.
        partition: u32,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why nothing settles now, for people.
#[derive(Default)]
pub(crate) struct Paused(Mutex<String>);

impl Paused {
    fn lock(&self) -> MutexGuard<'_, String> {
        // Assignments only: nothing is ever half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reason, or nothing.
    pub(crate) fn reason(&self) -> String {
        self.lock().clone()
    }

    fn set(&self, reason: String) {
        *self.lock() = reason;
    }
}

/// The marks of a state that was merged from two that were read under `a` and `b`; `None` when one of the two missed what the other knows to be
/// decided: it may bear what has gone.
pub(crate) fn together(a: Marks, b: Marks) -> Option<Marks> {
    // Too low is refused, too high would be believed.
    let marks = Marks {
        promise: a.promise.min(b.promise),
        agreed: a.agreed.min(b.agreed),
        decided: a.decided.max(b.decided),
    };
    (marks.agreed >= marks.decided).then_some(marks)
}
