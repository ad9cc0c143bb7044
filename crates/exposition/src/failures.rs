//! Failures that must not disturb the program: the first is reported, all are counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes a warning for the user, from any thread.
pub type Warn = Arc<dyn Fn(&str) + Send + Sync>;

/// The failures of one destination. Clones share the count.
#[derive(Clone)]
pub struct Failures {
    count: Arc<AtomicU64>,
    warn: Warn,
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failures").field(&self.count()).finish()
    }
}

impl Failures {
    /// Creates a count of 0. The first failure goes to `warn`.
    #[must_use]
    pub fn new(warn: Warn) -> Self {
        Self { count: Arc::default(), warn }
    }

    /// Counts a failure.
    pub fn add(&self, reason: &str) {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            (self.warn)(reason);
        }
    }

    /// Returns the number of failures.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
