//! The errors of reading hosts.

use std::path::{Path, PathBuf};

use admiral_contract::files::read_text;

use super::host::MAX_SLOTS_PER_HOST;
use super::list::Source;

/// The hosts of the run cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file that names hosts cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    Read {
        /// What the file is, for people.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A line of such a file is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// `--hosts` is wrong.
    #[error("--hosts: {0}")]
    Option(String),
    /// A variable of the scheduler is not understood.
    #[error("{name}={value}: {problem}; name the hosts with --hosts or --hostfile")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// Hosts are named in two ways.
    #[error("--hostfile and --hosts both name the hosts: give one of them")]
    Both,
    /// No ranks were requested.
    #[error("--np 0: a run has at least one rank")]
    NoRanks,
    /// A host has more slots than is allowed.
    #[error("{host} is to take {slots} ranks, by {source_of}: a host takes {MAX_SLOTS_PER_HOST} at most")]
    TooMany {
        /// The host.
        host: String,
        /// Its slots.
        slots: usize,
        /// The source of the number.
        source_of: Source,
    },
    /// No host is named.
    #[error("{0} names no host that takes a rank")]
    Empty(Source),
}

/// A longer file names no hosts.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Reads a file that names hosts. `what` says what the file is, for people.
pub(super) fn read(what: &'static str, path: &Path) -> Result<String, HostError> {
    read_text(path, MAX_FILE_BYTES).map_err(|source| HostError::Read { what, path: path.to_owned(), source })
}
