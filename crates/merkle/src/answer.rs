//! The responder: an answer is made of the request, the tree and the store, at once or in steps, and nothing is kept.

use std::ops::ControlFlow;

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
        let mut answering = self.answering(request);
        loop {
            match answering.step(store, usize::MAX)? {
                ControlFlow::Break(reply) => return Ok(reply),
                ControlFlow::Continue(rest) => answering = rest,
            }
        }
    }

    /// Answers as [`Tree::answer`] does, a few entries at a time: for whoever has others to attend to meanwhile. The tree is done with when this returns.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::ops::ControlFlow;
    /// use dynkv_merkle::{Comparison, Reply, Request, Span, Tree};
    ///
    /// fn answer(tree: &Tree, request: &Request, store: &BTreeMap<u128, u128>) -> Reply {
    ///     let mut answering = tree.answering(request);
    ///     loop {
    ///         match answering.step(store, 32).expect("the request is about this tree") {
    ///             ControlFlow::Break(reply) => return reply,
    ///             ControlFlow::Continue(rest) => answering = rest,
    ///         }
    ///         std::thread::yield_now();
    ///     }
    /// }
    ///
    /// let (here, there) = (Tree::new(Span::ALL), Tree::new(Span::ALL));
    /// let nothing = BTreeMap::new();
    /// let mut comparison = Comparison::new(&here, there.depth(), 1, 1);
    /// if let Some(request) = comparison.next_request(&here, &nothing)? {
    ///     assert_eq!(answer(&there, &request, &nothing), there.answer(&request, &nothing)?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn answering<'a>(&self, request: &'a Request) -> Answering<'a> {
        let way = match &request.ask {
            _ if request.span != self.span() => Way::NotAbout(self.span()),
            Ask::Nodes(ask) if ask.depth + ask.step > self.depth() => Way::Told(Tell::Shallow(self.depth())),
            Ask::Nodes(ask) => Way::Told(Tell::Nodes(self.tell_nodes(ask, request.salt))),
            Ask::Entries(ask) => Way::Telling(Telling::new(ask, request)),
        };
        Answering { request, way }
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

/// An answer on its way: see [`Tree::answering`].
///
/// The store may change between two steps: each tells of what it has found.
#[derive(Debug)]
#[must_use = "a request is answered by steps"]
pub struct Answering<'a> {
    request: &'a Request,
    way: Way<'a>,
}

#[derive(Debug)]
enum Way<'a> {
    /// The tree is of this span.
    NotAbout(Span),
    /// What the tree alone could tell.
    Told(Tell),
    Telling(Telling<'a>),
}

impl Answering<'_> {
    /// Goes on until about `entries_max` entries have been read, one at least; a read that finds nothing counts as one. Gives the reply, or what is left to do.
    ///
    /// # Errors
    ///
    /// As [`Tree::answer`].
    pub fn step<S: Entries>(
        self,
        store: &S,
        entries_max: usize,
    ) -> Result<ControlFlow<Reply, Self>, AnswerError<S::Error>> {
        let Answering { request, way } = self;
        let tell = match way {
            Way::NotAbout(own) => return Err(AnswerError::Span { asked: request.span, own }),
            Way::Told(tell) => tell,
            Way::Telling(mut telling) => {
                if !telling.step(store, entries_max)? {
                    return Ok(ControlFlow::Continue(Answering { request, way: Way::Telling(telling) }));
                }
                Tell::Entries(telling.told())
            }
        };
        Ok(ControlFlow::Break(Reply { id: request.id, tell }))
    }
}

/// A comparison of entries on its way.
#[derive(Debug)]
struct Telling<'a> {
    ask: &'a AskEntries,
    request: &'a Request,
    tell: TellEntries,
    /// The leaf that is being read, and where its fingerprints begin.
    leaf: usize,
    begin: usize,
    /// What is asked of it, and the first position that has not been read.
    open: Option<(Theirs, u128)>,
    page: Vec<Entry>,
}

