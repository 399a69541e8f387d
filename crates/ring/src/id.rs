//! Names of nodes.

use std::fmt;
use std::str::FromStr;

/// The name of a node: 1 to 32 bytes of `a-z 0-9 . _ -`, beginning with a letter or a digit.
///
/// The text is stored inline, so a name is `Copy` and never allocates. Names order as text.
///
/// # Examples
///
/// ```
/// use dynkv_ring::NodeId;
///
/// let node: NodeId = "eu-1.storage_07".parse()?;
/// assert_eq!(node.as_str(), "eu-1.storage_07");
/// assert!("".parse::<NodeId>().is_err());
/// assert!("-starts-with-a-dash".parse::<NodeId>().is_err());
/// # Ok::<(), dynkv_ring::InvalidNodeId>(())
/// ```
// The derived order compares the zero-padded bytes first, which is the order of the texts: no allowed
// character is as small as the padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    bytes: [u8; NodeId::MAX_LEN],
    len: u8,
}

impl NodeId {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 32;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("the constructor admits ASCII only")
    }
}

impl TryFrom<&str> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: &str) -> Result<Self, InvalidNodeId> {
        if text.is_empty() {
            return Err(InvalidNodeId::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(InvalidNodeId::TooLong { len: text.len() });
        }
        for (at, found) in text.char_indices() {
            let letter_or_digit = found.is_ascii_lowercase() || found.is_ascii_digit();
            if !(letter_or_digit || (at > 0 && matches!(found, '.' | '_' | '-'))) {
                return Err(InvalidNodeId::Character { at, found });
            }
        }
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len: u8::try_from(text.len()).expect("checked above: at most 32") })
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        Self::try_from(text)
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: String) -> Result<Self, InvalidNodeId> {
        Self::try_from(text.as_str())
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.as_str().to_owned()
    }
}

impl AsRef<str> for NodeId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for NodeId {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for NodeId {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeId").field(&self.as_str()).finish()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = NodeId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node id: 1 to 32 of a-z 0-9 . _ -")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<NodeId, E> {
                NodeId::try_from(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// Why a text is not a [`NodeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNodeId {
    /// The text is empty.
    #[error("a node id is empty; give it 1 to 32 characters")]
    Empty,
    /// The text is longer than [`NodeId::MAX_LEN`].
    #[error("a node id of {len} bytes is too long; use at most 32")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character is not allowed where it stands.
    #[error(
        "a node id cannot have {found:?} at byte {at}; use a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"
    )]
    Character {
        /// Where, in bytes from the beginning.
        at: usize,
        /// The character.
        found: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_the_order_of_texts() {
        let mut texts = vec!["b", "a", "a0", "a-", "a.b", "9", "a_", "aa"];
        let mut ids: Vec<NodeId> = texts.iter().map(|t| t.parse().unwrap()).collect();
        texts.sort_unstable();
        ids.sort_unstable();
        assert!(ids.iter().zip(&texts).all(|(id, text)| id == text));
    }

    #[test]
    fn refuses_what_is_not_a_name() {
        let check = |text: &str, expected| assert_eq!(NodeId::try_from(text), Err(expected), "{text}");
        check("", InvalidNodeId::Empty);
        check(&"x".repeat(33), InvalidNodeId::TooLong { len: 33 });
        check(".a", InvalidNodeId::Character { at: 0, found: '.' });
        check("aB", InvalidNodeId::Character { at: 1, found: 'B' });
        check("a b", InvalidNodeId::Character { at: 1, found: ' ' });
        check("né", InvalidNodeId::Character { at: 1, found: 'é' });
        assert!(NodeId::try_from("x".repeat(32)).is_ok());
    }
}
