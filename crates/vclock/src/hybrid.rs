//! Hybrid logical time: timestamps that follow the wall clock and never go back.

use std::{error, fmt};

const LOGICAL_BITS: u32 = 16;

/// A hybrid logical timestamp (Kulkarni, Demirbas et al., "Logical Physical Clocks", 2014).
///
/// The upper 48 bits are milliseconds since the Unix epoch (they last until the year 10889), the
/// lower 16 a logical counter that orders what happens within one millisecond. As a plain `u64` it
/// sorts like a timestamp.
///
/// It orders all writes, but knows nothing of causality beyond "not before what its clock has
/// seen"; use it where a rule like "last writer wins" was chosen on purpose.
///
/// ```
/// use dynkv_vclock::HybridTime;
///
/// let time = HybridTime::from_parts(1_700_000_000_000, 5);
/// assert_eq!((time.wall_ms(), time.logical()), (1_700_000_000_000, 5));
/// assert_eq!(time.to_string(), "1700000000000.5");
/// assert_eq!(HybridTime::from_u64(time.as_u64()), time);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HybridTime(u64);

impl HybridTime {
    /// Before every time a clock issues.
    pub const MIN: Self = Self(0);
    /// The last time there is.
    pub const MAX: Self = Self(u64::MAX);
    /// The greatest number of milliseconds that fits: 2^48 - 1.
    pub const WALL_MS_MAX: u64 = u64::MAX >> LOGICAL_BITS;

    /// The time `wall_ms` milliseconds after the epoch, `logical` steps on. More milliseconds than
    /// [`WALL_MS_MAX`](Self::WALL_MS_MAX) count as that many.
    #[must_use]
    pub const fn from_parts(wall_ms: u64, logical: u16) -> Self {
        let wall_ms = if wall_ms > Self::WALL_MS_MAX { Self::WALL_MS_MAX } else { wall_ms };
        // `u64::from` is not const.
        #[allow(clippy::cast_lossless)]
        Self((wall_ms << LOGICAL_BITS) | logical as u64)
    }

    /// The time with this representation; every `u64` is one.
    #[must_use]
    pub const fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    /// The representation: milliseconds times 65,536, plus the logical counter.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn wall_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The logical counter within the millisecond.
    #[must_use]
    pub const fn logical(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

/// `milliseconds.logical`.
impl fmt::Display for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall_ms(), self.logical())
    }
}

/// A hybrid logical clock. It reads no clock itself: the caller passes the wall time in.
///
/// ```
/// use dynkv_vclock::HybridClock;
///
/// let mut clock = HybridClock::new();
/// let first = clock.now(1_000);
/// let second = clock.now(900); // the wall clock was set back
/// assert!(second > first);
///
/// // A message from a node whose clock is ahead by 40 ms, then one that is ahead by an hour.
/// let mut other = HybridClock::new();
/// let remote = other.now(1_040);
/// clock.observe(remote, 1_000, 500)?;
/// assert!(clock.now(1_000) > remote);
/// assert!(clock.observe(other.now(3_601_000), 1_000, 500).is_err());
/// # Ok::<(), dynkv_vclock::SkewError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HybridClock {
    last: HybridTime,
}

impl HybridClock {
    /// A clock that has issued and seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: HybridTime::MIN }
    }

    /// A clock that goes on after `last`, for example the latest time found on disk.
    #[must_use]
    pub const fn resume(last: HybridTime) -> Self {
        Self { last }
    }

    /// The greatest time issued or observed so far.
    #[must_use]
    pub const fn last(&self) -> HybridTime {
        self.last
    }

    /// A new timestamp: the wall time, or, where that is not above everything issued and observed,
    /// the next logical step (65,536 steps carry into a millisecond).
    ///
    /// Each is greater than the one before, whatever the wall clock does, until
    /// [`HybridTime::MAX`] in the year 10889, which is then issued again and again; only a
    /// `wall_ms` or a skew bound close to 2^48 ms gets there earlier.
    pub fn now(&mut self, wall_ms: u64) -> HybridTime {
        let next = HybridTime(self.last.0.saturating_add(1));
        self.last = next.max(HybridTime::from_parts(wall_ms, 0));
        self.last
    }

    /// Takes note of a time seen elsewhere, so that [`now`](Self::now) exceeds it from here on.
    ///
    /// A time that the clock has reached already is fine whatever the wall clock says: it changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`SkewError`] if `remote` is more than `skew_ms_max` milliseconds ahead of `wall_ms`.
    /// Nothing has changed then: one node with a wrong clock does not drag the others along.
    pub fn observe(&mut self, remote: HybridTime, wall_ms: u64, skew_ms_max: u64) -> Result<(), SkewError> {
        if remote <= self.last {
            return Ok(());
        }
        if remote.wall_ms() > wall_ms.saturating_add(skew_ms_max) {
            return Err(SkewError { remote, wall_ms, skew_ms_max });
        }
        self.last = remote;
        Ok(())
    }
}

/// A remote time was refused by [`HybridClock::observe`], which changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SkewError {
    /// The time that was refused.
    pub remote: HybridTime,
    /// The local wall time, in milliseconds since the epoch.
    pub wall_ms: u64,
    /// How far ahead a remote time may be, in milliseconds.
    pub skew_ms_max: u64,
}

impl fmt::Display for SkewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the remote time {} is {} ms ahead of the local clock, more than the {} ms allowed, \
             and was not taken over; check the clocks of both machines",
            self.remote,
            self.remote.wall_ms().saturating_sub(self.wall_ms),
            self.skew_ms_max,
        )
    }
}

impl error::Error for SkewError {}
