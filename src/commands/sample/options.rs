//! The options of `admiral sample`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::diffusion::Sampler;

use super::super::compute::ComputeOptions;

/// The options of `admiral sample`. They override the checkpoint's configuration.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("classes", |arg| arg.requires("num")), mut_arg("labels_from", |arg| arg.requires("num")))]
pub struct SampleOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
    pub(super) checkpoint: String,
    /// A PNG file for a grid of images; with --num the folder or bucket's URL of a job, which is continued if it exists
    #[arg(long)]
    pub(super) out: String,
    /// Draw this many images, in parts, on all ranks
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(super) num: Option<u64>,
    #[command(flatten)]
    pub(super) drawing: DrawingOptions,
    /// Images of each class, which are the columns of a grid; without classes, the number of rows and of columns
    #[arg(long, conflicts_with = "num")]
    pub(super) per_class: Option<u64>,
    /// With --num: images of a part, a multiple of the batch [default: 64, rounded up to whole batches]
    #[arg(long, requires = "num", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) part_images: Option<u64>,
    /// With --num: what to write when all images are drawn
    #[arg(long, requires = "num", value_enum, value_delimiter = ',', default_values_t = [Format::Npz])]
    pub(super) format: Vec<Format>,
    /// With --num: the folder of TensorBoard's event files [default: tensorboard in a local --out]
    #[arg(long, requires = "num", value_name = "FOLDER")]
    pub(super) tensorboard: Option<PathBuf>,
}

/// The options that say which images are drawn, which `admiral bench sample` shares.
#[derive(Debug, Clone, Default, Args)]
pub struct DrawingOptions {
    /// Weights: ema (the first average), master, or an average by its rate, such as ema-0.9999 [default: ema if there is
    /// an average, else master]
    #[arg(long)]
    pub(super) weights: Option<String>,
    /// A file with fields of `sampling` and of the upsampler's, and the scale of the guidance, such as
    /// configs/sampling/imagenet256.yaml
    #[arg(long, value_name = "FILE")]
    pub(super) preset: Option<PathBuf>,
    #[command(flatten)]
    pub(super) solver: SolverOptions,
    /// Guidance: classifier=CHECKPOINT, free (by the model without classes), or auto=CHECKPOINT (by a worse version)
    #[arg(long, value_name = "KIND")]
    pub(super) guidance: Option<GuidanceKind>,
    /// The strength of the guidance. None is 0 for classifier and free, and 1 for auto
    #[arg(long, requires = "guidance", allow_negative_numbers = true)]
    pub(super) scale: Option<f64>,
    /// Weights of the guidance's checkpoint, as for --weights
    #[arg(long, requires = "guidance")]
    pub(super) guidance_weights: Option<String>,
    /// Classes: with --num repeated in this order, in a grid one for each row: 3,5,9
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, conflicts_with_all = ["classes", "labels_from"])]
    pub(super) labels: Option<Vec<i64>>,
    /// How the classes of many images are chosen [default: random]
    #[arg(long, value_enum, conflicts_with = "labels_from")]
    pub(super) classes: Option<Classes>,
    /// Classes as frequent as in the training data (`data`), or those of an npz file
    #[arg(long, value_name = "data|FILE.npz")]
    pub(super) labels_from: Option<String>,
    /// The seed of the noise and of random classes
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Images that are drawn together. Another number may change the last bits of images
    #[arg(long)]
    pub(super) batch_size: Option<u64>,
    /// Temperature: noise=0.98 scales the noise of each step, epsilon=0.98 divides the predicted noise
    #[arg(long, value_name = "KIND=T")]
    pub(super) temperature: Option<Temperature>,
    /// Enlarge the images with this upsampler
    #[arg(long, value_name = "CHECKPOINT")]
    pub(super) upsampler: Option<String>,
    /// Weights of the upsampler, as for --weights
    #[arg(long, requires = "upsampler")]
    pub(super) upsampler_weights: Option<String>,
    /// A field of the upsampler's section `sampling`: sampler=ddim, timestep_respacing=ddim25
    #[arg(long, requires = "upsampler", value_name = "FIELD=VALUE")]
    pub(super) upsampler_set: Vec<String>,
    /// For an upsampler's checkpoint: the images to enlarge, with their classes, as a folder of pictures, which are scaled
    /// and cropped, an npz file or the output of a job; in a grid by default the first training images
    #[arg(long, value_name = "FOLDER|FILE|JOB")]
    pub(super) low_res: Option<String>,
    /// Start from these latents, which `admiral encode` wrote, in place of noise; by default by ddim on their timesteps
    #[arg(long, value_name = "FILE", conflicts_with = "low_res")]
    pub(super) latents: Option<PathBuf>,
    #[command(flatten)]
    pub(super) compute: ComputeOptions,
}

