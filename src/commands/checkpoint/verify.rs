//! `admiral checkpoint verify`: whether every file of a checkpoint is what was written.

use std::fmt::Write;

use admiral_checkpoint::{Catalog, Checkpoint, Error, State, find_checkpoint};
use admiral_storage::S3Settings;
use clap::Args;
use serde_json::json;

use super::error::ToolError;
use super::options::options_of;
use super::print::{count, print, print_json, size, steps};
use super::table::{Side, Table};

/// What is verified, and how it is said.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// A checkpoint's folder, a place for checkpoints or a run's folder (then the newest): a path or an s3:// URL
    checkpoint: String,
    /// The checkpoint of this step, at a place or in a run's folder
    #[arg(long, conflicts_with = "all")]
    step: Option<u64>,
    /// Every checkpoint of a place or of a run's folder
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A checkpoint that was looked at.
struct Finding {
    step: u64,
    files: usize,
    bytes: u64,
    /// File or manifest, and what is wrong with it.
    damage: Vec<(String, String)>,
}

pub(super) fn run(options: &VerifyOptions, s3: &S3Settings) -> Result<(), ToolError> {
    let (url, findings) = if options.all {
        let catalog = Catalog::open(&options.checkpoint, &options_of(s3))?;
        let mut findings = Vec::new();
        for entry in catalog.inventory()?.entries {
            match entry.state {
                State::Published(_) => findings.push(look(&catalog.checkpoint(entry.step)?)?),
                State::Damaged(error) | State::Newer(error) => findings.push(Finding {
                    step: entry.step,
                    files: 0,
                    bytes: entry.bytes,
                    damage: vec![file_and_difference(error)],
                }),
                // No checkpoints, and nobody takes them for any.
                State::SetAside | State::Incomplete => {}
            }
        }
        if findings.is_empty() {
            let reason = "it has no checkpoint that is published".into();
            return Err(Error::NotFound { url: catalog.store().url(""), reason }.into());
        }
        (catalog.store().url(""), findings)
    } else {
        let checkpoint = match options.step {
            Some(step) => Catalog::open(&options.checkpoint, &options_of(s3))?.checkpoint(step)?,
            None => find_checkpoint(&options.checkpoint, &options_of(s3))?,
        };
        (checkpoint.url(), vec![look(&checkpoint)?])
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

fn look(checkpoint: &Checkpoint) -> Result<Finding, ToolError> {
    let manifest = checkpoint.manifest();
    Ok(Finding {
        step: manifest.training.step,
        files: manifest.files.len(),
        bytes: manifest.files.iter().map(|file| file.length).sum(),
        damage: checkpoint.verify()?.into_iter().map(file_and_difference).collect(),
    })
}

/// The file that an error names, and what is wrong with it.
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
