//! The initiator: a descent to where two trees differ.

use std::collections::{BTreeMap, VecDeque};

use crate::answer::{SUMS_EACH, child};
use crate::listing::{Listing, Part, Worth};
use crate::message::{Ask, AskNodes, Reply, Request, SUMS_MAX, Tell, TellNodes};
use crate::{Entries, ReadError, Refused, Span, Tree};

/// A position where two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Difference {
    /// Where.
    pub position: u128,
    /// The digest on this side; none if there is nothing. Not equal to `there`.
    pub here: Option<u128>,
    /// The digest on the other side.
    pub there: Option<u128>,
}

/// The comparison of one span with another side, by the side that has begun it: it asks, the other
/// [answers](Tree::answer), and this one learns all differences, in both directions. What is done about them, and whether
/// the other side is told, is the caller's business.
///
/// Have [`next_request`](Comparison::next_request) carried to the other side, as often as you want requests under way, and
/// hand the replies to [`handle`](Comparison::handle) in any order, until it [is done](Comparison::is_done). A request that was lost
/// may be sent again. The comparison may be dropped at any time: what it has reported is right without the rest.
///
/// # Changes meanwhile
///
/// Both sides may go on changing, also be rebuilt with another depth. A position that neither side changes from the
/// beginning to the end is reported if and only if the sides differ there, and as it is. One that is changed may be
/// reported as it was, or not.
///
/// # Memory, and liars
///
/// At most 68 KiB for each request under way, and 16 KiB more for each level of the descent, since the deepest nodes are
/// asked for first; nothing for differences, which are handed out as they are found. A side that lies can
/// make up differences, as many as it cares to send; set a limit to how many you take. It cannot keep this side busy for
/// long without sending as much itself.
///
/// # Examples
///
/// See the [crate's page](crate).
#[derive(Debug)]
pub struct Comparison {
    span: Span,
    salt: u64,
    /// How many comparisons share the cost of the first step.
    together: usize,
    /// The other tree's depth, as far as known.
    there: u8,
    next_id: u32,
    /// Nodes that differ, by depth.
    nodes: BTreeMap<u8, VecDeque<u32>>,
    /// Leaves of which the positions up to somewhere were compared.
    rests: Vec<Part>,
    /// By id.
    under_way: BTreeMap<u32, Asked>,
    worth: Worth,
}

/// What is kept of a request, to understand its reply.
#[derive(Debug)]
enum Asked {
    Nodes { depth: u8, step: u8, deepest: u8, parents: Vec<u32> },
    Entries(Listing),
}

/// Sums that the first request may have: 32 KiB.
const FIRST_SUMS_MAX: usize = SUMS_MAX;
/// Sums that the first reply may have when few nodes differ: 8 KiB.
const FIRST_ALLOWANCE: usize = 1024;
/// A request and its reply get so much deeper when many nodes differ: by 32 sums each for a node that differs.
const ROUND: u8 = 2 * SUMS_EACH.ilog2() as u8;

impl Comparison {
    /// Begins the comparison of `tree` with the tree of the same span, and depth `there`, on another side. Better be
    /// sure that they differ: [`Roots`](crate::Roots) finds that out for many spans at once, and the depths too.
    ///
    /// `salt` goes into all that is compared, so that a collision of hashes, which hides or misnames a
    /// difference, does not do so a second time: draw it at random, anew for each comparison. `together` is the number of
    /// comparisons that go on at once, with the same peer: the first step of one alone takes up to 40 KiB, which it is not
    /// worth if there are hundreds.
    #[must_use]
    pub fn new(tree: &Tree, there: u8, salt: u64, together: usize) -> Self {
        Self {
            span: tree.span(),
            salt,
            together: together.max(1),
            there,
            next_id: 0,
            nodes: BTreeMap::from([(0, VecDeque::from([0]))]),
            rests: Vec::new(),
            under_way: BTreeMap::new(),
            worth: Worth::new(),
        }
    }