/// The options of the solver. Each is a field of the section `sampling`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct SolverOptions {
    /// The sampler: docs/sampling.md describes them
    #[arg(long, value_parser = PossibleValuesParser::new(Sampler::names()).try_map(|name| name.parse::<Sampler>()))]
    pub(super) sampler: Option<Sampler>,
    /// Steps of the samplers other than ddpm and ddim
    #[arg(long)]
    pub(super) steps: Option<usize>,
    /// Timesteps that ddpm and ddim visit: 250, ddim25, sections such as 90,60,60,20,20, or "" for all
    #[arg(long)]
    pub(super) respacing: Option<String>,
    /// Noise of ddim: 0 for none, 1 for as much as ddpm
    #[arg(long, value_parser = finite, allow_negative_numbers = true)]
    pub(super) eta: Option<f64>,
    /// Do not clamp predicted images to the range of images
    #[arg(long)]
    pub(super) no_clip: bool,
    /// Any field of the section `sampling`: order=3, time_grid=logsnr
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(super) set: Vec<String>,
}

/// Reads a finite number.
fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

/// What a job writes when all images are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One npz file with all images (arr_0) and their classes (arr_1)
    Npz,
    /// A PNG file for each image
    Png,
}

/// How a job chooses the classes of its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Classes {
    /// Each class equally often, in turn
    Balanced,
    /// Each image's class drawn uniformly
    Random,
}

/// What guides the sampling, and from which checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) enum GuidanceKind {
    /// A noised classifier.
    Classifier(String),
    /// The model without classes.
    Free,
    /// A worse version of the model.
    Auto(String),
}

/// The name of a kind of guidance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum GuidanceName {
    /// A noised classifier.
    Classifier,
    /// The model without classes.
    Free,
    /// A worse version of the model.
    Auto,
}

impl std::fmt::Display for GuidanceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Classifier => "classifier=CHECKPOINT",
            Self::Free => "free",
            Self::Auto => "auto=CHECKPOINT",
        })
    }
}

impl GuidanceKind {
    /// Returns the name without the checkpoint.
    pub(super) fn name(&self) -> GuidanceName {
        match self {
            Self::Classifier(_) => GuidanceName::Classifier,
            Self::Free => GuidanceName::Free,
            Self::Auto(_) => GuidanceName::Auto,
        }
    }
}

impl FromStr for GuidanceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("classifier", checkpoint)) if !checkpoint.is_empty() => Ok(Self::Classifier(checkpoint.to_owned())),
            Some(("auto", checkpoint)) if !checkpoint.is_empty() => Ok(Self::Auto(checkpoint.to_owned())),
            None if text == "free" => Ok(Self::Free),
            _ => Err("expected classifier=CHECKPOINT, free or auto=CHECKPOINT".into()),
        }
    }
}

/// A temperature (the paper's appendix G).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Temperature {
    /// The factor of the noise of each step.
    Noise(f64),
    /// The divisor of the predicted noise.
    Epsilon(f64),
}

impl FromStr for Temperature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "expected noise=T or epsilon=T with a T above 0 and at most 10".to_owned();
        let (kind, value) = text.split_once('=').ok_or_else(refused)?;
        let value = value.parse::<f64>().ok().filter(|value| (1e-3..=10.0).contains(value)).ok_or_else(refused)?;
        match kind {
            "noise" => Ok(Self::Noise(value)),
            "epsilon" => Ok(Self::Epsilon(value)),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_names_its_checkpoint() {
        assert_eq!("classifier=runs/c".parse(), Ok(GuidanceKind::Classifier("runs/c".into())));
        assert_eq!("auto=s3://b/a=1".parse(), Ok(GuidanceKind::Auto("s3://b/a=1".into())));
        assert_eq!("free".parse(), Ok(GuidanceKind::Free));
        for wrong in ["classifier", "classifier=", "free=x", "other=x", ""] {
            assert!(wrong.parse::<GuidanceKind>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn temperatures_are_bounded() {
        assert_eq!("noise=0.98".parse(), Ok(Temperature::Noise(0.98)));
        assert_eq!("epsilon=1.05".parse(), Ok(Temperature::Epsilon(1.05)));
        for wrong in ["noise", "noise=NaN", "noise=0", "noise=-1", "epsilon=inf", "both=1"] {
            assert!(wrong.parse::<Temperature>().is_err(), "{wrong}");
        }
    }
}