impl<'a> Telling<'a> {
    fn new(ask: &'a AskEntries, request: &'a Request) -> Telling<'a> {
        let tell = TellEntries {
            through: None,
            absent: Vec::new(),
            changed: Vec::new(),
            suffix_bytes: suffix_bytes(request.span, ask.leaves.depth),
            extra: Vec::new(),
        };
        Telling { ask, request, tell, leaf: 0, begin: 0, open: None, page: Vec::new() }
    }

    /// Says whether that was all.
    fn step<S: Entries>(&mut self, store: &S, entries_max: usize) -> Result<bool, ReadError<S::Error>> {
        let (leaves, span) = (&self.ask.leaves, self.request.span);
        let mut left = entries_max.max(1);
        while let Some((_, count)) = leaves.list.get(self.leaf)
            && self.tell.through.is_none()
        {
            if left == 0 {
                return Ok(false);
            }
            let (begin, end) = (self.begin, self.begin + *count as usize);
            let (first, last) = leaves.range(span, self.leaf);
            let (theirs, from) =
                self.open.get_or_insert_with(|| (Theirs::new(&self.ask.fingerprints[begin..end]), first));
            let found = self.tell.changed.len() + self.tell.extra.len();
            // All that can be matched, all that can be reported, and one to know whether that was all.
            let max = (end - begin + FOUND_MAX - found + 1).min(left);
            self.page.clear();
            read(store, *from, last, max, &mut self.page)?;
            left = left.saturating_sub(self.page.len().max(1));
            for entry in &self.page {
                let verdict = theirs.judge(Fingerprint::of(*entry, self.request.salt));
                if matches!(verdict, Verdict::Same) {
                    continue;
                }
                if self.tell.changed.len() + self.tell.extra.len() == FOUND_MAX {
                    // At least one entry was found before this one, so the position is not the first of all.
                    self.tell.through = entry.position.checked_sub(1);
                    break;
                }
                match verdict {
                    Verdict::Changed(at) => self.tell.changed.push(((begin + at) as u32, entry.digest)),
                    _ => self.tell.extra.push(extra(self.leaf, *entry, span, leaves.depth)),
                }
            }
            // A full page may not be the last one of its leaf.
            let next = self.page.last().filter(|_| self.page.len() == max && self.tell.through.is_none());
            match next.and_then(|entry| entry.position.checked_add(1)).filter(|next| *next <= last) {
                Some(next) => *from = next,
                None => {
                    self.tell.absent.extend(theirs.unmatched().map(|at| (begin + at) as u32));
                    (self.leaf, self.begin, self.open) = (self.leaf + 1, end, None);
                }
            }
        }
        Ok(true)
    }

    fn told(mut self) -> TellEntries {
        self.tell.changed.sort_unstable();
        self.tell
    }
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
#[derive(Debug)]
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Comparison;

    type Store = BTreeMap<u128, u128>;

    fn tree(store: &Store, depth: u8) -> Tree {
        let entries = store.iter().map(|(&position, &digest)| Entry { position, digest });
        Tree::from_entries(Span::ALL, depth, entries).unwrap()
    }

    fn in_steps(tree: &Tree, request: &Request, store: &Store, entries_max: usize) -> (Reply, usize) {
        let mut answering = tree.answering(request);
        let mut steps = 1;
        loop {
            match answering.step(store, entries_max).unwrap() {
                ControlFlow::Break(reply) => return (reply, steps),
                ControlFlow::Continue(rest) => answering = rest,
            }
            steps += 1;
        }
    }

    /// Compares to the end, and answers each request in both ways. Returns the differences, and the most steps that one answer took.
    fn compare(mine: &Store, yours: &Store, depth: u8, entries_max: usize) -> (usize, usize) {
        let (here, there) = (tree(mine, depth), tree(yours, depth));
        let mut comparison = Comparison::new(&here, depth, 1, 1);
        let (mut found, mut most) = (Vec::new(), 0);
        while let Some(request) = comparison.next_request(&here, mine).unwrap() {
            let reply = there.answer(&request, yours).unwrap();
            let (stepwise, steps) = in_steps(&there, &request, yours, entries_max);
            assert_eq!(stepwise, reply);
            most = most.max(steps);
            comparison.handle(&here, &reply, &mut found).unwrap();
        }
        (found.len(), most)
    }

    #[test]
    fn a_long_answer_takes_many_steps() {
        let store = |digest| (0..3000).map(|at| (at << 116, digest)).collect::<Store>();
        // The other side has nothing, and is told of 1,024 entries at a time.
        assert_eq!(compare(&Store::new(), &store(1), 0, 32), (3000, 33));
        assert_eq!(compare(&store(1), &store(2), 0, 32).0, 3000);
        assert_eq!(compare(&store(1), &store(1), 4, 32), (0, 1));
        // Leaves without entries are not read for nothing, many at once.
        assert!(compare(&store(1), &Store::from([(7, 7)]), 10, 1).1 > 100);
    }

    proptest! {
        #[test]
        fn in_steps_of_any_size_it_is_the_same_answer(
            mine in prop::collection::btree_map(any::<u8>(), 0..3u128, 0..200),
            yours in prop::collection::btree_map(any::<u8>(), 0..3u128, 0..200),
            shift in prop::sample::select(vec![0, 64, 120]),
            depth in 0..6u8,
            entries_max in 0..40usize,
        ) {
            let at = |store: BTreeMap<u8, u128>| {
                store.into_iter().map(|(at, digest)| (u128::from(at) << shift, digest)).collect::<Store>()
            };
            let (mine, yours) = (at(mine), at(yours));
            let differ = mine.keys().chain(yours.keys()).collect::<std::collections::BTreeSet<_>>();
            let differ = differ.into_iter().filter(|at| mine.get(at) != yours.get(at)).count();
            prop_assert_eq!(compare(&mine, &yours, depth, entries_max).0, differ);
        }
    }
}
