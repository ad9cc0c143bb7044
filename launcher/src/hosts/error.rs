//! Why the hosts cannot be told.

use std::path::{Path, PathBuf};

use super::host::MOST_SLOTS;
use super::list::Source;

/// Why the hosts cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file that names hosts cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    Read {
        /// What it is to the user.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of such a file is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// `--hosts` is wrong.
    #[error("--hosts: {0}")]
    Option(String),
    /// A variable that the scheduler set is not understood.
    #[error("{name}={value}: {problem}; name the hosts with --hosts or --hostfile")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// Two ways of naming hosts at once.
    #[error("--hostfile and --hosts both name the hosts: give one of them")]
    Both,
    /// No ranks were asked for.
    #[error("--np 0: a run has at least one rank")]
    NoRanks,
    /// A host is to take more than any can.
    #[error("{host} is to take {slots} ranks, by {source_of}: a host takes {MOST_SLOTS} at most")]
    TooMany {
        /// Which.
        host: String,
        /// So many.
        slots: usize,
        /// Who says so.
        source_of: Source,
    },
    /// Nothing is named.
    #[error("{0} names no host that takes a rank")]
    Empty(Source),
}

/// Reads a file that names hosts.
pub(super) fn read(what: &'static str, path: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::Read { what, path: path.to_owned(), source })
}
