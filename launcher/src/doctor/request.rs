//! The request to examine hosts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::Environment;
use crate::hosts::{Host, Source, is_this_host};
use crate::job::JobKind;
use crate::mpirun::MpirunCommand;

/// The request to examine hosts.
#[derive(Debug, Clone)]
pub struct ExamineRequest {
    /// All hosts of the run.
    pub hosts: Vec<Host>,
    /// The source of the hosts. Schedulers start processes in their own way.
    pub source: Source,
    /// The `mpirun` of the run. Its layout and arguments are replaced.
    pub mpirun: MpirunCommand,
    /// The addresses of this machine by which the hosts may reach it.
    pub addresses: Vec<IpAddr>,
    /// The path of `admiral`.
    pub program: PathBuf,
    /// Files that must be identical on every host: the configuration of a training run.
    pub files: Vec<PathBuf>,
    /// Files or folders that every host must have: the data, or the checkpoint to draw from.
    pub places: Vec<PathBuf>,
    /// What the ranks do.
    pub kind: JobKind,
    /// The folder of the launcher's files, whose disk is examined.
    pub run_folder: Option<PathBuf>,
    /// The folder or URL of the checkpoints or images, to which every host writes; without it, that is not examined.
    pub store: Option<String>,
    /// The size of a checkpoint in bytes, if the run writes any.
    pub checkpoint_bytes: Option<u64>,
    /// The largest number of checkpoints that are stored at the same time.
    pub kept_checkpoints: u64,
    /// Whether ranks use GPUs if there are any.
    pub uses_gpus: bool,
    /// Whether ranks need GPUs.
    pub requires_gpus: bool,
    /// Processes of this launch are no leftovers.
    pub launch_id: Option<String>,
    /// Whether to start all ranks once and measure the speed of their all-reduce.
    pub bandwidth: bool,
    /// The launcher's environment.
    pub environment: Environment,
}

/// Hosts could not be examined. A bad host is a finding, not an error.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// This machine lacks something.
    #[error("the hosts cannot be examined: {what}: {source}")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

/// Returns whether `mpirun` starts processes on this host without the remote agent.
pub(super) fn is_local(host: &Host) -> bool {
    is_this_host(&host.name)
}

pub(super) fn random_text() -> Result<String, DoctorError> {
    crate::random::text(32).map_err(|source| DoctorError::System { what: "random bytes", source })
}

/// Returns a timeout in whole seconds, for people.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

/// Returns a request for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) fn example(names: &[&str]) -> ExamineRequest {
    let hosts: Vec<Host> = names.iter().map(|&name| Host { name: name.into(), slots: 2, slots_given: true }).collect();
    let mpirun = MpirunCommand {
        mpirun: "/usr/bin/mpirun".into(),
        layout: crate::layout::Layout::new(&hosts, 1).unwrap(),
        program: "/opt/admiral-launch".into(),
        arguments: vec!["agent".into()],
        variables: vec![],
        grace_seconds: 30,
        is_root: false,
        oversubscribe: true,
        interfaces: None,
        remote_start: crate::mpirun::RemoteStart::Agent,
        options: vec![],
        temporary_folder: "/tmp".into(),
    };
    ExamineRequest {
        hosts,
        source: Source::Option,
        mpirun,
        addresses: vec![],
        program: "/opt/admiral".into(),
        files: vec![],
        places: vec![],
        kind: JobKind::Train,
        run_folder: None,
        store: None,
        checkpoint_bytes: None,
        kept_checkpoints: 0,
        uses_gpus: true,
        requires_gpus: false,
        launch_id: None,
        bandwidth: false,
        environment: Environment::new([]),
    }
}
