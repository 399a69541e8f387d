//! A shopping cart in which nothing is lost: the application's side of always-writable storage.
//!
//! [`Cart`] knows how to merge; [`tell`] shows what happens when two clients need it.

mod cart;
mod story;

pub use cart::{Cart, DamagedCart, LineId};
pub use story::{StoryError, tell};
