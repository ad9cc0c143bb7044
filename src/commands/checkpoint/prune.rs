//! `admiral checkpoint prune`: verifies the newest checkpoint, and deletes those that need not be kept.

use std::collections::{BTreeMap, BTreeSet};

use admiral_checkpoint::{Catalog, Entry, Inventory, Retention, Score, State, delete};
use admiral_comm::ExitCode;
use admiral_storage::CloudSettings;
use clap::Args;
use serde_json::{Value, json};

use super::error::ToolError;
use super::list::state_name;
use super::options::options_of;
use super::print::{count, print, print_json, size};
use super::table::{Side, Table};
use super::verify::file_and_difference;

/// The options of `admiral checkpoint prune`.
#[derive(Debug, Args)]
pub struct PruneOptions {
    /// A folder of checkpoints or a run's folder: a path or a bucket's URL
    #[arg(value_name = "PLACE")]
    location: String,
    /// Keep the N newest checkpoints
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep_last: u64,
    /// Keep the steps that K divides
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    keep_every: Option<u64>,
    /// Keep the N evaluated checkpoints with the lowest FID, and the N newest that have not been evaluated yet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep_best: Option<u64>,
    /// Keep these steps: 5000,10000
    #[arg(long, value_name = "STEP,...", value_delimiter = ',')]
    keep: Vec<u64>,
    /// Also delete damaged checkpoints, including those that were set aside
    #[arg(long)]
    damaged: bool,
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The decision on a step's folder, with its reason.
#[derive(Debug, Clone, PartialEq)]
struct Decision {
    step: u64,
    bytes: u64,
    state: &'static str,
    deleted: bool,
    why: String,
}

pub(super) fn run(options: &PruneOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let retention = Retention {
        keep_last: Some(options.keep_last),
        keep_best: options.keep_best.unwrap_or(0),
        keep_every: options.keep_every.unwrap_or(0),
        keep_steps: options.keep.iter().copied().collect(),
    };
    let catalog = Catalog::open(&options.location, &options_of(clouds))?;
    let inventory = catalog.inventory()?;
    let mut decisions = decide(&inventory, &scores(&catalog, &inventory, &retention)?, &retention, options.damaged);
    if decisions.iter().any(|decision| decision.deleted) {
        verify_newest(&catalog, &inventory)?;
        // A run may have saved checkpoints during the verification, so the decisions are made again.
        let decided: BTreeSet<u64> = deleted_steps(&decisions);
        let inventory = catalog.inventory()?;
        decisions = decide(&inventory, &scores(&catalog, &inventory, &retention)?, &retention, options.damaged);
        for decision in decisions.iter_mut().filter(|d| d.deleted && !decided.contains(&d.step)) {
            decision.deleted = false;
            decision.why = "changed during the verification".into();
        }
    }
    if !options.dry_run {
        for decision in decisions.iter_mut().filter(|decision| decision.deleted) {
            if decision.state != state_name(&State::Incomplete) {
                delete(catalog.store(), decision.step)?;
            } else if !catalog.delete_incomplete(decision.step)? {
                decision.deleted = false;
                decision.why = "has been published just now".into();
            }
        }
    }
    if options.json {
        print_json(&as_json(&catalog.store().url(""), options.dry_run, &decisions))
    } else {
        print(&as_text(&catalog.store().url(""), options.dry_run, &decisions))
    }
}

fn deleted_steps(decisions: &[Decision]) -> BTreeSet<u64> {
    decisions.iter().filter(|decision| decision.deleted).map(|decision| decision.step).collect()
}

/// Verifies the newest checkpoint. Older checkpoints are only deleted if it is whole.
fn verify_newest(catalog: &Catalog, inventory: &Inventory) -> Result<(), ToolError> {
    // Without a checkpoint, only incomplete and damaged folders are deleted.
    let Some(newest) = inventory.newest() else { return Ok(()) };
    let damage = match catalog.checkpoint(newest) {
        Ok(checkpoint) => checkpoint.verify()?.into_iter().next(),
        Err(error) => Some(error),
    };
    let Some(error) = damage else { return Ok(()) };
    if error.exit_code() == ExitCode::Store {
        return Err(error.into());
    }
    let (file, reason) = file_and_difference(error);
    Err(ToolError::Refused(format!(
        "nothing is deleted, because the newest checkpoint, of step {newest}, is not whole: {file}: {reason}; restore \
         it, or rename its manifest.json to manifest.damaged.json to set it aside"
    )))
}

/// Returns the scores of evaluated checkpoints, if the decision depends on them.
fn scores(catalog: &Catalog, inventory: &Inventory, retention: &Retention) -> Result<BTreeMap<u64, Score>, ToolError> {
    if retention.keep_best == 0 {
        return Ok(BTreeMap::new());
    }
    let manifests = inventory.entries.iter().filter_map(|entry| match &entry.state {
        State::Published(manifest) => Some(manifest.as_ref()),
        _ => None,
    });
    Ok(catalog.scores(manifests)?)
}

/// Decides which folders are deleted.
fn decide(
    inventory: &Inventory,
    scores: &BTreeMap<u64, Score>,
    retention: &Retention,
    with_damaged: bool,
) -> Vec<Decision> {
    let owner = inventory.owner.as_ref();
    let in_use = owner.and_then(|owner| owner.step_in_use());
    let is_published = |state: &State| matches!(state, State::Published(_));
    let published: BTreeSet<u64> =
        inventory.entries.iter().filter(|entry| is_published(&entry.state)).map(|entry| entry.step).collect();
    let newest = inventory.newest();
    let decide = |step: u64, state: &State| -> (bool, String) {
        let written = owner.filter(|owner| owner.may_be_writing(step)).map(|owner| owner.writer.to_string());
        match (state, written) {
            (State::Published(_), _) => match retention.kept(step, &published, scores, in_use) {
                Some(kept) => (false, kept.to_string()),
                None => (true, "older than what is kept".into()),
            },
            (State::Newer(_), _) => (false, "a newer Admiral wrote it".into()),
            (_, Some(writer)) => (false, format!("{writer} may be writing it")),
            (State::Damaged(_) | State::SetAside, None) if with_damaged => (true, "damaged".into()),
            (State::Damaged(_) | State::SetAside, None) => (false, "damaged; --damaged deletes it".into()),
            (State::Incomplete, None) if newest.is_some_and(|newest| step < newest) => {
                (true, "a save that was not finished".into())
            }
            (State::Incomplete, None) => (false, "newer than every checkpoint: a save may be under way".into()),
        }
    };
    let decision = |entry: &Entry| {
        let (deleted, why) = match decide(entry.step, &entry.state) {
            (true, _) if entry.is_linked => (false, "it is a symbolic link, or has one in it".into()),
            decided => decided,
        };
        Decision { step: entry.step, bytes: entry.bytes, state: state_name(&entry.state), deleted, why }
    };
    inventory.entries.iter().map(decision).collect()
}

fn action(deleted: bool, dry_run: bool) -> &'static str {
    match (deleted, dry_run) {
        (false, _) => "kept",
        (true, false) => "deleted",
        (true, true) => "would be deleted",
    }
}

