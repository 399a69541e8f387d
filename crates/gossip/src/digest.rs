//! Digests that are the same on every machine.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A 128-bit fingerprint of a value, or of a set of values as the sum of theirs.
///
/// It is FNV-1a over what the value's [`Hash`] writes, integers as little-endian bytes, followed by a
/// mixing step without which sums would collide. It tells different values apart by accident-proof odds
/// (2^-128 for a pair); it is no defence against somebody who builds collisions.
///
/// `Hash` decides what is written. The derived one is the same on every platform for ids, integers,
/// strings and bytes; if two nodes' programs still disagreed about a value, they would compare more than
/// a digest in every round, and lose nothing.
///
/// # Examples
///
/// ```
/// use dynkv_gossip::Digest;
///
/// assert_eq!(Digest::of(&"n1"), Digest::of(&"n1".to_owned()));
/// assert_ne!(Digest::of(&"n1"), Digest::of(&"n2"));
/// assert_eq!(Digest::of(&0u8).to_string(), "85051c9d29e1cc0397ad1c3d3abe4d4a");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(u128);

impl Digest {
    /// The digest of the empty set.
    pub const EMPTY: Self = Self(0);

    /// The digest of a value.
    #[must_use]
    pub fn of<T: Hash + ?Sized>(value: &T) -> Self {
        let mut fnv = Fnv(Fnv::OFFSET);
        value.hash(&mut fnv);
        Self(fnv.mixed())
    }

    /// The digest with this representation; every `u128` is one.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// The representation.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The digest of a set to which something with digest `member` was added.
    pub(crate) fn plus(self, member: Self) -> Self {
        Self(self.0.wrapping_add(member.0))
    }

    /// The digest of a set from which something with digest `member` was taken.
    pub(crate) fn minus(self, member: Self) -> Self {
        Self(self.0.wrapping_sub(member.0))
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// FNV-1a with 128 bits (Fowler, Noll, Vo).
struct Fnv(u128);

impl Fnv {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    /// FNV's last step is nearly linear in the last byte, so two values that moved one up and one down
    /// would leave a sum as it was. This step is a bijection that spreads every bit over all.
    fn mixed(&self) -> u128 {
        let [high, low] = [(self.0 >> 64) as u64, self.0 as u64];
        let low = mix(low ^ high.rotate_left(32));
        let high = mix(high ^ low);
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

// Integers have a byte order and a width of their own here: the defaults are the machine's.
impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(Self::PRIME);
        }
    }

    fn write_u16(&mut self, value: u16) {
        self.write(&value.to_le_bytes());
    }

    fn write_u32(&mut self, value: u32) {
        self.write(&value.to_le_bytes());
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn write_u128(&mut self, value: u128) {
        self.write(&value.to_le_bytes());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as i64 as u64);
    }

    fn finish(&self) -> u64 {
        self.mixed() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_fnv_1a_before_mixing() {
        // The published test vectors.
        let check = |text: &str, expected| {
            let mut fnv = Fnv(Fnv::OFFSET);
            fnv.write(text.as_bytes());
            assert_eq!(fnv.0, expected, "{text}");
        };
        check("", 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        check("a", 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        check("foobar", 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn sums_notice_counters_that_move_against_each_other() {
        let sum = |a: u64, b: u64| Digest::of(&("n1", a)).plus(Digest::of(&("n2", b)));
        for a in 0..64 {
            for b in 0..64 {
                assert_eq!(sum(a, b) == sum(7, 9), (a, b) == (7, 9), "{a} {b}");
            }
        }
    }

    #[test]
    fn what_was_added_can_be_taken() {
        let digest = Digest::of("x");
        assert_eq!(Digest::EMPTY.plus(digest).minus(digest), Digest::EMPTY);
    }
}
