//! Many spans at once: which of them differ.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3;

use crate::codec::{DecodeError, Reader, Writer};
use crate::{Span, Tree, hash};

/// The roots of the trees that one side shares with another: what the two compare first, often.
///
/// If all are equal, a request of 19 bytes and a reply of 3 show it, however many there are. If not, the reply lists
/// the other side's roots, about 10 bytes each.
///
/// # Examples
///
/// ```
/// use dynkv_merkle::{Roots, Span, Tree};
///
/// // Partitions 3 and 5 of 256, on two nodes. One node has an entry that the other has not.
/// let here = [3, 5].map(|index| Tree::new(Span::new(8, index).unwrap()));
/// let mut there = here.clone();
/// there[1].update(5 << 120, None, Some(7))?;
///
/// let (here, there) = (Roots::new(8, &here)?, Roots::new(8, &there)?);
/// let request = here.request(0x5a17);
/// let reply = there.answer(&request)?;
/// let found = here.compare(&request, &reply)?;
/// assert_eq!(found.differing, [(Span::new(8, 5).unwrap(), 0)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    bits: u8,
    /// Depth and root, by index.
    trees: BTreeMap<u32, (u8, u128)>,
}

/// "These are my roots, in short: are they yours?" [Answer](Roots::answer) it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsRequest {
    bits: u8,
    salt: u64,
    fold: u64,
}

/// The answer to a [`RootsRequest`], for [`Roots::compare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsReply {
    bits: u8,
    /// Index, depth and root, by index; none if all are equal.
    list: Option<Vec<(u32, u8, u64)>>,
}

/// Which spans differ between two sides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootsDifference {
    /// Spans whose trees differ, with the depth of the other side's: what a [`Comparison`](crate::Comparison) wants to know.
    pub differing: Vec<(Span, u8)>,
    /// Spans of which the other side has listed no tree: the two do not agree what they share.
    pub only_here: Vec<Span>,
    /// Spans of which this side has no tree.
    pub only_there: Vec<Span>,
}

/// Why roots cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// Spans of different size: other bits than the others, or than the other side's.
    #[error("spans of 2^{found} beside spans of 2^{bits}; all nodes must divide the positions alike")]
    Bits {
        /// As they should be.
        bits: u8,
        /// As found.
        found: u8,
    },
    /// Two trees of one span.
    #[error("two trees of span {span}; give one")]
    Twice {
        /// The span.
        span: Span,
    },
    /// More trees than fit into a reply.
    #[error("more than {} trees; compare them in several parts", Roots::TREES_MAX)]
    TooMany,
}

impl Roots {
    /// The greatest number of trees.
    pub const TREES_MAX: usize = 1 << 16;

