//! Canonical bytes: a stable input for whatever hash the caller uses.

use crate::{CausalContext, Dot, Siblings};

/// Types with one canonical, unambiguous sequence of bytes per value, on every platform and in
/// every release.
///
/// It exists so that [`Siblings::digest_into`] can feed any hasher without this crate choosing
/// one. Integers go in big-endian at their full width, a length as a `u64` before anything of
/// variable size, tuples and arrays as their elements in order. (`usize` and `isize` are left out:
/// their width is the platform's.) An implementation must be prefix-free: no value's bytes may be
/// the beginning of another's.
///
/// ```
/// use dynkv_vclock::Canonical;
///
/// /// A node and the number of its restart.
/// struct Actor(u64, u32);
///
/// impl Canonical for Actor {
///     fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
///         (self.0, self.1).canonical_into(sink);
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Actor(1, 2).canonical_into(&mut |part| bytes.extend_from_slice(part));
/// assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
/// ```
pub trait Canonical {
    /// Passes the value's bytes to `sink`, in one or several parts; where the parts are cut
    /// carries no meaning.
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8]));
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl Canonical for $integer {
            fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
                sink(&self.to_be_bytes());
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128);

fn length_into(length: usize, sink: &mut impl FnMut(&[u8])) {
    // No platform has a usize of more than 64 bits.
    (length as u64).canonical_into(sink);
}

impl Canonical for [u8] {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        length_into(self.len(), sink);
        sink(self);
    }
}

impl Canonical for Vec<u8> {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.as_slice().canonical_into(sink);
    }
}

impl Canonical for str {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.as_bytes().canonical_into(sink);
    }
}

impl Canonical for String {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.as_str().canonical_into(sink);
    }
}

impl<T: Canonical + ?Sized> Canonical for &T {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        (**self).canonical_into(sink);
    }
}

impl<T: Canonical, const N: usize> Canonical for [T; N] {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        for element in self {
            element.canonical_into(sink);
        }
    }
}

impl<A: Canonical, B: Canonical> Canonical for (A, B) {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.0.canonical_into(sink);
        self.1.canonical_into(sink);
    }
}

/// Actor, then counter.
impl<A: Canonical> Canonical for Dot<A> {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.actor.canonical_into(sink);
        self.counter.canonical_into(sink);
    }
}

/// As [`CausalContext::digest_into`].
impl<A: Canonical> Canonical for CausalContext<A> {
    fn canonical_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.digest_into(sink);
    }
}

impl<A: Canonical> CausalContext<A> {
    /// Passes the canonical bytes of this set of events to `sink`: equal sets give equal bytes,
    /// different ones different bytes.
    ///
    /// ```text
    /// u64 actors, then for each, in order:
    ///     actor | u64 counter | u64 isolated dots | u64 counter of each, ascending
    /// ```
    pub fn digest_into(&self, sink: &mut impl FnMut(&[u8])) {
        let actors = self.per_actor();
        length_into(actors.len(), sink);
        for (actor, counter, isolated) in actors {
            actor.canonical_into(sink);
            counter.canonical_into(sink);
            length_into(isolated.len(), sink);
            for counter in isolated {
                counter.canonical_into(sink);
            }
        }
    }
}

impl<A: Canonical, V> Siblings<A, V> {
    /// Passes the canonical bytes of this state to `sink`: its context, then the number of values
    /// (`u64`) and their dots in order. The values are not in it, for a dot names its value.
    ///
    /// Equal states give equal bytes, whatever operations led to them, and different ones
    /// different bytes; so two replicas compare a key by a digest of any strength they like.
    ///
    /// ```
    /// use dynkv_vclock::{CausalContext, Siblings};
    ///
    /// fn fnv1a(state: &Siblings<u64, &str>) -> u64 {
    ///     let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    ///     state.digest_into(&mut |part| {
    ///         for byte in part {
    ///             hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    ///         }
    ///     });
    ///     hash
    /// }
    ///
    /// let (mut x, mut y) = (Siblings::new(), Siblings::new());
    /// x.put(1, &CausalContext::new(), "one")?;
    /// y.put(2, &CausalContext::new(), "two")?;
    /// assert_ne!(fnv1a(&x), fnv1a(&y));
    ///
    /// let before = x.clone();
    /// x.sync(y.clone());
    /// y.sync(before);
    /// assert_eq!(fnv1a(&x), fnv1a(&y));
    /// # Ok::<(), dynkv_vclock::PutError>(())
    /// ```
    pub fn digest_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.context().digest_into(sink);
        length_into(self.len(), sink);
        for (dot, _) in self {
            dot.canonical_into(sink);
        }
    }
}
