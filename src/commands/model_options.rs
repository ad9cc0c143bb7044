//! The options of commands that apply one model to given images, and what they prepare from them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use admiral_comm::{Ending, agree};
use admiral_contract::files::check_expanded;
use admiral_npz::Npz;
use admiral_storage::StoreOptions;
use admiral_telemetry::{Metric, MetricSink, ProgressLine, check_write};
use clap::Args;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::context::{RankContext, RunContext};
use crate::diffusion::{DiffusionConfig, GaussianDiffusion};
use crate::model::Task;
use crate::run_config::RunConfig;
use crate::sample::{Error, GivenImages, Labels, LoadedModel, OpenedModel};

use super::compute::ComputeOptions;
use super::given_images::OpenedImages;
use super::sample::{check_range, check_same, load_forward, table};

/// The largest number of images computed together.
const MAX_BATCH: u64 = 65_536;

/// The time between progress lines where the output is no terminal.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The model, and how it computes.
#[derive(Debug, Clone, Args)]
pub(super) struct ModelOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
    pub(super) checkpoint: String,
    /// Weights: ema (the first average), master, or an average by its rate, such as ema-0.9999 [default: ema if there is
    /// an average, else master]
    #[arg(long)]
    weights: Option<String>,
    /// Images that are computed together. Another number may change the last bits of results [default: sampling.batch_size
    /// of the checkpoint]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_BATCH))]
    batch_size: Option<u64>,
    #[command(flatten)]
    compute: ComputeOptions,
}

impl ModelOptions {
    /// Opens the model, which must be one that draws images from noise. `command` names the command in messages.
    ///
    /// # Errors
    /// When there is no such checkpoint, or it is another kind of model.
    pub(super) fn open(&self, command: &str, stores: &StoreOptions) -> Result<OpenedModel, Error> {
        let model = OpenedModel::open(&self.checkpoint, self.weights.as_deref(), stores)?;
        model.check_task(Task::Diffusion, command)?;
        Ok(model)
    }

    /// Reads the weights of the model, after a check that all ranks have the `same` request. Every rank calls it. Returns the
    /// model, the type of its torso, and what it runs with.
    ///
    /// # Errors
    /// When ranks have different requests, this rank has no such device, or the weights cannot be read.
    pub(super) fn load<'a>(
        &self,
        model: OpenedModel,
        same: &Value,
        rank: RankContext<'a>,
    ) -> Result<(LoadedModel, Kind, RunContext<'a>), Ending> {
        let (collective, code) = (rank.collective, Error::exit_code);
        agree(collective, check_same(same, collective), code)?;
        let context = agree(collective, self.compute.device.open_context(rank, &model.config), code)?;
        context.log_kernels();
        let torso = self.compute.precision(&model.config, &context).kind();
        Ok((load_forward(model, torso, &context)?, torso, context))
    }

    /// Returns the number of images that are computed together.
    fn batch_size(&self, trained: &RunConfig) -> u64 {
        self.batch_size.unwrap_or(trained.sampling.batch_size).max(1)
    }
}

/// A model and the images to which it is applied, before its weights are read.
#[derive(Debug)]
pub(super) struct ModelOnImages {
    pub(super) model: OpenedModel,
    pub(super) diffusion: GaussianDiffusion,
    pub(super) images: GivenImages,
    pub(super) labels: Labels,
    /// A digest of the images.
    pub(super) described: Value,
    pub(super) num: u64,
    pub(super) batch_size: u64,
}

impl ModelOptions {
    /// Returns the model with the first `num` images, or all of them, on the timesteps that `respacing` keeps. The classes of
    /// the images are chosen from `num_classes`, if it is not `None`. Messages name the images by `option`.
    ///
    /// # Errors
    /// When there are fewer images, the classes do not fit the model, or `respacing` cannot be read.
    pub(super) fn on_images(
        &self,
        model: OpenedModel,
        respacing: &str,
        (option, given): (&str, OpenedImages),
        num: Option<u64>,
        (labels, num_classes): (&LabelOptions, Option<i64>),
    ) -> Result<ModelOnImages, Error> {
        let diffusion = respaced(&model.config, respacing)?;
        let OpenedImages { images, classes, described } = given;
        let num = number(num, images.count(), option)?;
        let labels = labels.labels(num_classes, num, classes, option)?;
        let batch_size = self.batch_size(&model.config);
        Ok(ModelOnImages { model, diffusion, images, labels, described, num, batch_size })
    }
}

/// The classes of the images that a command is given.
#[derive(Debug, Clone, Args)]
pub(super) struct LabelOptions {
    /// Classes of the images, repeated in this order: 3,5,9 [default: those that come with the images]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, conflicts_with = "labels_from")]
    labels: Option<Vec<i64>>,
    /// An npz file whose arr_1 has the classes of the images
    #[arg(long, value_name = "FILE.npz")]
    labels_from: Option<PathBuf>,
}

