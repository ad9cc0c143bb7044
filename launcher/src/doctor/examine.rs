//! Examining the hosts of a run.

use std::time::Instant;

use jiff::Timestamp;

use super::compare::{self, Finding, Needs};
use super::gather::Gathered;
use super::probe::{Question, interfaces, selected};
use super::receipt::Receipt;
use super::request::{DoctorError, ExamineRequest, random_text};
use super::{bandwidth, exchange, gather, reach, receipt};
use crate::environment::{Environment, PROBE_ADDRESSES, PROBE_TOKEN};
use crate::hosts::Host;
use crate::mpirun::MpirunCommand;

/// Examines hosts. Hosts that do not answer take at most about half a minute together.
///
/// # Errors
/// If this machine cannot examine hosts.
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
    // For one machine under two names mpirun starts one process instead of two. That says nothing about the network.
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

/// Returns the hosts on which `mpirun` could not start anything, with the reasons.
pub async fn unreachable(request: &ExamineRequest) -> Vec<(String, String)> {
    let of_each = |finding: Finding| {
        let what = finding.what;
        finding.hosts.into_iter().map(move |host| (host, what.clone()))
    };
    reach::unreachable(request).await.into_iter().flat_map(of_each).collect()
}

/// Runs a host's probe: `admiral-launch probe`, which [`examine`] starts.
///
/// # Errors
/// If the probe fails: a sentence that names the host.
pub fn probe(environment: &Environment) -> Result<(), String> {
    let required = |name: &str, value: &Option<String>| {
        value
            .clone()
            .ok_or_else(|| format!("{name} is not set; `admiral-launch probe` is started by `admiral-launch doctor`"))
    };
    let addresses = required(PROBE_ADDRESSES, &environment.probe.addresses)?;
    let token = required(PROBE_TOKEN, &environment.probe.token)?;
    exchange::run_probe(&addresses, &token, environment).map_err(|reason| {
        let host = admiral_contract::host::host_name();
        format!("{}{host}: {reason}", gather::PROBE_MESSAGE_PREFIX)
    })
}

fn question(request: &ExamineRequest, salt: &str) -> Question {
    Question {
        program: request.program.clone(),
        files: request.files.clone(),
        places: request.places.clone(),
        run_folder: request.run_folder.clone(),
        checkpoint_url: request.store.clone(),
        launch_id: request.launch_id.clone(),
        salt: salt.to_owned(),
    }
}

fn needs(request: &ExamineRequest, salt: &str) -> Needs {
    Needs {
        kind: request.kind,
        uses_gpus: request.uses_gpus,
        requires_gpus: request.requires_gpus,
        checkpoint_bytes: request.checkpoint_bytes,
        kept_checkpoints: request.kept_checkpoints,
        environment: selected(&request.environment, salt),
        interfaces: interfaces(),
        has_chosen_interfaces: has_chosen_interfaces(&request.mpirun, &request.environment),
        files: request.files.iter().map(|file| file.display().to_string()).collect(),
    }
}

fn has_chosen_interfaces(plan: &MpirunCommand, environment: &Environment) -> bool {
    let named = |text: &str| text.contains("btl_tcp_if_");
    plan.interfaces.is_some()
        || plan.options.iter().any(|option| named(option))
        || environment.variables.keys().any(|name| named(&name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::request::example;
    use super::*;

    #[test]
    fn chosen_interfaces_are_recognized() {
        let none = Environment::new([]);
        let mut plan = example(&["n0"]).mpirun;
        assert!(!has_chosen_interfaces(&plan, &none));
        plan.options = vec!["--mca btl_tcp_if_exclude docker0".into()];
        assert!(has_chosen_interfaces(&plan, &none));
        plan.options.clear();
        plan.interfaces = Some("eth0".into());
        assert!(has_chosen_interfaces(&plan, &none));
    }
}
