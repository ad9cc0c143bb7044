//! One training step: forward and backward of each microbatch, the all-reduce of gradients, and the optimizer's pass
//! over flat memory.

use std::time::{Duration, Instant};

use admiral_comm::buckets::default_bucket_bytes;
use admiral_comm::{Collective, CollectiveError, Phase, PhaseTracker, StepSeconds};
use admiral_random::{Philox, Stream};
use tch::{Device, Kind, Tensor};

use crate::model::Network;
use crate::ops::{self, AdamHyper, AdamSegment, Kernels, bridge};
use crate::reduce::{GradientReducer, NcclReducer, OwnGradients, Reduced};
use crate::run_config::{OnNan, OptimizerConfig};

use super::divergence::divergence_of;
use super::error::TrainError;
use super::flat::FlatMemory;
use super::gradient_norms::{gradient_norms, gradient_slots};
use super::loss_scale::{LossScale, Verdict};
use super::objective::{Microbatch, Objective, Terms};
use super::sample_terms::{DeferredStatistics, SampleTerms};
use super::schedule::{ema_rate, learning_rate};

/// The duration of each part of a step. On a GPU the parts are only separate if [`Trainer::measure`] is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Waiting for the loader and moving samples to the device.
    pub data: Duration,
    /// Forward passes and losses.
    pub forward: Duration,
    /// Backward passes.
    pub backward: Duration,
    /// Waiting for the all-reduce of gradients, including waiting for ranks that start it later.
    pub all_reduce: Duration,
    /// The all-reduce itself, from the time when all ranks have started it.
    pub all_reduce_busy: Duration,
    /// The part of `all_reduce_busy` that backward does not hide.
    pub all_reduce_exposed: Duration,
    /// The time in the ledger's exchanges in which this rank's GPU still ran backward.
    pub all_reduce_hidden: Duration,
    /// Zeroing of gradients, norms, Adam, averages and the half-precision copy.
    pub optimizer: Duration,
}

/// The result of a step.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The samples of this rank.
    pub samples: SampleTerms,
    /// Whether the parameters were updated; false if loss scaling skipped the step.
    pub took_step: bool,
    /// The l2 norm of the gradient of the mean loss, before clipping; NaN if the step was skipped.
    pub gradient_norm: f64,
    /// The l2 norm of the masters before the step; NaN if the step was skipped.
    pub parameter_norm: f64,
    /// The base-2 logarithm of the loss scale of this step.
    pub lg_loss_scale: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The parameter whose gradient overflowed first, if the step was skipped: of those that are not finite, the one that
    /// backward reached first.
    pub overflowed: Option<String>,
    /// The duration of each part.
    pub times: StepTimes,
    /// The step's duration on this rank, as recorded in the ledger. [`Session::step`](super::Session::step) sets it;
    /// before, it is zero.
    pub seconds: StepSeconds,
}

impl StepReport {
    /// Returns the step's duration, with the waiting in which this rank did nothing else.
    pub(super) fn exposed_seconds(&self) -> StepSeconds {
        let hidden = self.times.all_reduce_hidden.as_secs_f64();
        StepSeconds { wait: (self.seconds.wait - hidden).max(0.0), ..self.seconds }
    }
}

/// The training state outside of flat memory. All of it is saved in checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// The number of steps done, including skipped ones.
    pub step: u64,
    /// The number of steps that updated the parameters. Adam's bias correction uses it.
    pub optimizer_step: u64,
    /// The state of loss scaling.
    pub loss_scale: LossScale,
}

/// When gradients are summed over the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GradientSums {
    /// After backward.
    AfterBackward,
    /// While backward runs, in buckets of at most `bucket_bytes`; `None` is the default size.
    DuringBackward {
        /// The maximum bytes of a bucket.
        bucket_bytes: Option<usize>,
    },
}

