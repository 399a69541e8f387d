//! The last step of a comparison: the entries of leaves that differ.
//!
//! The initiator lists its entries as fingerprints of 12 bytes, and the responder says which of them it has not, which have
//! other digests, and what else it has. That beats 30 bytes for each entry of the responder as long as most are the same. Where
//! few are, as the replies show, the initiator asks without listing anything, and gets all.

use crate::entries::read;
use crate::hash::Fingerprint;
use crate::message::{
    AskEntries, FINGERPRINTS_MAX, FOUND_MAX, LEAVES_MAX, Leaves, TellEntries, suffix_bytes,
};
use crate::{Difference, Entries, Entry, ReadError, Refused, Span, Tree};

/// Positions of a node that are to be compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) depth: u8,
    pub(crate) node: u32,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Part {
    /// All positions of a node.
    pub(crate) fn whole(span: Span, depth: u8, node: u32) -> Self {
        let (first, last) = span.node(depth, node);
        Self { depth, node, first, last }
    }

    pub(crate) fn is_whole(&self, span: Span) -> bool {
        span.node(self.depth, self.node) == (self.first, self.last)
    }
}

/// What this side holds in some leaves, as it was when it asked.
#[derive(Debug)]
pub(crate) struct Listing {
    leaves: Leaves,
    entries: Vec<Entry>,
    /// Whether the entries were not listed in the request.
    bare: bool,
}

/// What a reply comes to.
pub(crate) struct Understood {
    /// The last position that was compared, if that was not all.
    pub(crate) through: Option<u128>,
    /// How many of this side's entries were compared, and how many of those are the same, or have another digest.
    own: usize,
    same: usize,
    changed: usize,
}

impl Listing {
    /// Reads the entries of some parts of one depth, in ascending order, as many as a request may have, and of one part at
    /// least. Also returns what of the last part had no room.
    pub(crate) fn gather<S: Entries>(
        store: &S,
        span: Span,
        parts: impl Iterator<Item = Part>,
        bare: bool,
    ) -> Result<(Self, Option<Part>), ReadError<S::Error>> {
        // All that the reply has room for, if the other side holds about as much.
        let entries_max = if bare { FOUND_MAX } else { FINGERPRINTS_MAX };
        let mut leaves = Leaves { depth: 0, first: None, last: None, list: Vec::new() };
        let (mut entries, mut rest) = (Vec::new(), None);
        for part in parts.take(LEAVES_MAX) {
            // A leaf that was begun should fit: more entries than this are rare.
            if !leaves.list.is_empty() && entries.len() + 2 * Tree::LEAF_ENTRIES_MAX as usize > entries_max {
                break;
            }
            let (begin, room) = (entries.len(), entries_max - entries.len());
            read(store, part.first, part.last, room + 1, &mut entries)?;
            let mut last = part.last;
            if entries.len() - begin > room {
                // Here ends the request, before the entry that has no room.
                last = entries[begin + room].position - 1;
                entries.truncate(begin + room);
                rest = Some(Part { first: last + 1, ..part });
            }
            let whole = Part::whole(span, part.depth, part.node);
            leaves.depth = part.depth;
            leaves.list.push((part.node, (entries.len() - begin) as u32));
            if part.first != whole.first {
                leaves.first = Some(part.first);
            }
            if last != whole.last {
                leaves.last = Some(last);
            }
            if rest.is_some() {
                break;
            }
        }
        Ok((Self { leaves, entries, bare }, rest))
    }

    /// How many leaves it is about.
    pub(crate) fn leaves(&self) -> usize {
        self.leaves.list.len()
    }

    pub(crate) fn ask(&self, salt: u64) -> AskEntries {
        let mut leaves = self.leaves.clone();
        if self.bare {
            leaves.list.iter_mut().for_each(|(_, count)| *count = 0);
            return AskEntries { leaves, fingerprints: Vec::new() };
        }
        let fingerprints = self.entries.iter().map(|entry| Fingerprint::of(*entry, salt)).collect();
        AskEntries { leaves, fingerprints }
    }

    /// The parts after `through`.
    pub(crate) fn after(&self, span: Span, through: u128) -> impl Iterator<Item = Part> {
        let depth = self.leaves.depth;
        self.leaves.list.iter().enumerate().filter_map(move |(at, (node, _))| {
            let (first, last) = self.leaves.range(span, at);
            (last > through).then(|| Part { depth, node: *node, first: first.max(through + 1), last })
        })
    }

