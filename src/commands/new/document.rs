//! Writes a proposal as YAML.

use admiral_advice::Document;
use admiral_config::yaml_value;
use serde_json::Value;

use crate::run_config::RunConfig;

use super::proposal::Proposal;

/// The sections in the order of the file. All others have their defaults.
const SECTIONS: [&str; 9] =
    ["run", "data", "model", "diffusion", "training", "optimizer", "precision", "sampling", "checkpoint"];

/// Returns the YAML of a proposal: the fields that have a reason or another value than the default, each with its reason.
///
/// # Errors
/// If a value cannot be written, which is a bug.
pub(super) fn text(proposal: &Proposal) -> serde_json::Result<String> {
    let config = serde_json::to_value(&proposal.config)?;
    let defaults = serde_json::to_value(RunConfig::default())?;
    let mut document = Document::default();
    for remark in &proposal.remarks {
        document.comment(remark);
    }
    document.top("task", &yaml_value(&config["task"]));
    for section in SECTIONS {
        let Some(values) = config[section].as_object() else { continue };
        let reason = |field: &str| proposal.reasons.get(format!("{section}.{field}").as_str());
        let is_written = |field: &str, value: &Value| reason(field).is_some() || defaults[section][field] != *value;
        let written: Vec<_> = values.iter().filter(|(field, value)| is_written(field, value)).collect();
        if !written.is_empty() {
            document.section(section);
        }
        for (field, value) in written {
            document.field(field, yaml_value(value), reason(field).map_or("", String::as_str));
        }
    }
    Ok(document.text().to_owned())
}
