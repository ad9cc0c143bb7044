//! `admiral sample`: draws a grid of images from a checkpoint. The configuration comes from the checkpoint.

use std::path::PathBuf;

use admiral_checkpoint::find_checkpoint;
use admiral_config::format_mistakes;
use admiral_data::{DataConfig, Draws, SourceKind, square};
use admiral_storage::StoreOptions;
use admiral_telemetry::{Grid, write_file};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tch::Tensor;

use crate::context::choose_device;
use crate::diffusion::{Sampler, SolverOption};
use crate::environment::Environment;
use crate::gpus::Gpus;
use crate::model::{Network, Task};
use crate::ops::Kernels;
use crate::run_config::{RunConfig, SamplingConfig};
use crate::sample::{ImageBatches, SampleRequest, SamplingModel, grid_labels};
use crate::train::{TrainError, low_res_examples, params_from_named};

use super::weights::choose_role;

/// The options of `admiral sample`. They override the checkpoint's configuration.
#[derive(Debug, Args)]
pub struct SampleOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or an s3:// URL
    checkpoint: String,
    /// The image file to write, a PNG file
    #[arg(long)]
    out: PathBuf,
    /// Weights: ema (the first average), master, or an average by its rate, such as ema-0.9999
    #[arg(long, default_value = "ema")]
    weights: String,
    /// The sampler
    #[arg(long, value_parser = PossibleValuesParser::new(Sampler::names()).try_map(|name| name.parse::<Sampler>()))]
    sampler: Option<Sampler>,
    /// Timesteps that ddpm and ddim visit: 250, ddim25, sections such as 90,60,60,20,20, or "" for all
    #[arg(long)]
    respacing: Option<String>,
    /// Steps of the other samplers
    #[arg(long)]
    steps: Option<usize>,
    /// Noise of ddim: 0 for none, 1 for as much as ddpm
    #[arg(long)]
    eta: Option<f64>,
    /// Classes, one for each row of the grid: 3,5,9
    #[arg(long, value_delimiter = ',')]
    labels: Option<Vec<i64>>,
    /// Images of each class, which are the columns; without classes, the number of rows and of columns
    #[arg(long)]
    per_class: Option<u64>,
    /// The seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images that are drawn together
    #[arg(long)]
    batch_size: Option<u64>,
    /// Do not clamp predicted images to the range of images
    #[arg(long)]
    no_clip: bool,
    /// For an upsampler: a folder with the images to upsample, in the order of their names; by default the first
    /// training images
    #[arg(long)]
    low_res: Option<String>,
}

/// The pixels between two images of the grid.
const PADDING: usize = 2;

/// Draws and writes the grid.
///
/// # Errors
/// When the checkpoint cannot be read or is a classifier, an option does not fit it, or the file cannot be written.
pub fn run(options: &SampleOptions, environment: &Environment) -> Result<(), TrainError> {
    let refuse = |message: String| Err(TrainError::Refused(message));
    let store_options = StoreOptions { s3: environment.s3.clone(), ..StoreOptions::default() };
    let checkpoint = find_checkpoint(&options.checkpoint, &store_options)?;
    let url = checkpoint.url();
    let mut config: RunConfig = serde_json::from_value(checkpoint.manifest().configuration.clone())
        .map_err(|error| TrainError::Refused(format!("{url}: its configuration cannot be read: {error}")))?;
    if config.task == Task::Classifier {
        return refuse(format!("{url} is a classifier, which cannot draw images"));
    }
    apply(options, &mut config);
    let sampler = config.sampling.sampler;
    if options.respacing.is_some() && !sampler.takes(SolverOption::TimestepRespacing) {
        return refuse(format!("--respacing: {sampler} does not visit chosen timesteps; give a number of --steps"));
    }
    if let Some(mistake) = config.sampling.validate(&config.diffusion).into_iter().next() {
        return refuse(mistake.to_string());
    }
    let device = choose_device(config.run.device, 0)?;
    let spec = config.network_spec();
    let spec = spec.map_err(|mistakes| TrainError::Refused(format!("{url}: {}", format_mistakes(&mistakes))))?;
    let (network, specs) = Network::build(&spec);
    let role = choose_role(&checkpoint, &options.weights)?;
    let params = params_from_named(&specs, &checkpoint.load_role(role)?, device)?;
    let solver = config
        .sampling
        .solver_plan(&config.diffusion)
        .map_err(|error| TrainError::Refused(format!("sampling.{}: {error}", error.field())))?;

    let columns = config.sampling.samples_per_class;
    let (labels, count) = choose_labels(options, &config)?;
    let (low_res, labels) = match (config.task, config.model.small_size) {
        (Task::SuperResolution, Some(small_size)) => {
            let (images, classes) = low_res(options, &config, count, small_size)?;
            let labels = labels.map(|labels| if options.labels.is_some() { labels } else { classes });
            (Some(images), labels)
        }
        _ => (None, labels),
    };
    let request = SampleRequest::new(&config, options.seed, labels, count, low_res);
    let kernels = Kernels::open(device, &Gpus::new(&environment.gpu));
    let model = SamplingModel { network: &network, params: &params, kernels: &kernels, solver: &solver };
    let pixels: Vec<u8> = ImageBatches::new(model, &request, 0..count).flat_map(|batch| batch.pixels).collect();
    let png = Grid::of(&pixels, request.image_shape(), columns as usize, PADDING)
        .and_then(|grid| grid.png())
        .map_err(|error| TrainError::Bug(error.to_string()))?;
    write_file(&options.out, &png)
        .map_err(|source| TrainError::Output { path: options.out.display().to_string(), source })?;
    println!(
        "{}: {count} samples of step {} by {} in {} steps from {role}",
        options.out.display(),
        checkpoint.manifest().training.step,
        config.sampling.sampler,
        solver.start().num_steps(),
    );
    Ok(())
}

