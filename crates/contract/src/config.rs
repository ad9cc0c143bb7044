//! The section `launch` of a run's configuration, and the timeouts that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::listen::{LISTEN_ADDRESS, TEXTFILE_NAME, listen_address};
use crate::notify::Notify;

/// How `admiral-launch` detects that a run has stalled, and how often it restarts the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchConfig {
    /// The run counts as stalled, and is restarted, after this many seconds without progress of any rank. All other
    /// timeouts of the launcher are derived from this one; the launcher prints them.
    pub stall_seconds: u64,
    /// The largest number of restarts within `restart_window_seconds`. The launcher gives up instead of making one
    /// more.
    pub max_restarts: u64,
    /// The length of the window in which restarts are counted, in seconds.
    pub restart_window_seconds: u64,
    /// Where the launcher serves its metrics over HTTP: localhost:9465, which only its machine reaches, or an IP address
    /// with a port; null means nowhere.
    pub listen: Option<String>,
    /// The file of the launcher's metrics for node_exporter's textfile collector, which ends in .prom; null means none.
    pub textfile: Option<PathBuf>,
    /// Who is told about incidents, recoveries, silence and the end of the run: the URL of a webhook, to which JSON is
    /// posted, or a command as a list of the program and its arguments, which reads the JSON from its standard input; null
    /// is nobody. The path of a URL is secret and is not shown.
    pub notify: Option<Notify>,
    /// Seconds without a new step after which the launcher reports silence, whatever the reason; null turns this off.
    pub dead_man_seconds: Option<u64>,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        Self {
            stall_seconds: 300,
            max_restarts: 10,
            restart_window_seconds: 3600,
            listen: None,
            textfile: None,
            notify: None,
            dead_man_seconds: None,
        }
    }
}

/// A year. Longer times are mistakes, and sums of them might overflow.
const MAX_SECONDS: u64 = 365 * 24 * 3600;

impl LaunchConfig {
    /// Returns the invalid fields: the field's name in this section, and the reason.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut mistakes = Vec::new();
        if self.stall_seconds < 5 {
            mistakes.push(("stall_seconds", "must be at least 5: the slowest phase of a rank has to fit"));
        }
        if self.stall_seconds > MAX_SECONDS {
            mistakes.push(("stall_seconds", "must be at most 31536000, which is a year"));
        }
        if !(1..=MAX_SECONDS).contains(&self.restart_window_seconds) {
            mistakes.push(("restart_window_seconds", "must be from 1 to 31536000, which is a year"));
        }
        if self.listen.as_deref().is_some_and(|text| listen_address(text).is_none()) {
            mistakes.push(("listen", LISTEN_ADDRESS));
        }
        if self.textfile.as_ref().is_some_and(|path| path.extension().is_none_or(|end| end != "prom")) {
            mistakes.push(("textfile", TEXTFILE_NAME));
        }
        if let Some(mistake) = self.notify.as_ref().and_then(Notify::mistake) {
            mistakes.push(("notify", mistake));
        }
        if self.dead_man_seconds.is_some_and(|seconds| !(1..=MAX_SECONDS).contains(&seconds)) {
            mistakes.push(("dead_man_seconds", "must be from 1 to 31536000, which is a year; null turns it off"));
        }
        mistakes
    }

    /// Derives all timeouts from `stall_seconds`.
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
    /// The run counts as stalled when no rank has made progress for this long.
    pub stall: Duration,
    /// All hosts must have answered this long after the start of `mpirun`.
    pub start: Duration,
    /// A host counts as lost when its agent has sent nothing for this long.
    pub silence: Duration,
    /// A process group that was told to exit is killed after this long.
    pub group_down: Duration,
    /// An agent ends its ranks when the launcher has sent nothing for this long.
    pub orphan: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_ordered_for_every_stall_timeout() {
        for stall_seconds in [5, 30, 300, 7200] {
            let times = LaunchConfig { stall_seconds, ..LaunchConfig::default() }.timeouts();
            assert!(times.silence <= times.stall && times.silence < times.orphan && times.stall <= times.start);
        }
        assert_eq!(LaunchConfig::default().mistakes(), []);
        let mistakes = |config: LaunchConfig| config.mistakes().iter().map(|mistake| mistake.0).collect::<Vec<_>>();
        assert_eq!(
            mistakes(LaunchConfig { dead_man_seconds: Some(0), ..LaunchConfig::default() }),
            ["dead_man_seconds"]
        );
        let notify = Some(Notify::Command(Vec::new()));
        assert_eq!(mistakes(LaunchConfig { notify, ..LaunchConfig::default() }), ["notify"]);
        assert_eq!(LaunchConfig { stall_seconds: 1, ..LaunchConfig::default() }.mistakes()[0].0, "stall_seconds");
        let wrong = LaunchConfig {
            listen: Some("node1".to_owned()),
            textfile: Some("run.txt".into()),
            ..LaunchConfig::default()
        };
        assert_eq!(wrong.mistakes().iter().map(|mistake| mistake.0).collect::<Vec<_>>(), ["listen", "textfile"]);
    }
}
