//! Validation: measures a classifier on images that it is not trained on.

use admiral_data::{Loader, SampleReader};
use admiral_telemetry::{Detail, ScalarSums};

use crate::context::RunContext;
use crate::diffusion::DrawnTimesteps;
use crate::model::Task;

use super::error::TrainError;
use super::microbatch::to_device;
use super::session::Session;

/// The difference to the seed of training, so that validation has other crops and noise.
const SEED_OFFSET: u64 = 0x5eed;

/// An endless sequence of batches of the validation images.
#[derive(Debug)]
pub struct Validation {
    loader: Loader,
}

impl Validation {
    /// Starts to read this rank's part of the validation images. Returns `None` if the task is not a classifier, or the
    /// configuration names no validation images.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn open(session: &Session, context: &RunContext<'_>) -> Result<Option<Self>, TrainError> {
        let Some(source) =
            session.sources().validation.clone().filter(|_| session.state.config.task == Task::Classifier)
        else {
            return Ok(None);
        };
        let mut spec = session.state.config.sample_spec(false);
        spec.seed = spec.seed.wrapping_add(SEED_OFFSET);
        let (batch, world) = (session.state.config.training.microbatch, context.collective.world_size() as u64);
        let rank = context.collective.rank() as u64;
        // A resumed run measures on the same images as a run without interruption.
        let first = session.state.trainer.counters.step / session.state.config.classifier.validation_interval;
        let passes = (first..).map(move |pass| {
            let start = (pass * world + rank) * batch;
            (start..start + batch).collect()
        });
        let loader = Loader::start(SampleReader::new(source, spec), 1, 2, passes)?;
        Ok(Some(Self { loader }))
    }

    /// Makes [`measure`](Self::measure) stop waiting for images soon after `is_cancelled` returns true.
    pub fn give_up_when(&mut self, is_cancelled: impl Fn() -> bool + Send + 'static) {
        self.loader.give_up_when(is_cancelled);
    }

    /// Calls `tell` as [`Loader::tell_awaited`] does.
    pub fn tell_awaited(&mut self, tell: impl Fn(&str) + Send + 'static) {
        self.loader.tell_awaited(tell);
    }

    /// Measures the next batch. Returns the name and the mean over all ranks of each term, also by quartile of the
    /// timestep. Every rank calls it.
    ///
    /// # Errors
    /// When an image cannot be read or the ranks cannot reach each other.
    pub fn measure(&mut self, session: &Session, context: &RunContext<'_>) -> Result<Vec<(String, f64)>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let Some((batch, _)) = self.loader.next()? else { return Ok(Vec::new()) };
        let trainer = &session.state.trainer;
        let num_timesteps = trainer.objective.diffusion().num_timesteps();
        // Uniform timesteps, whatever training draws, so that measurements are unbiased.
        let timesteps = batch.timestep_uniforms.iter().map(|u| (u * num_timesteps as f64) as i64).collect();
        let weights = vec![1.0; batch.indices.len()];
        let drawn = DrawnTimesteps { timesteps, weights };
        let batch = to_device(&batch, drawn, &session.state.config.model, true, context.device);
        let terms = trainer.objective.terms(&context.kernels, &trainer.network, trainer.memory.params(), &batch, None);
        let timesteps: Vec<usize> = batch.timesteps.iter().map(|&t| t as usize).collect();
        let mut sums = ScalarSums::new(num_timesteps);
        for (name, values) in &terms.logged {
            let id = sums.define(name, Detail::TimestepQuartiles);
            let values: Vec<f32> = Vec::try_from(values)?;
            sums.add_samples(id, &values.into_iter().map(f64::from).collect::<Vec<_>>(), &timesteps);
        }
        context.collective.all_reduce_sum_f64(sums.flat_mut())?;
        Ok(sums.take_means())
    }
}
