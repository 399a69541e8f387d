//! What happened in a run, line by line, in simulated time.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::history::Key;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, since the run began.
    pub at: Duration,
    /// The key it is about; none for faults and the like.
    pub key: Option<Key>,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5}.{:06} {}", self.at.as_secs(), self.at.subsec_micros(), self.text)
    }
}

/// Where events are noted.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    start: Instant,
}

impl Log {
    /// An empty log whose time begins at `start`.
    pub fn new(start: Instant) -> Log {
        Log { lines: Arc::default(), start }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what concerns everybody.
    pub fn note(&self, text: impl Into<String>) {
        let line = Line { at: self.start.elapsed(), key: None, text: text.into() };
        self.lock().push(line);
    }

    /// Notes what concerns `key`.
    pub fn note_key(&self, key: &Key, text: impl Into<String>) {
        let line = Line { at: self.start.elapsed(), key: Some(key.clone()), text: text.into() };
        self.lock().push(line);
    }

    /// All of it.
    pub fn lines(&self) -> Vec<Line> {
        self.lock().clone()
    }
}