impl LabelOptions {
    /// Returns the classes of the first `num` images for a model with `num_classes`. `found` are those that come with the
    /// images, which `option` names.
    ///
    /// # Errors
    /// When the model needs classes and there are none, does not take any, or has fewer.
    fn labels(
        &self,
        num_classes: Option<i64>,
        num: u64,
        found: Option<Vec<i64>>,
        option: &str,
    ) -> Result<Labels, Error> {
        let Some(num_classes) = num_classes else {
            return match (&self.labels, &self.labels_from) {
                (None, None) => Ok(Labels::None),
                (Some(_), _) => refuse("--labels: this model is unconditional, it has no classes".into()),
                (None, Some(_)) => refuse("--labels-from: this model is unconditional, it has no classes".into()),
            };
        };
        let labels = match (&self.labels, self.labels_from.as_deref(), found) {
            (Some(classes), ..) => Labels::Cycle(classes.as_slice().into()),
            (_, Some(file), _) => table(Npz::open(file)?.labels("arr_1")?, num, &file.display().to_string())?.0,
            (_, _, Some(classes)) => table(classes, num, option)?.0,
            (_, _, None) => {
                return refuse(format!(
                    "{option}: these images have no classes, and this model needs them; say which with --labels or \
                     --labels-from"
                ));
            }
        };
        check_range(&labels, num_classes)?;
        Ok(labels)
    }
}

/// Returns the number of images to compute: `asked`, or all of `there`.
///
/// # Errors
/// When there are fewer.
fn number(asked: Option<u64>, there: u64, option: &str) -> Result<u64, Error> {
    match asked {
        Some(num) if num > there => {
            refuse(format!("--num: is {num}, but {option} has {there} images; ask for at most as many"))
        }
        asked => Ok(asked.unwrap_or(there)),
    }
}

/// Returns the process of training on the timesteps that `respacing` keeps.
///
/// # Errors
/// When the text is no respacing, or does not fit the process.
fn respaced(trained: &RunConfig, respacing: &str) -> Result<GaussianDiffusion, Error> {
    let config = DiffusionConfig { timestep_respacing: respacing.to_owned(), ..trained.diffusion.clone() };
    GaussianDiffusion::new(&config).map_err(|error| Error::Refused(format!("--respacing: {error}")))
}

/// Checks that there is a step between the timesteps of `diffusion`.
///
/// # Errors
/// When it has a single timestep.
pub(super) fn check_has_steps(diffusion: &GaussianDiffusion) -> Result<(), Error> {
    match diffusion.num_timesteps() {
        0 | 1 => refuse("--respacing: a single timestep has no step to another one; ask for at least 2".into()),
        _ => Ok(()),
    }
}

/// Checks that the file that `option` names ends with `.extension`, and on rank 0 that it can be created there. Leaves nothing
/// behind.
///
/// # Errors
/// When it has another ending, is a folder, or cannot be created.
pub(super) fn check_out(option: &str, path: &Path, extension: &str, rank: RankContext<'_>) -> Result<(), Error> {
    let shown = path.display();
    check_expanded(option, path).map_err(Error::Refused)?;
    if !path.extension().is_some_and(|end| end.eq_ignore_ascii_case(extension)) {
        return refuse(format!("{option}: {shown} does not end with .{extension}"));
    }
    if path.is_dir() {
        return refuse(format!("{option}: {shown} is a folder; name a file"));
    }
    if rank.collective.rank() != 0 {
        return Ok(());
    }
    check_write(path).map_err(|source| Error::File { path: shown.to_string(), source })
}

/// Returns the classes of a batch as a tensor, `[batch]`, int64, or `None` if images have no class.
pub(super) fn labels_of(labels: &Labels, images: impl Iterator<Item = u64>) -> Option<Tensor> {
    let classes: Vec<i64> = images.filter_map(|image| labels.of(image)).collect();
    (!classes.is_empty()).then(|| Tensor::from_slice(&classes))
}

/// Returns the values of a tensor of float32 on the host, as little-endian bytes.
pub(super) fn bytes_of(values: &Tensor) -> Vec<u8> {
    let values = values.to_device(tch::Device::Cpu).contiguous();
    let mut numbers = vec![0.0f32; values.numel()];
    values.copy_data(&mut numbers, values.numel());
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The progress of a command over its images, on rank 0.
pub(super) struct Progress {
    line: Option<ProgressLine>,
}

impl Progress {
    /// Shows that no image is computed yet.
    pub(super) fn new(context: &RunContext<'_>, num: u64) -> Self {
        let is_root = context.collective.rank() == 0;
        let line = is_root.then(|| ProgressLine::of_images(context.progress, num, PROGRESS_INTERVAL));
        let progress = Self { line };
        progress.show(0, None);
        progress
    }

    /// Shows that `done` images are computed, with the mean of their bits per dimension.
    pub(super) fn show(&self, done: u64, bpd: Option<f64>) {
        let Some(line) = &self.line else { return };
        line.record(Metric::counter("samples", done, done as f64));
        if let Some(bpd) = bpd {
            line.record(Metric::gauge("bpd", done, bpd));
        }
        line.commit(done, std::time::Instant::now());
    }
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(Error::Refused(message))
}
