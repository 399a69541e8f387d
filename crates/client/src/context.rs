//! The context that a read hands to a write.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dynkv_proto::{CONTEXT_BYTES_MAX, ContextError, ContextToken};
use thiserror::Error;

/// What a client has read of one key: opaque, to be given back with the next put or delete of that key.
///
/// A put replaces exactly what its context covers. Without one it stands beside whatever is there, as a sibling. Every
/// [`Fetched`](crate::Fetched) and every [`Stored`](crate::Stored) bears one, also those of absent keys.
///
/// As text it is base64url without padding, which survives shells, URLs and JSON. The token is checksummed and bound to its
/// key; one that was damaged on its way or is of another key is refused and changes nothing.
///
/// ```
/// use dynkv_client::Context;
///
/// assert!("not a context".parse::<Context>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Context(Bytes);

impl Context {
    /// The token as bytes, for programs that keep it beside their data.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A token from the bytes that [`as_bytes`](Context::as_bytes) gave.
    ///
    /// # Errors
    /// [`ParseContextError::Token`] when they are damaged.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Context, ParseContextError> {
        let bytes = bytes.into();
        match ContextToken::decode(&bytes) {
            // A newer node's token is for that node to judge.
            Ok(_) | Err(ContextError::Version { .. }) => Ok(Context(bytes)),
            Err(error) => Err(ParseContextError::Token(error)),
        }
    }

    /// A token as it came from a node.
    pub(crate) fn received(bytes: Bytes) -> Context {
        Context(bytes)
    }

    pub(crate) fn to_wire(&self) -> Bytes {
        self.0.clone()
    }
}

/// Base64url without padding.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({self})")
    }
}

impl AsRef<[u8]> for Context {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Context {
    type Err = ParseContextError;

    fn from_str(text: &str) -> Result<Context, ParseContextError> {
        // Four characters hold three bytes: a longer text cannot be a token, and is not decoded.
        if text.len() > CONTEXT_BYTES_MAX.div_ceil(3) * 4 {
            return Err(ContextError::TooLong { bytes: text.len() / 4 * 3 }.into());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| ParseContextError::Text)?;
        Context::from_bytes(bytes)
    }
}

/// Why a text or some bytes are no [`Context`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseContextError {
    /// The text is not base64url.
    #[error(
        "this is not a context (base64url text without padding): use the one that get printed, unchanged"
    )]
    Text,
    /// The bytes are no token.
    #[error(transparent)]
    Token(#[from] ContextError),
}

#[cfg(test)]
mod tests {
    use dynkv_proto::Actor;
    use dynkv_ring::Position;
    use dynkv_vclock::{Dot, HybridTime};
    use proptest::prelude::*;

    use super::*;

    fn token(counter: u64) -> Context {
        let context = [Dot::new(Actor(7, 1), counter)].into_iter().collect();
        let token = ContextToken::new(
            Position::of("b", b"k"),
            context,
            HybridTime::from_u64(9),
            Some("n1".parse().unwrap()),
        );
        Context::received(token.encode().into())
    }

    proptest! {
        #[test]
        fn text_and_bytes_lead_back(counter in 1u64..) {
            let context = token(counter);
            prop_assert_eq!(&context.to_string().parse::<Context>().unwrap(), &context);
            prop_assert_eq!(&Context::from_bytes(context.as_bytes().to_vec()).unwrap(), &context);
            prop_assert!(context.to_string().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        }

        #[test]
        fn any_text_is_refused_or_stands_for_itself(text in "[A-Za-z0-9_-]{0,80}") {
            if let Ok(context) = text.parse::<Context>() {
                prop_assert_eq!(context.to_string(), text);
            }
        }

        #[test]
        fn damage_is_noticed(cut in 0usize..1000, bit in 0usize..10_000) {
            let context = token(5);
            let mut bytes = context.as_bytes().to_vec();
            let cut = cut % bytes.len();
            let bit = bit % (bytes.len() * 8);
            prop_assert!(Context::from_bytes(bytes[..cut].to_vec()).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Context::from_bytes(bytes).is_err());
        }
    }

    #[test]
    fn a_huge_text_is_refused_unread() {
        let text = "A".repeat(1 << 20);
        assert!(matches!(
            text.parse::<Context>(),
            Err(ParseContextError::Token(ContextError::TooLong { .. }))
        ));
    }
}
