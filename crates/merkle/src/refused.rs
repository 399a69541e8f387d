//! What is not taken from a reply.

/// Why a reply was refused: no honest side of this version sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There is no such request, or it has been answered.
    #[error("reply {id} answers no request under way; drop the comparison")]
    Unasked {
        /// The reply's number.
        id: u32,
    },
    /// Entries for a request about nodes, or the reverse.
    #[error("the reply is of another kind than its request; drop the comparison")]
    Kind,
    /// It is about nodes deeper than either side compares, or claims a depth that it has already contradicted.
    #[error("the reply is about a depth that was not asked for; drop the comparison")]
    TooDeep,
    /// It names a place that its request does not have, or one place twice.
    #[error("the reply names a sum or entry that its request does not have; drop the comparison")]
    Place,
    /// It has an entry outside the leaf that it claims, out of order, or where the request had one.
    #[error("the reply has an entry where it was not asked for one; drop the comparison")]
    Position,
    /// It says that a digest differs, and names the same.
    #[error("the reply says that a digest differs and names the same; drop the comparison")]
    Same,
    /// It breaks off without need.
    #[error("the reply breaks off although it has room; drop the comparison")]
    BreaksOff,
}
