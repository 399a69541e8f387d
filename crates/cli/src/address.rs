//! Keys on the command line.

use std::fmt;

use dynkv_client::proto::{BucketError, DEFAULT_BUCKET, check_bucket_name};
use thiserror::Error;

use crate::output::printable;

/// A key and its bucket, as `BUCKET/KEY`.
///
/// Everything before the first slash is the bucket, everything behind it the key, further slashes included. Without a slash
/// the bucket is `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) bucket: String,
    pub(crate) key: Vec<u8>,
}

/// Why a text names no key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum AddressError {
    #[error("'{}' has an empty key: write BUCKET/KEY, or KEY alone for the bucket '{DEFAULT_BUCKET}'", printable(.text))]
    EmptyKey { text: String },
    #[error("'{}' is not a key in hexadecimal: give an even number of the digits 0-9 and a-f", printable(.text))]
    Hex { text: String },
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl Address {
    /// Reads `BUCKET/KEY`; with `hex`, the key is given as hexadecimal digits.
    pub(crate) fn parse(text: &str, hex: bool) -> Result<Address, AddressError> {
        let (bucket, key) = text.split_once('/').unwrap_or((DEFAULT_BUCKET, text));
        check_bucket_name(bucket)?;
        if key.is_empty() {
            return Err(AddressError::EmptyKey { text: text.to_owned() });
        }
        let key = if hex {
            from_hex(key).ok_or_else(|| AddressError::Hex { text: key.to_owned() })?
        } else {
            key.as_bytes().to_vec()
        };
        Ok(Address { bucket: bucket.to_owned(), key })
    }
}

/// `BUCKET/KEY` for messages.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, show_key(&self.key))
    }
}

/// A key for messages: its text, shortened, or its bytes in hexadecimal.
pub(crate) fn show_key(key: &[u8]) -> String {
    const CHARS_MAX: usize = 80;
    let Ok(text) = str::from_utf8(key) else {
        let shown = to_hex(&key[..key.len().min(CHARS_MAX / 2)]);
        let more = if shown.len() < key.len() * 2 { "..." } else { "" };
        return format!("{shown}{more} (hex)");
    };
    let mut shown: String = text.chars().take(CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    printable(&shown)
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, bucket: &str, key: &[u8]) {
        let expected = Address { bucket: bucket.into(), key: key.into() };
        assert_eq!(Address::parse(text, false), Ok(expected), "{text}");
    }

    #[test]
    fn the_first_slash_divides() {
        check("carts/alice", "carts", b"alice");
        check("alice", "default", b"alice");
        check("a/b/c", "a", b"b/c");
        check("a//c", "a", b"/c");
        check("a/ ", "a", b" ");
        check("düne/ü", "düne", "ü".as_bytes());
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for text in ["", "carts/"] {
            let error = Address::parse(text, false).unwrap_err();
            assert_eq!(error, AddressError::EmptyKey { text: text.into() });
        }
        for text in ["/alice", "/", "a\nb/c"] {
            let error = Address::parse(text, false).unwrap_err();
            assert!(matches!(error, AddressError::Bucket(_)), "{text}: {error}");
        }
        assert!(Address::parse(&format!("{}/k", "b".repeat(65)), false).is_err());
    }

    #[test]
    fn hexadecimal_keys() {
        let parse = |text| Address::parse(text, true).map(|address| address.key);
        assert_eq!(parse("b/00fF"), Ok(vec![0, 255]));
        assert_eq!(parse("00"), Ok(vec![0]));
        for text in ["b/0", "b/0g", "b/00 ", "b/0é"] {
            assert!(matches!(parse(text), Err(AddressError::Hex { .. })), "{text}");
        }
    }

    #[test]
    fn shown_keys_are_short_and_harmless() {
        assert_eq!(show_key(b"a\x1b[2J"), "a\\u{1b}[2J");
        assert_eq!(show_key(&[0xff, 1]), "ff01 (hex)");
        assert_eq!(show_key("é".repeat(81).as_bytes()), format!("{}...", "é".repeat(80)));
        assert!(show_key(&[0xff; 1024]).len() < 100);
    }

    proptest! {
        #[test]
        fn hex_leads_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_refused_or_stands_for_itself(text in "[^/]{0,5}/?.{0,20}") {
            if let Ok(Address { bucket, key }) = Address::parse(&text, false) {
                let key = String::from_utf8(key).unwrap();
                let whole = format!("{bucket}/{key}");
                prop_assert!(text == whole || (bucket == "default" && text == key));
            }
        }
    }
}
