//! Which attempt follows a failed one: the rules for retries, without I/O.
//!
//! | answer | read | put | once |
//! |---|---|---|---|
//! | certainly not sent | next node | next node | next node |
//! | not done, and no other node can cure it | give up | give up | give up |
//! | not done, otherwise | next node | next node | next node, each once |
//! | unknown | next node | the same node once more, then the next, as a retry | give up |
//!
//! A put keeps its id through all attempts. Once an attempt's outcome is unknown, only success makes it known again:
//! a later refusal says nothing about the earlier attempt.

use std::fmt;
use std::time::Duration;

use dynkv_proto::{Failure, FailureCode, Outcome};
use dynkv_ring::NodeId;

use crate::Error;

/// What repeating a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Nothing: it only reads.
    Read,
    /// Nothing, under the same put id and marked as a retry.
    Put,
    /// Harm, unless the earlier attempt was certainly not carried out.
    Once,
}

/// How an attempt ended short of success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Setback {
    /// The request was certainly not sent.
    NotSent(String),
    /// It was sent, and no answer came, or none that can be read.
    NoAnswer(String),
    /// A value came that does not have its checksum.
    Damaged(String),
    /// The node said no.
    Failed(Failure),
}

/// Why, for people.
impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setback::NotSent(reason) | Setback::NoAnswer(reason) | Setback::Damaged(reason) => {
                f.write_str(reason)
            }
            Setback::Failed(failure) => failure.fmt(f),
        }
    }
}

/// What to do after a setback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask the same node once more, quickly.
    Same,
    /// Ask the next node.
    Other,
    /// The node's view is not ours: refresh ours, then go on.
    Refresh,
    /// Return [`Attempts::into_error`].
    GiveUp,
}

/// One request's attempts so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    repeat: Repeat,
    /// Set once an attempt's outcome is unknown.
    unknown: Option<Told>,
    refused: Option<(FailureCode, Told)>,
    damaged: Vec<NodeId>,
    silent: Option<Told>,
    unsent: Vec<Told>,
    /// Where an attempt may have been carried out.
    tried: Vec<NodeId>,
    /// Whether the attempt under way is the second one at the same node.
    second: bool,
    count: u32,
}

#[derive(Debug)]
struct Told {
    node: NodeId,
    code: Option<FailureCode>,
    message: String,
}

/// An attempt this short is not worth dividing.
const SHORTEST: Duration = Duration::from_millis(20);

impl Attempts {
    pub(crate) fn new(repeat: Repeat) -> Attempts {
        Attempts {
            repeat,
            unknown: None,
            refused: None,
            damaged: Vec::new(),
            silent: None,
            unsent: Vec::new(),
            tried: Vec::new(),
            second: false,
            count: 0,
        }
    }

