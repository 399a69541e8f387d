//! The failures that this crate answers by itself, in the handler's place.

use bytes::Bytes;
use dynkv_proto::{Failure, FailureCode, Frame};

/// The handler dropped a request.
pub(crate) fn unanswered() -> Frame {
    // It may have begun: nothing is certain.
    frame(Failure::unknown(FailureCode::NoAnswer, "the node gave the request up without an answer: retry it"))
}

/// The handler never saw the request.
pub(crate) fn overloaded(in_flight_max: usize) -> Frame {
    let message = format!(
        "{in_flight_max} requests of this connection are in flight, the node takes no more: retry after a pause"
    );
    frame(Failure::not_done(FailureCode::Overloaded, message))
}

/// The handler's answer cannot be sent.
pub(crate) fn answer_too_large(length: usize, length_max: usize) -> Frame {
    let message =
        format!("the answer, or its header, has {length} bytes, the limit is {length_max}: ask for less");
    frame(Failure::unknown(FailureCode::TooLarge, message))
}

fn frame(failure: Failure) -> Frame {
    Frame::new(&failure, Bytes::new())
}
