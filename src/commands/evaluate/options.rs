//! The options of `admiral evaluate`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use crate::diffusion::Sampler;

use super::super::compute::DeviceOptions;

/// The options of a comparison.
#[derive(Debug, Clone, Args)]
pub struct EvaluateOptions {
    /// The images: an npz file, a sampling job (a folder or a bucket's URL), a folder of pictures, an IDX file, or statistics
    #[arg(required = true)]
    pub(super) samples: Option<String>,
    /// The images to compare with, or their statistics: an npz file of the published form, or a file of `statistics`
    #[arg(long, required = true)]
    pub(super) reference: Option<String>,
    /// Whose numerics: those of the published evaluator, those of float64, or both with their difference
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    pub(super) mode: Mode,
    #[command(flatten)]
    pub(in crate::commands) network: NetworkOptions,
    /// Write the result to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub(super) out: Option<PathBuf>,
    /// SAMPLES is a run: draw images from its checkpoints of every so many steps, and evaluate each. Continues what was
    /// interrupted; images, tables and plots go to --work
    #[arg(long, value_name = "STEPS", conflicts_with = "out", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) every: Option<u64>,
    /// With --every: images of each checkpoint [default: 10000]
    #[arg(long, requires = "every", value_parser = clap::value_parser!(u64).range(4..=1_000_000_000))]
    pub(in crate::commands) num: Option<u64>,
    /// With --every: seed of the noise and the classes
    #[arg(long, requires = "every")]
    pub(in crate::commands) seed: Option<u64>,
    /// With --every: the sampler [default: that of the run]
    #[arg(long, requires = "every", value_parser = PossibleValuesParser::new(Sampler::names()).try_map(|name| name.parse::<Sampler>()))]
    pub(in crate::commands) sampler: Option<Sampler>,
    /// With --every: timesteps that ddpm and ddim visit [default: those of the run]
    #[arg(long, requires = "every")]
    pub(in crate::commands) respacing: Option<String>,
}

impl EvaluateOptions {
    /// Whether only the published evaluator's numerics are asked for.
    pub(in crate::commands) fn is_adm(&self) -> bool {
        self.mode == Mode::Adm
    }
}

/// Which numerics are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The published evaluator's, bit for bit where that is possible
    Adm,
    /// Those of float64
    Exact,
    /// Both
    Both,
}

/// The network of the features, and where they are kept.
#[derive(Debug, Clone, Args)]
pub(in crate::commands) struct NetworkOptions {
    /// The network of the features: inception, or a classifier's checkpoint
    #[arg(long, value_name = "inception|CHECKPOINT", default_value = "inception")]
    pub(in crate::commands) features: String,
    /// The weights of Inception [default: the file that the environment variable ADMIRAL_INCEPTION names]
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) inception: Option<PathBuf>,
    /// Weights of the classifier: ema, master, or an average such as ema-0.9999
    #[arg(long)]
    pub(in crate::commands) weights: Option<String>,
    /// Scale and crop pictures around their center to this height and width, as in training
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(in crate::commands) size: Option<u32>,
    /// The folder or bucket's URL in which features are kept, for a restart and for other comparisons [default: the name of the
    /// images with .evaluation]
    #[arg(long, value_name = "FOLDER_OR_URL")]
    pub(in crate::commands) work: Option<String>,
    #[command(flatten)]
    pub(in crate::commands) compute: DeviceOptions,
}

/// The options of `admiral evaluate statistics`.
#[derive(Debug, Clone, Args)]
pub(super) struct StatisticsOptions {
    /// The images: an npz file, a sampling job (a folder or a bucket's URL), a folder of pictures, or an IDX file
    pub(super) images: String,
    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub(super) out: PathBuf,
    /// Also the statistics of each class
    #[arg(long)]
    pub(super) per_class: bool,
    #[command(flatten)]
    pub(super) network: NetworkOptions,
}

/// The options of `admiral evaluate merge`.
#[derive(Debug, Clone, Args)]
pub(super) struct MergeOptions {
    /// The files to merge
    #[arg(required = true, num_args = 2..)]
    pub(super) files: Vec<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub(super) out: PathBuf,
}
