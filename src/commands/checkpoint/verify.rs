//! `admiral checkpoint verify`: checks that every file of a checkpoint is as it was written.

use std::fmt::Write;

use admiral_checkpoint::{Catalog, Checkpoint, Error, State, find_checkpoint};
use admiral_storage::CloudSettings;
use clap::Args;
use serde_json::json;

use super::error::ToolError;
use super::options::options_of;
use super::print::{count, print, print_json, size, steps};
use super::table::{Side, Table};

/// The options of `admiral checkpoint verify`.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
    checkpoint: String,
    /// Verify the checkpoint of this step, in a folder of checkpoints or a run's folder
    #[arg(long, conflicts_with = "all")]
    step: Option<u64>,
    /// Verify every checkpoint in a folder of checkpoints or a run's folder
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The result for a checkpoint.
struct Finding {
    step: u64,
    files: usize,
    bytes: u64,
    /// The damaged files, each with the reason. A damaged manifest is one of them.
    damage: Vec<(String, String)>,
}

pub(super) fn run(options: &VerifyOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let (url, findings) = if options.all {
        let catalog = Catalog::open(&options.checkpoint, &options_of(clouds))?;
        let mut findings = Vec::new();
        for entry in catalog.inventory()?.entries {
            match entry.state {
                State::Published(_) => findings.push(verify(&catalog.checkpoint(entry.step)?)?),
                State::Damaged(error) | State::Newer(error) => findings.push(Finding {
                    step: entry.step,
                    files: 0,
                    bytes: entry.bytes,
                    damage: vec![file_and_difference(error)],
                }),
                // These are not checkpoints, and no reader treats them as checkpoints.
                State::SetAside | State::Incomplete => {}
            }
        }
        if findings.is_empty() {
            let reason = "it has no published checkpoint".into();
            return Err(Error::NotFound { url: catalog.store().url(""), reason }.into());
        }
        (catalog.store().url(""), findings)
    } else {
        let checkpoint = match options.step {
            Some(step) => Catalog::open(&options.checkpoint, &options_of(clouds))?.checkpoint(step)?,
            None => find_checkpoint(&options.checkpoint, &options_of(clouds))?,
        };
        (checkpoint.url(), vec![verify(&checkpoint)?])
    };
    if options.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| {
                let damage: Vec<_> =
                    finding.damage.iter().map(|(file, reason)| json!({"file": file, "reason": reason})).collect();
                json!({
                    "step": finding.step, "whole": damage.is_empty(), "files": finding.files, "bytes": finding.bytes,
                    "damage": damage
                })
            })
            .collect();
        print_json(&json!({"url": url, "checkpoints": findings}))?;
    } else {
        print(&as_text(&url, &findings))?;
    }
    let damaged: Vec<u64> = findings.iter().filter(|f| !f.damage.is_empty()).map(|f| f.step).collect();
    match damaged.len() {
        0 => Ok(()),
        number => {
            let are = if number == 1 { "is" } else { "are" };
            let checked = count(findings.len(), "checkpoint");
            Err(ToolError::Refused(format!("{number} of {checked} at {url} {are} damaged: {}", steps(&damaged))))
        }
    }
}

fn verify(checkpoint: &Checkpoint) -> Result<Finding, ToolError> {
    let manifest = checkpoint.manifest();
    Ok(Finding {
        step: manifest.training.step,
        files: manifest.files.len(),
        bytes: manifest.files.iter().map(|file| file.length).sum(),
        damage: checkpoint.verify()?.into_iter().map(file_and_difference).collect(),
    })
}

/// Returns the file that an error names, and the reason.
pub(super) fn file_and_difference(error: Error) -> (String, String) {
    match error {
        Error::Damaged { url, difference: reason } | Error::Schema { url, reason } => (url, reason),
        error => (String::new(), error.to_string()),
    }
}

fn as_text(url: &str, findings: &[Finding]) -> String {
    let mut table =
        Table::new([("step", Side::Right), ("files", Side::Right), ("size", Side::Right), ("verdict", Side::Left)]);
    let mut damage = String::new();
    for finding in findings {
        let verdict = match finding.damage.len() {
            0 => "whole".to_owned(),
            number => format!("damaged: {}", count(number, "file")),
        };
        table.row([finding.step.to_string(), finding.files.to_string(), size(finding.bytes), verdict]);
        for (file, reason) in &finding.damage {
            let _ = writeln!(damage, "{file}: {reason}");
        }
    }
    let gap = if damage.is_empty() { "" } else { "\n" };
    format!("{url}\n\n{table}{gap}{damage}")
}