    /// Checks the reply, and appends the differences that it tells of; none if it is refused.
    pub(crate) fn understand(
        &self,
        span: Span,
        tell: &TellEntries,
        differences: &mut Vec<Difference>,
    ) -> Result<Understood, Refused> {
        let (begin, end) = self.leaves.ends(span);
        if let Some(through) = tell.through {
            // A reply that breaks off has brought as much as any may have: nobody is kept busy for nothing.
            if tell.changed.len() + tell.extra.len() < FOUND_MAX || !(begin..end).contains(&through) {
                return Err(Refused::BreaksOff);
            }
        }
        let mut understood = Understood { through: tell.through, own: 0, same: 0, changed: 0 };
        let through = tell.through.unwrap_or(end);
        let extras = self.positions(span, tell, through)?;
        let mut found = Vec::with_capacity(tell.absent.len() + tell.changed.len() + extras.len());
        let mut absent = tell.absent.iter().peekable();
        let mut changed = tell.changed.iter().peekable();
        let mut extras = extras.into_iter().peekable();
        for (at, entry) in (0..).zip(&self.entries) {
            while let Some((position, digest)) = extras.next_if(|(position, _)| *position < entry.position) {
                found.push(Difference { position, here: None, there: Some(digest) });
            }
            let extra = extras.next_if(|(position, _)| *position == entry.position);
            let there = if self.bare {
                extra.map(|(_, digest)| digest)
            } else {
                let is_absent = absent.next_if(|absent| **absent == at).is_some();
                match changed.next_if(|(changed, _)| *changed == at) {
                    _ if extra.is_some() => return Err(Refused::Position),
                    Some(_) if is_absent => return Err(Refused::Place),
                    Some(_) if entry.position > through => return Err(Refused::Position),
                    Some((_, digest)) if *digest == entry.digest => return Err(Refused::Same),
                    Some((_, digest)) => Some(*digest),
                    None if is_absent => None,
                    None => Some(entry.digest),
                }
            };
            // Beyond where it broke off, the responder has not looked.
            if entry.position > through {
                continue;
            }
            understood.own += 1;
            if there == Some(entry.digest) {
                understood.same += 1;
            } else {
                understood.changed += usize::from(there.is_some());
                found.push(Difference { position: entry.position, here: Some(entry.digest), there });
            }
        }
        if absent.next().is_some() || changed.next().is_some() {
            return Err(Refused::Place);
        }
        found.extend(extras.map(|(position, digest)| Difference {
            position,
            here: None,
            there: Some(digest),
        }));
        differences.append(&mut found);
        Ok(understood)
    }

    /// Positions and digests of what was not in the request, ascending.
    fn positions(&self, span: Span, tell: &TellEntries, through: u128) -> Result<Vec<(u128, u128)>, Refused> {
        if tell.suffix_bytes != suffix_bytes(span, self.leaves.depth) {
            return Err(Refused::Position);
        }
        let mut positions: Vec<(u128, u128)> = Vec::with_capacity(tell.extra.len());
        for extra in &tell.extra {
            let at = extra.leaf as usize;
            let (node, _) = self.leaves.list.get(at).ok_or(Refused::Place)?;
            let whole = Part::whole(span, self.leaves.depth, *node);
            let (first, last) = self.leaves.range(span, at);
            let position = whole.first | extra.suffix;
            let ascends = positions.last().is_none_or(|(before, _)| *before < position);
            let is_inside = extra.suffix <= whole.last - whole.first && (first..=last).contains(&position);
            if !is_inside || !ascends || position > through {
                return Err(Refused::Position);
            }
            positions.push((position, extra.digest));
        }
        Ok(positions)
    }
}

/// Whether it is worth while to list entries. While nearly all leaves differ, and no reply has shown more, one
/// request goes ahead of the others.
#[derive(Debug)]
pub(crate) struct Worth {
    dense: bool,
    asked: bool,
    /// What fingerprints have saved, or would have.
    saved_bytes: Option<i64>,
}

impl Worth {
    pub(crate) fn new() -> Self {
        Self { dense: true, asked: false, saved_bytes: None }
    }

    /// Takes note of how many of some nodes differ.
    pub(crate) fn nodes(&mut self, differing: usize, of: usize) {
        self.dense = 8 * differing >= 7 * of;
    }

    /// Takes note of a request that was made.
    pub(crate) fn asked(&mut self) {
        self.asked = true;
    }

    /// Takes note of a reply.
    pub(crate) fn replied(&mut self, reply: &Understood) {
        // Beside 12 bytes for its fingerprint: an entry that is the same saves its suffix and digest, which are 30 bytes or so, and
        // one that has another digest the suffix, less two bytes for its place.
        let bytes = |count: usize, bytes: i64| i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(bytes);
        let saved =
            bytes(reply.same, 30) + bytes(reply.changed, 12) - bytes(reply.own, Fingerprint::LEN as i64);
        self.saved_bytes = Some(self.saved_bytes.unwrap_or(0).saturating_add(saved));
    }

    /// Whether further requests should wait for the first reply.
    pub(crate) fn is_to_be_seen(&self) -> bool {
        self.dense && self.asked && self.saved_bytes.is_none()
    }

    /// Whether requests should list nothing.
    pub(crate) fn is_none(&self) -> bool {
        self.saved_bytes.is_some_and(|saved| saved < 0)
    }
}
