//! Counting answers (paper, sections 4.5 and 4.6): pure values, no I/O.
//!
//! A partition has one *slot* for each home. A home fills its own; another node fills the slot of a home that it stands in
//! for, with a hint or by answering a read. Nobody counts twice, and no slot does: what counts is the greatest matching of
//! nodes and slots among the answers. So a hint and its target's own copy are one acknowledgement, and two hints kept
//! by one node are one, too.

use std::collections::BTreeSet;

use dynkv_ring::NodeId;

use crate::planted::{self, Bug};

/// How many acknowledgements, and of which kind, a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Acknowledgements in all (`r` or `w`).
    pub(crate) replicas: u8,
    /// How many of them from disk (`dw`; 0 for reads).
    pub(crate) durable: u8,
    /// How many of them from home replicas (`pr` or `pw`).
    pub(crate) homes: u8,
}

/// One node that was asked to fill one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) node: NodeId,
    /// The home whose slot it is; the node itself, if it is a home.
    pub(crate) slot: NodeId,
    /// Whether it was asked to answer from disk.
    pub(crate) durable: bool,
}

impl Asked {
    fn is_home(&self) -> bool {
        self.node == self.slot
    }
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// More answers are needed, and may come.
    Waiting,
    /// Everything needed is there.
    Met,
    /// What is outstanding cannot be enough.
    Missed,
}

/// Answers so far and answers outstanding.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    need: Need,
    answered: Vec<Asked>,
    outstanding: Vec<Asked>,
}

impl Need {
    fn covers(&self, need: Need) -> bool {
        self.replicas >= need.replicas && self.durable >= need.durable && self.homes >= need.homes
    }

    /// What `answers` come to.
    fn met_by<'a>(answers: impl Iterator<Item = &'a Asked> + Clone) -> Need {
        Need {
            replicas: matching(answers.clone()),
            durable: matching(answers.clone().filter(|asked| asked.durable)),
            homes: matching(answers.filter(|asked| asked.is_home())),
        }
    }
}

impl Quorum {
    pub(crate) fn new(need: Need) -> Quorum {
        Quorum { need, answered: Vec::new(), outstanding: Vec::new() }
    }

    /// A node was asked to fill a slot.
    pub(crate) fn asked(&mut self, asked: Asked) {
        self.outstanding.push(asked);
    }

    /// It did what it was asked for.
    pub(crate) fn answered(&mut self, asked: Asked) {
        self.failed(asked);
        self.answered.push(asked);
    }

    /// It did not, and will not.
    pub(crate) fn failed(&mut self, asked: Asked) {
        if let Some(at) = self.outstanding.iter().position(|other| *other == asked) {
            self.outstanding.swap_remove(at);
        }
    }

    /// Its answer counts for nothing after all.
    pub(crate) fn withdrawn(&mut self, asked: Asked) {
        self.answered.retain(|other| *other != asked);
    }

    /// Answers so far.
    pub(crate) fn got(&self) -> Need {
        Need::met_by(self.answered.iter())
    }

    /// Whether somebody has filled the slot of a home.
    pub(crate) fn is_filled(&self, slot: &NodeId) -> bool {
        self.answered.iter().any(|asked| asked.slot == *slot)
    }

    /// Who has filled the slot of a home or may still do so, the one who was asked last; `None` when all have failed.
    pub(crate) fn hopes_for(&self, slot: &NodeId) -> Option<NodeId> {
        let all = self.outstanding.iter().rev().chain(self.answered.iter().rev());
        all.filter(|asked| asked.slot == *slot).map(|asked| asked.node).next()
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let possible = || Need::met_by(self.answered.iter().chain(&self.outstanding));
        if self.got().covers(self.need) {
            Verdict::Met
        } else if possible().covers(self.need) {
            Verdict::Waiting
        } else {
            Verdict::Missed
        }
    }
}