    /// The roots of these trees, of spans with `bits` bits, in any order.
    ///
    /// # Errors
    ///
    /// When a tree is of a span of another size, two are of the same, or there are more than [`Roots::TREES_MAX`].
    pub fn new<'a>(bits: u8, trees: impl IntoIterator<Item = &'a Tree>) -> Result<Self, RootsError> {
        let mut roots = BTreeMap::new();
        for tree in trees {
            let span = tree.span();
            if span.bits() != bits {
                return Err(RootsError::Bits { bits, found: span.bits() });
            }
            if roots.insert(span.index(), (tree.depth(), tree.root())).is_some() {
                return Err(RootsError::Twice { span });
            }
            if roots.len() > Self::TREES_MAX {
                return Err(RootsError::TooMany);
            }
        }
        Ok(Self { bits, trees: roots })
    }

    /// The request for the other side. `salt` goes into what is compared, so that a collision of hashes does not happen a
    /// second time: draw it at random, anew each time.
    #[must_use]
    pub fn request(&self, salt: u64) -> RootsRequest {
        RootsRequest { bits: self.bits, salt, fold: self.fold(salt) }
    }

    /// The reply to another side's request; these are the roots of the trees that this side shares with it.
    ///
    /// # Errors
    ///
    /// When the other side's spans are of another size.
    pub fn answer(&self, request: &RootsRequest) -> Result<RootsReply, RootsError> {
        self.check(request.bits)?;
        let salt = request.salt;
        let list = || {
            self.trees
                .iter()
                .map(|(index, (depth, root))| (*index, *depth, hash::of_sum(*root, salt)))
                .collect()
        };
        Ok(RootsReply { bits: self.bits, list: (self.fold(salt) != request.fold).then(list) })
    }

    /// What the reply to a request says. The roots may be newer than those of the request.
    ///
    /// # Errors
    ///
    /// When the other side's spans are of another size.
    pub fn compare(&self, request: &RootsRequest, reply: &RootsReply) -> Result<RootsDifference, RootsError> {
        self.check(reply.bits)?;
        let mut found = RootsDifference::default();
        let Some(list) = &reply.list else { return Ok(found) };
        let span = |index| Span { bits: self.bits, index };
        let mut here = self.trees.iter().peekable();
        for (index, depth, root) in list {
            while let Some((index, _)) = here.next_if(|(own, _)| *own < index) {
                found.only_here.push(span(*index));
            }
            match here.next_if(|(own, _)| *own == index) {
                None => found.only_there.push(span(*index)),
                Some((_, (_, own))) if hash::of_sum(*own, request.salt) != *root => {
                    found.differing.push((span(*index), *depth));
                }
                Some(_) => {}
            }
        }
        found.only_here.extend(here.map(|(index, _)| span(*index)));
        Ok(found)
    }

    fn check(&self, found: u8) -> Result<(), RootsError> {
        let bits = self.bits;
        if found == bits { Ok(()) } else { Err(RootsError::Bits { bits, found }) }
    }

    /// One hash of all roots, and of whose they are.
    fn fold(&self, salt: u64) -> u64 {
        let mut hash = Xxh3::with_seed(salt);
        for (index, (_, root)) in &self.trees {
            hash.update(&index.to_be_bytes());
            hash.update(&root.to_be_bytes());
        }
        hash.digest()
    }
}

const ROOTS: u8 = 1;
const SAME: u8 = 2;

impl RootsRequest {
    /// The length of the bytes of a request.
    pub const BYTES_MAX: usize = 19;

    /// The bytes that travel: version, kind, bits, salt, hash of all roots.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(ROOTS);
        out.byte(self.bits);
        out.bytes(&self.salt.to_be_bytes());
        out.bytes(&self.fold.to_be_bytes());
        out.finish()
    }

    /// Reads what [`RootsRequest::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are not a request.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, kind) = Reader::new(bytes, Self::BYTES_MAX)?;
        if kind != ROOTS {
            return Err(DecodeError::Kind { found: kind });
        }
        let bits = reader.byte_to(Span::BITS_MAX, "bits")?;
        let salt = u64::from_be_bytes(reader.array()?);
        let fold = u64::from_be_bytes(reader.array()?);
        reader.finish()?;
        Ok(Self { bits, salt, fold })
    }
}

impl RootsReply {
    /// The greatest length of the bytes of a reply: 14 for each tree.
    pub const BYTES_MAX: usize = 8 + 14 * Roots::TREES_MAX;

    /// The bytes that travel: version, kind, bits; if not all are the same, the number of roots and for each the gap after the index
    /// before, the depth, and the root in 8 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(if self.list.is_some() { ROOTS } else { SAME });
        out.byte(self.bits);
        if let Some(list) = &self.list {
            out.count(list.len());
            let mut before = None;
            for (index, depth, root) in list {
                out.after(before, *index);
                out.byte(*depth);
                out.bytes(&root.to_be_bytes());
                before = Some(*index);
            }
        }
        out.finish()
    }

    /// Reads what [`RootsReply::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are not a reply within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, kind) = Reader::new(bytes, Self::BYTES_MAX)?;
        let bits = reader.byte_to(Span::BITS_MAX, "bits")?;
        let list = match kind {
            SAME => None,
            ROOTS => {
                let (mut list, mut before) = (Vec::new(), None);
                for _ in 0..reader.count(Roots::TREES_MAX, "roots")? {
                    let index = reader.after(before, 1 << bits, "index")?;
                    let depth = reader.byte_to(Tree::DEPTH_MAX, "depth")?;
                    list.push((index, depth, u64::from_be_bytes(reader.array()?)));
                    before = Some(index);
                }
                Some(list)
            }
            found => return Err(DecodeError::Kind { found }),
        };
        reader.finish()?;
        Ok(Self { bits, list })
    }
}
