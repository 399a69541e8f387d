//! The paper's three ways to place tokens (section 6.2), for study and for rings without a history.
//!
//! | | tokens | partitions | type |
//! |---|---|---|---|
//! | strategy 1 | random, so many per node | the gaps between the tokens | [`RandomTokens`] |
//! | strategy 2 | random, so many per node | equal | [`RandomPartitions`] |
//! | strategy 3 | one per partition, dealt by weight | equal | [`EqualTokens`] |
//!
//! [`Membership`](crate::Membership) uses strategy 3. The other two know neither zones nor hosts: they are here
//! so that the paper's comparison can be repeated (`cargo run --release --example load_balance`).

pub(crate) mod domains;
mod equal_tokens;
mod founding;
mod random_partitions;
mod random_tokens;

pub use equal_tokens::{EqualTokens, PlacementError};
pub use random_partitions::RandomPartitions;
pub use random_tokens::RandomTokens;

/// The paper's load-balancing efficiency: mean load over greatest load, 1 if all are equal (or there is none).
///
/// # Examples
///
/// ```
/// assert_eq!(dynkv_ring::strategy::efficiency([1.0, 2.0, 3.0]), 2.0 / 3.0);
/// ```
#[must_use]
pub fn efficiency(loads: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut max, mut count) = (0.0, 0.0_f64, 0.0);
    for load in loads {
        sum += load;
        max = max.max(load);
        count += 1.0;
    }
    if max > 0.0 { sum / count / max } else { 1.0 }
}
