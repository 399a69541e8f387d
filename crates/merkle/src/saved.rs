//! The saved form of a tree.
//!
//! ```text
//! 0        1      2       3          4            8         16                       16 + 16 * 2^depth
//! +--------+------+-------+----------+------------+---------+-------------------------+----------+
//! | format | bits | depth | 0        | index      | entries | leaves, 16 bytes each   | xxh3-128 |
//! +--------+------+-------+----------+------------+---------+-------------------------+----------+
//!   1        of the span               of the span                                      of all before
//! ```
//!
//! Big-endian. The levels above the leaves are computed again.

use xxhash_rust::xxh3::xxh3_128;

use crate::{Span, Tree};

const FORMAT: u8 = 1;
const HEAD: usize = 16;
const SUM: usize = 16;

/// Why bytes are not a saved [`Tree`]. The way out is the same for all: [rebuild](crate::Rebuild) the tree from its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The format is not known.
    #[error(
        "the saved tree has format {found}, this version reads format 1; rebuild the tree from its store"
    )]
    Format {
        /// The format's number.
        found: u8,
    },
    /// The length is not that of a tree.
    #[error("a saved tree of {len} bytes is cut or too long; rebuild the tree from its store")]
    Length {
        /// The number of bytes.
        len: usize,
    },
    /// The checksum or the head is wrong.
    #[error("the saved tree is damaged; rebuild it from its store")]
    Damaged,
}

impl Tree {
    /// The saved form: 32 bytes, and 16 for each leaf.
    ///
    /// # Examples
    ///
    /// ```
    /// use dynkv_merkle::{Span, Tree};
    ///
    /// let mut tree = Tree::new(Span::ALL);
    /// tree.update(7, None, Some(70))?;
    /// let saved = tree.to_bytes();
    /// assert_eq!(Tree::from_bytes(&saved)?, tree);
    /// assert!(Tree::from_bytes(&saved[1..]).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + SUM * self.leaves().len() + SUM);
        bytes.extend([FORMAT, self.span().bits(), self.depth(), 0]);
        bytes.extend(self.span().index().to_be_bytes());
        bytes.extend(self.len().to_be_bytes());
        for leaf in self.leaves() {
            bytes.extend(leaf.to_be_bytes());
        }
        bytes.extend(xxh3_128(&bytes).to_be_bytes());
        bytes
    }

    /// The tree that was saved. It takes no more memory than the bytes do, and a thirtieth.
    ///
    /// # Errors
    ///
    /// When the bytes are not a saved tree, or no longer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        let cut = LoadError::Length { len: bytes.len() };
        match bytes.first() {
            None => return Err(cut),
            Some(&FORMAT) => {}
            Some(&found) => return Err(LoadError::Format { found }),
        }
        let (rest, checksum) = bytes.split_last_chunk::<SUM>().ok_or(cut)?;
        let (head, leaves) = rest.split_first_chunk::<HEAD>().ok_or(cut)?;
        if xxh3_128(rest) != u128::from_be_bytes(*checksum) {
            return Err(LoadError::Damaged);
        }
        let [_, bits, depth, zero, i0, i1, i2, i3, len @ ..] = *head;
        let span = Span::new(bits, u32::from_be_bytes([i0, i1, i2, i3])).ok_or(LoadError::Damaged)?;
        if depth > Self::DEPTH_MAX || zero != 0 {
            return Err(LoadError::Damaged);
        }
        let (leaves, odd) = leaves.as_chunks::<SUM>();
        if leaves.len() != 1 << depth || !odd.is_empty() {
            return Err(cut);
        }
        let leaves = leaves.iter().map(|leaf| u128::from_be_bytes(*leaf));
        Ok(Self::from_leaves(span, depth, u64::from_be_bytes(len), leaves))
    }
}
