//! Making a tree anew from the store, while the store is written to.

use crate::entries::read;
use crate::{Entries, OutsideSpan, ReadError, Span, Tree};

/// A tree in the making: reads the store's entries page by page, in the order of positions, while updates go on.
///
/// For the first tree after a start without a saved one, for a tree that [needs another size](Tree::resize), and
/// to check a tree against its store: when nothing has drifted, the new root is the old one's.
///
/// It is right if each update is told to it, and if a page has every update told before it was read and none that was not.
/// That holds where both happen under one lock or on one thread.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use dynkv_merkle::{Rebuild, Span, Tree};
///
/// let mut store: BTreeMap<u128, u128> = (0..1000).map(|i| (i << 118, i)).collect();
/// let mut rebuild = Rebuild::new(Span::ALL, Tree::depth_for(1000));
/// while !rebuild.read(&store, 100)? {
///     // A write between two pages: the store, and whatever trees there are.
///     let old = store.insert(500 << 118, 4711);
///     rebuild.update(500 << 118, old, Some(4711))?;
/// }
/// let tree = rebuild.finish().unwrap();
/// assert_eq!((tree.len(), tree.depth()), (1000, 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rebuild {
    tree: Tree,
    /// The first position that was not read; none when all were.
    next: Option<u128>,
}

impl Rebuild {
    /// Begins a tree with `2^depth` leaves, at most [`Tree::DEPTH_MAX`].
    #[must_use]
    pub fn new(span: Span, depth: u8) -> Self {
        Self { tree: Tree::with_depth(span, depth), next: Some(span.first()) }
    }

    /// Tells of a change, as [`Tree::update`] does. What was not read yet is ignored here: it will be read as it is then.
    ///
    /// # Errors
    ///
    /// When the position is not in the span.
    pub fn update(
        &mut self,
        position: u128,
        old: Option<u128>,
        new: Option<u128>,
    ) -> Result<(), OutsideSpan> {
        if self.next.is_none_or(|next| position < next) {
            return self.tree.update(position, old, new);
        }
        let span = self.tree.span();
        if span.contains(position) { Ok(()) } else { Err(OutsideSpan { position, span }) }
    }

    /// Reads the next `max` entries, at least one, and says whether those were the last.
    ///
    /// # Errors
    ///
    /// When the store fails or breaks the contract of [`Entries`]. Nothing has changed then: read again, or drop the rebuild.
    pub fn read<S: Entries>(&mut self, store: &S, max: usize) -> Result<bool, ReadError<S::Error>> {
        let Some(first) = self.next else { return Ok(true) };
        let max = max.max(1);
        let (mut page, last) = (Vec::new(), self.tree.span().last());
        read(store, first, last, max, &mut page)?;
        for entry in &page {
            self.tree
                .update(entry.position, None, Some(entry.digest))
                .expect("the page is within the span, as read() has checked");
        }
        self.next = match page.last() {
            Some(entry) if page.len() == max && entry.position < last => Some(entry.position + 1),
            _ => None,
        };
        Ok(self.next.is_none())
    }

    /// The tree, if everything was read.
    #[must_use]
    pub fn finish(self) -> Option<Tree> {
        self.next.is_none().then_some(self.tree)
    }
}
