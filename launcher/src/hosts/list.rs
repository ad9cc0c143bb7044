//! The hosts of a run, and who named them.

use std::path::PathBuf;

use super::host::Host;

/// The hosts of a run, in the order in which ranks fill them. Those that a run has no need of are its spares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostList {
    /// At least one, no name twice.
    pub hosts: Vec<Host>,
    /// Who named them.
    pub source: Source,
    /// What a user should know about how they were read.
    pub notes: Vec<String>,
}

/// Who named the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    HostFile(PathBuf),
    /// `--hosts`.
    Option,
    /// Slurm, of whose job this process is part.
    Slurm,
    /// PBS or Torque.
    Pbs,
    /// LSF.
    Lsf,
    /// Nobody: this machine alone.
    Local,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HostFile(path) => write!(f, "the hostfile {}", path.display()),
            Self::Option => f.write_str("--hosts"),
            Self::Slurm => f.write_str("Slurm's job"),
            Self::Pbs => f.write_str("the PBS job"),
            Self::Lsf => f.write_str("the LSF job"),
            Self::Local => f.write_str("this machine"),
        }
    }
}
