//! Frames in and out of QUIC streams.
//!
//! ```text
//! a stream, each way:  class: u8 | frame | frame | ...
//! ```
//!
//! The connecting side opens one stream for each class and names the class; the node repeats it once it accepts the
//! stream, which tells the other that its certificate was accepted.

use bytes::{Bytes, BytesMut};
use dynkv_proto::{DecodeError, Frame, HEADER_BYTES_MAX};
use quinn::{ReadError, RecvStream, VarInt};
use thiserror::Error;

/// The urgency of a request. Each class has a stream of its own, so that a long transfer in the background never
/// stands in front of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Requests that somebody waits for.
    Foreground,
    /// Repair, handoff, gossip. Sent when no foreground data waits.
    Background,
}

impl Class {
    pub(crate) const ALL: [Class; 2] = [Class::Foreground, Class::Background];

    /// The byte at the head of a stream.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Class::Foreground => 0,
            Class::Background => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.byte() == byte)
    }

    /// quinn's priority: greater goes first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Class::Foreground => 1,
            Class::Background => 0,
        }
    }
}

/// The codes with which a connection is closed.
pub(crate) mod close_code {
    use super::VarInt;

    /// No longer needed, or going down in order.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// The peer broke the framing.
    pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(1);
    /// A bug on this side.
    pub(crate) const INTERNAL: VarInt = VarInt::from_u32(2);
}

/// The length and the limit that `frame` exceeds, if it exceeds one: its receiver would close the connection.
pub(crate) fn too_large(frame: &Frame, frame_bytes_max: usize) -> Option<(usize, usize)> {
    let lengths = [(frame.wire_len(), frame_bytes_max), (frame.header.len(), HEADER_BYTES_MAX)];
    lengths.into_iter().find(|(length, length_max)| length > length_max)
}

/// Why a stream has no further frame.
#[derive(Debug, Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Framing(#[from] DecodeError),
    #[error("the stream begins with {0}, which is no class: the peer speaks another protocol")]
    Class(u8),
    #[error("the stream ended inside a frame")]
    Torn,
    #[error("the stream ended")]
    Ended,
}

/// Cuts bytes into frames. Memory grows with the bytes that arrived (to twice as many at most), not with what a frame
/// declares.
struct Frames {
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl Frames {
    fn push(&mut self, chunks: &[Bytes]) {
        self.buffer.reserve(chunks.iter().map(Bytes::len).sum());
        for chunk in chunks {
            self.buffer.extend_from_slice(chunk);
        }
    }

    fn next(&mut self) -> Result<Option<(u64, Frame)>, DecodeError> {
        Frame::read(&mut self.buffer, self.frame_bytes_max)
    }
}

/// Reads a stream frame by frame.
pub(crate) struct FrameReader {
    recv: RecvStream,
    frames: Frames,
}

/// Datagrams taken out of quinn at once, under one lock.
const CHUNKS: usize = 32;

impl FrameReader {
    pub(crate) fn new(recv: RecvStream, frame_bytes_max: usize) -> FrameReader {
        FrameReader { recv, frames: Frames { buffer: BytesMut::new(), frame_bytes_max } }
    }

    /// The class at the head of the stream.
    pub(crate) async fn class(&mut self) -> Result<Class, StreamError> {
        while self.frames.buffer.is_empty() {
            self.fill().await?;
        }
        let byte = self.frames.buffer.split_to(1)[0];
        Class::from_byte(byte).ok_or(StreamError::Class(byte))
    }

    /// The next frame that is already here, or `None`.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Frame)>, StreamError> {
        Ok(self.frames.next()?)
    }

    /// Waits for more bytes.
    pub(crate) async fn fill(&mut self) -> Result<(), StreamError> {
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        match self.recv.read_chunks(&mut chunks).await? {
            Some(count) => self.frames.push(&chunks[..count]),
            None if self.frames.buffer.is_empty() => return Err(StreamError::Ended),
            None => return Err(StreamError::Torn),
        }
        Ok(())
    }
}

/// A body of this many bytes is handed to quinn as it is; a shorter one is cheaper copied behind its header.
const BODY_BYTES_UNCOPIED: usize = 16 * 1024;

