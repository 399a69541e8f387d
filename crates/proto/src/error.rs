//! What can be wrong with bytes from elsewhere.

use thiserror::Error;

/// Bytes that are not what they should be. Nothing was changed by reading them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame declares a length that no frame has, or one above the limit.
    #[error(
        "a frame declares {length} bytes, the limit is {length_max}: the peer speaks another protocol or sends too much at once"
    )]
    FrameLength {
        /// Declared length, in bytes.
        length: usize,
        /// The limit in force, in bytes.
        length_max: usize,
    },
    /// A frame's header does not fit into it.
    #[error("a frame header declares {header} bytes but {available} are left: the frame is damaged")]
    HeaderLength {
        /// Declared length, in bytes.
        header: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// A frame of another kind than the one asked for.
    #[error("a message of kind {kind} came where kind {expected} was expected")]
    Kind {
        /// The kind that came.
        kind: u16,
        /// The kind that was expected.
        expected: u16,
    },
    /// The CBOR of a header is not the message it should be.
    #[error("a message header cannot be read: {reason}")]
    Header {
        /// What the decoder said.
        reason: String,
    },
    /// The values behind a header do not have the lengths that it states, or fail their checksum.
    #[error("the values behind a header are damaged: {reason}")]
    Body {
        /// What does not fit.
        reason: String,
    },
}
