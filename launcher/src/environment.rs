//! The environment of this process. It is read once in [`crate::cli::main`] and handed down.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use admiral_contract::environment::ATTEMPT;
use sha2::{Digest, Sha256};

/// The launcher's addresses for an agent: `address:port`, separated by commas.
pub const LAUNCH_ADDRESSES: &str = "ADMIRAL_LAUNCH_ADDRESSES";
/// The machine of the launcher, as [`machine_digest`] names it.
pub const LAUNCH_MACHINE: &str = "ADMIRAL_LAUNCH_MACHINE";
/// The secret that the launcher and its agents share.
pub const LAUNCH_TOKEN: &str = "ADMIRAL_LAUNCH_TOKEN";
/// The launcher's addresses for a probe: `address:port`, separated by commas.
pub const PROBE_ADDRESSES: &str = "ADMIRAL_PROBE_ADDRESSES";
/// The secret that the launcher and its probes share.
pub const PROBE_TOKEN: &str = "ADMIRAL_PROBE_TOKEN";
/// The rank of a process that Open MPI started.
pub const MPI_RANK: &str = "OMPI_COMM_WORLD_RANK";
/// Its rank among those of its host.
pub const MPI_LOCAL_RANK: &str = "OMPI_COMM_WORLD_LOCAL_RANK";
/// Open MPI's parameter for the program that starts processes on other hosts.
pub const REMOTE_AGENT_PARAMETER: &str = "plm_rsh_agent";

/// The variables of this process that the launcher reads.
///
/// A variable that is not UTF-8 counts as not set, except in [`Environment::variables`].
#[derive(Clone, PartialEq, Eq)]
pub struct Environment {
    /// All variables, by name: the ones of schedulers, those that are passed on to the ranks, and those that the doctor
    /// compares between hosts.
    pub variables: BTreeMap<OsString, OsString>,
    /// `NO_COLOR`: if it is set and not empty, output has no colours.
    pub no_color: bool,
    /// `PATH`: the folders in which `mpirun` is looked for.
    pub path: String,
    /// `TMPDIR`, or `/tmp`: the folder in which Open MPI creates its session folders.
    pub temporary_folder: PathBuf,
    /// `OMPI_MCA_plm_rsh_agent`: the remote agent that Open MPI uses instead of ssh.
    pub remote_agent: Option<String>,
    /// The variables that the launcher and Open MPI set for an agent.
    pub agent: AgentVariables,
    /// The variables that the launcher and Open MPI set for a probe.
    pub probe: ProbeVariables,
}

/// The variables of a process that was started as a rank's agent.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentVariables {
    /// [`LAUNCH_ADDRESSES`].
    pub addresses: Option<String>,
    /// [`LAUNCH_MACHINE`].
    pub machine: Option<String>,
    /// [`LAUNCH_TOKEN`].
    pub token: Option<String>,
    /// [`ATTEMPT`]: the number of attempts of this launch before this one.
    pub attempt: Option<u64>,
    /// [`MPI_RANK`].
    pub rank: Option<usize>,
    /// [`MPI_LOCAL_RANK`].
    pub local_rank: Option<usize>,
    /// `CUDA_VISIBLE_DEVICES`: the GPUs that a rank sees, separated by commas.
    pub visible_gpus: Option<String>,
    /// `PMIX_SERVER_TMPDIR`: the session folder of the Open MPI daemon that started this process.
    pub session_folder: Option<PathBuf>,
}

/// The variables of a process that was started as a probe.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeVariables {
    /// [`PROBE_ADDRESSES`].
    pub addresses: Option<String>,
    /// [`LAUNCH_MACHINE`].
    pub machine: Option<String>,
    /// [`PROBE_TOKEN`].
    pub token: Option<String>,
    /// `PMIX_HOSTNAME`: the name by which Open MPI knows this host.
    pub mpi_name: Option<String>,
}

/// Returns a name for this machine that tells nothing about it.
#[must_use]
pub fn machine_digest() -> String {
    let digest = Sha256::digest(admiral_contract::host::machine_identity());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Returns the environment with these variables.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables: BTreeMap<OsString, OsString> = variables.into_iter().collect();
        let text = |name: &str| text(&variables, name);
        let path = |name: &str| variables.get(&OsString::from(name)).map(PathBuf::from);
        Self {
            no_color: variables.get(&OsString::from("NO_COLOR")).is_some_and(|value| !value.is_empty()),
            path: text("PATH").unwrap_or_default(),
            temporary_folder: path("TMPDIR").unwrap_or_else(|| "/tmp".into()),
            remote_agent: text(&format!("OMPI_MCA_{REMOTE_AGENT_PARAMETER}")),
            agent: AgentVariables {
                addresses: text(LAUNCH_ADDRESSES),
                machine: text(LAUNCH_MACHINE),
                token: text(LAUNCH_TOKEN),
                attempt: parsed(text(ATTEMPT)),
                rank: parsed(text(MPI_RANK)),
                local_rank: parsed(text(MPI_LOCAL_RANK)),
                visible_gpus: text("CUDA_VISIBLE_DEVICES"),
                session_folder: path("PMIX_SERVER_TMPDIR"),
            },
            probe: ProbeVariables {
                addresses: text(PROBE_ADDRESSES),
                machine: text(LAUNCH_MACHINE),
                token: text(PROBE_TOKEN),
                mpi_name: text("PMIX_HOSTNAME"),
            },
            variables,
        }
    }

    /// Returns the value of any variable, such as one of a scheduler.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        text(&self.variables, name)
    }

    /// Returns the value of any variable. Bytes that are not UTF-8 become U+FFFD, which no name of a host or file has, so that
    /// the reader of the value refuses it.
    #[must_use]
    pub fn get_lossy(&self, name: &str) -> Option<String> {
        self.variables.get(&OsString::from(name)).map(|value| value.to_string_lossy().into_owned())
    }

    /// Returns all variables whose names and values are UTF-8.
    pub fn texts(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.variables.iter().filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
    }
}

/// Shows no value, because some are secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("names", &self.variables.keys()).finish_non_exhaustive()
    }
}

fn text(variables: &BTreeMap<OsString, OsString>, name: &str) -> Option<String> {
    variables.get(&OsString::from(name))?.to_str().map(str::to_owned)
}

fn parsed<T: FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|&(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn variables_are_read_by_their_meaning() {
        let set = environment(&[
            ("NO_COLOR", "1"),
            ("TMPDIR", "/scratch"),
            ("OMPI_MCA_plm_rsh_agent", "rsh"),
            ("ADMIRAL_ATTEMPT", "2"),
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "x"),
        ]);
        assert!(set.no_color);
        assert_eq!(set.temporary_folder, PathBuf::from("/scratch"));
        assert_eq!(set.remote_agent.as_deref(), Some("rsh"));
        assert_eq!((set.agent.attempt, set.agent.rank, set.agent.local_rank), (Some(2), Some(3), None));
        assert_eq!(set.get("ADMIRAL_ATTEMPT").as_deref(), Some("2"));
        let empty = environment(&[("NO_COLOR", "")]);
        assert!(!empty.no_color);
        assert_eq!((empty.path.as_str(), empty.temporary_folder), ("", PathBuf::from("/tmp")));
    }

    #[test]
    fn debug_output_shows_no_value() {
        let shown =
            format!("{:?}", environment(&[("AWS_SECRET_ACCESS_KEY", "hush"), ("ADMIRAL_LAUNCH_TOKEN", "hush")]));
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush"), "{shown}");
    }
}
