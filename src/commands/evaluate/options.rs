//! The options of `admiral evaluate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::super::compute::DeviceOptions;
use super::nearest::NearestOptions;

/// The arguments of `admiral evaluate`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct EvaluateArguments {
    #[command(subcommand)]
    pub(super) command: Option<EvaluateCommand>,
    #[command(flatten)]
    pub(super) options: EvaluateOptions,
}

/// The commands beside the comparison of two sets.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum EvaluateCommand {
    /// Compute the statistics of images once, for later comparisons; on all ranks that mpirun starts
    Statistics(StatisticsOptions),
    /// Merge files of statistics of different images into one
    Merge(MergeOptions),
    /// Show the training images nearest to samples, and find copies; on all ranks that mpirun starts
    Nearest(NearestOptions),
}

/// The options of a comparison.
#[derive(Debug, Clone, Args)]
pub(super) struct EvaluateOptions {
    /// The images: an npz file, a sampling job (a folder or an s3:// URL), a folder of pictures, an IDX file, or statistics
    #[arg(required = true)]
    pub(super) samples: Option<String>,
    /// The images to compare with, or their statistics: an npz file of the published form, or a file of `statistics`
    #[arg(long, required = true)]
    pub(super) reference: Option<String>,
    /// Whose numerics: those of the published evaluator, those of float64, or both with their difference
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    pub(super) mode: Mode,
    #[command(flatten)]
    pub(super) network: NetworkOptions,
    /// Write the result to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub(super) out: Option<PathBuf>,
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
    /// The folder or s3:// URL in which features are kept, for a restart and for other comparisons [default: the name of the
    /// images with .evaluation]
    #[arg(long, value_name = "FOLDER_OR_URL")]
    pub(in crate::commands) work: Option<String>,
    #[command(flatten)]
    pub(in crate::commands) compute: DeviceOptions,
}

/// The options of `admiral evaluate statistics`.
#[derive(Debug, Clone, Args)]
pub(super) struct StatisticsOptions {
    /// The images: an npz file, a sampling job (a folder or an s3:// URL), a folder of pictures, or an IDX file
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
