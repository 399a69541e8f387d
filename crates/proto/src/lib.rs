//! Messages of the dynkv key-value store and their encoding, without I/O.
mod array;
mod error;
mod frame;

pub use error::DecodeError;
pub use frame::{FRAME_PREFIX_BYTES, Frame, HEADER_BYTES_MAX, Message, Request};

/// Numeric kinds.
pub mod kinds {
    /// m
    pub const METRICS: u16 = 6;
    /// r
    pub const METRICS_REPLY: u16 = 0x8006;
}
array::message! {
/// m
METRICS, Metrics => MetricsReply { 
    /// r
    reserved: u8 }
}
array::message! {
/// m
METRICS_REPLY, MetricsReply { 
    /// r
    text: String }
}