    /// Whether the next attempt must be marked as a retry.
    pub(crate) fn is_retry(&self) -> bool {
        self.unknown.is_some()
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The nodes that earlier attempts were sent to and that may have carried them out.
    pub(crate) fn tried(&self) -> &[NodeId] {
        &self.tried
    }

    /// Whether to begin again with the first node after all were tried. What must not be done twice is for its caller to
    /// look at once a node has refused it; a read or a put may well succeed a moment later.
    pub(crate) fn goes_round(&self) -> bool {
        self.repeat != Repeat::Once || self.refused.is_none()
    }

    /// How long the next attempt may take when `left` is left of the deadline: never all of it, so that another node can
    /// still be asked. Reads leave a silent node sooner, for they lose nothing by that, and become more patient with each.
    pub(crate) fn limit(&self, left: Duration) -> Duration {
        let share = match self.repeat {
            Repeat::Read => 2 << 2u32.saturating_sub(self.count),
            Repeat::Put if self.second => 4,
            Repeat::Put => 2,
            // There will be no other.
            Repeat::Once => 1,
        };
        (left / share).max(SHORTEST).min(left)
    }

    /// Takes note of a setback at `node`.
    pub(crate) fn after(&mut self, node: NodeId, setback: Setback) -> Next {
        let second = std::mem::take(&mut self.second);
        self.count = self.count.saturating_add(1);
        match setback {
            Setback::NotSent(message) => {
                self.unsent.retain(|told| told.node != node);
                self.unsent.push(Told { node, code: None, message });
                Next::Other
            }
            Setback::Damaged(_) => {
                if !self.damaged.contains(&node) {
                    self.damaged.push(node);
                }
                Next::Other
            }
            Setback::NoAnswer(message) => match self.repeat {
                Repeat::Read => {
                    self.silent = Some(Told { node, code: None, message });
                    Next::Other
                }
                Repeat::Put | Repeat::Once => self.unknown_at(Told { node, code: None, message }, second),
            },
            Setback::Failed(Failure { code, outcome, message, .. }) => {
                let told = Told { node, code: Some(code), message };
                let unknown = outcome == Outcome::Unknown && self.repeat != Repeat::Read;
                if is_final(code) {
                    if unknown {
                        self.unknown = Some(told);
                    } else {
                        self.refused = Some((code, told));
                    }
                    return Next::GiveUp;
                }
                if unknown {
                    return self.unknown_at(told, second);
                }
                self.refused = Some((code, told));
                match code {
                    FailureCode::NotHome | FailureCode::NotServing => Next::Refresh,
                    _ => Next::Other,
                }
            }
        }
    }

    fn unknown_at(&mut self, told: Told, second: bool) -> Next {
        if !self.tried.contains(&told.node) {
            self.tried.push(told.node);
        }
        self.unknown = Some(told);
        match self.repeat {
            Repeat::Once => Next::GiveUp,
            _ if second => Next::Other,
            _ => {
                self.second = true;
                Next::Same
            }
        }
    }

    /// What the caller gets when there is nothing more to try, or no time.
    pub(crate) fn into_error(self) -> Error {
        if let Some(Told { node, code, message }) = self.unknown {
            let mut message = format!("node {node}: {message}");
            if let Some((_, refused)) = self.refused {
                message += &format!("; then node {}: {}", refused.node, refused.message);
            }
            return Error::Unknown { code, node: Some(node), put_id: None, message };
        }
        // An answer says more than a damaged one, that more than silence, and silence more than a closed door.
        if let Some((code, Told { node, message, .. })) = self.refused {
            return Error::NotDone { code, node: Some(node), message };
        }
        if !self.damaged.is_empty() {
            let names: Vec<_> = self.damaged.iter().map(ToString::to_string).collect();
            let message = format!(
                "the value of this key arrives damaged from {}: it was not returned; wait for repair, or restore it",
                names.join(", ")
            );
            return Error::Damaged { nodes: self.damaged, message };
        }
        if let Some(Told { node, message, .. }) = self.silent {
            let code = FailureCode::Timeout;
            return Error::NotDone {
                code,
                node: Some(node),
                message: format!(
                    "node {node}: {message}: allow a longer timeout, or ask for the node's status"
                ),
            };
        }
        if self.unsent.is_empty() {
            let message = "the time was used up before anything was sent: allow a longer timeout";
            return Error::refused(FailureCode::Timeout, message);
        }
        let reasons: Vec<_> =
            self.unsent.iter().map(|told| format!("{}: {}", told.node, told.message)).collect();
        let message = format!(
            "no node was reached ({}): check that the nodes run, and the network",
            reasons.join("; ")
        );
        Error::Connect { message }
    }
}

/// Whether the same request would meet the same answer everywhere.
fn is_final(code: FailureCode) -> bool {
    matches!(
        code,
        FailureCode::Invalid
            | FailureCode::TooLarge
            | FailureCode::Context
            | FailureCode::SiblingLimit
            | FailureCode::Forbidden
            | FailureCode::Clock
            // Elsewhere there may be a node that has not heard yet what has come in between.
            | FailureCode::HistoryMoved
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINAL: [FailureCode; 7] = [
        FailureCode::Invalid,
        FailureCode::TooLarge,
        FailureCode::Context,
        FailureCode::SiblingLimit,
        FailureCode::Forbidden,
        FailureCode::Clock,
        FailureCode::HistoryMoved,
    ];
    const CURABLE: [FailureCode; 8] = [
        FailureCode::Stale,
        FailureCode::Quorum,
        FailureCode::Timeout,
        FailureCode::Overloaded,
        FailureCode::Storage,
        FailureCode::UnknownKind,
        FailureCode::NoAnswer,
        FailureCode::Other(999),
    ];
    const ELSEWHERE: [FailureCode; 2] = [FailureCode::NotHome, FailureCode::NotServing];

    fn node(n: u8) -> NodeId {
        format!("n{n}").parse().unwrap()
    }

    fn no(code: FailureCode) -> Setback {
        Setback::Failed(Failure::not_done(code, "no"))
    }

    fn perhaps(code: FailureCode) -> Setback {
        Setback::Failed(Failure::unknown(code, "perhaps"))
    }

    /// Plays setbacks, the first at n1; `Next::Same` keeps the node, anything else moves on to the next.
    fn check(repeat: Repeat, setbacks: &[Setback], expected: &[Next]) -> Error {
        let mut attempts = Attempts::new(repeat);
        let mut at = 1;
        let mut took = Vec::new();
        for setback in setbacks {
            let next = attempts.after(node(at), setback.clone());
            took.push(next);
            if next != Next::Same {
                at += 1;
            }
        }
        assert_eq!(took, expected, "{repeat:?} {setbacks:?}");
        attempts.into_error()
    }

    fn unsent() -> Setback {
        Setback::NotSent("refused".into())
    }

    fn silence() -> Setback {
        Setback::NoAnswer("no answer".into())
    }

    #[test]
    fn what_no_node_can_cure_is_never_repeated() {
        for repeat in [Repeat::Read, Repeat::Put, Repeat::Once] {
            for code in FINAL {
                let error = check(repeat, &[no(code)], &[Next::GiveUp]);
                assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(code)));
            }
        }
    }

