//! The tree: sums over equal parts of a span.

use std::ops::RangeInclusive;

use crate::{Entry, Span, hash};

/// Of the levels of the binary tree every fifth is stored, from the leaves up, and the root: less than 1/31 more memory
/// than the leaves alone. What is not stored is the sum of at most 16 nodes that are.
const STORED_EVERY: u8 = 5;

/// A Merkle tree over the entries of a [`Span`].
///
/// It has `2^depth` leaves, equal parts of the span; a leaf is the sum of the hashes of its entries, a node above the sum
/// of its children ([why a sum](crate#why-sums)). It knows no entries: a change is told to it with the old digest
/// and the new one.
///
/// Two trees with the same entries have the same [`root`](Tree::root), whatever their depths and the order in which they
/// were told. `==` also compares the depths.
///
/// # Examples
///
/// ```
/// use dynkv_merkle::{Span, Tree};
///
/// let (mut here, mut there) = (Tree::new(Span::ALL), Tree::new(Span::ALL));
/// here.update(7, None, Some(0xaa))?; // new
/// here.update(9, None, Some(0xbb))?;
/// there.update(9, None, Some(0xbb))?;
/// assert_ne!(here.root(), there.root());
/// here.update(7, Some(0xaa), None)?; // removed
/// assert_eq!(here.root(), there.root());
/// # Ok::<(), dynkv_merkle::OutsideSpan>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    span: Span,
    depth: u8,
    len: u64,
    /// The leaves, then the stored levels above them, the root last.
    sums: Box<[u128]>,
}

/// A position is not in the tree's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("position {position:032x} is not in span {span}; update the tree that covers it")]
pub struct OutsideSpan {
    /// The position.
    pub position: u128,
    /// The tree's span.
    pub span: Span,
}

impl Tree {
    /// The greatest depth: 2^26 leaves, which take 1 GiB and serve two billion entries.
    pub const DEPTH_MAX: u8 = 26;

    /// Entries in a leaf, on average, above which [`Tree::resize`] advises more leaves.
    pub const LEAF_ENTRIES_MAX: u64 = 32;

    /// An empty tree with one leaf: 16 bytes beside the value itself.
    #[must_use]
    pub fn new(span: Span) -> Self {
        Self::with_depth(span, 0)
    }

    /// An empty tree with `2^depth` leaves of 16 bytes each; at most [`Tree::DEPTH_MAX`], which more is taken as.
    #[must_use]
    pub fn with_depth(span: Span, depth: u8) -> Self {
        let depth = depth.min(Self::DEPTH_MAX);
        let sums = levels(depth).map(|level| 1 << level).sum();
        Self { span, depth, len: 0, sums: vec![0; sums].into_boxed_slice() }
    }

