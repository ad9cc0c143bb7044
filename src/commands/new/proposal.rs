//! The proposed configuration, with the reason for each choice.

use std::collections::BTreeMap;

use admiral_advice::limits::MAX_CHECKPOINT_BYTES;
use admiral_advice::{
    Candidate, Choice, ChosenNetwork, Pictures, Ranks, Schedule, choose_network, nearest_column, propose_size,
    save_interval, schedule,
};
use admiral_config::{Validate, format_mistakes};
use admiral_data::{DataConfig, SourceKind};
use admiral_plan::Report;

use crate::commands::hardware::Target;
use crate::commands::planned::{report, request};
use crate::commands::ranks::CommandError;
use crate::model::ModelConfig;
use crate::run_config::{DeviceChoice, RunConfig, RunSection, TrainingConfig};

use super::columns::{Start, starts};
use super::error::NewError;
use super::images::Looked;
use super::network::{Task, candidates};

/// The largest size of images. The paper has none above 512 pixels.
const MAX_SIZE: u64 = 1024;

/// The checkpoints that are kept where all of them would be too many.
const KEPT_CHECKPOINTS: u64 = 5;

/// The longest warm-up of the learning rate is the number of steps divided by this.
const WARMUP_PART: u64 = 10;

/// A configuration with the reasons for it.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    /// The configuration.
    pub(super) config: RunConfig,
    /// The reasons, by the names of fields from the top, such as `model.image_size`.
    pub(super) reasons: BTreeMap<&'static str, String>,
    /// Sentences about the whole.
    pub(super) remarks: Vec<String>,
}

/// What the user wants beside a model of the images.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The size of the images, if the user chose it.
    pub(super) size: Option<u64>,
    /// The hardware.
    pub(super) target: Target,
    /// The folder of the run.
    pub(super) folder: String,
    /// The cores of this machine.
    pub(super) cores: u64,
}

/// Proposes a configuration.
///
/// # Errors
/// If no network takes the size or fits into the memory.
pub(super) fn propose(looked: &Looked, wanted: &Wanted) -> Result<Proposal, CommandError> {
    let refuse = |error: NewError| -> CommandError { (error.exit_code(), error.into()) };
    let invalid = |reason: String| refuse(NewError::Invalid(reason));
    let Looked { pictures, num_classes, .. } = looked;
    let target = &wanted.target;
    let size = match wanted.size {
        Some(size) => Choice::new(size, "as --size says"),
        None => propose_size(pictures, target.is_gpu()),
    };
    let starts = starts(target.is_gpu())?;
    let start = nearest(&starts, size.value, num_classes.is_some(), pictures.count).map_err(refuse)?;
    let channels = if pictures.is_gray() { 1 } else { 3 };
    let task = Task { size: size.value, channels, num_classes: *num_classes };
    let (models, found): (Vec<ModelConfig>, Vec<Candidate>) =
        candidates(start, task, target).map_err(invalid)?.into_iter().unzip();
    let network = choose_network(&found, pictures.count).map_err(|error| refuse(error.into()))?;
    let ranks = Ranks { number: target.ranks, microbatch: network.microbatch };
    let model = models.into_iter().nth(network.index).unwrap_or_default();
    let plan = schedule(&start.column, pictures.count, ranks, model.num_channels.unsigned_abs());
    let mut config = configured(start, looked, wanted, model, &network, &plan);
    let planned = request(&config, target).and_then(|request| report(&request, &target.hardware)).map_err(invalid)?;
    let save = save_interval(plan.steps.value, planned.time.map(|time| time.step_seconds));
    (config.training.save_interval, config.training.sample_interval) = (save.value, save.value);
    let checkpoints = kept_checkpoints(&mut config, planned.storage.checkpoint_bytes);
    let mistakes = config.validate();
    if !mistakes.is_empty() {
        return Err(invalid(format_mistakes(&mistakes)));
    }
    let mut reasons = data_reasons(looked, &config);
    reasons.extend(network_reasons(start, &config, &size, &network, pictures));
    reasons.extend(training_reasons(start, &config, &plan, &save));
    reasons.extend(checkpoints.map(|reason| ("checkpoint.keep_last", reason)));
    reasons.insert("run.folder", "everything that the run writes".into());
    if !target.is_gpu() {
        reasons.insert(
            "run.device",
            "a network that a CPU can train; with --gpu, `admiral new` proposes larger ones".into(),
        );
    }
    Ok(Proposal { remarks: remarks(start, looked, wanted, &planned), config, reasons })
}

