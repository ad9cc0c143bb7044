//! The messages between the launcher and its agents: one JSON object per line, over TCP, in an authenticated
//! [channel](crate::channel).
//!
//! An agent is the process that `mpirun` starts for each rank. It starts the rank itself, watches it, and follows the
//! launcher's orders. Each side sends a message at least every [`HEARTBEAT_INTERVAL`]. For the launcher, the silence of
//! agents means a failure. For an agent, the launcher is gone when the connection ends: a silent launcher may be stopped.

use std::path::PathBuf;
use std::time::Duration;

use admiral_contract::Reading;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The interval of heartbeats in both directions.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// After a scheduling gap this long, drain messages before judging silence.
pub const SCHEDULING_GAP: Duration = Duration::from_secs(2);

/// Longer lines are cut, so that no rank can fill the launcher's memory. In bytes.
pub const MAX_LINE: usize = 16 << 10;

/// Longer messages end the connection, so that nobody can fill the memory of the other side. In bytes. The longest is
/// [`FromAgent::Ended`] with 30 lines of [`MAX_LINE`] bytes, each of which may take six in JSON.
pub const MAX_MESSAGE: u64 = 4 << 20;

/// The longest text of stacks, in bytes.
pub const MAX_STACK: usize = 512 << 10;

/// A message from an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message.
    Hello(Hello),
    /// The rank's process runs.
    Started {
        /// The process number.
        pid: u32,
    },
    /// A heartbeat with the state of the rank.
    Beat {
        /// Its ledger.
        reading: Reading,
        /// The state of its process as in `/proc/PID/stat`: R, S, D, T, Z...
        state: Option<char>,
    },
    /// A line of the rank's output that is to be shown.
    Line {
        /// The line without its end.
        text: String,
    },
    /// The rank's process has ended.
    Ended {
        /// The exit code; `None` if a signal killed it, or if it could not be started.
        code: Option<u8>,
        /// The signal that killed it.
        signal: Option<i32>,
        /// Its ledger at the end.
        reading: Option<Reading>,
        /// Its last lines of output.
        last_lines: Vec<String>,
    },
    /// The stacks of the rank's threads.
    Stack {
        /// The stacks, for people.
        text: String,
        /// Whether more follows. A debugger takes time, and the launcher may not wait for it.
        more: bool,
    },
    /// The rank and everything that it started is gone.
    Gone {
        /// The number of processes that could not be ended.
        left: usize,
    },
    /// The daemon of `mpirun` on this host is gone, so the rank is or will be lost too.
    DaemonGone,
    /// A heartbeat without news.
    Alive,
}

/// The identity of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The value of [`admiral_contract::environment::ATTEMPT`].
    pub attempt: u64,
    /// Its rank.
    pub rank: usize,
    /// Its rank among those of its host, as MPI counts.
    pub local_rank: usize,
    /// The rank's GPU: the entry of `CUDA_VISIBLE_DEVICES` with the number of the local rank, or that number if there
    /// is no list; `None` if the list is too short.
    pub gpu: Option<String>,
    /// The name that the host gives itself.
    pub host: String,
    /// The process number of the `mpirun` daemon that started it, or of `mpirun` itself.
    pub daemon: Option<u32>,
    /// The daemon's session folder.
    pub session: Option<PathBuf>,
}

/// A message to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ToAgent {
    /// Starts the rank.
    Start(Start),
    /// Sends the rank a signal.
    Signal {
        /// The number of the signal.
        signal: i32,
    },
    /// Kills the rank and everything that it started.
    Kill,
    /// Asks for the stacks of the rank's threads.
    Stack,
    /// Ends the agent.
    Leave {
        /// Whether to end `mpirun`'s daemon on this host too. After the death of a rank it would wait for its own grace
        /// period.
        with_daemon: bool,
    },
    /// For a drill: stops the rank and goes silent, as if the host's cable were pulled, until the launcher counts as
    /// lost; then ends the rank.
    Vanish,
    /// A heartbeat.
    Alive,
}

/// The rank to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables besides the agent's own.
    pub environment: Vec<(String, String)>,
    /// The file of the rank's whole output.
    pub log: PathBuf,
    /// Whether every line is sent; if not, only errors are.
    pub show: bool,
    /// Seconds without an answer of the launcher's system after which the agent ends its rank. A launcher that is
    /// stopped is not gone: its system answers for it.
    pub orphan_seconds: f64,
}

/// Reads a line into `line`, without its end. Returns whether there was one.
///
/// # Errors
/// If the connection fails, or the line has more than `limit` bytes.
pub async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: u64,
) -> std::io::Result<bool> {
    line.clear();
    reader.take(limit).read_until(b'\n', line).await?;
    match line.pop() {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) if line.len() as u64 + 1 >= limit => Err(std::io::Error::other("a message is too long")),
        // The connection ended within a message.
        Some(_) => Ok(false),
    }
}

/// Returns the first [`MAX_LINE`] bytes of `text`, up to a character boundary.
#[must_use]
pub fn truncate_line(text: &str) -> &str {
    truncate(text, MAX_LINE)
}

/// Returns the first `max_bytes` bytes of `text`, up to a character boundary.
#[must_use]
pub fn truncate(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_serialisation() {
        let hello = FromAgent::Hello(Hello {
            attempt: 2,
            rank: 3,
            local_rank: 1,
            gpu: Some("1".into()),
            host: "n1".into(),
            daemon: None,
            session: None,
        });
        fn text(message: &impl Serialize) -> Vec<u8> {
            serde_json::to_vec(message).expect("plain data")
        }
        assert_eq!(serde_json::from_slice::<FromAgent>(&text(&hello)).expect("its own words"), hello);
        let lines = FromAgent::Line { text: "two\nlines".into() };
        assert!(!text(&lines).contains(&b'\n'));
        let start =
            Start { argv: vec!["a".into()], environment: vec![], log: "l".into(), show: true, orphan_seconds: 4.5 };
        let start = ToAgent::Start(start);
        assert_eq!(serde_json::from_slice::<ToAgent>(&text(&start)).expect("its own words"), start);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(truncate_line("short"), "short");
        assert!(truncate_line(&"ü".repeat(MAX_LINE)).len() <= MAX_LINE);
    }
}
