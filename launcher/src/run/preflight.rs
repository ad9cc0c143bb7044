//! The preflight of a run: examines the hosts, and leaves bad ones out if that is allowed.

use std::path::Path;

use admiral_contract::ExitCode;

use super::error::LaunchError;
use super::plan::LaunchPlan;
use super::settings::Settings;
use crate::console::Console;
use crate::decide::{Demand, Examined, admit};
use crate::doctor::{ExamineRequest, Receipt, examine};
use crate::files::write_json;
use crate::layout::Layout;

/// Examines the hosts of a run; with `bandwidth` also the speed of their all-reduce.
///
/// # Errors
/// If the hosts cannot be examined.
pub(super) async fn receipt(
    plan: &LaunchPlan,
    settings: &Settings,
    launch_id: Option<&str>,
    bandwidth: bool,
) -> Result<Receipt, LaunchError> {
    examine(&request(plan, settings, launch_id, bandwidth)?).await.map_err(LaunchError::system)
}

/// Returns those of `hosts` on which nothing can be started, with the reason.
pub(super) async fn unreachable(plan: &LaunchPlan, settings: &Settings, hosts: &[String]) -> Vec<(String, String)> {
    // A request that was valid for the preflight is still valid.
    let Ok(mut request) = request(plan, settings, None, false) else { return Vec::new() };
    request.hosts.retain(|host| hosts.contains(&host.name));
    crate::doctor::unreachable(&request).await
}

fn request(
    plan: &LaunchPlan,
    settings: &Settings,
    launch_id: Option<&str>,
    bandwidth: bool,
) -> Result<ExamineRequest, LaunchError> {
    let layout = Layout::new(&plan.hosts.hosts, 1).map_err(LaunchError::config)?;
    Ok(ExamineRequest {
        hosts: plan.hosts.hosts.clone(),
        source: plan.hosts.source.clone(),
        mpirun: plan.mpirun_command(layout, &["probe"], 1),
        addresses: plan.addresses()?,
        program: plan.program.clone(),
        files: settings.files.clone(),
        places: settings.places.clone(),
        kind: settings.work.kind(),
        run_folder: Some(settings.run_folder.clone()),
        store: Some(settings.store.clone()),
        checkpoint_bytes: settings.checkpoint_bytes,
        kept_checkpoints: settings.kept_checkpoints,
        uses_gpus: settings.uses_gpus,
        requires_gpus: settings.requires_gpus,
        launch_id: launch_id.map(str::to_owned),
        bandwidth,
        environment: plan.environment.clone(),
    })
}

/// Examines the hosts, writes the receipt to `path`, and sets the hosts and ranks of the first attempt.
///
/// # Errors
/// If a host is bad, unless the run may start without it.
pub(super) async fn preflight(
    plan: &mut LaunchPlan,
    settings: &Settings,
    launch_id: &str,
    path: &Path,
    console: &Console,
) -> Result<(), LaunchError> {
    let receipt = receipt(plan, settings, Some(launch_id), false).await?;
    if let Err(error) = write_json(path, &receipt) {
        console.warn(&error.to_string());
    }
    console.info(&receipt.text(console.has_colour()));
    for host in &mut plan.hosts.hosts {
        if let Some(ranks) = receipt.ranks(&host.name) {
            host.slots = ranks;
        }
    }
    plan.has_gpus = Some(receipt.has_gpus());
    let bad: Vec<String> = receipt.bad_hosts().into_iter().map(|(host, _)| host).collect();
    let examined = Examined {
        hosts: &plan.hosts.hosts,
        bad: &bad,
        is_good: receipt.is_good(),
        is_bad_everywhere: receipt.is_bad_everywhere(),
    };
    let demand = Demand {
        ranks: plan.options.hosts.np,
        min_ranks: plan.options.min_ranks,
        allow_fewer_hosts: plan.options.allow_fewer_hosts,
        work: settings.work,
    };
    let mut notes = Vec::new();
    let admitted = admit(examined, demand, &mut notes);
    for note in &notes {
        console.warn(note);
    }
    let admitted = admitted.map_err(refused)?;
    (plan.hosts.hosts, plan.world) = (admitted.hosts, admitted.world);
    Ok(())
}

fn refused(message: impl std::fmt::Display) -> LaunchError {
    LaunchError { code: ExitCode::Node as u8, message: message.to_string() }
}