/// Checks whether there is a network for images of this size.
///
/// # Errors
/// If there is none.
pub(super) fn check_size(size: u64, target: &Target) -> Result<(), CommandError> {
    let starts = starts(target.is_gpu())?;
    nearest(&starts, size, false, 1).map(|_| ()).map_err(|error| (error.exit_code(), error.into()))
}

/// Returns the nearest start, if there is one for images of this size.
fn nearest(starts: &[Start], size: u64, has_classes: bool, images: u64) -> Result<&Start, NewError> {
    let columns: Vec<_> = starts.iter().map(|start| start.column.clone()).collect();
    let divisor = columns.iter().map(admiral_advice::Column::divisor).min().unwrap_or(1);
    let found = if size <= MAX_SIZE { nearest_column(&columns, size, has_classes, images) } else { None };
    found.and_then(|index| starts.get(index)).ok_or_else(|| NewError::Option {
        option: "--size",
        reason: format!("is {size}; it must be a multiple of {divisor} up to {MAX_SIZE}, because each level halves it"),
    })
}

fn configured(
    start: &Start,
    looked: &Looked,
    wanted: &Wanted,
    model: ModelConfig,
    network: &ChosenNetwork,
    plan: &Schedule,
) -> RunConfig {
    let is_gpu = wanted.target.is_gpu();
    let steps = plan.steps.value;
    let mut config = RunConfig { model, ..start.config.clone() };
    config.run = RunSection {
        folder: wanted.folder.clone(),
        device: if is_gpu { DeviceChoice::Auto } else { DeviceChoice::Cpu },
        ..RunSection::default()
    };
    let workers = if wanted.target.is_here {
        usize::try_from((wanted.cores / wanted.target.ranks).max(1)).unwrap_or(1)
    } else {
        usize::MAX
    };
    config.data = DataConfig {
        random_flip: !looked.pictures.look_like_digits(),
        num_workers: start.config.data.num_workers.min(workers),
        ..looked.data.clone()
    };
    config.model.dropout = plan.dropout.value;
    config.model.use_checkpoint = network.recomputes;
    config.training = TrainingConfig {
        global_batch: plan.global_batch.value,
        microbatch: plan.microbatch.value,
        steps,
        log_interval: start.config.training.log_interval.min(steps),
        ..start.config.training.clone()
    };
    config.optimizer.learning_rate = plan.learning_rate.value;
    config.optimizer.ema_rates = vec![plan.ema_rate.value];
    config.optimizer.warmup_steps = start.config.optimizer.warmup_steps.min(steps / WARMUP_PART);
    if start.config.optimizer.lr_anneal_steps > 0 {
        config.optimizer.lr_anneal_steps = steps;
    }
    config
}

/// Keeps the newest checkpoints only, if all would take too much space. Returns the reason if it does.
fn kept_checkpoints(config: &mut RunConfig, bytes: u64) -> Option<String> {
    let number = config.training.steps.div_ceil(config.training.save_interval);
    let all = bytes.saturating_mul(number);
    if all <= MAX_CHECKPOINT_BYTES / 10 || number <= KEPT_CHECKPOINTS {
        return None;
    }
    config.checkpoint.keep_last = Some(KEPT_CHECKPOINTS);
    Some(format!("the newest; all {number} of {:.1} GB would take {:.1} TB", bytes as f64 / 1e9, all as f64 / 1e12))
}

fn data_reasons(looked: &Looked, config: &RunConfig) -> BTreeMap<&'static str, String> {
    let mut reasons = BTreeMap::new();
    let data = &config.data;
    let what = match data.source {
        SourceKind::Folder => "a folder of image files",
        SourceKind::Idx => "a file in the format of MNIST",
        _ => "as the names of the files tell",
    };
    reasons.insert("data.source", what.into());
    reasons.insert("data.path", format!("{} images", looked.pictures.count));
    let class_field = if data.source == SourceKind::Idx { "data.label_path" } else { "data.classes" };
    let hint = if data.source == SourceKind::Idx && data.label_path.is_none() { "; --labels names a file" } else { "" };
    reasons.insert(class_field, format!("{}{hint}", looked.reason));
    let flips = if data.random_flip {
        "your choice: mirrors half of the samples, as the paper; false if left and right differ, as in text"
    } else {
        "your choice: the images are small and grey, like digits or text; true if their mirror images are right too"
    };
    reasons.insert("data.random_flip", flips.into());
    if data.num_workers != DataConfig::default().num_workers {
        reasons.insert("data.num_workers", "threads of each rank that read images; few, for few cores".into());
    }
    reasons
}

