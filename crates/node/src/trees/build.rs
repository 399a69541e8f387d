//! Building trees from the index, page by page, while it is written to.

use std::{convert::Infallible, ops::Bound, sync::Arc};

use dynkv_merkle::{Entries, Entry, Rebuild, Span};
use dynkv_proto::{Digest, TreePosition};

use super::{
    Book, Trees,
    index::{self, Indexed},
};
use crate::storage::StorageError;

/// A tree in the making.
pub(super) struct Building {
    pub(super) rebuild: Rebuild,
    /// The first place that was not read.
    next: u128,
    /// Only to check the tree that is in use: there is no hurry.
    leisurely: bool,
}

/// What came of reading a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There are more.
    More,
    /// The tree is built and in use.
    Done,
    /// A write failed meanwhile, or building was given up: nothing was done.
    Disturbed,
}

/// Which tree is to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToCheck {
    /// That of this partition.
    Partition(u32),
    /// The next one, which is missing, and to be built first.
    Unbuilt,
    /// There are no more.
    NoMore,
}

/// A page, to the letter.
struct Page<'a>(&'a [Entry]);

impl Entries for Page<'_> {
    type Error = Infallible;

    fn entries(
        &self,
        first: u128,
        last: u128,
        max: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Infallible> {
        let within = self.0.iter().filter(|entry| (first..=last).contains(&entry.position));
        entries.extend(within.take(max));
        Ok(())
    }
}

impl Book {
    /// Lays what is being written over a page, so that it is the index as of the transactions that have run. `None` when that
    /// is not known.
    fn overlaid(&self, page: Vec<Entry>, first: u128, last: u128) -> Option<Vec<Entry>> {
        let mut writing = self.writing.range(first..=last).peekable();
        let mut out = Vec::with_capacity(page.len());
        let mut push = |place: u128, digest: Option<Digest>| {
            out.extend(digest.map(|digest| Entry { position: place, digest: digest.0 }));
        };
        for entry in page {
            while let Some((place, written)) = writing.next_if(|(place, _)| **place < entry.position) {
                push(*place, if written.broken { return None } else { written.latest });
            }
            match writing.next_if(|(place, _)| **place == entry.position) {
                Some((_, written)) if written.broken => return None,
                Some((place, written)) => push(*place, written.latest),
                None => push(entry.position, Some(Digest(entry.digest))),
            }
        }
        for (place, written) in writing {
            push(*place, if written.broken { return None } else { written.latest });
        }
        Some(out)
    }

    fn page_was_read(&mut self) {
        self.reading = false;
        self.writing.retain(|_, writing| writing.uncommitted > 0);
    }
}

impl Trees {
    /// The first partition from `from` on that has no tree, or one of the wrong size.
    pub(super) fn urgent(&self, depth: u8, from: u32) -> Option<u32> {
        let mut book = self.book();
        let bits = book.bits;
        book.held.range_mut(from..).find_map(|(&partition, held)| {
            let wanted = match &held.tree {
                None => Some(depth),
                Some(tree) => tree.resize(),
            };
            let under_way = held.building.as_ref().is_some_and(|building| !building.leisurely);
            if let Some(depth) = wanted.filter(|_| !under_way) {
                held.building = Building::begin(bits, partition, depth, false);
            }
            (wanted.is_some() || under_way).then_some(partition)
        })
    }

    /// The partition whose tree is to be checked: the first behind `after`.
    pub(super) fn to_check(&self, after: Option<u32>) -> ToCheck {
        let mut book = self.book();
        let bits = book.bits;
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let Some((&partition, held)) = book.held.range_mut(behind).next() else { return ToCheck::NoMore };
        let Some(depth) = held.tree.as_ref().map(|tree| tree.depth()) else { return ToCheck::Unbuilt };
        if held.building.is_none() {
            held.building = Building::begin(bits, partition, depth, true);
        }
        ToCheck::Partition(partition)
    }

    /// Gives up checks of trees in use, so that the next ones begin at the first record.
    pub(super) fn give_up_checks(&self) {
        for held in self.book().held.values_mut() {
            held.building = held.building.take().filter(|building| !building.leisurely);
        }
    }

    /// Reads a page of at most `max` entries into the tree of `partition` that is being built. Returns the page, too.
    pub(super) fn build_page(
        &self,
        partition: u32,
        max: usize,
    ) -> Result<(Progress, Vec<Indexed>), StorageError> {
        let (span, next) = {
            let mut book = self.book();
            let Some(span) = Span::new(book.bits, partition) else {
                return Ok((Progress::Disturbed, Vec::new()));
            };
            let building = book.held.get(&partition).and_then(|held| held.building.as_ref());
            let Some(next) = building.map(|building| building.next) else {
                return Ok((Progress::Disturbed, Vec::new()));
            };
            book.reading = true;
            (span, next)
        };
        let read = index::page(&*self.storage, TreePosition(next), TreePosition(span.last()), max);
        let mut guard = self.book();
        let book = &mut *guard;
        let progress = match &read {
            Ok((page, complete)) => self.take_page(book, partition, page, *complete, next, span.last()),
            Err(_) => Progress::Disturbed,
        };
        book.page_was_read();
        drop(guard);
        read.map(|(page, _)| (progress, page))
    }

    fn take_page(
        &self,
        book: &mut Book,
        partition: u32,
        page: &[Indexed],
        complete: bool,
        first: u128,
        last: u128,
    ) -> Progress {
        let last = match page.last() {
            Some(entry) if !complete => entry.place.0,
            _ => last,
        };
        let Some(entries) = book.overlaid(index::to_entries(page), first, last) else {
            return Progress::Disturbed;
        };
        let Some(held) = book.held.get_mut(&partition) else { return Progress::Disturbed };
        // Begun anew since, or with nothing left of a page that is not the last: it is read again.
        let Some(mut building) = held.building.take().filter(|building| building.next == first) else {
            return Progress::Disturbed;
        };
        if entries.is_empty() && !complete {
            held.building = Some(building);
            return Progress::Disturbed;
        }
        // One that is full is not taken for the last.
        let max = entries.len() + usize::from(complete);
        match (building.rebuild.read(&Page(&entries), max), entries.last()) {
            // Given up: it begins anew.
            (Err(_), _) => Progress::Disturbed,
            (Ok(false), Some(entry)) => {
                building.next = entry.position + 1;
                held.building = Some(building);
                Progress::More
            }
            _ => {
                let Some(tree) = building.rebuild.finish() else { return Progress::Disturbed };
                if let Some(before) = held.tree.as_ref().filter(|before| before.root() != tree.root()) {
                    self.metrics.tree_drifts.inc();
                    tracing::error!(
                        partition,
                        entries = before.len(),
                        found = tree.len(),
                        "a tree was not what the index holds and is replaced"
                    );
                }
                if held.tree.replace(Arc::new(tree)).is_none() {
                    self.metrics.trees_ready.inc();
                    self.metrics.trees_building.dec();
                }
                self.metrics.trees_built.inc();
                Progress::Done
            }
        }
    }
}

impl Building {
    fn begin(bits: u8, partition: u32, depth: u8, leisurely: bool) -> Option<Building> {
        let span = Span::new(bits, partition)?;
        Some(Building { rebuild: Rebuild::new(span, depth), next: span.first(), leisurely })
    }
}
