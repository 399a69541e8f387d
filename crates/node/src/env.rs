//! The two things a node asks the world for besides sockets and storage: what time it is, and random numbers.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock and randomness, injected so that a whole cluster can be replayed from one seed.
///
/// Durations are tokio's business (its time can be paused); the wall clock only stamps versions and history entries.
pub struct Env {
    wall_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    random: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Env {
    /// From functions: milliseconds since 1970, and uniform 64-bit numbers.
    pub fn new(
        wall_ms: impl Fn() -> u64 + Send + Sync + 'static,
        random: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Env {
        Env { wall_ms: Box::new(wall_ms), random: Box::new(random) }
    }

    /// The host's clock and a generator seeded by the operating system.
    pub fn system() -> Env {
        Env::new(system_ms, rand::random::<u64>)
    }

    /// Milliseconds since 1970, as far as the host knows.
    pub fn wall_ms(&self) -> u64 {
        (self.wall_ms)()
    }

    /// A uniform random number.
    pub fn random(&self) -> u64 {
        (self.random)()
    }

    /// A uniform random index below `len`; 0 when there is none.
    pub(crate) fn random_below(&self, len: usize) -> usize {
        // The bias of a remainder is below 2^-50 for any list a node keeps.
        if len == 0 { 0 } else { (self.random() % len as u64) as usize }
    }

    /// A clock that stands still and numbers that only count: for tests.
    #[cfg(test)]
    pub(crate) fn fixed(wall_ms: u64) -> Env {
        let count = std::sync::atomic::AtomicU64::new(1);
        Env::new(move || wall_ms, move || count.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
    }
}

fn system_ms() -> u64 {
    // A clock before 1970 reads as 1970: hybrid time still moves forward.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
