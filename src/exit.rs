//! The end of a rank: its exit codes, which tell the launcher what to do (see docs/architecture.md), and its last words.

use std::fmt::Display;
use std::io::Write;

pub use admiral_contract::ExitCode;

/// Says on standard error why a command failed: one line of its own in one write, so that the words of several ranks
/// do not mix, and without a panic where nobody can read it.
pub fn say_error(message: &impl Display) {
    let _ = std::io::stderr().write_all(format!("error: {message}\n").as_bytes());
}
