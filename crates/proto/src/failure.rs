//! The answer to a request that did not succeed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, Marks, array::message};

/// What is certain about a request that failed.
///
/// A request has three possible answers: done, certainly not done, and unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Certainly not done, now or later.
    NotDone,
    /// It may have been done, or may still surface.
    Unknown,
}

/// Why a request failed; tells programs what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCode {
    /// The request itself is wrong: repeating it will not help.
    Invalid,
    /// The key, value or metadata is over a limit.
    TooLarge,
    /// The context token is damaged or of another key.
    Context,
    /// The key has as many siblings as its bucket allows: get, merge, put.
    SiblingLimit,
    /// The caller's certificate does not allow this.
    Forbidden,
    /// The cluster has not been founded, or this node is not a member of it.
    NotServing,
    /// The node addressed is no home of this partition in its own view: refresh the view, ask another.
    NotHome,
    /// The partition is at another epoch, or the settlement marks differ.
    Stale,
    /// Too few replicas answered.
    Quorum,
    /// The deadline passed.
    Timeout,
    /// Too much is queued; try again after a pause.
    Overloaded,
    /// The local disk failed, is full, or holds a damaged record.
    Storage,
    /// A clock is too far off for a timestamp to be trusted.
    Clock,
    /// The message is of a kind this version does not know.
    UnknownKind,
    /// The responder stopped or gave up without an answer.
    NoAnswer,
    /// The node keeps as many hints as it may: another one must keep this.
    HintsFull,
    /// A state was read before the replica made a promise of the settlement: promise the same (`Failure::marks`), read it again.
    Behind,
    /// The membership history is not the one that a change was planned for: look at what has come in between, plan again.
    HistoryMoved,
    /// A code of a newer version.
    Other(u16),
}

impl FailureCode {
    const NUMBERS: [(FailureCode, u16); 18] = [
        (FailureCode::Invalid, 1),
        (FailureCode::TooLarge, 2),
        (FailureCode::Context, 3),
        (FailureCode::SiblingLimit, 4),
        (FailureCode::Forbidden, 5),
        (FailureCode::NotServing, 6),
        (FailureCode::NotHome, 7),
        (FailureCode::Stale, 8),
        (FailureCode::Quorum, 9),
        (FailureCode::Timeout, 10),
        (FailureCode::Overloaded, 11),
        (FailureCode::Storage, 12),
        (FailureCode::Clock, 13),
        (FailureCode::UnknownKind, 14),
        (FailureCode::NoAnswer, 15),
        (FailureCode::HintsFull, 16),
        (FailureCode::Behind, 17),
        (FailureCode::HistoryMoved, 18),
    ];
}

impl Serialize for FailureCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = Self::NUMBERS.iter().find(|(code, _)| code == self).map(|&(_, number)| number);
        serializer.serialize_u16(match (known, self) {
            (Some(number), _) => number,
            (None, FailureCode::Other(number)) => *number,
            (None, _) => 0,
        })
    }
}

impl<'de> Deserialize<'de> for FailureCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FailureCode, D::Error> {
        let number = u16::deserialize(deserializer)?;
        let known = Self::NUMBERS.iter().find(|&&(_, n)| n == number).map(|&(code, _)| code);
        Ok(known.unwrap_or(FailureCode::Other(number)))
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*self == Outcome::Unknown)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outcome, D::Error> {
        Ok(if bool::deserialize(deserializer)? { Outcome::Unknown } else { Outcome::NotDone })
    }
}

message! {
    /// A request that did not succeed: why, what is certain, and what to do.
    FAILURE, Failure {
        /// Why, for programs.
        code: FailureCode,
        /// What is certain about the request.
        outcome: Outcome,
        /// Why and what to do next, for people.
        message: String,
        /// The digest of the membership history in the responder's hands; zero where it has none to say.
        view: Digest,
        /// With [`FailureCode::Behind`]: the responder's settlement marks of the partition.
        marks: Marks = Marks::default(),
    }
}

impl Failure {
    /// A request that was certainly not done.
    pub fn not_done(code: FailureCode, message: impl Into<String>) -> Failure {
        Failure {
            code,
            outcome: Outcome::NotDone,
            message: message.into(),
            view: Digest::default(),
            marks: Marks::default(),
        }
    }

    /// A request that may have been done or may still surface.
    pub fn unknown(code: FailureCode, message: impl Into<String>) -> Failure {
        Failure {
            code,
            outcome: Outcome::Unknown,
            message: message.into(),
            view: Digest::default(),
            marks: Marks::default(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
