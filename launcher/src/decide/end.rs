//! The end of a rank, and its description.

use admiral_contract::{ExitCode, Reading};

use super::cause::{Cause, USAGE_EXIT_CODE};
use crate::job::JobKind;

/// The end of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The rank exited with this code.
    Code(u8),
    /// This signal killed the rank.
    Signal(i32),
    /// The rank could not be started.
    NotStarted,
}

impl End {
    /// Returns the cause of the group's end, if this rank ended it.
    #[must_use]
    pub fn cause(self) -> Cause {
        match self {
            Self::Code(code) => Cause::Exit(code),
            Self::Signal(signal) => Cause::Signal(signal),
            Self::NotStarted => Cause::Start,
        }
    }

    /// Returns whether this end may be a consequence of another rank's death. A rank that loses its peers cannot
    /// distinguish that from a bug.
    #[must_use]
    pub fn may_be_consequence(self) -> bool {
        self == Self::Code(ExitCode::Bug as u8)
    }

    /// Returns whether the rank's host is suspected.
    #[must_use]
    pub fn blames_host(self) -> bool {
        match self {
            Self::Code(USAGE_EXIT_CODE) => false,
            Self::Code(code) => {
                ExitCode::from_byte(code).is_none_or(|code| matches!(code, ExitCode::Node | ExitCode::Corrupted))
            }
            Self::Signal(_) | Self::NotStarted => true,
        }
    }

    /// Describes the end: "was killed by signal 9 (SIGKILL)".
    #[must_use]
    pub fn describe(self, kind: JobKind) -> String {
        match self {
            Self::Code(code @ USAGE_EXIT_CODE) => {
                format!("exited with code {code} (it does not take its command line)")
            }
            Self::Code(code) => match ExitCode::from_byte(code) {
                Some(known) => format!("exited with code {code} ({})", meaning(known, kind)),
                None => format!("exited with code {code}"),
            },
            Self::Signal(signal) => match signal_name(signal) {
                Some(name @ "SIGKILL") => {
                    format!("was killed by signal {signal} ({name}: by somebody, or for want of memory)")
                }
                Some(name) => format!("was killed by signal {signal} ({name})"),
                None => format!("was killed by signal {signal}"),
            },
            Self::NotStarted => "could not be started".to_owned(),
        }
    }
}

/// Describes where the rank was: " in step 812, reading data".
pub(super) fn whereabouts(reading: Option<&Reading>, kind: JobKind) -> String {
    match reading {
        Some(reading) if reading.pid != 0 => format!(" {}, {}", kind.place(reading.step), kind.doing(reading.phase)),
        _ => " before it had begun".to_owned(),
    }
}

fn meaning(code: ExitCode, kind: JobKind) -> &'static str {
    match code {
        ExitCode::Finished => "finished",
        ExitCode::Config if kind == JobKind::Sample => "the options or the model is wrong",
        ExitCode::Config => "the configuration or the data is wrong",
        ExitCode::Diverged if kind == JobKind::Sample => "the model's numbers are not finite",
        ExitCode::Diverged => "training diverged",
        ExitCode::Store => "the store cannot be reached or written",
        ExitCode::Bug => "a bug in Admiral",
        ExitCode::Node => "this host is bad",
        ExitCode::Preempted if kind == JobKind::Sample => "stopped by a signal",
        ExitCode::Preempted => "stopped by a signal, with a checkpoint",
        ExitCode::Corrupted => "its state differs from that of other ranks",
    }
}

/// Returns the name of a signal that ends processes. The numbers are the same on all Linux platforms that have GPUs.
#[must_use]
pub fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_described() {
        assert_eq!(End::Code(74).describe(JobKind::Train), "exited with code 74 (this host is bad)");
        assert_eq!(End::Code(3).describe(JobKind::Train), "exited with code 3");
        assert_eq!(End::Code(2).describe(JobKind::Train), "exited with code 2 (it does not take its command line)");
        assert_eq!(End::Signal(11).describe(JobKind::Train), "was killed by signal 11 (SIGSEGV)");
        assert_eq!(End::Signal(40).describe(JobKind::Train), "was killed by signal 40");
        assert_eq!(End::NotStarted.describe(JobKind::Train), "could not be started");
        assert_eq!(whereabouts(None, JobKind::Train), " before it had begun");
    }

    #[test]
    fn the_end_of_a_sampling_rank_is_described_in_images() {
        assert_eq!(End::Code(64).describe(JobKind::Sample), "exited with code 64 (the options or the model is wrong)");
        assert_eq!(End::Code(75).describe(JobKind::Sample), "exited with code 75 (stopped by a signal)");
        let reading = |step| Reading { pid: 7, step, phase: admiral_contract::Phase::Sample, ..Reading::default() };
        assert_eq!(whereabouts(Some(&reading(812)), JobKind::Sample), " after 812 images, drawing samples");
        assert_eq!(whereabouts(Some(&reading(0)), JobKind::Sample), " before its first image, drawing samples");
    }

    #[test]
    fn hosts_are_blamed_for_possible_host_failures() {
        let blamed: Vec<u8> = (0..=255).filter(|&code| End::Code(code).blames_host()).collect();
        assert!(blamed.contains(&74) && blamed.contains(&76) && blamed.contains(&1));
        assert!(![0, 2, 64, 65, 69, 70, 75].iter().any(|code| blamed.contains(code)));
        assert!(
            End::Code(70).may_be_consequence()
                && !End::Code(69).may_be_consequence()
                && !End::Signal(9).may_be_consequence()
        );
    }
}
