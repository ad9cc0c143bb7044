//! The sections of a run's configuration for training.

use admiral_config::Invalid;
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::model::Task;

/// The most threads of one rank.
pub const MAX_THREADS: usize = 4096;

/// Collects the mistakes of one section.
struct Checks {
    section: &'static str,
    mistakes: Vec<Invalid>,
}

impl Checks {
    fn new(section: &'static str) -> Self {
        Self { section, mistakes: Vec::new() }
    }

    fn check(&mut self, good: bool, field: &str, message: impl Into<String>) {
        if !good {
            self.mistakes.push(Invalid::new(format!("{}.{field}", self.section), message));
        }
    }
}

/// The device on which networks compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    /// The GPU with this rank's number on its host if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this rank's number on its host. It is an error if there is none.
    Cuda,
}

/// The kernels of fused operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FusedKernels {
    /// Admiral's own kernels where available; on a GPU, if they can be compiled for it.
    #[default]
    Auto,
    /// libtorch's operations everywhere: slower, for comparison.
    Off,
}

/// The section `run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Folder for everything that the run writes.
    pub folder: String,
    /// Seed of initial values, order of the data, augmentation, timesteps and noise.
    pub seed: u64,
    /// Device on which networks compute: auto, cpu or cuda.
    pub device: DeviceChoice,
    /// Kernels of fused operations: auto (Admiral's own where available) or off (libtorch's operations).
    pub fused_kernels: FusedKernels,
    /// Threads of one rank's CPU operations; 0 divides the cores among the ranks of a host.
    pub num_threads: usize,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            folder: "runs/unnamed".into(),
            seed: 0,
            device: DeviceChoice::Auto,
            fused_kernels: FusedKernels::Auto,
            num_threads: 0,
        }
    }
}

impl RunSection {
    /// Returns all mistakes.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut checks = Checks::new("run");
        checks.check(!self.folder.trim().is_empty(), "folder", "must name a folder");
        let few = self.num_threads <= MAX_THREADS;
        checks.check(few, "num_threads", format!("is {}; at most {MAX_THREADS}", self.num_threads));
        checks.mistakes
    }
}

/// The optimizer: AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the square root of the running mean of squared gradients.
    pub epsilon: f64,
    /// Steps over which the learning rate decays linearly to zero; 0 keeps it constant.
    pub lr_anneal_steps: u64,
    /// Steps over which the learning rate increases linearly at the start; 0 starts with the full rate.
    pub warmup_steps: u64,
    /// Maximum l2 norm of the gradient, to which a longer gradient is scaled down; 0 clips nothing.
    pub gradient_clip_norm: f64,
    /// Rates of the exponential moving averages of the parameters.
    pub ema_rates: Vec<f64>,
    /// Limits the rates at the start: at update n, a rate is at most (1 + n) / (10 + n).
    pub ema_warmup: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            lr_anneal_steps: 0,
            warmup_steps: 0,
            gradient_clip_norm: 0.0,
            ema_rates: vec![0.9999],
            ema_warmup: false,
        }
    }
}

impl OptimizerConfig {
    /// Returns all mistakes.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut checks = Checks::new("optimizer");
        let unit = |value: f64| (0.0..1.0).contains(&value);
        checks.check(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "learning_rate",
            format!("is {}; it must be positive", self.learning_rate),
        );
        checks.check(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "weight_decay",
            format!("is {}; it must not be negative", self.weight_decay),
        );
        checks.check(unit(self.beta1), "beta1", format!("is {}; it must lie in [0, 1)", self.beta1));
        checks.check(unit(self.beta2), "beta2", format!("is {}; it must lie in [0, 1)", self.beta2));
        checks.check(self.epsilon > 0.0, "epsilon", format!("is {}; it must be positive", self.epsilon));
        checks.check(
            self.gradient_clip_norm >= 0.0,
            "gradient_clip_norm",
            format!("is {}; it must not be negative", self.gradient_clip_norm),
        );
        checks.check(
            self.ema_rates.iter().copied().all(unit),
            "ema_rates",
            format!("are {:?}; each must lie in [0, 1)", self.ema_rates),
        );
        let mut rates: Vec<String> = self.ema_rates.iter().map(f64::to_string).collect();
        rates.sort_unstable();
        rates.dedup();
        checks.check(rates.len() == self.ema_rates.len(), "ema_rates", "names a rate twice");
        checks.mistakes
    }
}

/// The type of the torso's convolutions and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionMode {
    /// float32.
    Fp32,
    /// float16 with dynamic loss scaling, as in the paper.
    #[default]
    Fp16,
    /// bfloat16, which needs no loss scaling.
    Bf16,
}

impl PrecisionMode {
    /// Returns libtorch's data type.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// Mixed precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrecisionConfig {
    /// Type of the torso: fp32, fp16 or bf16. Masters, averages, norms and the output are always fp32.
    pub mode: PrecisionMode,
    /// Base-2 logarithm of the first loss scale, for fp16; null is 20, or 16 for a classifier.
    pub initial_lg_loss_scale: Option<f64>,
    /// Added to the logarithm of the loss scale after a good step; an overflow subtracts 1.
    pub fp16_scale_growth: f64,
    /// The run stops as diverged when the logarithm of the loss scale falls below this.
    pub min_lg_loss_scale: f64,
}

impl Default for PrecisionConfig {
    fn default() -> Self {
        Self { mode: PrecisionMode::Fp16, initial_lg_loss_scale: None, fp16_scale_growth: 1e-3, min_lg_loss_scale: 0.0 }
    }
}

impl PrecisionConfig {
    /// Returns the base-2 logarithm of the first loss scale.
    #[must_use]
    pub fn effective_initial_lg_loss_scale(&self, task: Task) -> f64 {
        self.initial_lg_loss_scale.unwrap_or(if task == Task::Classifier { 16.0 } else { 20.0 })
    }

