//! The facts of a configuration on which doubts depend.

use admiral_advice::{EmaFacts, Evaluation, LearningRate, RunFacts};
use admiral_data::{OnBrokenImage, SourceKind};

use crate::diffusion::NoiseSchedule;
use crate::model::Task;
use crate::run_config::{DeviceChoice, Facts, PrecisionConfig, PrecisionMode, RunConfig};

/// Returns the facts of a valid configuration. `cores` are those of the machine of the run, if it is this one.
pub(super) fn run_facts(config: &RunConfig, facts: &Facts, cores: Option<u64>) -> RunFacts {
    let RunConfig { run, model, data, training, optimizer, precision, .. } = config;
    RunFacts {
        is_classifier: config.task == Task::Classifier,
        draws_from_noise: config.task == Task::Diffusion,
        classes_are_chosen: data.source != SourceKind::Idx,
        image_size: model.image_size.unsigned_abs(),
        image_channels: model.image_channels.unsigned_abs(),
        num_classes: model.num_classes.map(i64::unsigned_abs),
        dropout: model.dropout,
        is_linear: config.diffusion.noise_schedule == NoiseSchedule::Linear,
        parameters: facts.parameters,
        random_flip: data.random_flip,
        stops_at_broken: data.on_broken_image == OnBrokenImage::Stop,
        num_workers: data.num_workers as u64,
        validation_fraction: data.validation_fraction,
        num_threads: run.num_threads as u64,
        on_cpu: run.device == DeviceChoice::Cpu,
        cores: cores.unwrap_or(u64::MAX),
        global_batch: training.global_batch,
        microbatch: training.microbatch,
        steps: training.steps,
        log_interval: training.log_interval,
        save_interval: training.save_interval,
        sample_interval: training.sample_interval,
        validation_interval: config.classifier.validation_interval,
        evaluation: evaluation(config),
        learning_rate: LearningRate {
            rate: optimizer.learning_rate,
            num_channels: model.num_channels.unsigned_abs(),
            warmup_steps: optimizer.warmup_steps,
            anneal_steps: optimizer.lr_anneal_steps,
        },
        ema: EmaFacts { rates: optimizer.ema_rates.clone(), warmup: optimizer.ema_warmup },
        is_half: precision.mode != PrecisionMode::Fp32,
        unused_loss_scaling: unused_loss_scaling(precision),
        checkpoint_bytes: facts.checkpoint_bytes,
        most_checkpoints: config.checkpoint.retention().most_at_once(training.steps, training.save_interval),
    }
}

fn evaluation(config: &RunConfig) -> Option<Evaluation> {
    let evaluation = &config.evaluation;
    (evaluation.interval > 0).then(|| Evaluation {
        interval: evaluation.interval,
        num_images: evaluation.num_images,
        with_validation: evaluation.reference == "validation",
    })
}

/// Returns the fields of loss scaling that are set without fp16, which alone has a loss scale.
fn unused_loss_scaling(precision: &PrecisionConfig) -> Vec<&'static str> {
    let usual = PrecisionConfig::default();
    let fields = [
        ("precision.initial_lg_loss_scale", precision.initial_lg_loss_scale != usual.initial_lg_loss_scale),
        ("precision.fp16_scale_growth", precision.fp16_scale_growth != usual.fp16_scale_growth),
        ("precision.min_lg_loss_scale", precision.min_lg_loss_scale != usual.min_lg_loss_scale),
    ];
    let is_used = precision.mode == PrecisionMode::Fp16;
    fields.into_iter().filter(|(_, is_set)| *is_set && !is_used).map(|(field, _)| field).collect()
}
