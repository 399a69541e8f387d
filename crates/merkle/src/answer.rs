//! The responder: an answer is made of the request, the tree and the store, and nothing is kept.

use crate::entries::read;
use crate::hash::{self, Fingerprint};
use crate::message::{
    Ask, AskEntries, AskNodes, Extra, FOUND_MAX, Reply, Request, SUMS_MAX, Tell, TellEntries, TellNodes,
    suffix_bytes,
};
use crate::{Entries, Entry, ReadError, Span, Tree};

/// Sums that a reply may have for each node that differs: at 8 bytes a sum a quarter of the 1 KiB that a difference may
/// cost.
pub(crate) const SUMS_EACH: usize = 32;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError<E> {
    /// The request is about another span.
    #[error("the request is about span {asked}, the tree covers {own}; answer with the tree of that span")]
    Span {
        /// The request's.
        asked: Span,
        /// The tree's.
        own: Span,
    },
    /// The entries could not be had.
    #[error(transparent)]
    Read(#[from] ReadError<E>),
}

impl Tree {
    /// Answers a request of another side's [`Comparison`](crate::Comparison); `store` has this tree's entries.
    ///
    /// Whatever is asked, it computes at most 8,192 sums, or does 128 reads of 2,049 entries together, and keeps
    /// nothing. A request may be answered twice, late, or out of order.
    ///
    /// # Errors
    ///
    /// When the request is about another span, or the store cannot be read.
    pub fn answer<S: Entries>(&self, request: &Request, store: &S) -> Result<Reply, AnswerError<S::Error>> {
        if request.span != self.span() {
            return Err(AnswerError::Span { asked: request.span, own: self.span() });
        }
        let tell = match &request.ask {
            Ask::Nodes(ask) if ask.depth + ask.step > self.depth() => Tell::Shallow(self.depth()),
            Ask::Nodes(ask) => Tell::Nodes(self.tell_nodes(ask, request.salt)),
            Ask::Entries(ask) => Tell::Entries(tell_entries(ask, request, store)?),
        };
        Ok(Reply { id: request.id, tell })
    }

    /// What travels for a node that the tree has.
    pub(crate) fn sum_at(&self, depth: u8, index: u32, salt: u64) -> u64 {
        hash::of_sum(self.node(depth, index).expect("callers stay within the tree's depth"), salt)
    }

    fn tell_nodes(&self, ask: &AskNodes, salt: u64) -> TellNodes {
        let depth = ask.depth + ask.step;
        let mut differing = Vec::new();
        let mut nodes = Vec::new();
        for (at, sum) in (0..).zip(&ask.sums) {
            let node = child(&ask.parents, ask.step, at);
            if self.sum_at(depth, node, salt) != *sum {
                differing.push(at);
                nodes.push(node);
            }
        }
        let room = self.depth().min(ask.deepest) - depth;
        let most = (SUMS_EACH * nodes.len()).max(ask.allowance as usize).min(SUMS_MAX);
        let step = most.checked_div(nodes.len()).and_then(usize::checked_ilog2).unwrap_or(0);
        let step = (step as u8).min(room);
        let below = |node: &u32| (0..1 << step).map(|low| node << step | low).collect::<Vec<_>>();
        let sums = match step {
            0 => Vec::new(),
            _ => nodes.iter().flat_map(below).map(|node| self.sum_at(depth + step, node, salt)).collect(),
        };
        TellNodes { step, differing, sums }
    }
}

/// The node whose sum is at this place of a request.
pub(crate) fn child(parents: &[u32], step: u8, at: u32) -> u32 {
    parents[(at >> step) as usize] << step | at & ((1 << step) - 1)
}

fn tell_entries<S: Entries>(
    ask: &AskEntries,
    request: &Request,
    store: &S,
) -> Result<TellEntries, ReadError<S::Error>> {
    let leaves = &ask.leaves;
    let mut tell = TellEntries {
        through: None,
        absent: Vec::new(),
        changed: Vec::new(),
        suffix_bytes: suffix_bytes(request.span, leaves.depth),
        extra: Vec::new(),
    };
    let mut begin = 0;
    let mut page = Vec::new();
    for (leaf, (_, count)) in leaves.list.iter().enumerate() {
        let end = begin + *count as usize;
        let mut theirs = Theirs::new(&ask.fingerprints[begin..end]);
        let (first, last) = leaves.range(request.span, leaf);
        let found = tell.changed.len() + tell.extra.len();
        // All that can be matched, all that can be reported, and one to know whether that was all.
        page.clear();
        read(store, first, last, end - begin + FOUND_MAX - found + 1, &mut page)?;
        for entry in &page {
            let verdict = theirs.judge(Fingerprint::of(*entry, request.salt));
            if matches!(verdict, Verdict::Same) {
                continue;
            }
            if tell.changed.len() + tell.extra.len() == FOUND_MAX {
                // At least one entry was found before this one, so the position is not the first of all.
                tell.through = entry.position.checked_sub(1);
                break;
            }
            match verdict {
                Verdict::Changed(at) => tell.changed.push(((begin + at) as u32, entry.digest)),
                _ => tell.extra.push(extra(leaf, *entry, request.span, leaves.depth)),
            }
        }
        tell.absent.extend(theirs.unmatched().map(|at| (begin + at) as u32));
        if tell.through.is_some() {
            break;
        }
        begin = end;
    }
    tell.changed.sort_unstable();
    Ok(tell)
}

fn extra(leaf: usize, entry: Entry, span: Span, depth: u8) -> Extra {
    let bits = u32::from(span.bits() + depth);
    let suffix = entry.position & u128::MAX.checked_shr(bits).unwrap_or(0);
    Extra { leaf: leaf as u32, suffix, digest: entry.digest }
}

enum Verdict {
    Same,
    /// The place of the fingerprint of the same position.
    Changed(usize),
    Extra,
}

/// The fingerprints of one leaf, by position, with their places, and whether they were matched.
struct Theirs(Vec<(Fingerprint, usize, bool)>);

impl Theirs {
    fn new(fingerprints: &[Fingerprint]) -> Self {
        let mut sorted: Vec<_> =
            fingerprints.iter().enumerate().map(|(at, fingerprint)| (*fingerprint, at, false)).collect();
        sorted.sort_unstable_by_key(|(fingerprint, at, _)| (fingerprint.position, *at));
        Self(sorted)
    }

    fn judge(&mut self, own: Fingerprint) -> Verdict {
        let first = self.0.partition_point(|(theirs, ..)| theirs.position < own.position);
        match self.0.get_mut(first) {
            // Two positions of one leaf that share a fingerprint, once in 2^48, are judged as one: wrong here, and right
            // under the salt of the next comparison. So are fingerprints that a liar made equal.
            Some((theirs, at, matched)) if theirs.position == own.position && !*matched => {
                *matched = true;
                if *theirs == own { Verdict::Same } else { Verdict::Changed(*at) }
            }
            _ => Verdict::Extra,
        }
    }

    /// The places of those that were not matched, ascending.
    fn unmatched(&self) -> impl Iterator<Item = usize> {
        let mut places: Vec<_> =
            self.0.iter().filter(|(.., matched)| !matched).map(|(_, at, _)| *at).collect();
        places.sort_unstable();
        places.into_iter()
    }
}
