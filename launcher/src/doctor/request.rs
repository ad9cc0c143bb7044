//! What is to be examined.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::Environment;
use crate::facts::Facts;
use crate::hosts::{Host, Source, is_this_host};
use crate::mpirun::MpirunCommand;

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct ExamineRequest {
    /// All hosts of the run.
    pub hosts: Vec<Host>,
    /// Who named them: a scheduler starts processes in its own way.
    pub source: Source,
    /// The `mpirun` of the run's own processes; its places and arguments are replaced.
    pub mpirun: MpirunCommand,
    /// The addresses of this machine by which the hosts may reach it.
    pub addresses: Vec<IpAddr>,
    /// The program `admiral`.
    pub program: PathBuf,
    /// Files that every host has to have with the same bytes: the configuration.
    pub files: Vec<PathBuf>,
    /// What every host has to find: the data.
    pub places: Vec<PathBuf>,
    /// What the configuration says; without it no store and no disk is examined.
    pub facts: Option<Facts>,
    /// Whether ranks use GPUs where there are any.
    pub uses_gpus: bool,
    /// Processes of this launch are no leftovers.
    pub launch_id: Option<String>,
    /// Whether ranks on all hosts are to sum something, to see how fast they do; that starts them all once.
    pub bandwidth: bool,
    /// The launcher's environment.
    pub environment: Environment,
}

/// Why nothing could be examined. A host that is bad is no error but a finding.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// This machine lacks what the launcher needs.
    #[error("the hosts cannot be examined: {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Whether `mpirun` starts processes on a host without the remote agent.
pub(super) fn is_local(host: &Host) -> bool {
    is_this_host(&host.name)
}

pub(super) fn random_text() -> Result<String, DoctorError> {
    crate::random::text(16).map_err(|source| DoctorError::System { what: "random bytes", source })
}

/// At most this long, in whole seconds for people.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

/// A request for tests.
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
        facts: None,
        uses_gpus: true,
        launch_id: None,
        bandwidth: false,
        environment: Environment::new([]),
    }
}