/// Overrides the checkpoint's configuration with the options.
fn apply(options: &SampleOptions, config: &mut RunConfig) {
    let sampling = &mut config.sampling;
    if let Some(sampler) = options.sampler {
        if sampler != sampling.sampler {
            // The configuration's options are those of its own sampler.
            *sampling = SamplingConfig {
                sampler,
                eta: 0.0,
                steps: None,
                time_grid: None,
                order: None,
                solver_type: None,
                lower_order_final: None,
                denoise_to_zero: None,
                dynamic_thresholding: None,
                churn: None,
                ..sampling.clone()
            };
        }
        // A mix of ddpm and ddim's timesteps is possible, but only if --respacing asks for it.
        if options.respacing.is_none() && sampler == Sampler::DDPM && sampling.timestep_respacing.starts_with("ddim") {
            sampling.timestep_respacing = "250".into();
        }
    }
    if let Some(respacing) = &options.respacing {
        sampling.timestep_respacing.clone_from(respacing);
    }
    sampling.steps = options.steps.or(sampling.steps);
    sampling.eta = options.eta.unwrap_or(sampling.eta);
    sampling.samples_per_class = options.per_class.unwrap_or(sampling.samples_per_class);
    sampling.batch_size = options.batch_size.unwrap_or(sampling.batch_size);
    sampling.clip_denoised &= !options.no_clip;
}

/// Returns the class of each image, if the model has classes, and the number of images.
fn choose_labels(options: &SampleOptions, config: &RunConfig) -> Result<(Option<Vec<i64>>, u64), TrainError> {
    let per_class = config.sampling.samples_per_class;
    let rows = options
        .labels
        .as_ref()
        .map_or_else(|| config.sampling.grid_rows(config.model.num_classes), |labels| labels.len() as u64);
    if let Some(mistake) = config.sampling.check_grid(rows, config.model.image_size) {
        return Err(TrainError::Refused(mistake.to_string()));
    }
    let Some(classes) = &options.labels else {
        return Ok(grid_labels(config.model.num_classes, per_class, config.sampling.max_classes));
    };
    let Some(num_classes) = config.model.num_classes else {
        return Err(TrainError::Refused("--labels: this model is unconditional, it has no classes".into()));
    };
    if let Some(class) = classes.iter().find(|class| !(0..num_classes).contains(class)) {
        return Err(TrainError::Refused(format!(
            "--labels: {class} is not a class; this model has classes 0 to {}",
            num_classes - 1
        )));
    }
    let labels: Vec<i64> = classes.iter().flat_map(|&class| vec![class; per_class as usize]).collect();
    let count = labels.len() as u64;
    Ok((Some(labels), count))
}

/// Returns the small images to upsample, with their classes if they are training images.
fn low_res(
    options: &SampleOptions,
    config: &RunConfig,
    count: u64,
    small_size: i64,
) -> Result<(Tensor, Vec<i64>), TrainError> {
    let Some(folder) = &options.low_res else {
        if options.labels.is_some() {
            return Err(TrainError::Refused(
                "--labels: give it together with --low-res; training images have their own classes".into(),
            ));
        }
        let sources = admiral_data::open(&config.data, config.run.seed)?;
        return low_res_examples(config, sources.train, count, small_size);
    };
    if config.model.num_classes.is_some() && options.labels.is_none() {
        return Err(TrainError::Refused("--low-res: this upsampler has classes; say which with --labels".into()));
    }
    let data = DataConfig { source: SourceKind::Folder, path: folder.clone(), ..DataConfig::default() };
    let source = admiral_data::open(&data, config.run.seed)?.train;
    let channels = config.model.image_channels as usize;
    let mut values: Vec<f32> = Vec::new();
    for number in 0..count {
        let picture = source.load(number % source.num_images())?.with_channels(channels);
        let picture = square(&picture, small_size as usize, &Draws { crop: None, flip: false });
        picture.append_planes(&mut values);
    }
    let shape = [count as i64, config.model.image_channels, small_size, small_size];
    Ok((Tensor::from_slice(&values).view(shape), Vec::new()))
}
