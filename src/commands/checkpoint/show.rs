//! `admiral checkpoint show`: prints a checkpoint's manifest.

use std::fmt::Write;

use admiral_checkpoint::{ImagesRecord, Manifest, find_checkpoint};
use admiral_storage::CloudSettings;
use clap::Args;
use serde_json::{Value, json};

use crate::run_config::RunConfig;

use super::error::ToolError;
use super::options::options_of;
use super::print::{count, print, print_json, size, when};
use super::table::{Side, Table};

/// The options of `admiral checkpoint show`.
#[derive(Debug, Args)]
pub struct ShowOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
    checkpoint: String,
    /// Print the whole manifest as JSON
    #[arg(long, conflicts_with = "config")]
    json: bool,
    /// Print the configuration as YAML, for `admiral train`
    #[arg(long)]
    config: bool,
}

/// The fields of the configuration that are shown, by section.
const HIGHLIGHTS: [(&str, &[&str]); 4] = [
    (
        "model",
        &[
            "image_size",
            "small_size",
            "image_channels",
            "num_classes",
            "class_dropout",
            "num_channels",
            "num_res_blocks",
            "channel_mult",
        ],
    ),
    ("diffusion", &["noise_schedule", "num_timesteps", "learn_sigma", "timestep_sampler"]),
    ("training", &["global_batch", "microbatch", "steps"]),
    ("optimizer", &["learning_rate", "weight_decay", "ema_rates"]),
];

pub(super) fn run(options: &ShowOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let checkpoint = find_checkpoint(&options.checkpoint, &options_of(clouds))?;
    let (url, manifest) = (checkpoint.url(), checkpoint.manifest());
    if options.json {
        print_json(&json!({"url": url, "manifest": manifest}))
    } else if options.config {
        let config: RunConfig = serde_json::from_value(manifest.configuration.clone())
            .map_err(|error| ToolError::Refused(format!("{url}: its configuration cannot be read: {error}")))?;
        print(&admiral_config::show(&config, &[]))
    } else {
        print(&as_text(&url, manifest))
    }
}

fn images(images: &ImagesRecord) -> String {
    format!("{}, SHA-256 of names and classes {}", images.num_images, &images.sha256)
}

fn as_text(url: &str, manifest: &Manifest) -> String {
    let training = &manifest.training;
    let mut rows = vec![
        ("task", manifest.task.clone()),
        ("step", training.step.to_string()),
        ("samples seen", training.next_sample_index.to_string()),
        ("images", training.images.as_ref().map_or_else(|| "unknown".into(), images)),
        ("optimizer steps", training.optimizer_steps.to_string()),
        ("loss scale", training.lg_loss_scale.map_or_else(|| "none".into(), |lg| format!("2^{lg:.3}"))),
        ("timestep sampler", sampler(training.timestep_sampler.as_ref())),
        (
            "created",
            format!(
                "{} UTC, by Admiral {}, schema version {}",
                when(&manifest.created),
                manifest.code_version,
                manifest.schema_version
            ),
        ),
        ("written by", format!("{} on {}", manifest.writer, count(manifest.world_size, "rank"))),
    ];
    for (section, fields) in HIGHLIGHTS {
        let found: Vec<String> = fields
            .iter()
            .filter_map(|field| Some((field, manifest.configuration.get(section)?.get(field)?)))
            .filter(|(_, value)| !value.is_null())
            .map(|(field, value)| {
                format!("{field} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        if !found.is_empty() {
            rows.push((section, found.join(", ")));
        }
    }
    let values: usize = manifest.parameters.iter().filter_map(|parameter| parameter.num_elements()).sum();
    rows.push(("parameters", format!("{values} values in {} tensors", manifest.parameters.len())));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{url}\n\n");
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<width$}  {value}");
    }
    let mut roles = Table::new([
        ("role", Side::Left),
        ("tensors", Side::Right),
        ("values", Side::Right),
        ("files", Side::Right),
        ("size", Side::Right),
    ]);
    for role in manifest.roles() {
        let files: Vec<_> = manifest
            .files
            .iter()
            .filter(|file| manifest.tensors.iter().any(|t| t.role == role && t.file == file.path))
            .collect();
        let bytes = files.iter().map(|file| file.length).sum();
        let tensors = manifest.parameters.len().to_string();
        roles.row([role.to_string(), tensors, values.to_string(), files.len().to_string(), size(bytes)]);
    }
    let mut files = Table::new([("file", Side::Left), ("bytes", Side::Right), ("SHA-256", Side::Left)]);
    for file in &manifest.files {
        files.row([file.path.clone(), file.length.to_string(), file.sha256.clone()]);
    }
    let _ = write!(text, "\n{roles}\n{files}");
    text
}

/// Describes the state of a timestep sampler.
fn sampler(state: Option<&Value>) -> String {
    let Some(state) = state else { return "learns nothing".into() };
    let kind = state.get("type").and_then(Value::as_str).unwrap_or("of a kind that this version does not know");
    match state.get("losses").and_then(Value::as_array) {
        None => kind.to_owned(),
        Some(losses) => {
            let kept: usize = losses.iter().filter_map(Value::as_array).map(Vec::len).sum();
            format!("{kind}, with {kept} losses of {} timesteps", losses.len())
        }
    }
}
