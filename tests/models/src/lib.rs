//! Small executable models of the protocols that dynkv's promises rest on. They explore themselves: at random, with
//! traces made small, and exhaustively where that is feasible. What is modelled and what is not: `README.md`.
//!
//! - [`engine`]: what a model is, and the explorers that all models share.
//! - [`chain`]: who serves a partition while nodes join, leave, fail and are replaced.

pub mod chain;
pub mod engine;
