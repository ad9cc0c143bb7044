//! The facts of a configuration that doubts depend on.

use admiral_plan::Report;

/// The facts of a run's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// Whether the run trains a classifier.
    pub is_classifier: bool,
    /// Whether the run trains a diffusion model that draws from noise alone, and is no upsampler.
    pub draws_from_noise: bool,
    /// Whether the images come from a folder, whose classes `data.classes` chooses.
    pub classes_are_chosen: bool,
    /// `model.image_size`.
    pub image_size: u64,
    /// `model.image_channels`.
    pub image_channels: u64,
    /// `model.num_classes`.
    pub num_classes: Option<u64>,
    /// `model.dropout`.
    pub dropout: f64,
    /// Whether `diffusion.noise_schedule` is linear.
    pub is_linear: bool,
    /// The number of parameters.
    pub parameters: u64,
    /// `data.random_flip`.
    pub random_flip: bool,
    /// Whether an image that cannot be decoded ends the run.
    pub stops_at_broken: bool,
    /// `data.num_workers`.
    pub num_workers: u64,
    /// `data.validation_fraction`.
    pub validation_fraction: f64,
    /// `run.num_threads`.
    pub num_threads: u64,
    /// Whether `run.device` is the CPU.
    pub on_cpu: bool,
    /// The cores of this machine.
    pub cores: u64,
    /// `training.global_batch`.
    pub global_batch: u64,
    /// `training.microbatch`.
    pub microbatch: u64,
    /// `training.steps`.
    pub steps: u64,
    /// `training.log_interval`.
    pub log_interval: u64,
    /// `training.save_interval`.
    pub save_interval: u64,
    /// `training.sample_interval`.
    pub sample_interval: u64,
    /// `classifier.validation_interval`.
    pub validation_interval: u64,
    /// How the run evaluates itself, if it does.
    pub evaluation: Option<Evaluation>,
    /// The learning rate.
    pub learning_rate: LearningRate,
    /// The moving averages.
    pub ema: EmaFacts,
    /// Whether `precision.mode` is fp16 or bf16.
    pub is_half: bool,
    /// The fields of loss scaling that have other values than the default although `precision.mode` is not fp16.
    pub unused_loss_scaling: Vec<&'static str>,
    /// The bytes of a checkpoint.
    pub checkpoint_bytes: u64,
    /// The largest number of checkpoints that exist at once.
    pub most_checkpoints: u64,
}

/// How a run evaluates itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// `evaluation.interval`.
    pub interval: u64,
    /// `evaluation.num_images`.
    pub num_images: u64,
    /// Whether it compares with the validation images.
    pub with_validation: bool,
}

/// The learning rate and how it changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// `optimizer.learning_rate`.
    pub rate: f64,
    /// `model.num_channels`, on which a good rate depends.
    pub num_channels: u64,
    /// `optimizer.warmup_steps`.
    pub warmup_steps: u64,
    /// `optimizer.lr_anneal_steps`.
    pub anneal_steps: u64,
}

impl LearningRate {
    /// Returns the paper's rate for a batch and this width: 1e-4 for 256 samples and 256 channels, times the root of
    /// the batch, and inversely with the width, as is usual for Adam.
    #[must_use]
    pub fn of_paper(&self, global_batch: u64) -> f64 {
        1e-4 * (global_batch as f64 / 256.0).sqrt() * 256.0 / self.num_channels.max(1) as f64
    }
}

/// The moving averages of the parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct EmaFacts {
    /// `optimizer.ema_rates`.
    pub rates: Vec<f64>,
    /// `optimizer.ema_warmup`.
    pub warmup: bool,
}

/// The plan of a run on some GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The number of GPUs or processes.
    pub ranks: u64,
    /// The plan, or the reason why the batch cannot be divided.
    pub report: Result<Box<Report>, String>,
    /// The largest microbatch that [`MEMORY_SHARE`](crate::limits::MEMORY_SHARE) of the memory takes; `None` if the
    /// memory is unknown.
    pub comfortable_microbatch: Option<u64>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run like that of ImageNet 64 on a million images, about which there is no doubt.
    pub(in crate::check) fn sound() -> RunFacts {
        RunFacts {
            is_classifier: false,
            draws_from_noise: true,
            classes_are_chosen: true,
            image_size: 64,
            image_channels: 3,
            num_classes: Some(2),
            dropout: 0.1,
            is_linear: false,
            parameters: 300_000_000,
            random_flip: true,
            stops_at_broken: true,
            num_workers: 4,
            validation_fraction: 0.0,
            num_threads: 0,
            on_cpu: false,
            cores: 8,
            global_batch: 2048,
            microbatch: 64,
            steps: 540_000,
            log_interval: 10,
            save_interval: 1000,
            sample_interval: 1000,
            validation_interval: 5,
            evaluation: None,
            learning_rate: LearningRate { rate: 3e-4, num_channels: 192, warmup_steps: 0, anneal_steps: 0 },
            ema: EmaFacts { rates: vec![0.9999], warmup: false },
            is_half: true,
            unused_loss_scaling: Vec::new(),
            checkpoint_bytes: 1,
            most_checkpoints: 1,
        }
    }

    #[test]
    fn the_papers_rates_are_near_the_rule() {
        for (rate, num_channels, batch) in [(3e-4, 192, 2048), (1e-4, 256, 256), (3e-4, 128, 256), (1e-3, 32, 32)] {
            let found = LearningRate { rate, num_channels, warmup_steps: 0, anneal_steps: 0 }.of_paper(batch);
            assert!((0.5..=4.0).contains(&(rate / found)), "{found} for {rate}");
        }
    }
}