    /// A tree with `2^depth` leaves, of entries in any order, each position once. [`Tree::depth_for`] says what depth
    /// suits their number.
    ///
    /// # Errors
    ///
    /// When an entry is not in the span.
    ///
    /// # Examples
    ///
    /// ```
    /// use dynkv_merkle::{Entry, Span, Tree};
    ///
    /// let entries = (0..1000).map(|i| Entry { position: i << 118, digest: i });
    /// let tree = Tree::from_entries(Span::ALL, Tree::depth_for(1000), entries)?;
    /// assert_eq!((tree.len(), tree.depth()), (1000, 5));
    /// # Ok::<(), dynkv_merkle::OutsideSpan>(())
    /// ```
    pub fn from_entries(
        span: Span,
        depth: u8,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<Self, OutsideSpan> {
        let mut tree = Self::with_depth(span, depth);
        for entry in entries {
            let leaf = tree.leaf_of(entry.position)?;
            tree.sums[leaf] = tree.sums[leaf].wrapping_add(hash::of_entry(entry));
            tree.len += 1;
        }
        tree.sum_up();
        Ok(tree)
    }

    /// A tree of these leaves, as many as the depth wants.
    pub(crate) fn from_leaves(
        span: Span,
        depth: u8,
        len: u64,
        leaves: impl ExactSizeIterator<Item = u128>,
    ) -> Self {
        let mut tree = Self { len, ..Self::with_depth(span, depth) };
        debug_assert_eq!(leaves.len(), 1 << tree.depth);
        for (sum, leaf) in tree.sums.iter_mut().zip(leaves) {
            *sum = leaf;
        }
        tree.sum_up();
        tree
    }

    /// The sums above the leaves, from the leaves.
    fn sum_up(&mut self) {
        let mut at = 0;
        for (below, level) in levels(self.depth).zip(levels(self.depth).skip(1)) {
            let (done, above) = self.sums[at..].split_at_mut(1 << below);
            for (sum, children) in above.iter_mut().zip(done.chunks(1 << (below - level))) {
                *sum = total(children);
            }
            at += 1 << below;
        }
    }

    /// The least depth at which `entries` entries fill leaves to at most [`Tree::LEAF_ENTRIES_MAX`] on average.
    #[must_use]
    pub fn depth_for(entries: u64) -> u8 {
        (0..Self::DEPTH_MAX)
            .find(|depth| entries <= Self::LEAF_ENTRIES_MAX << depth)
            .unwrap_or(Self::DEPTH_MAX)
    }

    /// Tells the tree that at `position` there was `old` and now is `new`; none is nothing there. It takes one or two
    /// hashes and as many additions as there are stored levels, at most 7.
    ///
    /// `old` must be what the tree was told last about the position, or the tree no longer stands for the store:
    /// [`Tree::verify`] and [`Rebuild`](crate::Rebuild) find that out.
    ///
    /// # Errors
    ///
    /// When the position is not in the span. Nothing has changed then.
    pub fn update(
        &mut self,
        position: u128,
        old: Option<u128>,
        new: Option<u128>,
    ) -> Result<(), OutsideSpan> {
        let mut index = self.leaf_of(position)?;
        if old == new {
            return Ok(());
        }
        let sum =
            |digest: Option<u128>| digest.map_or(0, |digest| hash::of_entry(Entry { position, digest }));
        let change = sum(new).wrapping_sub(sum(old));
        match (old, new) {
            (None, Some(_)) => self.len = self.len.saturating_add(1),
            (Some(_), None) => self.len = self.len.saturating_sub(1),
            _ => {}
        }
        let (mut at, mut below) = (0, self.depth);
        for level in levels(self.depth) {
            index >>= below - level;
            self.sums[at + index] = self.sums[at + index].wrapping_add(change);
            at += 1 << level;
            below = level;
        }
        Ok(())
    }

    /// What it covers.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// How many times the span is halved: there are `2^depth` leaves.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sum over all entries; 0 if there are none.
    #[must_use]
    pub fn root(&self) -> u128 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The sum of node `index` at `depth`, of the `index`-th of `2^depth` equal parts of the span: the root is node 0 at depth
    /// 0, the leaves are at [`Tree::depth`]. None if there is no such node.
    #[must_use]
    pub fn node(&self, depth: u8, index: u32) -> Option<u128> {
        if depth > self.depth || u64::from(index) >= 1 << depth {
            return None;
        }
        // The stored level nearest below, and where it begins.
        let (mut at, mut stored) = (0, self.depth);
        for level in levels(self.depth).skip(1).take_while(|level| *level >= depth) {
            at += 1 << stored;
            stored = level;
        }
        let below = stored - depth;
        let first = at + ((index as usize) << below);
        Some(total(&self.sums[first..first + (1 << below)]))
    }

    /// The positions of node `index` at `depth`; none if there is no such node.
    #[must_use]
    pub fn range(&self, depth: u8, index: u32) -> Option<RangeInclusive<u128>> {
        if depth > self.depth || u64::from(index) >= 1 << depth {
            return None;
        }
        let (first, last) = self.span.node(depth, index);
        Some(first..=last)
    }

    /// Whether `entries`, all that the store has in the positions of node `index` at `depth`, are what the tree was told.
    /// Take a leaf, or a few at once, for a check a little at a time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// use dynkv_merkle::{Entries, Entry, Span, Tree};
    ///
    /// let mut store = BTreeMap::from([(3, 30), (5, 50)]);
    /// let entries = store.iter().map(|(&position, &digest)| Entry { position, digest });
    /// let tree = Tree::from_entries(Span::ALL, 4, entries)?;
    ///
    /// store.insert(5, 51); // and the tree was not told
    /// let drifted: Vec<u32> = (0..1 << tree.depth())
    ///     .filter(|leaf| {
    ///         let range = tree.range(tree.depth(), *leaf).unwrap();
    ///         let mut held = Vec::new();
    ///         store.entries(*range.start(), *range.end(), 1000, &mut held).unwrap();
    ///         !tree.verify(tree.depth(), *leaf, held)
    ///     })
    ///     .collect();
    /// assert_eq!(drifted, [0]);
    /// # Ok::<(), dynkv_merkle::OutsideSpan>(())
    /// ```
    #[must_use]
    pub fn verify(&self, depth: u8, index: u32, entries: impl IntoIterator<Item = Entry>) -> bool {
        let (Some(sum), Some(range)) = (self.node(depth, index), self.range(depth, index)) else {
            return false;
        };
        let mut held = 0u128;
        for entry in entries {
            if !range.contains(&entry.position) {
                return false;
            }
            held = held.wrapping_add(hash::of_entry(entry));
        }
        held == sum
    }

    /// The depth that the tree should be [rebuilt](crate::Rebuild) with, if the number of entries no longer suits its own:
    /// more than [`Tree::LEAF_ENTRIES_MAX`] in a leaf, or less than a quarter of that. A tree just rebuilt with it is far from
    /// both.
    #[must_use]
    pub fn resize(&self) -> Option<u8> {
        let wanted = if self.len > Self::LEAF_ENTRIES_MAX << self.depth {
            Self::depth_for(self.len)
        } else if self.len < (Self::LEAF_ENTRIES_MAX / 4) << self.depth {
            // Half full, so that a few more entries do not make it grow again.
            Self::depth_for(self.len.saturating_mul(2))
        } else {
            self.depth
        };
        (wanted != self.depth).then_some(wanted)
    }

    /// What it takes on the heap, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.sums)
    }

    pub(crate) fn leaves(&self) -> &[u128] {
        &self.sums[..1 << self.depth]
    }

    fn leaf_of(&self, position: u128) -> Result<usize, OutsideSpan> {
        if self.span.contains(position) {
            Ok(self.span.part_of(position, self.depth))
        } else {
            Err(OutsideSpan { position, span: self.span })
        }
    }
}

/// The depths of the stored levels, the leaves' first, 0 last.
fn levels(depth: u8) -> impl Iterator<Item = u8> {
    std::iter::successors(Some(depth), |level| (*level > 0).then(|| level.saturating_sub(STORED_EVERY)))
}

fn total(sums: &[u128]) -> u128 {
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}