    /// Returns all mistakes.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut checks = Checks::new("precision");
        checks.check(
            self.fp16_scale_growth >= 0.0,
            "fp16_scale_growth",
            format!("is {}; it must not be negative", self.fp16_scale_growth),
        );
        if let Some(lg) = self.initial_lg_loss_scale {
            checks.check(
                lg >= self.min_lg_loss_scale && lg <= 100.0,
                "initial_lg_loss_scale",
                format!("is {lg}; it must lie between min_lg_loss_scale = {} and 100", self.min_lg_loss_scale),
            );
        }
        checks.mistakes
    }
}

/// What a run does in a step whose loss or gradient is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNan {
    /// With loss scaling, it skips the step and lowers the scale, and stops at the lowest scale. Without, it stops.
    #[default]
    LowerScale,
    /// It stops, also with loss scaling.
    Stop,
}

/// What a run does after a step whose loss jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLossJump {
    /// It goes on.
    #[default]
    Continue,
    /// It stops as diverged. The last checkpoint is the one before the step.
    Stop,
}

/// The length of the run, its batch and its intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Samples of one step over all ranks, for any number of ranks: ranks x microbatch x accumulation.
    pub global_batch: u64,
    /// Maximum samples of one pass through the network on one rank (Table 7's batch size per GPU).
    pub microbatch: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps between two points of the curves in TensorBoard.
    pub log_interval: u64,
    /// Steps between two checkpoints; the last step always has a checkpoint.
    pub save_interval: u64,
    /// Steps between two sample grids in TensorBoard; 0 draws none.
    pub sample_interval: u64,
    /// Steps between two comparisons of the state of all ranks, which must be equal to the bit; 0 compares nothing. With
    /// comparisons, the state is also compared before each checkpoint.
    pub check_interval: u64,
    /// Sums gradients over ranks while backward runs, instead of after it. The results are the same.
    pub overlap_all_reduce: bool,
    /// Maximum bytes of a gradient bucket, in float32; null is a twelfth of all, within 256 KiB and 128 MiB.
    pub bucket_bytes: Option<u64>,
    /// Reaction to a loss or gradient that is not finite: lower_scale (with loss scaling, skip the step and lower the
    /// scale; without, or at the lowest scale, stop) or stop. A run that stops writes a capsule for `admiral replay`.
    pub on_nan: OnNan,
    /// Writes a capsule for `admiral replay` when the loss of a step exceeds this many times the median of the last 100
    /// steps; null never does.
    pub loss_jump_factor: Option<f64>,
    /// Reaction to such a loss: continue or stop.
    pub on_loss_jump: OnLossJump,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            global_batch: 256,
            microbatch: 32,
            steps: 500_000,
            log_interval: 10,
            save_interval: 10_000,
            sample_interval: 10_000,
            check_interval: 100,
            overlap_all_reduce: true,
            bucket_bytes: None,
            on_nan: OnNan::LowerScale,
            loss_jump_factor: None,
            on_loss_jump: OnLossJump::Continue,
        }
    }
}

/// The largest batch. Larger numbers are mistakes.
const MAX_BATCH: u64 = 1 << 24;
/// The largest number of steps. Larger numbers are mistakes.
const MAX_STEPS: u64 = 100_000_000_000;

impl TrainingConfig {
    /// Returns all mistakes.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut checks = Checks::new("training");
        for (field, value) in [
            ("global_batch", self.global_batch),
            ("microbatch", self.microbatch),
            ("steps", self.steps),
            ("log_interval", self.log_interval),
            ("save_interval", self.save_interval),
        ] {
            checks.check(value > 0, field, "must be at least 1");
        }
        for (field, value) in [("global_batch", self.global_batch), ("microbatch", self.microbatch)] {
            checks.check(value <= MAX_BATCH, field, format!("must be at most {MAX_BATCH}"));
        }
        // The number of all samples must fit into 64 bits.
        checks.check(self.steps <= MAX_STEPS, "steps", format!("must be at most {MAX_STEPS}"));
        checks.check(self.bucket_bytes != Some(0), "bucket_bytes", "must be at least 1");
        checks.check(
            self.loss_jump_factor.is_none_or(|factor| factor > 1.0 && factor.is_finite()),
            "loss_jump_factor",
            "must be greater than 1, or null",
        );
        checks.mistakes
    }
}

/// Fields for classifiers only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Trains on noised images, as guidance requires.
    pub noised: bool,
    /// Steps between two measurements on the validation data, if there are any.
    pub validation_interval: u64,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self { noised: true, validation_interval: 5 }
    }
}

impl ClassifierConfig {
    /// Returns all mistakes.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut checks = Checks::new("classifier");
        checks.check(self.validation_interval > 0, "validation_interval", "must be at least 1");
        checks.mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(RunSection::default().validate(), []);
        assert_eq!(OptimizerConfig::default().validate(), []);
        assert_eq!(PrecisionConfig::default().validate(), []);
        assert_eq!(TrainingConfig::default().validate(), []);
        assert_eq!(ClassifierConfig::default().validate(), []);
    }

    #[test]
    fn mistakes_name_their_field() {
        let optimizer =
            OptimizerConfig { learning_rate: -1.0, ema_rates: vec![0.9, 0.9, 2.0], ..OptimizerConfig::default() };
        let fields: Vec<String> = optimizer.validate().into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["optimizer.learning_rate", "optimizer.ema_rates", "optimizer.ema_rates"]);
        let training = TrainingConfig { microbatch: 0, ..TrainingConfig::default() };
        assert_eq!(training.validate()[0].field, "training.microbatch");
    }
}
