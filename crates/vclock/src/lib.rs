//! Vector clocks, causal contexts and dotted version vectors: versioned siblings that neither explode nor get lost

mod canonical;
mod causality;
mod context;
mod dot;
mod hybrid;
#[cfg(feature = "serde")]
mod serde_impls;
mod siblings;
mod vector_clock;

pub use canonical::Canonical;
pub use causality::Causality;
pub use context::CausalContext;
pub use dot::Dot;
pub use hybrid::{HybridClock, HybridTime, SkewError};
pub use siblings::{Iter, PutError, Siblings, Written};
pub use vector_clock::{ClockEntry, VectorClock};