/// Trains one network: takes steps on microbatches that the caller provides. Does not load data, log or save.
#[derive(Debug)]
pub struct Trainer {
    /// The network's structure.
    pub network: Network,
    /// Parameters, gradients and optimizer state.
    pub memory: FlatMemory,
    /// The objective that is minimised.
    pub objective: Objective,
    /// Counters and loss scale.
    pub counters: Counters,
    kernels: Kernels,
    phases: PhaseTracker,
    optimizer: OptimizerConfig,
    seed: u64,
    reducer: GradientReducer,
    /// The gradients of the last step, summed over the ranks.
    sums: Vec<Tensor>,
    /// Whether this rank's gradients of the last step were finite before the sum.
    own: OwnGradients,
    /// Whether the last step had a single rank.
    is_alone: bool,
    /// The report of the last step, if training diverged in it.
    diverged: Option<Box<StepReport>>,
    /// What a step does whose gradients are not finite.
    pub on_nan: OnNan,
    /// Whether gradients are summed while backward runs.
    overlaps: bool,
    /// Whether to synchronize with the device between the parts of a step, so that [`StepTimes`] has each part's
    /// duration.
    pub measure: bool,
}

impl Trainer {
    /// Creates a trainer. `seed` is the seed of dropout.
    ///
    /// # Errors
    /// When libtorch cannot register hooks on the gradients.
    #[allow(clippy::too_many_arguments, reason = "each argument is another component")]
    pub fn new(
        network: Network,
        memory: FlatMemory,
        objective: Objective,
        optimizer: OptimizerConfig,
        loss_scale: LossScale,
        seed: u64,
        gradient_sums: GradientSums,
        kernels: Kernels,
        phases: PhaseTracker,
    ) -> Result<Self, TrainError> {
        let (bucket_bytes, overlaps) = match gradient_sums {
            GradientSums::AfterBackward => (None, false),
            GradientSums::DuringBackward { bucket_bytes } => (bucket_bytes, true),
        };
        let bucket_bytes = bucket_bytes.unwrap_or_else(|| default_bucket_bytes(memory.specs().num_elements()));
        let reducer = GradientReducer::new(&gradient_slots(&memory), bucket_bytes, phases.clone());
        if overlaps {
            for (param, tensor) in memory.params().tensors().iter().enumerate() {
                let (tracker, phases) = (reducer.tracker(), phases.clone());
                bridge::on_gradient(tensor, move || {
                    if tracker.mark_filled(param) {
                        phases.first_bucket_ready();
                    }
                })?;
            }
        }
        let counters = Counters { step: 0, optimizer_step: 0, loss_scale };
        Ok(Self {
            network,
            memory,
            objective,
            counters,
            kernels,
            phases,
            optimizer,
            seed,
            reducer,
            sums: Vec::new(),
            own: OwnGradients::Unknown,
            is_alone: true,
            diverged: None,
            on_nan: OnNan::default(),
            overlaps,
            measure: false,
        })
    }

    /// Sums gradients with NCCL from now on.
    pub(super) fn use_nccl(&mut self, nccl: NcclReducer) {
        self.reducer.use_nccl(nccl);
    }