/// The most bytes a batch gathers before it is written: what is still queued can still be called back.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// Frames on their way into one write.
#[derive(Default)]
pub(crate) struct Batch {
    chunks: Vec<Bytes>,
    head: BytesMut,
    bytes: usize,
}

impl Batch {
    /// Adds a frame.
    pub(crate) fn push(&mut self, id: u64, frame: Frame) {
        self.bytes += frame.wire_len();
        if frame.body.len() < BODY_BYTES_UNCOPIED {
            frame.write(id, &mut self.head);
        } else {
            frame.write_head(id, &mut self.head);
            self.chunks.push(self.head.split().freeze());
            self.chunks.push(frame.body);
        }
    }

    /// Whether it should be written before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes on the wire.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The chunks to write, in order.
    pub(crate) fn chunks(&mut self) -> &mut [Bytes] {
        if !self.head.is_empty() {
            self.chunks.push(self.head.split().freeze());
        }
        &mut self.chunks
    }

    /// Empties it for the next write, keeping its memory.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

    fn frames() -> Frames {
        Frames { buffer: BytesMut::new(), frame_bytes_max: FRAME_BYTES_MAX }
    }

    fn frame() -> impl Strategy<Value = Frame> {
        // Bodies on both sides of the size from which they travel uncopied.
        let body = prop_oneof![0..300usize, BODY_BYTES_UNCOPIED - 2..BODY_BYTES_UNCOPIED + 2];
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..50), body, any::<u8>()).prop_map(
            |(kind, header, body_bytes, fill)| Frame {
                kind,
                header: header.into(),
                body: vec![fill; body_bytes].into(),
            },
        )
    }

    #[test]
    fn what_a_frame_declares_is_not_allocated() {
        let mut frames = frames();
        let mut declared = BytesMut::new();
        declared.extend_from_slice(&(FRAME_BYTES_MAX as u32 - 4).to_be_bytes());
        declared.extend_from_slice(&[0; 996]);
        frames.push(&[declared.freeze()]);
        assert_eq!(frames.next(), Ok(None));
        let mut arrived = 1000;
        while arrived < 1 << 20 {
            assert!(frames.buffer.capacity() <= 2 * arrived, "{} for {arrived}", frames.buffer.capacity());
            frames.push(&[Bytes::from_static(&[0; 1200])]);
            assert_eq!(frames.next(), Ok(None));
            arrived += 1200;
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(sent in prop::collection::vec(frame(), 0..8), cuts in prop::collection::vec(1..5000usize, 1..20)) {
            let mut batch = Batch::default();
            sent.iter().enumerate().for_each(|(id, frame)| batch.push(id as u64, frame.clone()));
            prop_assert_eq!(batch.bytes(), sent.iter().map(Frame::wire_len).sum::<usize>());
            prop_assert_eq!(batch.is_empty(), sent.is_empty());
            let mut wire = Bytes::from(batch.chunks().concat());
            prop_assert_eq!(wire.len(), batch.bytes());

            let (mut frames, mut received) = (frames(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !wire.is_empty() {
                let mut chunks = Vec::new();
                for cut in cuts.by_ref().take(3) {
                    chunks.push(wire.split_to(cut.min(wire.len())));
                }
                frames.push(&chunks);
                while let Some((id, frame)) = frames.next().unwrap() {
                    prop_assert_eq!(id, received.len() as u64);
                    received.push(frame);
                }
            }
            prop_assert!(frames.buffer.is_empty());
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10)) {
            let mut frames = frames();
            let chunks: Vec<Bytes> = chunks.into_iter().map(Bytes::from).collect();
            let arrived: usize = chunks.iter().map(Bytes::len).sum();
            frames.push(&chunks);
            let mut used = 0;
            while let Ok(Some((_, frame))) = frames.next() {
                used += frame.wire_len();
            }
            prop_assert!(used <= arrived);
        }
    }

    #[test]
    fn a_batch_is_used_again() {
        let mut batch = Batch::default();
        let frame = Frame { kind: 1, header: Bytes::new(), body: Bytes::from(vec![0; BATCH_BYTES]) };
        for _ in 0..3 {
            assert!(batch.is_empty() && !batch.is_full());
            batch.push(1, frame.clone());
            assert!(batch.is_full());
            assert_eq!(batch.chunks().concat().len(), frame.wire_len());
            batch.clear();
        }
    }
}
