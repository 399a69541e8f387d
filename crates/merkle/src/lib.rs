#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! | to | see |
//! |---|---|
//! | keep a tree | [`Tree::update`], [`Tree::resize`], [`Rebuild`], [`Span`] |
//! | say where the entries are | [`Entries`], [`Entry`] |
//! | find out which of many trees differ | [`Roots`] |
//! | find out where two trees differ | [`Comparison`], [`Tree::answer`], [`Difference`] |
//! | keep a tree over a restart | [`Tree::to_bytes`], [`Tree::from_bytes`] |
//! | check a tree against its store | [`Tree::verify`], [`Rebuild`] |
//!
//! # Why sums
//!
//! A leaf is the sum, modulo 2^128, of the hashes (xxh3-128) of its entries' positions and digests; a node above is the sum of its
//! children. That is an additive multiset hash (Clarke et al., "Incremental multiset hash functions", 2003), where the
//! textbook's tree (Merkle, 1987) hashes the concatenation of the children. The reasons:
//!
//! - *A node's value must not depend on where the leaves are.* Replicas grow their trees at different times. If equal
//!   contents shall have equal roots all the same, then what is a leaf for one and has children for the other must have one value;
//!   so the hash of a range must follow from the hashes of its halves *and* from its entries in any order. That
//!   makes it a commutative, associative combination, such as a sum. A hash of a concatenation is not one, and would force a fixed depth on
//!   everybody or compare unequal after each growth.
//! - An update needs only the old and the new digest: subtract, add, in whatever order updates come.
//! - Any level can be had from any below it, so that only every fifth is stored.
//!
//! Sums, not exclusive ors: an entry that is told twice by mistake vanishes from an exclusive or, and collisions of those are
//! found by linear algebra. Of the hash of position *and* digest, not of raw digests: those of two keys could be exchanged
//! unnoticed, or move against each other. Two different sets have equal sums once in 2^128 by accident. Somebody who chooses digests at
//! will *can* build collisions; a tree finds accidents, not attacks.
//!
//! # Leaves
//!
//! The depth is such that a leaf has 16 to 32 entries on average, so a tree takes 0.5 to 1 byte for an entry, and the list of a
//! leaf, which is the smallest thing that is compared, some hundred bytes. A tree cannot split its leaves itself, since it knows no
//! entries: when [`Tree::resize`] says so, a [`Rebuild`] reads them again. Between growing and shrinking lies a factor of
//! four, so trees do not flutter.
//!
//! # A comparison
//!
//! ```text
//! initiator                                              responder
//! |  roots: one hash of all                                      |
//! | -----------------------------------------------------------> |
//! |              the same; or a list of roots and depths         |
//! | <----------------------------------------------------------- |
//! |  nodes: my sums, s levels below nodes that differ            |   again while the leaves are not
//! | -----------------------------------------------------------> |   reached; for one difference
//! |        which differ, and my sums t levels below those        |   in 10^8 keys, once
//! | <----------------------------------------------------------- |
//! |  entries: fingerprints of mine in leaves that differ         |
//! | -----------------------------------------------------------> |
//! |   which I have not, my digest where it differs, what else    |
//! | <----------------------------------------------------------- |
//! ```
//!
//! Both sides compare in each round trip, so it gets two steps deeper. The first step has up to 4,096 sums, a share of them if
//! many trees are compared at once, and the answer up to 1,024 if few nodes differ. From then on a step has at
//! most 32 sums for each node that differs: 256 bytes, twice, until ten levels more are passed. A leaf's fingerprints are
//! 12 bytes each, some 300 together. So a difference costs less than 1 KiB, and the first one 40 KiB more at most.
//!
//! *Fingerprints.* A node's sum travels as 64 bits of its hash; an entry as 48 bits for the position and 48 for position and
//! digest, so that where only the digest differs, 16 bytes and a place answer. All are salted: two things that look the same
//! in one comparison do not in the next. An accident, which happens to one difference in 2^48, hides or misnames it until
//! then. Where most entries differ, fingerprints save nothing: replies show it, and further requests list none. So a
//! comparison never takes more bytes than all the responder's digests, but for one request of fingerprints that shows it.
//!
//! *Who learns.* The initiator learns all, the responder nothing. A responder that learned as much would have to be told
//! all entries in full, or keep state between messages. The initiator can push what the other side has not and pull what it
//! has not itself; both ends do not need to act on one difference.
//!
//! *Depths.* The comparison goes as deep as the shallower of the two trees; below it there are entries. A responder whose
//! tree has become less deep says so.
//!
//! *Why it is exact for what nobody touches.* If a position differs from beginning to end, then so do, each time they
//! are compared, the sums of every node above it, whatever else happens there, but for a collision; and its leaf's entries are
//! compared as they are at that time. If it is the same, fingerprints match.
//!
//! # Limits
//!
//! | what | at most | beyond it |
//! |---|---|---|
//! | bytes of a [`Request`] or a [`Reply`] | 65,536 | refused |
//! | sums in a message | 4,096 | refused |
//! | fingerprints, leaves in a request | 1,024, 128 | refused |
//! | digests in a reply | 1,024 | the reply breaks off, and the rest is asked for again |
//! | a reply that breaks off before it is full | | refused |
//! | depth of a [`Tree`] | [`Tree::DEPTH_MAX`] | taken as that |
//! | trees in [`Roots`] | [`Roots::TREES_MAX`] | refused |
//!
//! No decoder allocates more than its input is long, times eight.

#![forbid(unsafe_code)]

mod answer;
mod codec;
mod comparison;
mod entries;
#[cfg(test)]
mod forged;
mod hash;
mod listing;
mod message;
mod rebuild;
mod refused;
mod roots;
mod saved;
#[cfg(feature = "serde")]
mod serde_impls;
mod span;
mod tree;
mod wire;

pub use answer::{AnswerError, Answering};
pub use codec::DecodeError;
pub use comparison::{Comparison, Difference};
pub use entries::{Entries, Entry, ReadError};
pub use message::{Reply, Request};
pub use rebuild::Rebuild;
pub use refused::Refused;
pub use roots::{Roots, RootsDifference, RootsError, RootsReply, RootsRequest};
pub use saved::LoadError;
pub use span::Span;
pub use tree::{OutsideSpan, Tree};