fn network_reasons(
    start: &Start,
    config: &RunConfig,
    size: &Choice<u64>,
    network: &ChosenNetwork,
    pictures: &Pictures,
) -> BTreeMap<&'static str, String> {
    let (own, model) = (&start.config.model, &config.model);
    let mut reasons = BTreeMap::new();
    reasons.insert("model.image_size", size.reason.clone());
    let looked_at = pictures.short_sides.len();
    let colours = match model.image_channels {
        1 => format!("all {looked_at} images looked at are grey"),
        _ => "colour".into(),
    };
    reasons.insert("model.image_channels", colours);
    let classes = if model.num_classes.is_some() { "samples of a class can be asked for" } else { "no classes" };
    reasons.insert("model.num_classes", classes.into());
    reasons.insert("model.num_channels", network.reason.clone());
    if model.attention_resolutions != own.attention_resolutions {
        reasons.insert("model.attention_resolutions", "the sizes of the small levels".into());
    }
    if model.num_head_channels != own.num_head_channels {
        reasons.insert("model.num_head_channels", "divides the channels of all levels with attention".into());
    }
    if model.use_checkpoint {
        reasons.insert("model.use_checkpoint", "otherwise not even one image a pass fits into the memory".into());
    }
    reasons.insert("diffusion.noise_schedule", format!("as {}", start.column.name));
    let precision = match config.run.device {
        DeviceChoice::Cpu => "half precision saves no time on a CPU".into(),
        _ => format!("as {}", start.column.name),
    };
    reasons.insert("precision.mode", precision);
    reasons
}

fn training_reasons(
    start: &Start,
    config: &RunConfig,
    plan: &Schedule,
    save: &Choice<u64>,
) -> BTreeMap<&'static str, String> {
    let mut reasons = BTreeMap::from([
        ("model.dropout", plan.dropout.reason.clone()),
        ("training.global_batch", plan.global_batch.reason.clone()),
        ("training.microbatch", plan.microbatch.reason.clone()),
        ("training.steps", plan.steps.reason.clone()),
        ("training.save_interval", save.reason.clone()),
        ("training.sample_interval", "as often as checkpoints".into()),
        ("optimizer.learning_rate", plan.learning_rate.reason.clone()),
        ("optimizer.ema_rates", plan.ema_rate.reason.clone()),
    ]);
    if config.optimizer.lr_anneal_steps > 0 {
        reasons.insert("optimizer.lr_anneal_steps", format!("the whole run, as {}", start.column.name));
    }
    reasons
}

fn remarks(start: &Start, looked: &Looked, wanted: &Wanted, planned: &Report) -> Vec<String> {
    let pictures = &looked.pictures;
    let sample = pictures.short_sides.len();
    let sides = match (pictures.short_sides.first(), pictures.short_sides.last()) {
        (Some(least), Some(most)) if least != most => format!("short sides of {least} to {most} pixels"),
        (_, Some(most)) => format!("short sides of {most} pixels"),
        _ => String::new(),
    };
    let mut remarks = vec![format!(
        "A proposal of `admiral new` for {} images, with {sides} in the {sample} looked at, and for {}.",
        pictures.count, wanted.target
    )];
    let end = "`admiral config show` with this file explains each field.";
    remarks.push(format!("Everything without a reason is as in {}. {end}", start.file));
    if let Some(time) = planned.time {
        let hours = 24.0 * time.days;
        let length = match time.days {
            days if days >= 2.0 => format!("{days:.1} days"),
            _ if hours >= 1.0 => format!("{hours:.1} hours"),
            _ => format!("{:.0} minutes", (60.0 * hours).ceil()),
        };
        remarks.push(format!("By the plan, the run takes {length}."));
    }
    if let Some(first) = pictures.broken.first() {
        remarks.push(format!(
            "{} of {} images looked at cannot be decoded, the first is {first}. They end the run, unless \
             data.on_broken_image is skip.",
            pictures.broken.len(),
            pictures.broken.len() + sample
        ));
    }
    remarks
}
