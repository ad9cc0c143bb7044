//! The preflight: what is wrong with the hosts of a run, before the run finds out.
//!
//! [`reach`] asks each host through the remote agent that `mpirun` will use, since a single host that does not answer
//! brings `mpirun` down as a whole, or makes it wait for ever. [`gather`] starts a probe on every host that answered,
//! under one `mpirun`, and hears them over TCP. [`compare`] turns their answers into findings; [`receipt`] is what
//! people and programs get to see.
//!
//! What is compared of the programs: SHA-256 of all of `admiral`, `admiral-launch` and the configuration's file; of
//! libtorch's files, which are too large for that, the length and the linker's build id, or where there is none a hash
//! of 33 pieces of 64 KiB.

mod bandwidth;
pub mod compare;
mod exchange;
mod gather;
pub mod probe;
mod reach;
mod receipt;
mod running;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub use bandwidth::{Bandwidth, Link};
pub use compare::network::Network;
pub use compare::{Finding, Severity};
pub use exchange::Clock;
pub use receipt::{GpuRow, HostReport, HostRow, Receipt};

use crate::facts::Facts;
use crate::hosts::{Host, Source, is_this_host};
use crate::mpirun::MpirunPlan;
use compare::Needs;
use gather::Gathered;
use probe::Question;

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct ExamineRequest {
    /// All hosts of the run.
    pub hosts: Vec<Host>,
    /// Who named them: a scheduler starts processes in its own way.
    pub source: Source,
    /// The `mpirun` of the run's own processes; its places and arguments are replaced.
    pub mpirun: MpirunPlan,
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

/// Examines hosts. Hosts that do not answer take at most about half a minute, however many they are.
///
/// # Errors
/// When this machine does not let it.
pub async fn examine(request: &ExamineRequest) -> Result<Receipt, DoctorError> {
    let started = Instant::now();
    let checked_at = Timestamp::now();
    let salt = random_text()?;
    let mut findings = reach::unreachable(request).await;
    let is_reached = |host: &&Host| !findings.iter().any(|finding| finding.hosts.contains(&host.name));
    let reached: Vec<Host> = request.hosts.iter().filter(is_reached).cloned().collect();
    let question = question(request, &salt);
    let Gathered { answers, findings: silent, only_alone } = gather::gather(request, &reached, &question).await?;
    findings.extend(silent);
    // Of one machine under two names mpirun starts one process instead of two: that says nothing of the network.
    findings.extend(only_alone.filter(|_| compare::hosts::are_distinct(&answers)));
    let needs = needs(request, &salt);
    findings.extend(compare::compare(&needs, &answers));
    let mut bandwidth = None;
    if request.bandwidth {
        let network = compare::network::shared(&needs, &answers);
        let (measured, slow) = bandwidth::measure(request, &needs, &answers, &findings, network.as_ref()).await?;
        bandwidth = measured;
        findings.extend(slow);
    }
    findings.sort_by_key(|finding| finding.severity);
    let mut receipt = receipt::receipt(checked_at, &request.hosts, &needs, &answers, findings);
    receipt.bandwidth = bandwidth;
    receipt.seconds = started.elapsed().as_secs_f64();
    Ok(receipt)
}

/// The hosts on which `mpirun` could not start anything, and why.
pub async fn unreachable(request: &ExamineRequest) -> Vec<(String, String)> {
    let of_each = |finding: Finding| {
        let what = finding.what;
        finding.hosts.into_iter().map(move |host| (host, what.clone()))
    };
    reach::unreachable(request).await.into_iter().flat_map(of_each).collect()
}

/// What a host's probe runs: `admiral-launch probe`, started by [`examine`].
///
/// # Errors
/// With a sentence that names the host.
pub fn probe() -> Result<(), String> {
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{name} is not set; `admiral-launch probe` is started by `admiral-launch doctor`"))
    };
    exchange::answer(&variable(exchange::ADDRESSES)?, &variable(exchange::TOKEN)?).map_err(|reason| {
        let host = admiral_contract::host::host_name();
        format!("{}{host}: {reason}", gather::MARK)
    })
}

fn question(request: &ExamineRequest, salt: &str) -> Question {
    let derived = request.facts.as_ref().map(|facts| &facts.derived);
    Question {
        program: request.program.clone(),
        files: request.files.clone(),
        places: request.places.clone(),
        run_folder: derived.map(|derived| derived.run_folder.clone()),
        checkpoint_url: derived.map(|derived| derived.checkpoint_url.clone()),
        launch_id: request.launch_id.clone(),
        salt: salt.to_owned(),
    }
}

fn needs(request: &ExamineRequest, salt: &str) -> Needs {
    let facts = request.facts.as_ref();
    Needs {
        uses_gpus: request.uses_gpus,
        requires_gpus: facts.is_some_and(|facts| facts.config.run.device == "cuda"),
        checkpoint_bytes: facts.map(|facts| facts.derived.checkpoint_bytes),
        kept_checkpoints: facts.map_or(0, kept_checkpoints),
        environment: probe::selected(std::env::vars_os(), salt),
        interfaces: probe::interfaces(),
        has_chosen_interfaces: has_chosen_interfaces(&request.mpirun),
        files: request.files.iter().map(|file| file.display().to_string()).collect(),
    }
}

/// An older checkpoint is deleted only when the newest is there.
fn kept_checkpoints(facts: &Facts) -> u64 {
    let all = facts.config.training.steps.div_ceil(facts.config.training.save_interval.max(1));
    facts.config.checkpoint.keep_last.map_or(all, |keep| all.min(keep.saturating_add(1)))
}

fn has_chosen_interfaces(plan: &MpirunPlan) -> bool {
    let named = |text: &str| text.contains("btl_tcp_if_");
    plan.interfaces.is_some()
        || plan.options.iter().any(|option| named(option))
        || std::env::vars_os().any(|(name, _)| named(&name.to_string_lossy()))
}

/// Whether `mpirun` starts processes on a host without the remote agent.
fn is_local(host: &Host) -> bool {
    is_this_host(&host.name)
}

fn random_text() -> Result<String, DoctorError> {
    crate::random::text(16).map_err(|source| DoctorError::System { what: "random bytes", source })
}

/// At most this long, in whole seconds for people.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::layout::Layout;

    pub(super) fn request(names: &[&str]) -> ExamineRequest {
        let hosts: Vec<Host> =
            names.iter().map(|&name| Host { name: name.into(), slots: 2, slots_given: true }).collect();
        let mpirun = MpirunPlan {
            mpirun: "/usr/bin/mpirun".into(),
            layout: Layout::new(&hosts, 1).unwrap(),
            program: "/opt/admiral-launch".into(),
            arguments: vec!["attend".into()],
            variables: vec![],
            grace_seconds: 30,
            is_root: false,
            oversubscribe: true,
            interfaces: None,
            options: vec![],
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
        }
    }

    #[test]
    fn interfaces_may_be_chosen_in_several_ways() {
        let mut plan = request(&["n0"]).mpirun;
        assert!(!has_chosen_interfaces(&plan));
        plan.options = vec!["--mca btl_tcp_if_exclude docker0".into()];
        assert!(has_chosen_interfaces(&plan));
        plan.options.clear();
        plan.interfaces = Some("eth0".into());
        assert!(has_chosen_interfaces(&plan));
    }
}
