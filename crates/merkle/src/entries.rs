//! Where the entries are: not in the tree.

use std::collections::BTreeMap;
use std::convert::Infallible;

/// A position and what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Where: best a hash of the key, since leaves are equal parts of the space of positions.
    pub position: u128,
    /// A digest of the state there. Whoever can build collisions of it can hide a difference.
    pub digest: u128,
}

/// A store of entries, in the order of their positions: a digest index. A tree has sums only, and asks the store for
/// the entries of a leaf.
///
/// # Examples
///
/// A sorted map is one:
///
/// ```
/// use std::collections::BTreeMap;
/// use dynkv_merkle::{Entries, Entry};
///
/// let store = BTreeMap::from([(3, 30), (5, 50), (8, 80)]);
/// let mut page = Vec::new();
/// store.entries(4, u128::MAX, 1, &mut page)?;
/// assert_eq!(page, [Entry { position: 5, digest: 50 }]);
/// # Ok::<(), std::convert::Infallible>(())
/// ```
pub trait Entries {
    /// Why a store could not be read.
    type Error;

    /// Appends to `page` the first entries with positions from `first` to `last` inclusive, in ascending order, each
    /// position once: all of them, or `max` if there are more.
    ///
    /// # Errors
    ///
    /// The store's own, when it cannot be read.
    fn entries(&self, first: u128, last: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Self::Error>;
}

impl<E: Entries + ?Sized> Entries for &E {
    type Error = E::Error;

    fn entries(&self, first: u128, last: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Self::Error> {
        (**self).entries(first, last, max, page)
    }
}

/// From positions to digests.
impl Entries for BTreeMap<u128, u128> {
    type Error = Infallible;

    fn entries(&self, first: u128, last: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Infallible> {
        if first <= last {
            let range = self.range(first..=last).take(max);
            page.extend(range.map(|(position, digest)| Entry { position: *position, digest: *digest }));
        }
        Ok(())
    }
}

/// Why entries could not be had from a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError<E> {
    /// The store failed.
    #[error("the entries could not be read: {0}")]
    Store(E),
    /// The store broke the contract of [`Entries`].
    #[error("the store answered with an entry at {position:032x}, out of range or order; check its index")]
    Contract {
        /// The position of the first such entry.
        position: u128,
    },
}

/// Reads a page, and holds the store to its contract: what follows relies on it.
pub(crate) fn read<S: Entries>(
    store: &S,
    first: u128,
    last: u128,
    max: usize,
    page: &mut Vec<Entry>,
) -> Result<(), ReadError<S::Error>> {
    let begin = page.len();
    store.entries(first, last, max, page).map_err(ReadError::Store)?;
    let mut least = Some(first);
    for (count, entry) in page[begin..].iter().enumerate() {
        if count == max || entry.position > last || least.is_none_or(|least| entry.position < least) {
            return Err(ReadError::Contract { position: entry.position });
        }
        least = entry.position.checked_add(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Vec<u128>);

    impl Entries for Says {
        type Error = &'static str;

        fn entries(&self, _: u128, _: u128, max: usize, page: &mut Vec<Entry>) -> Result<(), Self::Error> {
            if max == 0 {
                return Err("unplugged");
            }
            page.extend(self.0.iter().map(|position| Entry { position: *position, digest: 0 }));
            Ok(())
        }
    }

    #[test]
    fn a_store_is_held_to_its_contract() {
        let check = |positions: &[u128], bad: Option<u128>| {
            let mut page = vec![Entry { position: 99, digest: 0 }];
            let expected = bad.map_or(Ok(()), |position| Err(ReadError::Contract { position }));
            assert_eq!(read(&Says(positions.to_vec()), 10, 20, 3, &mut page), expected, "{positions:?}");
        };
        check(&[], None);
        check(&[10, 15, 20], None);
        check(&[9], Some(9));
        check(&[10, 21], Some(21));
        check(&[12, 12], Some(12));
        check(&[12, 11], Some(11));
        check(&[11, 12, 13, 14], Some(14));
        assert_eq!(read(&Says(vec![]), 0, 1, 0, &mut vec![]), Err(ReadError::Store("unplugged")));
        assert_eq!(read(&Says(vec![u128::MAX]), 0, u128::MAX, 1, &mut vec![]), Ok(()));
    }
}
