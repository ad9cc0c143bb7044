//! The hosts of a run, and their source.

use std::path::PathBuf;

use super::host::Host;

/// The hosts of a run, in the order in which ranks fill them. Hosts that are not needed are spares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostList {
    /// At least one host; all names differ.
    pub hosts: Vec<Host>,
    /// The source of the hosts.
    pub source: Source,
    /// Notes for the user on how they were read.
    pub notes: Vec<String>,
}

/// The source of a run's hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A hostfile.
    HostFile(PathBuf),
    /// The option `--hosts`.
    Option,
    /// The Slurm job of this process.
    Slurm,
    /// The PBS or Torque job of this process.
    Pbs,
    /// The LSF job of this process.
    Lsf,
    /// The Grid Engine job of this process.
    GridEngine,
    /// No source: the run uses this machine alone.
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
            Self::GridEngine => f.write_str("the Grid Engine job"),
            Self::Local => f.write_str("this machine"),
        }
    }
}