    /// Whether there is nothing to ask, and no reply to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.under_way.is_empty() && self.nodes.is_empty() && self.rests.is_empty()
    }

    /// How many requests wait for their replies.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The next request for the other side; none if there is nothing to ask before a reply comes, or at all. `tree` and `store`
    /// are this side's.
    ///
    /// # Errors
    ///
    /// When the store cannot be read. Nothing has changed then.
    ///
    /// # Panics
    ///
    /// If `tree` is of another span than the tree that the comparison was made with.
    pub fn next_request<S: Entries>(
        &mut self,
        tree: &Tree,
        store: &S,
    ) -> Result<Option<Request>, ReadError<S::Error>> {
        assert_eq!(tree.span(), self.span, "a comparison stays with the tree of one span");
        let deepest = tree.depth().min(self.there);
        let (ask, asked) = match self.nodes.last_key_value() {
            Some((&depth, _)) if self.rests.is_empty() && depth < deepest => {
                self.ask_nodes(tree, depth, deepest)
            }
            None if self.rests.is_empty() => return Ok(None),
            _ if self.worth.is_to_be_seen() => return Ok(None),
            _ => self.ask_entries(store)?,
        };
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.under_way.insert(id, asked);
        Ok(Some(Request { id, span: self.span, salt: self.salt, ask }))
    }

    /// Takes in the reply to a request, and appends the differences that it tells of, in no order, at most 2,048.
    ///
    /// # Errors
    ///
    /// When it is not the reply to any request under way, or not one that [`Tree::answer`] gives. Nothing was appended
    /// then, and the other side is not what it should be: drop the comparison.
    ///
    /// # Panics
    ///
    /// If `tree` is of another span than the tree that the comparison was made with.
    pub fn handle(
        &mut self,
        tree: &Tree,
        reply: &Reply,
        differences: &mut Vec<Difference>,
    ) -> Result<(), Refused> {
        assert_eq!(tree.span(), self.span, "a comparison stays with the tree of one span");
        let asked = self.under_way.remove(&reply.id).ok_or(Refused::Unasked { id: reply.id })?;
        let outcome = self.understand(tree, &asked, &reply.tell, differences);
        if outcome.is_err() {
            // Not answered, so not done.
            self.under_way.insert(reply.id, asked);
        }
        outcome
    }

    fn understand(
        &mut self,
        tree: &Tree,
        asked: &Asked,
        tell: &Tell,
        differences: &mut Vec<Difference>,
    ) -> Result<(), Refused> {
        match (asked, tell) {
            (Asked::Nodes { depth, step, deepest, parents }, Tell::Nodes(tell)) => {
                let sums = parents.len() << step;
                if tell.step > deepest - depth - step {
                    return Err(Refused::TooDeep);
                }
                if tell.differing.last().is_some_and(|last| *last as usize >= sums) {
                    return Err(Refused::Place);
                }
                self.compare_nodes(tree, depth + step, parents, *step, tell);
                Ok(())
            }
            (Asked::Nodes { depth, step, parents, .. }, Tell::Shallow(there)) => {
                if *there >= depth + step {
                    return Err(Refused::TooDeep);
                }
                // Several replies may say so; the deepest nodes asked for are less deep each time, so this ends.
                self.there = self.there.min(*there);
                self.differ(*depth, parents);
                Ok(())
            }
            (Asked::Entries(listing), Tell::Entries(tell)) => {
                let understood = listing.understand(self.span, tell, differences)?;
                self.worth.replied(&understood);
                if let Some(through) = understood.through {
                    for part in listing.after(self.span, through) {
                        if part.is_whole(self.span) {
                            self.differ(part.depth, &[part.node]);
                        } else {
                            self.rests.push(part);
                        }
                    }
                }
                Ok(())
            }
            _ => Err(Refused::Kind),
        }
    }

    /// Notes what the reply to a request says, which had the sums of `2^step` children of each parent, at `depth`.
    fn compare_nodes(&mut self, tree: &Tree, depth: u8, parents: &[u32], step: u8, tell: &TellNodes) {
        let of = parents.len() << step;
        let nodes = tell.differing.iter().map(|at| child(parents, step, *at));
        let deeper = depth + tell.step;
        if tell.step == 0 || deeper > tree.depth() {
            // Without sums, or if this side's tree has become less deep since it asked.
            self.worth.nodes(tell.differing.len(), of);
            return self.differ(depth, &nodes.collect::<Vec<_>>());
        }
        let mut differing = Vec::new();
        for (node, sums) in nodes.zip(tell.sums.chunks_exact(1 << tell.step)) {
            for (low, sum) in (0..).zip(sums) {
                let node = node << tell.step | low;
                if tree.sum_at(deeper, node, self.salt) != *sum {
                    differing.push(node);
                }
            }
        }
        self.worth.nodes(differing.len(), tell.sums.len());
        self.differ(deeper, &differing);
    }

    /// Notes nodes that differ.
    fn differ(&mut self, depth: u8, nodes: &[u32]) {
        if !nodes.is_empty() {
            self.nodes.entry(depth).or_default().extend(nodes);
        }
    }

    /// Takes the first of the nodes of a depth.
    fn take(&mut self, depth: u8, count: usize) -> Vec<u32> {
        let Some(queue) = self.nodes.get_mut(&depth) else { return Vec::new() };
        let taken = queue.drain(..count).collect();
        if queue.is_empty() {
            self.nodes.remove(&depth);
        }
        taken
    }

    fn ask_nodes(&mut self, tree: &Tree, depth: u8, deepest: u8) -> (Ask, Asked) {
        let share = |whole: usize| SUMS_EACH.max(whole / self.together);
        let (most, allowance) =
            if depth == 0 { (share(FIRST_SUMS_MAX), share(FIRST_ALLOWANCE)) } else { (SUMS_EACH, 0) };
        let step = step(deepest - depth, most);
        let count = self.nodes.get(&depth).map_or(0, |queue| run(queue).take(SUMS_MAX >> step).count());
        let parents = self.take(depth, count);
        let nodes = parents.iter().flat_map(|parent| (0..1 << step).map(move |low| parent << step | low));
        let sums = nodes.map(|node| tree.sum_at(depth + step, node, self.salt)).collect();
        let ask =
            AskNodes { depth, step, deepest, allowance: allowance as u32, parents: parents.clone(), sums };
        (Ask::Nodes(ask), Asked::Nodes { depth, step, deepest, parents })
    }

    /// Asks for the last rest, or for the first of the deepest nodes. There is one or the other.
    fn ask_entries<S: Entries>(&mut self, store: &S) -> Result<(Ask, Asked), ReadError<S::Error>> {
        let (span, bare) = (self.span, self.worth.is_none());
        let (listing, rest) = match (self.rests.last(), self.nodes.last_key_value()) {
            (None, Some((&depth, queue))) => {
                let parts = run(queue).map(|node| Part::whole(span, depth, node));
                let gathered = Listing::gather(store, span, parts, bare)?;
                self.take(depth, gathered.0.leaves());
                gathered
            }
            (rest, _) => {
                let gathered = Listing::gather(store, span, rest.copied().into_iter(), bare)?;
                self.rests.pop();
                gathered
            }
        };
        self.rests.extend(rest);
        self.worth.asked();
        Ok((Ask::Entries(listing.ask(self.salt)), Asked::Entries(listing)))
    }
}

