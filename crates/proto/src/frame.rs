//! Frames: the unit in which everything crosses a connection.
//!
//! ```text
//!  0        4        8     10    12                20            20+H             4+L
//!  +--------+--------+-----+-----+-----------------+-------------+----------------+
//!  | L: u32 | H: u32 |kind | 0   | request id: u64 | header, H B | body, raw      |
//!  +--------+--------+-----+-----+-----------------+-------------+----------------+
//!   length   header   u16   u16                      CBOR          values, untouched
//!   of the   length
//!   rest
//! ```
//!
//! Numbers are big-endian. The header is one CBOR item; the body never meets a serializer. The two
//! bytes after the kind are reserved: written as zero, ignored when read.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::DecodeError;

/// Bytes before the header: the length field itself and everything of fixed size behind it.
pub const FRAME_PREFIX_BYTES: usize = 20;

/// The longest header this version accepts, in bytes. Headers hold keys, contexts and lists, never values.
pub const HEADER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A message that has a numeric kind on the wire.
pub trait Message: Serialize + DeserializeOwned {
    /// The kind written into the frame.
    const KIND: u16;
}

/// A message that is answered by another.
pub trait Request: Message {
    /// What comes back when the request succeeds; failures are [`Failure`](crate::Failure).
    type Reply: Message;
}

/// One frame, decoded as far as its parts; the header is still CBOR.
///
/// ```
/// use dynkv_proto::{Frame, Metrics};
///
/// let frame = Frame::new(&Metrics { reserved: 0 }, bytes::Bytes::new());
/// let mut wire = bytes::BytesMut::new();
/// frame.write(7, &mut wire);
/// let (id, again) = Frame::read(&mut wire, 1024)?.expect("a whole frame was written");
/// assert_eq!((id, again.message::<Metrics>()?), (7, Metrics { reserved: 0 }));
/// # Ok::<(), dynkv_proto::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the header is; see [`kinds`](crate::kinds).
    pub kind: u16,
    /// The CBOR header.
    pub header: Bytes,
    /// Raw bytes behind the header.
    pub body: Bytes,
}

impl Frame {
    /// A frame of `message` with `body` behind it. The header is encoded here, once: cloning the frame for
    /// several receivers shares it.
    pub fn new<M: Message>(message: &M, body: Bytes) -> Frame {
        Frame { kind: M::KIND, header: to_cbor(message).into(), body }
    }

    /// Decodes the header as an `M`.
    ///
    /// # Errors
    /// [`DecodeError::Kind`] when the frame is of another kind, [`DecodeError::Header`] when the CBOR is not an `M`.
    pub fn message<M: Message>(&self) -> Result<M, DecodeError> {
        if self.kind != M::KIND {
            return Err(DecodeError::Kind { kind: self.kind, expected: M::KIND });
        }
        from_cbor(&self.header)
    }

    /// Bytes this frame takes on the wire.
    pub fn wire_len(&self) -> usize {
        FRAME_PREFIX_BYTES + self.header.len() + self.body.len()
    }

    /// Appends the fixed part and the header; the body is left to the caller, who may have a way to send it
    /// without a copy.
    pub fn write_head(&self, id: u64, out: &mut BytesMut) {
        out.reserve(FRAME_PREFIX_BYTES + self.header.len());
        // Both lengths fit: senders are bounded far below 4 GiB by the limits on values and headers.
        out.put_u32((self.wire_len() - 4) as u32);
        out.put_u32(self.header.len() as u32);
        out.put_u16(self.kind);
        out.put_u16(0);
        out.put_u64(id);
        out.put_slice(&self.header);
    }

    /// Appends the whole frame.
    pub fn write(&self, id: u64, out: &mut BytesMut) {
        out.reserve(self.wire_len());
        self.write_head(id, out);
        out.put_slice(&self.body);
    }

    /// Takes one frame off the front of `input`, or `None` when it is not all there yet.
    ///
    /// # Errors
    /// [`DecodeError::FrameLength`] when the frame declares more than `frame_bytes_max` or less than its fixed part,
    /// [`DecodeError::HeaderLength`] when the header would not fit the frame or [`HEADER_BYTES_MAX`]. After an error
    /// the stream has lost its place and must be closed.
    pub fn read(input: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<(u64, Frame)>, DecodeError> {
        let Some(length) = Frame::peek_len(input, frame_bytes_max)? else { return Ok(None) };
        if input.len() < length {
            return Ok(None);
        }
        let mut rest = input.split_to(length).freeze();
        rest.advance(4);
        let header_len = rest.get_u32() as usize;
        let kind = rest.get_u16();
        rest.advance(2);
        let id = rest.get_u64();
        if header_len > rest.len() || header_len > HEADER_BYTES_MAX {
            return Err(DecodeError::HeaderLength { header: header_len, available: rest.len() });
        }
        let header = rest.split_to(header_len);
        Ok(Some((id, Frame { kind, header, body: rest })))
    }

    /// The length on the wire of the frame at the front of `input`, or `None` when not even that is there yet.
    ///
    /// # Errors
    /// [`DecodeError::FrameLength`], as [`Frame::read`].
    pub fn peek_len(input: &[u8], frame_bytes_max: usize) -> Result<Option<usize>, DecodeError> {
        let Some(prefix) = input.first_chunk::<4>() else { return Ok(None) };
        let length = (u32::from_be_bytes(*prefix) as usize).saturating_add(4);
        if length < FRAME_PREFIX_BYTES || length > frame_bytes_max {
            return Err(DecodeError::FrameLength { length, length_max: frame_bytes_max });
        }
        Ok(Some(length))
    }
}

/// CBOR of one value. Our types have no failing serializer and the sink is memory, so this cannot fail.
pub(crate) fn to_cbor<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    ciborium::into_writer(value, &mut out)
        .expect("a Vec takes every byte, and our messages serialize infallibly");
    out
}

/// Decodes one CBOR item that must fill `bytes`.
pub(crate) fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    // For ids and other short fixed strings; longer ones go straight into what is decoded. ciborium's own scratch space is
    // 4 KiB that it clears for every message: a sixth of a put's instructions.
    let mut scratch = [0; 64];
    let value = ciborium::de::from_reader_with_buffer(&mut rest, &mut scratch)
        .map_err(|error| DecodeError::Header { reason: error.to_string() })?;
    if !rest.is_empty() {
        return Err(DecodeError::Header { reason: format!("{} bytes left over", rest.len()) });
    }
    Ok(value)
}
