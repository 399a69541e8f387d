#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod answer;
mod codec;
mod comparison;
mod entries;
mod hash;
mod listing;
mod message;
mod rebuild;
mod refused;
mod roots;
mod saved;
#[cfg(feature = "serde")]
mod serde_impls;
mod span;
mod tree;
mod wire;

pub use answer::AnswerError;
pub use codec::DecodeError;
pub use comparison::{Comparison, Difference};
pub use entries::{Entries, Entry, ReadError};
pub use message::{Reply, Request};
pub use rebuild::Rebuild;
pub use refused::Refused;
pub use roots::{Roots, RootsDifference, RootsError, RootsReply, RootsRequest};
pub use saved::LoadError;
pub use span::Span;
pub use tree::{OutsideSpan, Tree};