/// The nodes at the front that are ascending: replies that came out of order leave them in several such runs.
fn run(queue: &VecDeque<u32>) -> impl Iterator<Item = u32> {
    let mut before = None;
    queue.iter().copied().take_while(move |node| {
        let goes_on = before.is_none_or(|before| before < *node);
        before = Some(*node);
        goes_on
    })
}

/// How much deeper than its parents a request looks, if `rest` levels are left and it may have `most` sums for each parent.
///
/// Half of the way, since its reply goes on and the sums of both are fewest then; but as far as is needed for one further
/// request and reply to get to the leaves.
fn step(rest: u8, most: usize) -> u8 {
    rest.div_ceil(2).max(rest.saturating_sub(ROUND)).min(most.ilog2() as u8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// However much differs, what waits to be asked for is bounded by what is under way, not by the tree.
    #[test]
    fn what_waits_is_bounded_by_what_is_under_way() {
        const UNDER_WAY: usize = 2;
        let depth = 17;
        let store = |digest| (0..1u128 << depth).map(|leaf| (leaf << (128 - depth), digest)).collect();
        let (mine, yours): (BTreeMap<u128, u128>, BTreeMap<u128, u128>) = (store(1), store(2));
        let tree = |store: &BTreeMap<u128, u128>| {
            let entries = store.iter().map(|(&position, &digest)| crate::Entry { position, digest });
            Tree::from_entries(Span::ALL, depth as u8, entries).unwrap()
        };
        let (here, there) = (tree(&mine), tree(&yours));
        let mut comparison = Comparison::new(&here, depth as u8, 1, 1);
        let (mut found, mut count, mut requests) = (Vec::new(), 0, VecDeque::new());
        while !comparison.is_done() {
            while requests.len() < UNDER_WAY {
                let Some(request) = comparison.next_request(&here, &mine).unwrap() else { break };
                requests.push_back(request);
            }
            let reply = there.answer(&requests.pop_front().unwrap(), &yours).unwrap();
            comparison.handle(&here, &reply, &mut found).unwrap();
            count += found.len();
            found.clear();
            let waiting = comparison.nodes.values().map(VecDeque::len).sum::<usize>();
            assert!(comparison.nodes.values().all(|queue| queue.len() <= UNDER_WAY * SUMS_MAX));
            assert!(waiting <= 3 * UNDER_WAY * SUMS_MAX, "{waiting}");
            assert!(comparison.rests.len() <= UNDER_WAY);
        }
        assert_eq!(count, 1 << depth);
    }

    #[test]
    fn steps_meet_half_way_and_reach_the_leaves() {
        // Levels left, sums for each parent; the step.
        for (rest, most, expected) in [
            (22, 4096, 12),
            (25, 4096, 12),
            (16, 4096, 8),
            (9, 4096, 5),
            (10, 32, 5),
            (7, 32, 4),
            (1, 32, 1),
            (14, 64, 6),
        ] {
            assert_eq!(step(rest, most), expected, "{rest} {most}");
        }
    }
}
