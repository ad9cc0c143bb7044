//! The section `launch` of a run's configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How `admiral-launch` watches a run and brings it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchConfig {
    /// Seconds without progress of any rank after which the run is said to stand still and is started again. All other
    /// timeouts of the launcher follow from it; it prints them.
    pub stall_seconds: u64,
    /// Restarts within `restart_window_seconds`; one more and the launcher gives up.
    pub max_restarts: u64,
    /// The window in which restarts are counted, in seconds.
    pub restart_window_seconds: u64,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        Self { stall_seconds: 300, max_restarts: 10, restart_window_seconds: 3600 }
    }
}

impl LaunchConfig {
    /// What cannot work: the field's name in this section, and why.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut mistakes = Vec::new();
        if self.stall_seconds < 5 {
            mistakes.push(("stall_seconds", "must be at least 5: a step's slowest phase has to fit"));
        }
        if self.restart_window_seconds == 0 {
            mistakes.push(("restart_window_seconds", "must be at least 1"));
        }
        mistakes
    }

    /// What follows from the one timeout.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        let stall = Duration::from_secs(self.stall_seconds);
        let silence = (stall / 20).clamp(Duration::from_secs(3), Duration::from_secs(6));
        Timeouts {
            stall,
            start: (stall * 2).max(Duration::from_secs(60)),
            silence,
            group_down: Duration::from_secs(5),
            orphan: silence + Duration::from_millis(500),
        }
    }
}

/// The launcher's timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// No rank makes progress: the run stands still.
    pub stall: Duration,
    /// All hosts have to have answered, from the start of `mpirun`.
    pub start: Duration,
    /// Nothing is heard of a host's processes: the host is lost.
    pub silence: Duration,
    /// A group that was told to end is killed by force.
    pub group_down: Duration,
    /// A host hears nothing of the launcher: it ends its ranks.
    pub orphan: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_from_one() {
        for stall_seconds in [5, 30, 300, 7200] {
            let times = LaunchConfig { stall_seconds, ..LaunchConfig::default() }.timeouts();
            assert!(times.silence <= times.stall && times.silence < times.orphan && times.stall <= times.start);
        }
        assert_eq!(LaunchConfig::default().mistakes(), []);
        assert_eq!(LaunchConfig { stall_seconds: 1, ..LaunchConfig::default() }.mistakes()[0].0, "stall_seconds");
    }
}
