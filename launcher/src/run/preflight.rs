//! The hosts are examined before the run is started, and those that are bad are left out, where that is allowed.

use std::path::Path;

use admiral_contract::{ExitCode, largest_world_size};

use super::error::LaunchError;
use super::plan::Plan;
use crate::console::Console;
use crate::doctor::{ExamineRequest, Receipt, examine};
use crate::facts::Facts;
use crate::files::write_json;
use crate::hosts::Host;
use crate::layout::Layout;

/// Examines the hosts of a run; with `bandwidth` also how fast its ranks sum.
///
/// # Errors
/// When that is not possible at all.
pub(super) async fn receipt(
    plan: &Plan,
    facts: &Facts,
    launch_id: Option<&str>,
    bandwidth: bool,
) -> Result<Receipt, LaunchError> {
    examine(&request(plan, facts, launch_id, bandwidth)?).await.map_err(LaunchError::system)
}

/// Which of these hosts nothing can be started on, and why.
pub(super) async fn unreachable(plan: &Plan, facts: &Facts, hosts: &[String]) -> Vec<(String, String)> {
    // What the plan was begun with can be asked for again.
    let Ok(mut request) = request(plan, facts, None, false) else { return Vec::new() };
    request.hosts.retain(|host| hosts.contains(&host.name));
    crate::doctor::unreachable(&request).await
}

fn request(
    plan: &Plan,
    facts: &Facts,
    launch_id: Option<&str>,
    bandwidth: bool,
) -> Result<ExamineRequest, LaunchError> {
    let layout = Layout::new(&plan.hosts.hosts, 1).map_err(LaunchError::config)?;
    Ok(ExamineRequest {
        hosts: plan.hosts.hosts.clone(),
        source: plan.hosts.source.clone(),
        mpirun: plan.mpirun_plan(layout, &["probe"], 1),
        addresses: plan.addresses()?,
        program: plan.program.clone(),
        files: vec![plan.config.clone()],
        places: facts.config.data.path.iter().filter(|path| !path.is_empty()).map(absolute).collect(),
        facts: Some(facts.clone()),
        uses_gpus: facts.config.run.device != "cpu",
        launch_id: launch_id.map(str::to_owned),
        bandwidth,
    })
}

fn absolute(path: &String) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Examines the hosts, writes the receipt to `path`, and settles with which hosts the run begins and on how many ranks.
///
/// # Errors
/// When a host is bad, unless the run may go on without.
pub(super) async fn preflight(
    plan: &mut Plan,
    facts: &Facts,
    launch_id: &str,
    path: &Path,
    console: Console,
) -> Result<(), LaunchError> {
    let receipt = receipt(plan, facts, Some(launch_id), false).await?;
    if let Err(error) = write_json(path, &receipt) {
        console.warn(&error.to_string());
    }
    console.say(&receipt.text(console.has_colour()));
    for host in &mut plan.hosts.hosts {
        if let Some(ranks) = receipt.ranks(&host.name) {
            host.slots = ranks;
        }
    }
    plan.has_gpus = Some(receipt.has_gpus());
    let wanted = plan.options.hosts.np.unwrap_or_else(|| slots_of(plan));
    let bad = receipt.bad_hosts();
    if !receipt.is_good() && (bad.is_empty() || receipt.is_bad_everywhere()) {
        return Err(refused("the run would fail; see above"));
    }
    if !bad.is_empty() {
        let names: Vec<String> = bad.iter().map(|(host, _)| host.clone()).collect();
        let left: Vec<Host> = plan.hosts.hosts.iter().filter(|host| !names.contains(&host.name)).cloned().collect();
        match plan.options.allow_fewer_hosts {
            Some(least) if left.len() >= least.max(1) => {
                console.warn(&format!("goes on without {}", names.join(", ")));
                plan.hosts.hosts = left;
            }
            Some(least) => {
                return Err(refused(format!("{} of at least {least} hosts are good", left.len())));
            }
            None => return Err(refused(cannot_be_used(&names, left.len()))),
        }
    }
    settle_world(plan, wanted, facts, console)
}

/// What to do about bad hosts, where so many others are left.
fn cannot_be_used(names: &[String], left: usize) -> String {
    let them = if names.len() == 1 { "it" } else { "them" };
    let without = match left {
        0 => String::new(),
        least => format!(", leave {them} out, or go on without {them}: --allow-fewer-hosts {least}"),
    };
    format!("{} cannot be used; mend that{without}", names.join(", "))
}

fn slots_of(plan: &Plan) -> usize {
    plan.hosts.hosts.iter().map(|host| host.slots).sum()
}

/// The ranks of the run on the hosts that are left, when so many were wanted on all of them.
fn settle_world(plan: &mut Plan, wanted: usize, facts: &Facts, console: Console) -> Result<(), LaunchError> {
    let slots = slots_of(plan);
    plan.world = wanted;
    if wanted <= slots {
        return Ok(());
    }
    let training = &facts.config.training;
    let fits = largest_world_size(training.global_batch, training.microbatch, slots as u64);
    let fits = fits.and_then(|world| usize::try_from(world).ok());
    match fits.filter(|&world| world >= plan.options.min_ranks && plan.options.allow_fewer_hosts.is_some()) {
        Some(world) => {
            console.warn(&format!("{world} ranks instead of {wanted}, with the same global batch"));
            plan.world = world;
            Ok(())
        }
        None => Err(refused(format!("{wanted} ranks are wanted, and the hosts that are good take {slots}"))),
    }
}

fn refused(message: impl std::fmt::Display) -> LaunchError {
    LaunchError { code: ExitCode::Node as u8, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_about_bad_hosts_is_possible() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            cannot_be_used(&names(&["n7"]), 2),
            "n7 cannot be used; mend that, leave it out, or go on without it: --allow-fewer-hosts 2"
        );
        assert_eq!(cannot_be_used(&names(&["n7", "n8"]), 0), "n7, n8 cannot be used; mend that");
    }
}