    #[test]
    fn what_was_certainly_not_done_goes_to_another_node() {
        for repeat in [Repeat::Read, Repeat::Put, Repeat::Once] {
            for code in CURABLE {
                let error = check(repeat, &[unsent(), no(code)], &[Next::Other, Next::Other]);
                assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(code)));
            }
            for code in ELSEWHERE {
                check(repeat, &[no(code)], &[Next::Refresh]);
            }
            let mut attempts = Attempts::new(repeat);
            attempts.after(node(1), unsent());
            assert!(!attempts.is_retry());
            let error = attempts.into_error();
            assert!(matches!(error, Error::Connect { .. }) && error.to_string().contains("n1"), "{error}");
        }
    }

    #[test]
    fn an_unknown_put_is_repeated_at_the_same_node_first() {
        for setback in [silence(), perhaps(FailureCode::Quorum), perhaps(FailureCode::NoAnswer)] {
            let setbacks = [setback.clone(), setback.clone(), setback.clone(), unsent()];
            let error = check(Repeat::Put, &setbacks, &[Next::Same, Next::Other, Next::Same, Next::Other]);
            assert_eq!(error.outcome(), Outcome::Unknown);
        }
        // The second attempt need not meet the same: a closed door sends the put on.
        let error =
            check(Repeat::Put, &[silence(), unsent(), silence()], &[Next::Same, Next::Other, Next::Same]);
        assert_eq!(error.outcome(), Outcome::Unknown);
    }

    #[test]
    fn a_later_refusal_does_not_make_an_unknown_put_known() {
        for code in FINAL {
            let error = check(Repeat::Put, &[silence(), no(code)], &[Next::Same, Next::GiveUp]);
            assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        }
        let error = check(Repeat::Put, &[silence(), no(FailureCode::Quorum)], &[Next::Same, Next::Other]);
        assert_eq!(error.outcome(), Outcome::Unknown);
        let mut attempts = Attempts::new(Repeat::Put);
        assert!(!attempts.is_retry());
        attempts.after(node(1), silence());
        assert!(attempts.is_retry());
        attempts.after(node(1), no(FailureCode::Quorum));
        assert!(attempts.is_retry());
    }

    #[test]
    fn what_must_not_be_repeated_gives_up_when_unknown() {
        for setback in [silence(), perhaps(FailureCode::NoAnswer), perhaps(FailureCode::Forbidden)] {
            let error = check(Repeat::Once, &[setback], &[Next::GiveUp]);
            assert_eq!(error.outcome(), Outcome::Unknown);
        }
    }

    #[test]
    fn a_refused_change_goes_round_once() {
        for (repeat, goes_round) in [(Repeat::Once, false), (Repeat::Read, true), (Repeat::Put, true)] {
            let mut attempts = Attempts::new(repeat);
            attempts.after(node(1), unsent());
            assert!(attempts.goes_round());
            attempts.after(node(2), no(FailureCode::NotServing));
            assert_eq!(attempts.goes_round(), goes_round);
        }
    }

    #[test]
    fn a_read_is_never_unknown() {
        let setbacks = [silence(), perhaps(FailureCode::Quorum), Setback::Damaged("x".into()), unsent()];
        let error = check(Repeat::Read, &setbacks, &[Next::Other; 4]);
        assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(FailureCode::Quorum)));
        let error = check(Repeat::Read, &[silence()], &[Next::Other]);
        assert_eq!((error.outcome(), error.code()), (Outcome::NotDone, Some(FailureCode::Timeout)));
        let error = check(Repeat::Read, &[Setback::Damaged("x".into()), unsent()], &[Next::Other; 2]);
        assert!(matches!(&error, Error::Damaged { nodes, .. } if nodes == &[node(1)]), "{error}");
        assert_eq!(Attempts::new(Repeat::Read).into_error().code(), Some(FailureCode::Timeout));
    }

    #[test]
    fn no_attempt_takes_the_whole_deadline() {
        let mut attempts = Attempts::new(Repeat::Put);
        let second = Duration::from_secs(1);
        assert_eq!(attempts.limit(second), second / 2);
        attempts.after(node(1), silence());
        assert_eq!(attempts.limit(second), second / 4);
        attempts.after(node(1), silence());
        assert_eq!(attempts.limit(second), second / 2);
        assert_eq!(attempts.limit(SHORTEST / 2), SHORTEST / 2);

        let mut attempts = Attempts::new(Repeat::Read);
        for share in [8, 4, 2, 2] {
            assert_eq!(attempts.limit(second), second / share);
            attempts.after(node(1), silence());
        }
    }
}
