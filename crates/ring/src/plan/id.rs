//! The name of a plan.

use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};

use crate::{Change, History, codec};

/// Of which history and which changes a plan was made: the beginnings of two digests, so that a change of
/// either can be told. As text, two times 16 hexadecimal digits with `-` between them.
///
/// # Examples
///
/// ```
/// use dynkv_ring::PlanId;
///
/// let id: PlanId = "00000000000000ff-0123456789abcdef".parse()?;
/// assert_eq!((id.history, id.changes), (0xff, 0x0123_4567_89ab_cdef));
/// assert_eq!(id.to_string(), "00000000000000ff-0123456789abcdef");
/// # Ok::<(), dynkv_ring::ParsePlanIdError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanId {
    /// The first 64 bits of [`History::digest`].
    pub history: u64,
    /// The first 64 bits of the MD5 of the changes' canonical bytes, in their order.
    pub changes: u64,
}

impl PlanId {
    pub(super) fn of(history: &History, changes: &[Change]) -> Self {
        let mut hasher = Md5::new();
        for change in changes {
            // Kind and length come first in the bytes, so no two lists have the same.
            hasher.update(codec::change_to_bytes(change));
        }
        Self { history: beginning(history.digest()), changes: beginning(hasher.finalize().into()) }
    }

    /// Whether it was made of a history with this digest.
    #[must_use]
    pub fn is_of(&self, history_digest: [u8; 16]) -> bool {
        self.history == beginning(history_digest)
    }
}

fn beginning(digest: [u8; 16]) -> u64 {
    (u128::from_be_bytes(digest) >> 64) as u64
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.history, self.changes)
    }
}

impl FromStr for PlanId {
    type Err = ParsePlanIdError;

    fn from_str(text: &str) -> Result<Self, ParsePlanIdError> {
        let digits = |text: &str| {
            let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
        };
        let parse = || {
            let (history, changes) = text.split_once('-')?;
            Some(Self { history: digits(history)?, changes: digits(changes)? })
        };
        parse().ok_or(ParsePlanIdError)
    }
}

/// A text that is no plan's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no plan's id: write the two times 16 hexadecimal digits that the plan was printed with")]
#[non_exhaustive]
pub struct ParsePlanIdError;
