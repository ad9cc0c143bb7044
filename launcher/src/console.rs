//! The launcher's output: its own messages on standard error, and the ranks' lines, prefixed with the rank, on standard
//! output. Only terminals get colours. A terminal or pipe that takes nothing stops nobody: lines wait, and those for which
//! there is no room are counted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use admiral_contract::secret::masked_text;
use admiral_contract::{printable, printable_json};

use crate::environment::Environment;
use crate::queued_writer::QueuedWriter;

/// Writes text or a JSON object to standard output at once, for commands without ranks. Errors are ignored, because the
/// reader may be gone.
pub fn print(text: &str) {
    let mut out = std::io::stdout();
    let shown = if text.starts_with('{') { printable_json(text) } else { printable(text) };
    let _ = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
}

/// The ranks whose whole output is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShowRank {
    /// Every rank.
    All,
    /// These ranks.
    Some(BTreeSet<usize>),
}

impl ShowRank {
    /// Returns whether the output of `rank` is shown.
    #[must_use]
    pub fn shows(&self, rank: usize) -> bool {
        match self {
            Self::All => true,
            Self::Some(ranks) => ranks.contains(&rank),
        }
    }
}

impl ShowRank {
    /// Returns the highest rank that is named.
    #[must_use]
    pub fn highest(&self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Some(ranks) => ranks.last().copied(),
        }
    }
}

impl FromStr for ShowRank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::Some(BTreeSet::new())),
            _ => {}
        }
        let rank = |part: &str| part.trim().parse().map_err(|_| "expected all, none, or ranks as in 0,3".to_owned());
        Ok(Self::Some(text.split(',').map(rank).collect::<Result<_, _>>()?))
    }
}

/// The destination of the launcher's messages and of the ranks' lines. Clones share the queues.
#[derive(Debug, Clone)]
pub struct Console {
    out: Arc<QueuedWriter>,
    err: Arc<QueuedWriter>,
    colour_out: bool,
    colour_err: bool,
    /// Standard output is read by a program, so the ranks' lines go to standard error.
    ranks_on_stderr: bool,
}

/// Colours that are readable on light and dark backgrounds.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

impl Console {
    /// Returns the console of this process. Terminals get colours, unless the environment has `NO_COLOR`.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let wanted = !environment.no_color;
        Self {
            out: Arc::new(writer("stdout", std::io::stdout())),
            err: Arc::new(writer("stderr", std::io::stderr())),
            colour_out: wanted && std::io::stdout().is_terminal(),
            colour_err: wanted && std::io::stderr().is_terminal(),
            ranks_on_stderr: false,
        }
    }

    /// Returns whether standard error shows colours.
    #[must_use]
    pub fn has_colour(&self) -> bool {
        self.colour_err
    }

    /// With `ranks_on_stderr`, the ranks' lines go to standard error, because a program reads standard output.
    #[must_use]
    pub fn with_ranks_on_stderr(self, ranks_on_stderr: bool) -> Self {
        Self { ranks_on_stderr, ..self }
    }

    /// Shows a line of a rank.
    pub fn rank_line(&self, rank: usize, text: &str) {
        if self.ranks_on_stderr {
            self.err.push(prefixed(rank, text, self.colour_err).into_bytes());
        } else {
            self.out.push(prefixed(rank, text, self.colour_out).into_bytes());
        }
    }

    /// Shows a message of the launcher.
    pub fn info(&self, text: &str) {
        self.show(1, text);
    }

    /// Shows a message of the launcher about a problem.
    pub fn warn(&self, text: &str) {
        self.show(31, text);
    }

    fn show(&self, colour: u8, text: &str) {
        let name =
            if self.colour_err { format!("\x1b[{colour}madmiral-launch:\x1b[0m") } else { "admiral-launch:".into() };
        let mut lines = String::new();
        for line in printable(&masked_text(text)).lines() {
            lines.push_str(&format!("{name} {line}\n"));
        }
        self.err.push(lines.into_bytes());
    }

    /// Waits until everything is shown, but not longer than `patience` for each of standard output and standard error.
    pub fn finish(&self, patience: Duration) {
        self.out.finish(patience);
        self.err.finish(patience);
    }
}

/// Writes to a stream of this process. The stream's lock is not taken: a thread that is blocked in a write must not keep
/// others from it.
fn writer(name: &str, stream: impl AsFd) -> QueuedWriter {
    let file = stream.as_fd().try_clone_to_owned().map(|fd| Box::new(File::from(fd)) as Box<dyn Write + Send>);
    let note = |dropped| format!("admiral-launch: {dropped} lines are not shown, because nothing took them in time");
    QueuedWriter::start(name, note, Box::new(|| file.map(|file| file as Box<dyn Write>)), |_| {})
}

/// Log lines already name their rank.
fn prefixed(rank: usize, text: &str, colour: bool) -> String {
    let own = format!("[rank {rank}] ");
    let rest = printable(text.strip_prefix(&own).unwrap_or(text));
    if colour {
        format!("\x1b[{}m[rank {rank}]\x1b[0m {rest}\n", COLOURS[rank % COLOURS.len()])
    } else {
        format!("{own}{rest}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_rank_once() {
        assert_eq!(prefixed(3, "step 1", false), "[rank 3] step 1\n");
        assert_eq!(prefixed(3, "[rank 3] step 1", false), "[rank 3] step 1\n");
        assert_eq!(prefixed(0, "x\x1b[2J", true), "\x1b[36m[rank 0]\x1b[0m x\\u{1b}[2J\n");
    }

    #[test]
    fn the_option_show_rank_is_parsed() {
        assert!("all".parse::<ShowRank>().expect("it is one").shows(7));
        assert!(!"none".parse::<ShowRank>().expect("it is one").shows(0));
        let some: ShowRank = "0, 3".parse().expect("they are");
        assert!(some.shows(3) && !some.shows(1));
        assert!("0,x".parse::<ShowRank>().is_err());
    }
}
