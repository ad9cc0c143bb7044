//! `admiral checkpoint list`: lists the checkpoints in a store.

use std::fmt::Write;

use admiral_checkpoint::{Catalog, Entry, Inventory, OwnerState, Role, State};
use admiral_contract::host::Life;
use admiral_storage::CloudSettings;
use clap::Args;
use serde_json::{Value, json};

use super::error::ToolError;
use super::options::options_of;
use super::print::{count, print, print_json, size, when};
use super::table::{Side, Table};

/// The options of `admiral checkpoint list`.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// A folder of checkpoints or a run's folder: a path or a bucket's URL
    #[arg(value_name = "PLACE")]
    location: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &ListOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let catalog = Catalog::open(&options.location, &options_of(clouds))?;
    let inventory = catalog.inventory()?;
    if options.json {
        print_json(&as_json(&catalog.store().url(""), &inventory))
    } else {
        print(&as_text(&catalog.store().url(""), &inventory))
    }
}

/// Returns the name of a state.
pub(super) fn state_name(state: &State) -> &'static str {
    match state {
        State::Published(_) => "published",
        State::Newer(_) => "newer schema",
        State::Damaged(_) => "damaged",
        State::SetAside => "set aside",
        State::Incomplete => "incomplete",
    }
}

fn life_name(owner: &OwnerState) -> &'static str {
    match owner.life {
        _ if owner.is_released => "released",
        Life::Alive => "alive",
        Life::Dead => "dead",
        Life::Unknown => "unknown",
    }
}

/// Returns why a manifest cannot be read, or `None` if it can.
pub(super) fn reason(state: &State) -> Option<String> {
    match state {
        State::Newer(error) | State::Damaged(error) => Some(error.to_string()),
        _ => None,
    }
}

/// Returns the names of the roles. Adam's two moments are one name, because they are always saved together.
fn contents(roles: &[Role]) -> String {
    let has_adam = roles.contains(&Role::AdamMean) && roles.contains(&Role::AdamVariance);
    let is_adam = |role: &Role| matches!(role, Role::AdamMean | Role::AdamVariance);
    let mut names: Vec<String> =
        roles.iter().filter(|role| !(has_adam && is_adam(role))).map(Role::to_string).collect();
    if has_adam {
        names.push("adam".into());
    }
    names.join(", ")
}

fn as_text(url: &str, inventory: &Inventory) -> String {
    let newest = inventory.newest();
    let published = inventory.entries.iter().filter(|entry| matches!(entry.state, State::Published(_))).count();
    let mut text = format!("{url}: {}", count(published, "checkpoint"));
    if let Some(step) = newest {
        let _ = write!(text, ", the newest of step {step}");
    }
    text.push('\n');
    match (inventory.pointed, newest) {
        (Some(pointed), newest) if Some(pointed) != newest => {
            let _ = writeln!(text, "latest.json names step {pointed}, which is not the newest");
        }
        (None, Some(_)) => text.push_str("latest.json is missing or cannot be read\n"),
        _ => {}
    }
    if let Some(owner) = &inventory.owner {
        let writer = &owner.writer;
        let _ = match life_name(owner) {
            "released" => writeln!(text, "last written by {writer}, which has ended"),
            "alive" => writeln!(text, "being written by {writer}, which is alive"),
            "dead" => writeln!(text, "last written by {writer}, which is dead and has not released the lease"),
            _ => writeln!(text, "written by {writer}; only its own host can tell whether it is alive"),
        };
    }
    let mut table = Table::new([
        ("step", Side::Right),
        ("created (UTC)", Side::Left),
        ("size", Side::Right),
        ("ranks", Side::Right),
        ("run", Side::Left),
        ("host", Side::Left),
        ("state", Side::Left),
        ("contents", Side::Left),
    ]);
    for Entry { step, bytes, state, is_linked } in &inventory.entries {
        let mut marks = state_name(state).to_owned();
        if *is_linked {
            marks.push_str(", linked");
        }
        if Some(*step) == newest {
            marks.push_str(", newest");
        }
        if Some(*step) == inventory.pointed && inventory.pointed != newest {
            marks.push_str(", latest.json");
        }
        let [created, ranks, run, host, roles] = match state {
            State::Published(manifest) => [
                when(&manifest.created),
                manifest.world_size.to_string(),
                manifest.writer.run_id.clone(),
                manifest.writer.host.clone(),
                contents(&manifest.roles()),
            ],
            _ => Default::default(),
        };
        table.row([step.to_string(), created, size(*bytes), ranks, run, host, marks, roles]);
    }
    if !table.is_empty() {
        let _ = write!(text, "\n{table}");
    }
    let reasons: Vec<String> = inventory
        .entries
        .iter()
        .filter_map(|entry| reason(&entry.state).map(|reason| format!("step {}: {reason}\n", entry.step)))
        .collect();
    if !reasons.is_empty() {
        let _ = write!(text, "\n{}", reasons.concat());
    }
    text
}

fn as_json(url: &str, inventory: &Inventory) -> Value {
    let entries = inventory.entries.iter().map(|Entry { step, bytes, state, is_linked }| {
        let mut entry = json!({"step": step, "state": state_name(state), "bytes": bytes, "linked": is_linked});
        if let State::Published(manifest) = state {
            entry["created"] = json!(manifest.created);
            entry["world_size"] = json!(manifest.world_size);
            entry["roles"] = json!(manifest.roles().iter().map(Role::to_string).collect::<Vec<_>>());
            entry["writer"] = json!(manifest.writer);
        }
        if let Some(reason) = reason(state) {
            entry["reason"] = json!(reason);
        }
        entry
    });
    json!({
        "place": url,
        "newest": inventory.newest(),
        "latest_json": inventory.pointed,
        "owner": inventory.owner.as_ref().map(|owner| json!({
            "state": life_name(owner), "writer": owner.writer, "resumed_from": owner.resumed_from,
        })),
        "checkpoints": entries.collect::<Vec<_>>(),
    })
}
