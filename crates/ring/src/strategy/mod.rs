//! The paper's three ways to place tokens (section 6.2), for study and for rings without a history.
//!
//! - [`EqualTokens`] is strategy 3, the one this crate's [`Membership`](crate::Membership) uses.

pub(crate) mod domains;
mod equal_tokens;
mod founding;

pub use equal_tokens::{EqualTokens, PlacementError};
