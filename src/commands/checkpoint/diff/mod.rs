//! `admiral checkpoint diff`: prints the differences between two checkpoints.

mod fields;
mod tensors;

use std::fmt::Write;

use admiral_checkpoint::{Checkpoint, Manifest, Role, find_checkpoint};
use admiral_storage::CloudSettings;
use clap::Args;
use serde::Serialize;

use super::error::ToolError;
use super::options::options_of;
use super::outcome::Outcome;
use super::print::{count, print, print_json};
use super::table::{Side, Table};

use fields::{FieldDifference, ShapeDifference, compare_fields, compare_shapes};
use tensors::{RoleDifference, compare_role};

/// The options of `admiral checkpoint diff`.
#[derive(Debug, Args)]
pub struct DiffOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
    a: String,
    /// The checkpoint to compare it with, named in the same way
    b: String,
    /// Compare only these weights: ema-0.9999
    #[arg(long, value_name = "ROLE")]
    weights: Option<String>,
    /// Treat values as equal if they differ by at most X; by default, their bits must be equal
    #[arg(long, value_name = "X", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 => Ok(value),
        _ => Err("expected a number that is not negative".into()),
    }
}

/// The differences between two checkpoints.
#[derive(Debug, Serialize)]
struct Report {
    a: String,
    b: String,
    equal: bool,
    /// The fields of the task and the configuration that differ. Empty with `--weights`.
    configuration: Vec<FieldDifference>,
    training: Vec<FieldDifference>,
    parameters: Vec<ShapeDifference>,
    /// Roles that only `a` has.
    only_in_a: Vec<String>,
    /// Roles that only `b` has.
    only_in_b: Vec<String>,
    /// The roles that both have.
    roles: Vec<RoleDifference>,
}

pub(super) fn run(options: &DiffOptions, clouds: &CloudSettings) -> Result<Outcome, ToolError> {
    let (a, b) = (find_checkpoint(&options.a, &options_of(clouds))?, find_checkpoint(&options.b, &options_of(clouds))?);
    let report = compare(&a, &b, options)?;
    if options.json {
        print_json(&report)?;
    } else {
        print(&report.as_text(options))?;
    }
    Ok(if report.equal { Outcome::Done } else { Outcome::Different })
}

fn compare(a: &Checkpoint, b: &Checkpoint, options: &DiffOptions) -> Result<Report, ToolError> {
    let (in_a, in_b) = (roles_of(a, options)?, roles_of(b, options)?);
    let without = |roles: &[Role], others: &[Role]| -> Vec<String> {
        roles.iter().filter(|role| !others.contains(role)).map(Role::to_string).collect()
    };
    let mut report = Report {
        a: a.url(),
        b: b.url(),
        equal: false,
        configuration: Vec::new(),
        training: Vec::new(),
        parameters: compare_shapes(a.manifest(), b.manifest()),
        only_in_a: without(&in_a, &in_b),
        only_in_b: without(&in_b, &in_a),
        roles: Vec::new(),
    };
    if options.weights.is_none() {
        let configuration = |manifest: &Manifest| {
            let mut value = manifest.configuration.clone();
            if let Some(fields) = value.as_object_mut() {
                fields.insert("task".into(), manifest.task.clone().into());
            }
            value
        };
        report.configuration = compare_fields(&configuration(a.manifest()), &configuration(b.manifest()));
        let training = |manifest: &Manifest| serde_json::json!(manifest.training);
        report.training = compare_fields(&training(a.manifest()), &training(b.manifest()));
    }
    for role in in_a.into_iter().filter(|role| in_b.contains(role)) {
        report.roles.push(compare_role(a, b, role, options.tolerance)?);
    }
    report.equal = report.configuration.is_empty()
        && report.training.is_empty()
        && report.parameters.is_empty()
        && report.only_in_a.is_empty()
        && report.only_in_b.is_empty()
        && report.roles.iter().all(|role| role.different_tensors == 0);
    Ok(report)
}

/// Returns the roles of a checkpoint that are compared.
fn roles_of(checkpoint: &Checkpoint, options: &DiffOptions) -> Result<Vec<Role>, ToolError> {
    let roles = checkpoint.manifest().roles();
    let Some(wanted) = &options.weights else { return Ok(roles) };
    match roles.iter().find(|role| role.to_string() == *wanted) {
        Some(&role) => Ok(vec![role]),
        None => {
            let names = roles.iter().map(Role::to_string).collect::<Vec<_>>().join(", ");
            Err(ToolError::Refused(format!("{} has no weights {wanted:?}; it has {names}", checkpoint.url())))
        }
    }
}

impl Report {
    fn as_text(&self, options: &DiffOptions) -> String {
        let mut text = format!("a: {}\nb: {}\n", self.a, self.b);
        for (title, fields) in [("configuration", &self.configuration), ("training", &self.training)] {
            if !fields.is_empty() {
                let mut table = Table::new([(title, Side::Left), ("a", Side::Left), ("b", Side::Left)]);
                fields.iter().for_each(|field| table.row(field.cells()));
                let _ = write!(text, "\n{table}");
            }
        }
        if !self.parameters.is_empty() {
            let mut table = Table::new([("parameter", Side::Left), ("a", Side::Left), ("b", Side::Left)]);
            self.parameters.iter().for_each(|parameter| table.row(parameter.cells()));
            let _ = write!(text, "\n{table}");
        }
        for (name, roles) in [("a", &self.only_in_a), ("b", &self.only_in_b)] {
            if !roles.is_empty() {
                let _ = write!(text, "\nonly in {name}: {}\n", roles.join(", "));
            }
        }
        if self.equal {
            let compared = count(self.roles.iter().map(|role| role.tensors).sum(), "tensor");
            let values = match options.tolerance {
                None => "bit by bit".to_owned(),
                Some(tolerance) => format!("to {tolerance}"),
            };
            let _ = write!(text, "\nequal: {compared} {values}");
            text.push_str(if options.weights.is_none() { ", configuration and training state\n" } else { "\n" });
            return text;
        }
        let mut table = Table::new([
            ("weights", Side::Left),
            ("tensors", Side::Right),
            ("that differ", Side::Right),
            ("values that differ", Side::Right),
            ("largest difference", Side::Right),
            ("relative", Side::Right),
            ("in", Side::Left),
        ]);
        self.roles.iter().for_each(|role| table.row(role.cells()));
        if !table.is_empty() {
            let _ = write!(text, "\n{table}");
        }
        text
    }
}
