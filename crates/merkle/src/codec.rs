//! Bytes of numbers and lists, written and read with limits.
//!
//! Numbers without a fixed width are varints: seven bits a byte, the lowest first, the high bit set on all but the last.
//! Ascending lists are written as their first number and the gaps after it, each gap less one.

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are more bytes than any message has. Nothing was read.
    #[error("a message of {len} bytes, of at most {limit}; refuse the sender")]
    TooLong {
        /// The number of bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The version is not known.
    #[error("a message of version {found}, this side knows version 1; upgrade it")]
    Version {
        /// The version's number.
        found: u8,
    },
    /// The kind is not known.
    #[error("a message of unknown kind {found}; upgrade this side, or refuse the sender")]
    Kind {
        /// The kind's number.
        found: u8,
    },
    /// The bytes end too early.
    #[error("a message that ends too early, after {len} bytes; it was cut, ask again")]
    Truncated {
        /// The number of bytes.
        len: usize,
    },
    /// Bytes follow where there should be an end.
    #[error("a message with {extra} bytes after its end; refuse the sender")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A number is outside its limits, or out of order.
    #[error("a message whose {field} is impossible; refuse the sender")]
    Impossible {
        /// What the number is.
        field: &'static str,
    },
}

pub(crate) const VERSION: u8 = 1;

pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A message of this kind, so far without content.
    pub(crate) fn new(kind: u8) -> Self {
        Self(vec![VERSION, kind])
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn number(&mut self, number: u32) {
        let mut rest = number;
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.number(u32::try_from(count).expect("no list here is that long"));
    }

    /// A number of an ascending list, after the one before.
    pub(crate) fn after(&mut self, before: Option<u32>, number: u32) {
        self.number(before.map_or(number, |before| number - before - 1));
    }

    pub(crate) fn ascending(&mut self, numbers: &[u32]) {
        self.count(numbers.len());
        let mut before = None;
        for number in numbers {
            self.after(before, *number);
            before = Some(*number);
        }
    }

    pub(crate) fn position(&mut self, position: Option<u128>) {
        self.byte(position.is_some().into());
        if let Some(position) = position {
            self.bytes(&position.to_be_bytes());
        }
    }

    pub(crate) fn sums(&mut self, sums: &[u64]) {
        for sum in sums {
            self.bytes(&sum.to_be_bytes());
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads within bounds. What it allocates it has bytes for.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    /// The reader of a message's content, and its kind.
    pub(crate) fn new(bytes: &'a [u8], limit: usize) -> Result<(Self, u8), DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError::TooLong { len: bytes.len(), limit });
        }
        let mut reader = Self { rest: bytes, len: bytes.len() };
        let found = reader.byte()?;
        if found != VERSION {
            return Err(DecodeError::Version { found });
        }
        let kind = reader.byte()?;
        Ok((reader, kind))
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { len: self.len })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], DecodeError> {
        Ok(self.take(LEN)?.try_into().expect("take returns what was asked for"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// A byte up to `max`.
    pub(crate) fn byte_to(&mut self, max: u8, field: &'static str) -> Result<u8, DecodeError> {
        let byte = self.byte()?;
        if byte <= max { Ok(byte) } else { Err(DecodeError::Impossible { field }) }
    }

    pub(crate) fn number(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let mut number = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0xf {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DecodeError::Impossible { field })
    }

    pub(crate) fn count(&mut self, max: usize, field: &'static str) -> Result<usize, DecodeError> {
        let count = self.number(field)? as usize;
        if count <= max { Ok(count) } else { Err(DecodeError::Impossible { field }) }
    }

    /// The next number of an ascending list, below `end`.
    pub(crate) fn after(
        &mut self,
        before: Option<u32>,
        end: u64,
        field: &'static str,
    ) -> Result<u32, DecodeError> {
        let gap = self.number(field)?;
        let number = before.map_or(Some(gap), |before| before.checked_add(1)?.checked_add(gap));
        number.filter(|number| u64::from(*number) < end).ok_or(DecodeError::Impossible { field })
    }

    /// An ascending list of at most `max` numbers below `end`.
    pub(crate) fn ascending(
        &mut self,
        max: usize,
        end: u64,
        field: &'static str,
    ) -> Result<Vec<u32>, DecodeError> {
        let count = self.count(max, field)?;
        // Each number takes a byte at least.
        let mut numbers = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            numbers.push(self.after(numbers.last().copied(), end, field)?);
        }
        Ok(numbers)
    }

    pub(crate) fn position(&mut self, field: &'static str) -> Result<Option<u128>, DecodeError> {
        match self.byte_to(1, field)? {
            0 => Ok(None),
            _ => Ok(Some(u128::from_be_bytes(self.array()?))),
        }
    }

    pub(crate) fn sums(&mut self, count: usize) -> Result<Vec<u64>, DecodeError> {
        let (sums, _) = self.take(8 * count)?.as_chunks();
        Ok(sums.iter().map(|sum| u64::from_be_bytes(*sum)).collect())
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_are_short() {
        for (number, len) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u32::MAX, 5)] {
            let mut writer = Writer::new(9);
            writer.number(number);
            let bytes = writer.finish();
            assert_eq!(bytes.len(), 2 + len);
            let (mut reader, kind) = Reader::new(&bytes, 100).unwrap();
            assert_eq!((kind, reader.number("number"), reader.finish()), (9, Ok(number), Ok(())));
        }
    }

    #[test]
    fn numbers_beyond_32_bits_are_refused() {
        for bytes in
            [&[VERSION, 0, 0xff, 0xff, 0xff, 0xff, 0x1f], &[VERSION, 0, 0x80, 0x80, 0x80, 0x80, 0x80]]
        {
            let (mut reader, _) = Reader::new(bytes, 100).unwrap();
            assert_eq!(reader.number("number"), Err(DecodeError::Impossible { field: "number" }));
        }
    }

    #[test]
    fn lists_are_ascending_and_bounded() {
        let read = |numbers: &[u32], max, end| {
            let mut writer = Writer::new(0);
            writer.ascending(numbers);
            let bytes = writer.finish();
            let (mut reader, _) = Reader::new(&bytes, 100).unwrap();
            reader.ascending(max, end, "list")
        };
        let list = [0, 1, 5, u32::MAX];
        assert_eq!(read(&list, 4, 1 << 32), Ok(list.to_vec()));
        assert!(read(&list, 3, 1 << 32).is_err());
        assert!(read(&list, 4, u64::from(u32::MAX)).is_err());
        // One more after the greatest.
        let (mut reader, _) = Reader::new(&[VERSION, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xf, 0], 100).unwrap();
        assert!(reader.ascending(2, 1 << 32, "list").is_err());
    }
}