fn freed(decisions: &[Decision]) -> u64 {
    decisions.iter().filter(|decision| decision.deleted).map(|decision| decision.bytes).sum()
}

fn as_text(url: &str, dry_run: bool, decisions: &[Decision]) -> String {
    let mut table = Table::new([
        ("step", Side::Right),
        ("size", Side::Right),
        ("state", Side::Left),
        ("outcome", Side::Left),
        ("why", Side::Left),
    ]);
    for decision in decisions {
        let outcome = action(decision.deleted, dry_run).to_owned();
        table.row([
            decision.step.to_string(),
            size(decision.bytes),
            decision.state.to_owned(),
            outcome,
            decision.why.clone(),
        ]);
    }
    let number = deleted_steps(decisions).len();
    let sum = format!("{} {}: {}", count(number, "folder"), action(true, dry_run), size(freed(decisions)));
    format!("{url}\n\n{table}\n{sum}\n")
}

fn as_json(url: &str, dry_run: bool, decisions: &[Decision]) -> Value {
    let steps: Vec<Value> = decisions
        .iter()
        .map(|d| json!({"step": d.step, "state": d.state, "bytes": d.bytes, "deleted": d.deleted, "why": d.why}))
        .collect();
    json!({"place": url, "dry_run": dry_run, "bytes_freed": freed(decisions), "steps": steps})
}
