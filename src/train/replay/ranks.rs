//! The gradients of a step, computed rank after rank in one process.

use admiral_contract::BatchDivision;
use tch::{Device, Kind, Tensor};

use crate::train::error::TrainError;
use crate::train::objective::Microbatch;
use crate::train::sample_terms::{DeferredStatistics, SampleTerms};
use crate::train::step::Trainer;

use super::finder::Finder;
use super::finding::What;
use super::pass::Pass;

/// The gradients and samples of a step of all ranks.
#[derive(Debug)]
pub(super) struct RanksStep {
    /// The scaled gradients, summed over the ranks, in the flat buffers of the segments.
    pub(super) sums: Vec<Tensor>,
    /// The samples of each rank.
    pub(super) samples: Vec<SampleTerms>,
    /// For each rank, the parameter with a gradient that is not finite which backward reached first.
    pub(super) bad_gradients: Vec<Option<String>>,
}

/// Computes the gradients of the trainer's next step as the ranks of a run did: with the passes and the dropout masks of
/// each rank. `next` returns the samples of a pass of a rank. A finder looks at every tensor.
///
/// # Errors
/// When `next` or an operation fails.
pub(super) fn run_ranks(
    trainer: &Trainer,
    division: BatchDivision,
    next: &mut dyn FnMut(usize, usize) -> Result<Microbatch, TrainError>,
    finder: Option<&Finder>,
) -> Result<RanksStep, TrainError> {
    let memory = &trainer.memory;
    let gradients = || memory.segments().iter().map(|segment| &segment.gradient);
    let mut step = RanksStep { sums: Vec::new(), samples: Vec::new(), bad_gradients: Vec::new() };
    for rank in 0..division.world_size as usize {
        memory.zero_gradients();
        let mut deferred = DeferredStatistics::default();
        for number in 0..division.accumulation as usize {
            let batch = next(rank, number)?;
            if let Some(finder) = finder {
                finder.begin(Pass::of(rank, number, &batch));
                finder.look(What::Image, &batch.images);
                finder.look(What::Noise, &batch.noise);
            }
            let (loss, terms) = trainer.forward(&batch, rank, number, division.global_batch);
            if let Some(finder) = finder {
                finder.look(What::Loss, &terms.loss.detach());
            }
            loss.f_backward()?;
            deferred.append(batch, terms.logged);
        }
        let no_norms = Tensor::zeros([2], (Kind::Double, Device::Cpu));
        step.samples.push(deferred.read(&no_norms.to_device(memory.segments()[0].gradient.device()))?.1);
        let bad = memory.last_bad_gradient(|_| true);
        if let (Some(finder), Some(name)) = (finder, bad) {
            let param = memory.specs().iter().position(|spec| spec.name == name).unwrap_or(0);
            finder.parameter_gradient(name, &memory.gradients().tensors()[param]);
        }
        step.bad_gradients.push(bad.map(str::to_owned));
        if division.world_size == 1 {
            step.sums = gradients().map(Tensor::shallow_clone).collect();
        } else {
            let _no_grad = tch::no_grad_guard();
            let own = gradients().map(|gradient| gradient.f_to_dtype(Kind::Float, false, rank == 0));
            let own: Vec<Tensor> = own.collect::<Result<_, _>>()?;
            if rank == 0 {
                step.sums = own;
            } else {
                step.sums.iter_mut().zip(&own).try_for_each(|(sum, own)| sum.f_add_(own).map(drop))?;
            }
        }
    }
    Ok(step)
}
