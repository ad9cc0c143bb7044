//! What the launcher and its agents say to each other: one JSON object a line, over TCP.
//!
//! An agent is the process that `mpirun` starts for each rank; it starts the rank itself, watches it, and does what
//! the launcher says. Both sides speak at least every [`HEARTBEAT_INTERVAL`], so that silence means something.

use std::path::PathBuf;
use std::time::Duration;

use admiral_contract::Reading;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How often each side says something.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Who has not taken a turn for so long was not running: what it did not hear meanwhile was not left unsaid.
pub const SCHEDULING_GAP: Duration = Duration::from_secs(2);

/// A line longer than this is cut: no rank can fill the launcher's memory.
pub const MAX_LINE: usize = 16 << 10;

/// From an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first word.
    Hello(Hello),
    /// Its rank's process runs.
    Started {
        /// The process.
        pid: u32,
    },
    /// Where the rank stands.
    Beat {
        /// Its ledger.
        reading: Reading,
        /// The state of its process, as `/proc/PID/stat` calls it: R, S, D, T, Z...
        state: Option<char>,
    },
    /// A line of the rank's output that is to be shown.
    Line {
        /// Without the end of line.
        text: String,
    },
    /// The rank's process has ended.
    Ended {
        /// What it exited with; None where a signal killed it, or where it could not be started at all.
        code: Option<u8>,
        /// The signal that killed it.
        signal: Option<i32>,
        /// Its ledger at the end.
        reading: Option<Reading>,
        /// Its last lines of output.
        last_lines: Vec<String>,
    },
    /// What the threads of the rank were doing.
    Stack {
        /// For people.
        text: String,
        /// Whether more comes: a debugger takes its time, and the launcher may not wait for it.
        more: bool,
    },
    /// The rank and everything that it started is gone.
    Gone {
        /// Processes that could not be ended.
        left: usize,
    },
    /// The daemon of `mpirun` on this host is gone: the rank loses what MPI wants of it, or has lost it already.
    DaemonGone,
    /// Nothing is new.
    Alive,
}

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What [`LAUNCH_TOKEN`](crate::environment::LAUNCH_TOKEN) said.
    pub token: String,
    /// What [`admiral_contract::environment::ATTEMPT`] said.
    pub attempt: u64,
    /// Its rank.
    pub rank: usize,
    /// Its rank among those of its host, as MPI counts.
    pub local_rank: usize,
    /// The GPU that has this number to the rank, as `CUDA_VISIBLE_DEVICES` names it, or the number; none where the list
    /// is too short.
    pub gpu: Option<String>,
    /// The host's own name.
    pub host: String,
    /// The daemon of `mpirun` that started it, or `mpirun` itself.
    pub daemon: Option<u32>,
    /// Where that daemon keeps what the processes of the host share.
    pub session: Option<PathBuf>,
}

/// To an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ToAgent {
    /// The launcher's first word. Another program may listen at one of its addresses, on the agent's own host even.
    Welcome {
        /// From [`prove`].
        proof: String,
    },
    /// Start the rank.
    Start(Start),
    /// Send the rank a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// End the rank, and all that it started, by force.
    Kill,
    /// Say what the rank's threads are doing.
    Stack,
    /// Leave.
    Leave {
        /// With the daemon of `mpirun` on this host, which would wait out its own grace after the death of a rank.
        with_daemon: bool,
    },
    /// For a drill: fall silent with the rank, as a host whose cable is pulled, and end it when the launcher would be
    /// missed.
    Vanish,
    /// Nothing: the launcher is alive.
    Alive,
}

/// How a rank is to be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables, besides those that the agent has.
    pub environment: Vec<(String, String)>,
    /// Where the rank's whole output is kept.
    pub log: PathBuf,
    /// Whether every line is to be sent; without it, only those that tell of an error.
    pub show: bool,
    /// Seconds without a word from the launcher after which the agent ends its rank.
    pub orphan_seconds: f64,
}

/// Shows that one knows a token without telling it.
#[must_use]
pub fn prove(token: &str) -> String {
    Sha256::new().chain_update("launcher ").chain_update(token).finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The text of a message, with its end of line.
#[must_use]
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    // The messages are plain data with text keys: serialising them cannot fail.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// `text`, at most [`MAX_LINE`] bytes of it.
#[must_use]
pub fn cut(text: &str) -> &str {
    let end = (0..=MAX_LINE.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let hello = FromAgent::Hello(Hello {
            token: "t".into(),
            attempt: 2,
            rank: 3,
            local_rank: 1,
            gpu: Some("1".into()),
            host: "n1".into(),
            daemon: None,
            session: None,
        });
        let line = encode(&hello);
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<FromAgent>(&line).expect("its own words"), hello);
        let text = FromAgent::Line { text: "two\nlines".into() };
        assert_eq!(encode(&text).iter().filter(|&&byte| byte == b'\n').count(), 1);
        let start =
            Start { argv: vec!["a".into()], environment: vec![], log: "l".into(), show: true, orphan_seconds: 4.5 };
        let start = ToAgent::Start(start);
        assert_eq!(serde_json::from_slice::<ToAgent>(&encode(&start)).expect("its own words"), start);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert!(cut(&"ü".repeat(MAX_LINE)).len() <= MAX_LINE);
    }
}
