//! Which of several runs of one node goes on. The argument is in docs/architecture.md, "One node, one run".

use std::time::Duration;

use dynkv_gossip::Stamp;

/// A run that has been in touch with the cluster for so long, and hears of another run of its id only then, was there
/// first. Long enough to have heard of any other that was there before: those who know of one tell in the first exchange.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// Two runs that are both too young to reject each other take turns no faster than this.
pub(super) const OUTBID_EVERY: Duration = Duration::from_secs(1);

/// One run in the eyes of itself.
#[derive(Debug)]
pub(super) struct Identity {
    /// Random, drawn at the start: nobody can name it who has not heard of this run.
    nonce: u64,
    /// When the first exchange with another node was complete.
    contact: Option<Duration>,
    outbid: Option<Duration>,
}

/// What to do about another run of this node's id that is known under a greater incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was before this one, as far as one can tell: take a greater incarnation, and say nothing against it.
    Outbid,
    /// It came after this one: outbid it, and tell it to stop.
    Reject,
    /// It lives, was there before, and tells this one to stop.
    Refuse,
    /// Not now: it was outbid only just.
    Later,
}

impl Identity {
    pub(super) fn new(nonce: u64) -> Identity {
        Identity { nonce, contact: None, outbid: None }
    }

    /// An exchange with another node of the cluster was complete.
    pub(super) fn contacted(&mut self, now: Duration) {
        self.contact.get_or_insert(now);
    }

    pub(super) fn outbid(&mut self, now: Duration) {
        self.outbid = Some(now);
    }

    pub(super) fn judge(&self, other: Stamp, now: Duration) -> Verdict {
        if other.rejects.is_some_and(|rejected| rejected.nonce == self.nonce) {
            return Verdict::Refuse;
        }
        if self.outbid.is_some_and(|at| now.saturating_sub(at) < OUTBID_EVERY) {
            return Verdict::Later;
        }
        if other.incarnation.is_hearsay() {
            // An address book of earlier days: nobody to quarrel with.
            return Verdict::Outbid;
        }
        if self.is_settled(now) { Verdict::Reject } else { Verdict::Outbid }
    }

    /// Whether this run has been there for a while.
    pub(super) fn is_settled(&self, now: Duration) -> bool {
        self.contact.is_some_and(|at| now.saturating_sub(at) >= SETTLED_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use dynkv_gossip::Incarnation;

    use super::*;

    const ME: u64 = 77;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check(contact: Option<u64>, outbid: Option<u64>, rejects: Option<u64>, now: u64, expected: Verdict) {
        let mut identity = Identity::new(ME);
        if let Some(at) = contact {
            identity.contacted(seconds(at));
            identity.contacted(seconds(at + 1));
        }
        if let Some(at) = outbid {
            identity.outbid(seconds(at));
        }
        let other = Stamp {
            incarnation: Incarnation { boot: 9, nonce: 1 },
            version: 1,
            rejects: rejects.map(|nonce| Incarnation { boot: 8, nonce }),
        };
        let verdict = identity.judge(other, seconds(now));
        assert_eq!(
            verdict, expected,
            "contact {contact:?}, outbid {outbid:?}, rejects {rejects:?}, now {now}"
        );
    }

    #[test]
    fn the_rules() {
        // At its start a run takes what it hears of for its predecessor: restarted, wiped, restored, moved, or cloned.
        check(None, None, None, 0, Verdict::Outbid);
        check(Some(0), None, None, 4, Verdict::Outbid);
        // However long it has run, as long as nobody could have told it.
        check(None, None, None, 1000, Verdict::Outbid);
        // One that has been there takes it for a newcomer.
        check(Some(5), None, None, 10, Verdict::Reject);
        // A predecessor's quarrel with somebody else is none of its business.
        check(None, None, Some(5), 0, Verdict::Outbid);
        check(Some(0), None, Some(5), 60, Verdict::Reject);
        // Told to stop, it stops, whoever it thinks it is.
        check(None, None, Some(ME), 0, Verdict::Refuse);
        check(Some(0), Some(60), Some(ME), 60, Verdict::Refuse);
        // What a node remembers that comes back after long is no run.
        let hearsay = Stamp { incarnation: Incarnation { boot: 9, nonce: 0 }, version: 0, rejects: None };
        let mut settled = Identity::new(ME);
        settled.contacted(seconds(0));
        assert_eq!(settled.judge(hearsay, seconds(60)), Verdict::Outbid);
        // Turns are taken once a second.
        check(Some(0), Some(60), None, 60, Verdict::Later);
        check(Some(0), Some(60), None, 61, Verdict::Reject);
        check(Some(0), Some(3), None, 4, Verdict::Outbid);
    }
}