/// The size of the greatest matching of nodes and slots among `answers`, found by augmenting paths: there are a handful.
fn matching<'a>(answers: impl Iterator<Item = &'a Asked> + Clone) -> u8 {
    // Homes match themselves; almost always there is nobody else.
    if answers.clone().all(Asked::is_home) {
        return answers.count() as u8;
    }
    let answers: Vec<&Asked> = answers.collect();
    let mut nodes: Vec<NodeId> = answers.iter().map(|asked| asked.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if planted::is(Bug::SlotCountsTwice) {
        return nodes.len() as u8;
    }
    if planted::is(Bug::NodeCountsTwice) {
        return answers.iter().map(|asked| asked.slot).collect::<BTreeSet<_>>().len() as u8;
    }
    // Of each slot that is taken: the slot and its node.
    let mut taken: Vec<(NodeId, NodeId)> = Vec::new();
    nodes.iter().filter(|node| augment(&answers, node, &mut taken, &mut Vec::new())).count() as u8
}

/// Finds a slot for `node`, moving those who took one to others if that makes room.
fn augment(
    answers: &[&Asked],
    node: &NodeId,
    taken: &mut Vec<(NodeId, NodeId)>,
    tried: &mut Vec<NodeId>,
) -> bool {
    for asked in answers.iter().filter(|asked| asked.node == *node) {
        if tried.contains(&asked.slot) {
            continue;
        }
        tried.push(asked.slot);
        let Some(at) = taken.iter().position(|(slot, _)| *slot == asked.slot) else {
            taken.push((asked.slot, *node));
            return true;
        };
        let holder = taken[at].1;
        if augment(answers, &holder, taken, tried) {
            // The holder has taken another slot; its old entry is this node's now.
            if let Some(at) = taken.iter().position(|(slot, by)| *slot == asked.slot && *by == holder) {
                taken[at].1 = *node;
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> NodeId {
        name.parse().expect("a good id")
    }

    /// `"a"`: home a from memory; `"a!"`: from disk; `"d/b!"`: d with a hint for b.
    fn asked(text: &str) -> Asked {
        let (name, durable) = (text.trim_end_matches('!'), text.ends_with('!'));
        let (node, slot) = name.split_once('/').unwrap_or((name, name));
        Asked { node: id(node), slot: id(slot), durable }
    }

    /// Asks those in `who`, then lets them answer (`+`) or fail (`-`) in order; compares the verdict at the start and after
    /// each.
    fn check(need: (u8, u8, u8), who: &str, answers: &str, verdicts: &str) {
        let mut quorum = Quorum::new(Need { replicas: need.0, durable: need.1, homes: need.2 });
        let who: Vec<Asked> = who.split_whitespace().map(asked).collect();
        who.iter().for_each(|&asked| quorum.asked(asked));
        let letter = |quorum: &Quorum| match quorum.verdict() {
            Verdict::Waiting => '.',
            Verdict::Met => 'M',
            Verdict::Missed => 'X',
        };
        let mut seen = String::from(letter(&quorum));
        for (&asked, answer) in who.iter().zip(answers.chars()) {
            if answer == '+' {
                quorum.answered(asked);
            } else {
                quorum.failed(asked);
            }
            seen.push(letter(&quorum));
        }
        assert_eq!(seen, verdicts, "{need:?} {who:?} {answers}");
    }

    #[test]
    fn verdicts() {
        // need (w, dw, pw); who is asked; who answers; verdict before and after each answer
        check((2, 1, 0), "a! b c", "+++", "..MM");
        check((2, 1, 0), "a b c!", "+++", "...M");
        check((2, 1, 0), "a! b c", "-", ".X");
        check((2, 1, 0), "a! b c", "+--", "...X");
        check((2, 2, 0), "a! b! c!", "-++", "...M");
        check((3, 0, 0), "a b c", "++-", "...X");
        check((1, 0, 0), "", "", "X");
        check((0, 0, 0), "", "", "M");
        // Hints count, but not as homes.
        check((2, 2, 2), "a! b! d/b!", "+-+", "..XX");
        check((2, 2, 1), "a! b! d/b!", "+-+", "...M");
        check((2, 2, 0), "d/a! e/b!", "++", "..M");
    }

    #[test]
    fn no_node_and_no_slot_counts_twice() {
        // A hint and its target's own copy.
        check((2, 0, 0), "b d/b", "++", "XXX");
        // Two hints of one node, and the coordinator's beside its own copy.
        check((2, 0, 0), "d/a d/b", "++", "XXX");
        check((2, 0, 0), "a a/b", "++", "XXX");
        check((3, 0, 0), "a a/b c d/b", "++++", "....M");
        // The one with two hints stands in for the other slot when that leaves more.
        check((3, 0, 0), "d/a d/b e/a c", "++++", "....M");
        check((2, 2, 0), "d/a! d/b e/b!", "+++", "...M");
        check((2, 2, 0), "d/a! e/a! d/b", "+++", "XXXX");
    }

    proptest! {
        #[test]
        fn the_matching_is_the_greatest(edges in prop::collection::vec((0usize..5, 0usize..4), 0..9)) {
            const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
            let answers: Vec<Asked> = edges
                .iter()
                .map(|&(node, slot)| Asked { node: id(NODES[node]), slot: id(NODES[slot]), durable: false })
                .collect();
            // By trying every subset.
            let greatest = (0u32..1 << edges.len())
                .filter_map(|subset| {
                    let chosen: Vec<_> =
                        edges.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, edge)| edge).collect();
                    let clash = chosen
                        .iter()
                        .enumerate()
                        .any(|(i, a)| chosen[..i].iter().any(|b| a.0 == b.0 || a.1 == b.1));
                    (!clash).then_some(chosen.len())
                })
                .max();
            let distinct_homes_only = answers.iter().all(Asked::is_home);
            prop_assume!(!distinct_homes_only || edges.iter().enumerate().all(|(i, a)| !edges[..i].contains(a)));
            prop_assert_eq!(Some(usize::from(matching(answers.iter()))), greatest);
        }
    }
}
