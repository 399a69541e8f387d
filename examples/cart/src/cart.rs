//! The cart itself: no store, no network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// What an addition to a cart is known by: drawn at random, so that two devices never choose the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LineId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    item: String,
    quantity: u32,
}

/// A shopping cart that merges.
///
/// An observed-remove set (Shapiro et al., 2011): every addition is a line of its own, a removal takes out the lines that
/// its author has seen. Merging two carts keeps what either added and nobody removed.
///
/// ```
/// use dynkv_example_cart::{Cart, LineId};
///
/// let mut phone = Cart::default();
/// let mut laptop = Cart::default();
/// phone.add(LineId(1), "apples", 2);
/// laptop.add(LineId(2), "milk", 1);
/// let both = phone.merge(laptop);
/// assert_eq!(both.to_string(), "2 apples, 1 milk");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cart {
    lines: BTreeMap<LineId, Line>,
    removed: BTreeSet<LineId>,
}

/// A stored value that is no cart.
#[derive(Debug, thiserror::Error)]
#[error("this value is no cart ({0}): delete the key, or use another one")]
pub struct DamagedCart(#[from] serde_json::Error);

impl Cart {
    /// Adds `quantity` of an item, as the line `id`, which must be new.
    pub fn add(&mut self, id: LineId, item: &str, quantity: u32) {
        self.lines.insert(id, Line { item: item.to_owned(), quantity });
    }

    /// Takes out an item: all lines of it that are in this cart now. Returns how many there were.
    pub fn remove(&mut self, item: &str) -> usize {
        let seen: Vec<LineId> =
            self.lines.iter().filter(|(_, line)| line.item == item).map(|(id, _)| *id).collect();
        for id in &seen {
            self.lines.remove(id);
            self.removed.insert(*id);
        }
        seen.len()
    }

    /// What either cart had added and neither had removed.
    #[must_use]
    pub fn merge(mut self, other: Cart) -> Cart {
        self.removed.extend(other.removed);
        self.lines.extend(other.lines);
        self.lines.retain(|id, _| !self.removed.contains(id));
        self
    }

    /// How much of each item is in the cart.
    pub fn items(&self) -> BTreeMap<&str, u64> {
        let mut items = BTreeMap::new();
        for line in self.lines.values() {
            *items.entry(line.item.as_str()).or_default() += u64::from(line.quantity);
        }
        items
    }

    /// The cart as it is stored: JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts always have a JSON")
    }

    /// Reads a stored cart.
    ///
    /// # Errors
    /// [`DamagedCart`] for anything that [`to_json`](Cart::to_json) does not write.
    pub fn from_json(bytes: &[u8]) -> Result<Cart, DamagedCart> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// `2 apples, 1 milk`.
impl fmt::Display for Cart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<_> =
            self.items().iter().map(|(item, quantity)| format!("{quantity} {item}")).collect();
        f.write_str(if items.is_empty() { "(empty)" } else { "" })?;
        f.write_str(&items.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_removal_takes_out_what_it_has_seen_and_no_more() {
        let mut shared = Cart::default();
        shared.add(LineId(1), "milk", 1);
        let (mut phone, mut laptop) = (shared.clone(), shared);
        assert_eq!(phone.remove("milk"), 1);
        laptop.add(LineId(2), "milk", 1);
        let merged = phone.merge(laptop.clone());
        assert_eq!(merged.to_string(), "1 milk");
        // Whoever has seen both takes out both, and an old copy does not bring them back.
        let mut all_seen = merged;
        assert_eq!(all_seen.remove("milk"), 1);
        assert_eq!(all_seen.merge(laptop).to_string(), "(empty)");
    }

    #[test]
    fn what_is_no_cart_is_refused() {
        for text in
            ["", "{}", "[1]", r#"{"lines":{},"removed":[],"more":1}"#, r#"{"lines":{"x":1},"removed":[]}"#]
        {
            assert!(Cart::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// What a device does: adds an item, or removes one.
    fn deeds() -> impl Strategy<Value = Vec<(bool, u8)>> {
        prop::collection::vec((any::<bool>(), 0..4u8), 0..12)
    }

    fn name(item: u8) -> &'static str {
        ["apples", "bread", "milk", "tea"][usize::from(item)]
    }

    /// Carries out deeds; line ids begin at `first`. Returns the cart, the lines added and those taken out.
    fn after(mut cart: Cart, deeds: &[(bool, u8)], first: u64) -> (Cart, BTreeSet<LineId>, BTreeSet<LineId>) {
        let (mut added, before) = (BTreeSet::new(), cart.removed.clone());
        for (n, &(adds, item)) in deeds.iter().enumerate() {
            if adds {
                let id = LineId(first + n as u64);
                cart.add(id, name(item), 1);
                added.insert(id);
            } else {
                cart.remove(name(item));
            }
        }
        let taken_out = cart.removed.difference(&before).copied().collect();
        (cart, added, taken_out)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_that_nobody_took_out(start in deeds(), one in deeds(), two in deeds()) {
            let (base, added, taken_out) = after(Cart::default(), &start, 0);
            let (left, left_added, left_out) = after(base.clone(), &one, 100);
            let (right, right_added, right_out) = after(base, &two, 200);
            let expected: BTreeSet<LineId> = added.iter().chain(&left_added).chain(&right_added)
                .filter(|id| ![&taken_out, &left_out, &right_out].iter().any(|out| out.contains(id)))
                .copied().collect();
            let merged = left.merge(right);
            prop_assert_eq!(merged.lines.keys().copied().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn merging_does_not_care_for_order_or_repetition(start in deeds(), deeds in [deeds(), deeds(), deeds()]) {
            let (base, ..) = after(Cart::default(), &start, 0);
            let [a, b, c] = [0, 1, 2].map(|n| after(base.clone(), &deeds[n], 100 * (n as u64 + 1)).0);
            prop_assert_eq!(a.clone().merge(b.clone()), b.clone().merge(a.clone()));
            prop_assert_eq!(a.clone().merge(b.clone()).merge(c.clone()), a.clone().merge(b.merge(c)));
            prop_assert_eq!(a.clone().merge(a.clone()), a);
        }

        #[test]
        fn stored_carts_come_back(start in deeds()) {
            let (cart, ..) = after(Cart::default(), &start, 0);
            prop_assert_eq!(Cart::from_json(cart.to_json().as_bytes()).unwrap(), cart);
        }
    }
}
