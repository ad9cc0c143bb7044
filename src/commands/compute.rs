//! The options that say where and how precisely networks compute.

use clap::Args;

use crate::context::{RankContext, RunContext};
use crate::run_config::{DeviceChoice, MAX_THREADS, PrecisionMode, RunConfig};
use crate::sample::Error;

/// Where and how precisely the networks of a checkpoint compute.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ComputeOptions {
    /// Precision of the network's torso [default: fp32 on a CPU, on a GPU that of training]
    #[arg(long, value_enum)]
    pub(super) precision: Option<PrecisionMode>,
    #[command(flatten)]
    pub(super) device: DeviceOptions,
}

/// Where networks compute.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct DeviceOptions {
    /// The device [default: that of the checkpoint's configuration; without one a GPU if there is one]
    #[arg(long, value_enum)]
    pub(super) device: Option<DeviceChoice>,
    /// Threads of one rank on a CPU; 0 divides the cores among the ranks of a host
    #[arg(long, value_name = "NUMBER", value_parser = threads)]
    pub(super) threads: Option<usize>,
}

/// Reads a number of threads. More than any machine has would only exhaust its memory.
fn threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| *threads <= MAX_THREADS)
        .ok_or_else(|| format!("expected a number up to {MAX_THREADS}"))
}

impl DeviceOptions {
    /// Returns the context in which networks run. `trained` is the configuration of the checkpoint. Every rank calls it.
    ///
    /// # Errors
    /// When this rank has no such device.
    pub(super) fn open_context<'a>(&self, rank: RankContext<'a>, trained: &RunConfig) -> Result<RunContext<'a>, Error> {
        let mut config = RunConfig { run: trained.run.clone(), ..RunConfig::default() };
        config.run.device = self.device.unwrap_or(config.run.device);
        config.run.num_threads = self.threads.unwrap_or(0);
        Ok(RunContext::open(rank, &config)?)
    }
}

impl ComputeOptions {
    /// Returns the precision in which the networks compute: that of the options, else on GPUs that of training.
    pub(super) fn precision(&self, trained: &RunConfig, context: &RunContext<'_>) -> PrecisionMode {
        let default = if context.device.is_cuda() { trained.precision.mode } else { PrecisionMode::Fp32 };
        self.precision.unwrap_or(default)
    }
}
