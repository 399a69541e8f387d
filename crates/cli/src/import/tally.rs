//! What has come of an import so far.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use dynkv_client::Error;
use dynkv_client::proto::Outcome;

use super::ItemError;
use super::pass::Told;
use crate::exit::Exit;
use crate::output;

/// So many failures one after the other are the cluster's or the file's, not the entries'.
const FAILURES_IN_A_ROW_MAX: u32 = 50;
/// So many keys are remembered as failed, or as read back differently; with more the import is broken off.
const FAILED_KEYS_MAX: usize = 10_000;

/// What a write came to.
pub(crate) enum Written {
    Stored { siblings_replaced: usize },
    Unchanged,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stored: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) unchanged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) siblings_replaced: u64,
    pub(crate) verified: u64,
    /// Keys whose write failed.
    pub(crate) failed: BTreeSet<Vec<u8>>,
    /// Keys that hold something else than was accepted, with the place of the entry.
    pub(crate) different: BTreeMap<Vec<u8>, String>,
    in_a_row: u32,
    /// Whether the last failure was that no node was reached.
    pub(crate) disconnected: bool,
}

impl Tally {
    /// Takes note of a write; what to tell about it, if there is anything.
    pub(crate) fn written(&mut self, told: Told<Result<Written, Error>>) -> Option<String> {
        let Told { place, key, value_bytes, result, .. } = told;
        let problem = match result {
            Ok(Ok(written)) => {
                self.in_a_row = 0;
                // A later line may have the same key.
                self.failed.remove(&key);
                match written {
                    Written::Unchanged => self.unchanged += 1,
                    Written::Stored { siblings_replaced } => {
                        self.stored += 1;
                        self.stored_bytes += value_bytes;
                        self.siblings_replaced += siblings_replaced as u64;
                    }
                }
                return None;
            }
            Ok(Err(error)) => {
                self.failure(&error);
                self.failed.insert(key);
                error.to_string()
            }
            Err(error) => {
                self.refused += 1;
                self.in_a_row +=
                    u32::from(matches!(error, ItemError::Syntax { .. } | ItemError::Line { .. }));
                error.to_string()
            }
        };
        Some(output::one_line(&format!("{place}: not imported: {problem}")))
    }

    /// Takes note of what was read back: nothing for an entry that was not accepted, else whether it is there.
    pub(crate) fn read_back(&mut self, told: Told<Result<Option<bool>, Error>>) -> Option<String> {
        let Told { place, key, result, .. } = told;
        match result {
            // Told in the first pass.
            Err(_) | Ok(Ok(None)) => None,
            Ok(Ok(Some(true))) => {
                self.in_a_row = 0;
                self.verified += 1;
                // An earlier line had another value for this key.
                self.different.remove(&key);
                None
            }
            Ok(Ok(Some(false))) => {
                self.in_a_row = 0;
                self.different.insert(key, place);
                None
            }
            Ok(Err(error)) => {
                // Whether it is there is what nobody knows now.
                self.in_a_row += 1;
                self.unknown += 1;
                self.disconnected = matches!(error, Error::Connect { .. });
                Some(output::one_line(&format!("{place}: cannot be read back: {error}")))
            }
        }
    }

    fn failure(&mut self, error: &Error) {
        self.in_a_row += 1;
        self.disconnected = matches!(error, Error::Connect { .. });
        match error.outcome() {
            Outcome::NotDone => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    /// Breaks an import off that fails again and again.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        let too_many = self.in_a_row >= FAILURES_IN_A_ROW_MAX
            || self.failed.len() >= FAILED_KEYS_MAX
            || self.different.len() >= FAILED_KEYS_MAX;
        if too_many { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The worst of what has happened.
    pub(crate) fn exit(&self) -> Exit {
        if self.unknown > 0 || !self.different.is_empty() {
            Exit::Unknown
        } else if self.refused > 0 {
            Exit::Refused
        } else {
            Exit::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::FailureCode;

    use super::*;

    fn told<T>(key: &str, result: Result<T, ItemError>) -> Told<T> {
        Told { place: format!("line of {key}"), read_bytes: 0, key: key.into(), value_bytes: 3, result }
    }

    fn refusal() -> Error {
        Error::NotDone { code: FailureCode::Quorum, node: None, message: "too\nfew".into() }
    }

    fn unknown() -> Error {
        Error::Unknown { code: None, node: None, put_id: None, message: "silence".into() }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let mut tally = Tally::default();
        assert_eq!(tally.written(told("a", Ok(Ok(Written::Stored { siblings_replaced: 2 })))), None);
        assert_eq!(tally.written(told("b", Ok(Ok(Written::Unchanged)))), None);
        assert_eq!((tally.exit(), tally.stored, tally.unchanged, tally.stored_bytes), (Exit::Ok, 1, 1, 3));
        let line = tally.written(told("c", Err(ItemError::Value { bytes: 9, limit: 8 }))).unwrap();
        assert_eq!(line, "line of c: not imported: the value has 9 bytes, the limit is 8");
        assert_eq!(tally.exit(), Exit::Refused);
        assert!(!tally.written(told("d", Ok(Err(refusal())))).unwrap().contains('\n'));
        assert_eq!(tally.exit(), Exit::Refused);
        tally.written(told("e", Ok(Err(unknown()))));
        assert_eq!((tally.exit(), tally.refused, tally.unknown), (Exit::Unknown, 2, 1));
        assert_eq!(tally.failed.len(), 2);
    }

    #[test]
    fn a_later_line_of_the_same_key_is_what_counts() {
        let mut tally = Tally::default();
        tally.read_back(told("a", Ok(Ok(Some(false)))));
        assert_eq!(tally.exit(), Exit::Unknown);
        tally.read_back(told("a", Ok(Ok(Some(true)))));
        tally.read_back(told("b", Ok(Ok(None))));
        assert_eq!((tally.exit(), tally.verified), (Exit::Ok, 1));
    }

    #[test]
    fn failures_in_a_row_break_off_but_large_files_do_not() {
        let mut tally = Tally::default();
        for _ in 0..FAILURES_IN_A_ROW_MAX * 2 {
            tally.written(told("a", Err(ItemError::Value { bytes: 9, limit: 8 })));
        }
        assert!(tally.go_on().is_continue());
        for _ in 1..FAILURES_IN_A_ROW_MAX {
            tally.written(told("a", Ok(Err(refusal()))));
        }
        assert!(tally.go_on().is_continue());
        tally.written(told("a", Ok(Ok(Written::Unchanged))));
        for _ in 0..FAILURES_IN_A_ROW_MAX {
            assert!(tally.go_on().is_continue());
            tally.written(told("a", Err(ItemError::Syntax { reason: "x".into() })));
        }
        assert!(tally.go_on().is_break());
    }
}
