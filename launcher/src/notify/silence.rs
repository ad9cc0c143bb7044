//! Detects that a run makes no steps.

use std::time::{Duration, Instant};

/// Watches the progress of a run. Silence is reported once, until there is progress again.
#[derive(Debug)]
pub(crate) struct Silence {
    limit: Duration,
    last: Instant,
    is_reported: bool,
}

impl Silence {
    /// Begins at `now`. Silence is no progress for `limit`.
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, last: now, is_reported: false }
    }

    /// Records progress. Returns the length of a silence that was reported and ends now.
    pub(crate) fn ends(&mut self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.last);
        self.last = now;
        std::mem::take(&mut self.is_reported).then_some(silent)
    }

    /// Returns the length of the silence, if it has to be reported now.
    pub(crate) fn begins(&mut self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.last);
        let is_new = silent >= self.limit && !self.is_reported;
        self.is_reported |= is_new;
        is_new.then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_silence_is_reported_once() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut silence = Silence::new(Duration::from_secs(10), start);
        assert_eq!([3, 9].map(|second| silence.begins(at(second))), [None, None]);
        assert_eq!(silence.ends(at(9)), None, "it was not silent for long");
        assert_eq!([18, 19, 20].map(|second| silence.begins(at(second)).is_some()), [false, true, false]);
        assert_eq!(silence.ends(at(25)), Some(Duration::from_secs(16)));
        assert_eq!(silence.ends(at(26)), None, "the end is reported once, too");
        assert_eq!([35, 36].map(|second| silence.begins(at(second)).is_some()), [false, true], "another silence");
    }
}