    /// Closes the connection between the ranks' GPUs after the last step. Every rank calls it.
    ///
    /// # Errors
    /// When a rank does not call it within the timeout.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.reducer.finish()
    }

    /// Takes one step on `num_microbatches` batches of this rank, which `next` returns in order.
    ///
    /// `num_samples` is the number of samples of the step over all ranks. Each sample's loss has the weight
    /// `1 / num_samples`, for any number of ranks and microbatches.
    ///
    /// # Errors
    /// When `next` fails, the ranks cannot reach each other, or training diverged.
    pub fn step(
        &mut self,
        num_microbatches: usize,
        num_samples: u64,
        next: &mut dyn FnMut(usize) -> Result<Microbatch, TrainError>,
        collective: &dyn Collective,
    ) -> Result<StepReport, TrainError> {
        let mut times = StepTimes::default();
        let mut stopwatch = Stopwatch::new(self.memory.segments()[0].master.device(), self.measure);
        let mut deferred = DeferredStatistics::default();
        let learning_rate = learning_rate(&self.optimizer, self.counters.step);
        let lg_loss_scale = self.counters.loss_scale.lg();

        self.phases.enter_zeroing();
        self.memory.zero_gradients();
        times.optimizer += stopwatch.lap();
        let local: Vec<&Tensor> = self.memory.segments().iter().map(|segment| &segment.gradient).collect();
        let mut reduced = None;
        for index in 0..num_microbatches {
            self.phases.enter(Phase::Data, index);
            let batch = next(index)?;
            self.phases.enter(Phase::Forward, index);
            times.data += stopwatch.lap();
            let (loss, terms) = self.forward(&batch, collective.rank(), index, num_samples);
            self.phases.enter(Phase::Backward, index);
            times.forward += stopwatch.lap();
            // Gradients are only complete in the last pass.
            if self.overlaps && index + 1 == num_microbatches {
                let during = self.reducer.reduce_during(collective, &local, || {
                    loss.f_backward()?;
                    Ok::<_, TrainError>(())
                })?;
                // On a GPU, backward and the sums are only waited for together: a wait for backward alone would also
                // wait for the sums, without detecting that they fail.
                times.backward += stopwatch.lap().saturating_sub(during.waited);
                reduced = Some(during);
            } else {
                loss.f_backward()?;
                times.backward += stopwatch.lap();
            }
            deferred.append(batch, terms.logged);
            times.forward += stopwatch.lap();
        }

        let Reduced { sums: gradients, busy, exposed, waited, hidden, own } = match reduced {
            Some(reduced) => reduced,
            None => self.reducer.reduce(collective, &local)?,
        };
        self.phases.enter(Phase::Optimizer, 0);
        (times.all_reduce, times.all_reduce_busy, times.all_reduce_exposed) = (waited, busy, exposed);
        times.all_reduce_hidden = hidden;
        self.own = own;
        self.is_alone = collective.world_size() == 1;
        self.sums = gradients.iter().map(Tensor::shallow_clone).collect();
        stopwatch.lap();

        let masters: Vec<&Tensor> = self.memory.segments().iter().map(|segment| &segment.master).collect();
        let (norms, samples) = deferred.read(&ops::norms(&self.kernels, &gradients, &masters)?)?;
        let norm = norms[0] / self.counters.loss_scale.factor();
        let mut report = StepReport {
            samples,
            took_step: false,
            gradient_norm: f64::NAN,
            parameter_norm: f64::NAN,
            lg_loss_scale,
            learning_rate,
            overflowed: None,
            times,
            seconds: StepSeconds::default(),
        };
        match self.finish_step(&gradients, norm, learning_rate)? {
            Verdict::Step => {
                report.took_step = true;
                report.gradient_norm = norm;
                report.parameter_norm = norms[1];
            }
            Verdict::Skip => report.overflowed = self.first_overflow()?,
            Verdict::Diverged => {
                let bad_gradient = self.bad_gradient();
                let step = self.counters.step;
                let error = divergence_of(step, lg_loss_scale, bad_gradient, &report.samples, collective);
                self.diverged = Some(Box::new(report));
                return Err(error);
            }
        }
        self.phases.enter(Phase::Log, 0);
        report.times.optimizer += stopwatch.lap();
        Ok(report)
    }

    /// Runs the network forward on a batch, as the pass `microbatch` of `rank` in a step with `num_samples` samples over all
    /// ranks. Returns the sum of the scaled losses and the terms.
    pub(super) fn forward(
        &self,
        batch: &Microbatch,
        rank: usize,
        microbatch: usize,
        num_samples: u64,
    ) -> (Tensor, Terms) {
        let seed = self.dropout_seed(rank, microbatch);
        let terms = self.objective.terms(&self.kernels, &self.network, self.memory.params(), batch, Some(seed));
        let scale = self.counters.loss_scale.factor() / num_samples as f64;
        (terms.loss.sum(Kind::Float) * scale, terms)
    }

    /// Decides on a step by the norm of its unscaled gradient, and updates the parameters unless the step is skipped.
    /// `gradients` are the scaled sums over the ranks.
    ///
    /// # Errors
    /// When an operation fails.
    pub(super) fn finish_step(
        &mut self,
        gradients: &[Tensor],
        norm: f64,
        learning_rate: f64,
    ) -> Result<Verdict, TrainError> {
        let before = self.counters.loss_scale;
        let verdict = match self.counters.loss_scale.judge(norm.is_finite()) {
            Verdict::Skip if self.on_nan == OnNan::Stop => Verdict::Diverged,
            verdict => verdict,
        };
        if verdict == Verdict::Step {
            self.update(gradients, before, norm, learning_rate)?;
        }
        if verdict == Verdict::Diverged {
            // A replay takes the step again with the scale that it had.
            self.counters.loss_scale = before;
        } else {
            self.counters.step += 1;
        }
        Ok(verdict)
    }

    /// Returns the norm of the unscaled gradient of each parameter in the last step, summed over the ranks, and with that
    /// step's loss scale.
    ///
    /// # Errors
    /// When an operation fails.
    pub(super) fn gradient_norms(&self, lg_loss_scale: f64) -> Result<Vec<f64>, TrainError> {
        let norms = gradient_norms(&self.memory, &self.sums)?;
        Ok(norms.into_iter().map(|norm| norm / lg_loss_scale.exp2()).collect())
    }

    /// Returns the report of the last step, if training diverged in it.
    pub(super) fn diverged_step(&self) -> Option<&StepReport> {
        self.diverged.as_deref()
    }

    /// Returns the name of the parameter with a gradient that is not finite which backward reached first on this rank in the
    /// last step, before the gradients were summed. `None` if there is none or it is not known.
    pub(super) fn own_bad_gradient(&self) -> Option<String> {
        let name = |param: usize| self.memory.specs().as_slice().get(param).map(|spec| spec.name.clone());
        match self.own {
            OwnGradients::Finite => None,
            OwnGradients::Bad { param } => name(param),
            // Float32 gradients are summed in place, so that only half-precision gradients are still those of this rank.
            OwnGradients::Unknown => {
                self.memory.last_bad_gradient(|segment| self.is_alone || segment.is_half()).map(str::to_owned)
            }
        }
    }

    /// Returns a parameter with a gradient that is not finite, also if it is not known whether this rank or another one has
    /// computed it.
    fn bad_gradient(&self) -> Option<String> {
        self.own_bad_gradient().or_else(|| match self.own {
            OwnGradients::Unknown => self.memory.last_bad_gradient(|_| true).map(str::to_owned),
            _ => None,
        })
    }

    /// Returns the first overflow of the last step: see [`StepReport::overflowed`].
    fn first_overflow(&self) -> Result<Option<String>, TrainError> {
        let norms = gradient_norms(&self.memory, &self.sums)?;
        let param = norms.iter().rposition(|norm| !norm.is_finite());
        Ok(param.and_then(|param| self.memory.specs().as_slice().get(param)).map(|spec| spec.name.clone()))
    }

    /// Returns the seed of the dropout masks. It only depends on seed, step, rank and microbatch, so a resumed run
    /// draws the same masks.
    fn dropout_seed(&self, rank: usize, microbatch: usize) -> u64 {
        let index = self.counters.step << 40 ^ (rank as u64) << 20 ^ microbatch as u64;
        Philox::new(self.seed, Stream::Dropout, index).next_u64()
    }

    /// Updates the masters, moments, averages and the network's half-precision copy. `norm` is the norm of the unscaled
    /// gradient.
    fn update(
        &mut self,
        gradients: &[Tensor],
        scale: LossScale,
        norm: f64,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        self.counters.optimizer_step += 1;
        let clip = match self.optimizer.gradient_clip_norm {
            limit if limit > 0.0 && norm > limit => limit / norm,
            _ => 1.0,
        };
        let hyper = AdamHyper {
            learning_rate,
            beta1: self.optimizer.beta1,
            beta2: self.optimizer.beta2,
            epsilon: self.optimizer.epsilon,
            weight_decay: self.optimizer.weight_decay,
            step: self.counters.optimizer_step,
            gradient_scale: clip / scale.factor(),
        };
        for (segment, gradient) in self.memory.segments().iter().zip(gradients) {
            let emas: Vec<(f64, &Tensor)> = self
                .optimizer
                .ema_rates
                .iter()
                .map(|&rate| ema_rate(&self.optimizer, rate, self.counters.optimizer_step))
                .zip(&segment.emas)
                .collect();
            let flat = AdamSegment {
                master: &segment.master,
                mean: &segment.mean,
                variance: &segment.variance,
                gradient,
                emas: &emas,
                half: segment.is_half().then_some(&segment.model),
            };
            ops::adam(&self.kernels, &flat, &hyper)?;
        }
        Ok(())
    }
}

/// Measures the time between calls of [`lap`](Self::lap).
struct Stopwatch {
    last: Instant,
    device: Device,
    /// Whether a lap ends when the device has finished its work.
    synchronize: bool,
}

impl Stopwatch {
    fn new(device: Device, synchronize: bool) -> Self {
        Self { last: Instant::now(), device, synchronize }
    }

    /// Returns the time since the last lap.
    fn lap(&mut self) -> Duration {
        if let (true, Device::Cuda(index)) = (self.synchronize, self.device) {
            tch::Cuda::synchronize(index as i64);
        }
        let now = Instant::now();
        now - std::mem::replace(&mut self.last, now)
    }
}
