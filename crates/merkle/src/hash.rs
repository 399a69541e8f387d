//! The hashes that trees and messages are made of. They are a part of the saved form and of the protocol.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::Entry;

/// What an entry adds to the sums above it.
pub(crate) fn of_entry(entry: Entry) -> u128 {
    xxh3_128(&bytes_of(entry))
}

fn bytes_of(entry: Entry) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&entry.position.to_be_bytes());
    bytes[16..].copy_from_slice(&entry.digest.to_be_bytes());
    bytes
}

/// What travels for a node: 64 bits that stand for its sum in one comparison.
pub(crate) fn of_sum(sum: u128, salt: u64) -> u64 {
    xxh3_64_with_seed(&sum.to_be_bytes(), salt)
}

/// What travels for an entry: it lets the other side tell "the same", "the same position with another digest" and
/// "not here" apart, in 12 bytes instead of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Of the position alone, 48 bits.
    pub(crate) position: u64,
    /// Of position and digest, 48 bits.
    pub(crate) entry: u64,
}

impl Fingerprint {
    pub(crate) const LEN: usize = 12;
    const MASK: u64 = (1 << 48) - 1;

    pub(crate) fn of(entry: Entry, salt: u64) -> Self {
        Self {
            position: xxh3_64_with_seed(&entry.position.to_be_bytes(), salt) & Self::MASK,
            entry: xxh3_64_with_seed(&bytes_of(entry), salt) & Self::MASK,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..6].copy_from_slice(&self.position.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&self.entry.to_be_bytes()[2..]);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self { position: number(&bytes[..6]), entry: number(&bytes[6..]) }
    }
}
