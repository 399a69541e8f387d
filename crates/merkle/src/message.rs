//! What two sides tell each other about one span, and the limits of it.

use crate::Span;
use crate::hash::Fingerprint;

/// Sums in a request or a reply.
pub(crate) const SUMS_MAX: usize = 4096;
/// Fingerprints in a request; as many entries as the responder has to read, but for what it reports.
pub(crate) const FINGERPRINTS_MAX: usize = 1024;
/// Leaves in a request; each is a read of its own for the responder.
pub(crate) const LEAVES_MAX: usize = 128;
/// Entries of the responder in a reply.
pub(crate) const FOUND_MAX: usize = 1024;

/// What the initiator of a [`Comparison`](crate::Comparison) asks: answer it with [`Tree::answer`](crate::Tree::answer).
///
/// It travels as bytes, or through `serde` with the feature of that name, as a byte string of the same bytes. A request
/// that was decoded is within all limits; whether it is about the right span is for the answer to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(crate) id: u32,
    pub(crate) span: Span,
    pub(crate) salt: u64,
    pub(crate) ask: Ask,
}

impl Request {
    /// The greatest length of the bytes of a request.
    pub const BYTES_MAX: usize = 64 * 1024;

    /// What it is about: the span of the tree that shall answer.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }
}

/// The answer to a [`Request`], for [`Comparison::handle`](crate::Comparison::handle). It travels like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(crate) id: u32,
    pub(crate) tell: Tell,
}

impl Reply {
    /// The greatest length of the bytes of a reply.
    pub const BYTES_MAX: usize = 64 * 1024;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Nodes(AskNodes),
    Entries(AskEntries),
}

/// "These are my sums; which are not yours, and what are yours below those?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AskNodes {
    /// Of the parents.
    pub(crate) depth: u8,
    /// How much deeper the nodes are that the sums are of.
    pub(crate) step: u8,
    /// The asker can compare no deeper.
    pub(crate) deepest: u8,
    /// How many sums the reply may have in any case, however few nodes differ.
    pub(crate) allowance: u32,
    /// Ascending.
    pub(crate) parents: Vec<u32>,
    /// Of `2^step` nodes for each parent.
    pub(crate) sums: Vec<u64>,
}

/// "These are my entries; which have you not, which other digests, and what else?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AskEntries {
    pub(crate) leaves: Leaves,
    /// Of one leaf after the other.
    pub(crate) fingerprints: Vec<Fingerprint>,
}

/// The leaves of a request, of which the first may begin later and the last may end earlier. There is one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaves {
    pub(crate) depth: u8,
    /// The first position that is asked for, if not that of the first leaf.
    pub(crate) first: Option<u128>,
    /// The last position that is asked for, if not that of the last leaf.
    pub(crate) last: Option<u128>,
    /// Ascending, each with the number of its fingerprints.
    pub(crate) list: Vec<(u32, u32)>,
}

impl Leaves {
    /// The positions that the `at`-th leaf stands for here.
    pub(crate) fn range(&self, span: Span, at: usize) -> (u128, u128) {
        let (first, last) = span.node(self.depth, self.list[at].0);
        let (is_first, is_last) = (at == 0, at + 1 == self.list.len());
        (self.first.filter(|_| is_first).unwrap_or(first), self.last.filter(|_| is_last).unwrap_or(last))
    }

    /// The first and the last position that are asked for.
    pub(crate) fn ends(&self, span: Span) -> (u128, u128) {
        (self.range(span, 0).0, self.range(span, self.list.len() - 1).1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tell {
    Nodes(TellNodes),
    /// The responder's tree is not as deep as the nodes that were asked for; it has this depth.
    Shallow(u8),
    Entries(TellEntries),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TellNodes {
    /// How much deeper the sums are than the nodes that differ; at 0 there are none.
    pub(crate) step: u8,
    /// Which of the request's sums differ, by their places there; ascending.
    pub(crate) differing: Vec<u32>,
    /// Of `2^step` nodes for each that differs.
    pub(crate) sums: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TellEntries {
    /// The last position that was compared, if there was no room to go on.
    pub(crate) through: Option<u128>,
    /// Which of the request's fingerprints have no entry, by their places there; ascending.
    pub(crate) absent: Vec<u32>,
    /// Which have another digest, and what digest; ascending.
    pub(crate) changed: Vec<(u32, u128)>,
    /// Bytes of a suffix: enough for positions below the leaves.
    pub(crate) suffix_bytes: u8,
    /// What was not in the request; ascending.
    pub(crate) extra: Vec<Extra>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extra {
    /// The place of the leaf in the request.
    pub(crate) leaf: u32,
    /// The position, without the bits that all positions of the leaf have.
    pub(crate) suffix: u128,
    pub(crate) digest: u128,
}

/// How many bytes hold what positions of a leaf do not have in common.
pub(crate) fn suffix_bytes(span: Span, depth: u8) -> u8 {
    (128 - span.bits() - depth).div_ceil(8)
}
