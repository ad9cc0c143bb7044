//! One training step: microbatches forward and backward, gradients summed over ranks, one pass over flat memory.

use std::time::{Duration, Instant};

use admiral_comm::buckets::{Slot, default_bucket_bytes};
use admiral_comm::{Collective, CollectiveError, Phase, PhaseTracker, StepSeconds};
use admiral_random::{Philox, Stream};
use tch::{Device, Kind, Tensor};

use crate::model::Network;
use crate::ops::{self, AdamHyper, AdamSegment, Kernels, bridge};
use crate::reduce::{GradientReducer, NcclReducer, Reduced};
use crate::run_config::OptimizerConfig;

use super::error::TrainError;
use super::flat::FlatMemory;
use super::loss_scale::{LossScale, Verdict};
use super::objective::{Microbatch, Objective};
use super::schedule::{ema_rate, learning_rate};

/// How long each part of a step took. On a GPU the parts are only told apart where each waits for the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Waiting for the loader and moving samples to the device.
    pub data: Duration,
    /// Networks and losses.
    pub forward: Duration,
    /// Gradients.
    pub backward: Duration,
    /// Waiting for gradients to be summed over ranks, and for ranks that came later.
    pub all_reduce: Duration,
    /// What those sums took in all, once all ranks had come to them.
    pub all_reduce_busy: Duration,
    /// The part of that which backward did not hide.
    pub all_reduce_exposed: Duration,
    /// Norms, Adam, averages, the half-precision copy.
    pub optimizer: Duration,
}

/// The samples of a step on this rank and what the objective said of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleTerms {
    /// Global index of each sample.
    pub indices: Vec<u64>,
    /// Timestep of each sample.
    pub timesteps: Vec<i64>,
    /// Importance weight of each sample.
    pub weights: Vec<f32>,
    /// Each logged term with one value a sample, weighted.
    pub terms: Vec<(&'static str, Vec<f32>)>,
}

/// What a step did.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The samples of this rank.
    pub samples: SampleTerms,
    /// Whether the parameters moved; false where loss scaling skipped the step.
    pub took_step: bool,
    /// l2 norm of the gradient of the mean loss, before clipping; NaN where the step was skipped.
    pub gradient_norm: f64,
    /// l2 norm of the masters before the step; NaN where the step was skipped.
    pub parameter_norm: f64,
    /// The base-2 logarithm of the loss scale of this step.
    pub lg_loss_scale: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Where the time went.
    pub times: StepTimes,
    /// What the ledger says that the step took on this rank; zero until the step is done with all that belongs to it.
    pub seconds: StepSeconds,
}

/// The state of training apart from flat memory; all of it is saved.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Steps in which the parameters moved: Adam's bias correction counts these.
    pub optimizer_step: u64,
    /// Loss scaling.
    pub loss_scale: LossScale,
}

/// When gradients are summed over the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GradientSums {
    /// After backward.
    AfterBackward,
    /// While backward runs, in buckets of at most `bucket_bytes`; `None` is the default size.
    DuringBackward {
        /// Bytes of a bucket.
        bucket_bytes: Option<usize>,
    },
}

/// Trains one network. It knows neither where samples come from nor when to log or save.
#[derive(Debug)]
pub struct Trainer {
    /// The network's structure.
    pub network: Network,
    /// Parameters, gradients and the optimizer's state.
    pub memory: FlatMemory,
    /// What is minimised.
    pub objective: Objective,
    /// Counters and loss scale.
    pub counters: Counters,
    kernels: Kernels,
    phases: PhaseTracker,
    optimizer: OptimizerConfig,
    seed: u64,
    reducer: GradientReducer,
    /// Whether sums travel while backward goes on.
    overlaps: bool,
    /// Whether to wait for the device between the parts of a step, so that [`StepTimes`] tells them apart.
    pub measure: bool,
}

impl Trainer {
    /// Puts a trainer together. `seed` is the seed of dropout.
    ///
    /// # Errors
    /// When libtorch refuses hooks on the gradients.
    #[allow(clippy::too_many_arguments, reason = "each part is of another kind")]
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
                    if tracker.filled(param) {
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
            overlaps,
            measure: false,
        })
    }

    /// Sums gradients between the ranks' GPUs from now on.
    pub fn use_nccl(&mut self, nccl: NcclReducer) {
        self.reducer.use_nccl(nccl);
    }

    /// Leaves the ranks' GPUs in order, when there will be no more steps; every rank calls it.
    ///
    /// # Errors
    /// When a rank does not come.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.reducer.finish()
    }

    /// Trains on `num_microbatches` batches of this rank, which `next` gives in order.
    ///
    /// `num_samples` is the number of samples of the step over all ranks: each sample's loss counts `1 / num_samples`,
    /// however many ranks and microbatches share them.
    ///
    /// # Errors
    /// Where `next` fails, where ranks cannot be reached, and where the run diverged.
    pub fn step(
        &mut self,
        num_microbatches: usize,
        num_samples: u64,
        next: &mut dyn FnMut(usize) -> Result<Microbatch, TrainError>,
        collective: &dyn Collective,
    ) -> Result<StepReport, TrainError> {
        let mut times = StepTimes::default();
        let mut watch = Watch::new(self.memory.segments()[0].master.device(), self.measure);
        let mut deferred = DeferredStatistics::default();
        let learning_rate = learning_rate(&self.optimizer, self.counters.step);
        let lg_loss_scale = self.counters.loss_scale.lg();
        let scale = self.counters.loss_scale.factor() / num_samples as f64;

        self.phases.enter_zeroing();
        self.memory.zero_gradients();
        times.optimizer += watch.lap();
        let local: Vec<&Tensor> = self.memory.segments().iter().map(|segment| &segment.gradient).collect();
        let mut reduced = None;
        for index in 0..num_microbatches {
            self.phases.enter(Phase::Data, index);
            let batch = next(index)?;
            self.phases.enter(Phase::Forward, index);
            times.data += watch.lap();
            let seed = self.dropout_seed(collective.rank(), index);
            let terms = self.objective.terms(&self.kernels, &self.network, self.memory.params(), &batch, Some(seed));
            let loss = terms.loss.sum(Kind::Float) * scale;
            self.phases.enter(Phase::Backward, index);
            times.forward += watch.lap();
            // Only the last pass has the whole gradients.
            if self.overlaps && index + 1 == num_microbatches {
                let during = self.reducer.reduce_during(collective, &local, || {
                    loss.f_backward()?;
                    Ok::<_, TrainError>(())
                })?;
                // A GPU is waited for when its sums are done: to wait for backward alone would be to wait for them too,
                // without looking after them.
                times.backward += watch.lap().saturating_sub(during.waited);
                reduced = Some(during);
            } else {
                loss.f_backward()?;
                times.backward += watch.lap();
            }
            deferred.append(batch, terms.logged);
            times.forward += watch.lap();
        }

        let Reduced { sums: gradients, busy, exposed, waited } = match reduced {
            Some(reduced) => reduced,
            None => self.reducer.reduce(collective, &local)?,
        };
        self.phases.enter(Phase::Optimizer, 0);
        (times.all_reduce, times.all_reduce_busy, times.all_reduce_exposed) = (waited, busy, exposed);
        watch.lap();

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
            times,
            seconds: StepSeconds::default(),
        };
        let before = self.counters.loss_scale;
        match self.counters.loss_scale.judge(norm.is_finite()) {
            Verdict::Step => {
                report.took_step = true;
                report.gradient_norm = norm;
                report.parameter_norm = norms[1];
                self.update(&gradients, before, norm, learning_rate)?;
            }
            Verdict::Skip => {}
            Verdict::Diverged => return Err(self.diverged(&report.samples, lg_loss_scale, collective)),
        }
        self.counters.step += 1;
        self.phases.enter(Phase::Log, 0);
        report.times.optimizer += watch.lap();
        Ok(report)
    }

    /// The same dropout masks again after a restart: they are a function of seed, step, rank and microbatch.
    fn dropout_seed(&self, rank: usize, microbatch: usize) -> u64 {
        let index = self.counters.step << 40 ^ (rank as u64) << 20 ^ microbatch as u64;
        Philox::new(self.seed, Stream::Dropout, index).next_u64()
    }

    /// Moves the masters, moments, averages and the network's copy. `norm` is the gradient's, unscaled.
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

    /// Names what went bad first: the sample, its timestep, the parameter. Every rank calls it, for all judge the same
    /// sums, and gets the same answer.
    fn diverged(&self, samples: &SampleTerms, lg_loss_scale: f64, collective: &dyn Collective) -> TrainError {
        let bad_sample = samples.terms.iter().find(|(name, _)| *name == "loss").and_then(|(_, losses)| {
            losses
                .iter()
                .position(|loss| !loss.is_finite())
                .map(|place| (samples.indices[place], samples.timesteps[place]))
        });
        let own: Finding = (self.memory.first_bad_gradient().map(str::to_owned), bad_sample);
        let found = serde_json::to_vec(&own).unwrap_or_default();
        let found = match collective.all_gather(&found) {
            Ok(found) => found,
            Err(error) => return error.into(),
        };
        let found: Vec<Finding> = found.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect();
        TrainError::Diverged {
            step: self.counters.step,
            lg_loss_scale,
            parameter: found.iter().find_map(|(parameter, _)| parameter.clone()),
            sample: found.iter().find_map(|(_, sample)| *sample),
        }
    }
}

/// What a rank found bad when a run diverged: the first parameter by its gradient, and a sample by its loss, with its
/// timestep.
type Finding = (Option<String>, Option<(u64, i64)>);

/// What the passes of a step say of their samples, on the device until the host reads all of it, with the norms, in one
/// copy: a GPU is waited for once a step.
#[derive(Debug, Default)]
struct DeferredStatistics {
    indices: Vec<u64>,
    timesteps: Vec<i64>,
    weights: Vec<Tensor>,
    terms: Vec<(&'static str, Vec<Tensor>)>,
}

impl DeferredStatistics {
    fn append(&mut self, batch: Microbatch, terms: Vec<(&'static str, Tensor)>) {
        self.indices.extend(batch.indices);
        self.timesteps.extend(batch.timesteps);
        self.weights.push(batch.weights);
        self.terms.resize_with(terms.len(), Default::default);
        for (all, (name, values)) in self.terms.iter_mut().zip(terms) {
            all.0 = name;
            all.1.push(values);
        }
    }

    /// Both norms, and the samples.
    fn read(self, norms: &Tensor) -> Result<([f64; 2], SampleTerms), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let rows = self.weights.iter().chain(self.terms.iter().flat_map(|(_, values)| values));
        // float64 holds every float32 as it is.
        let all: Vec<Tensor> = std::iter::once(norms).chain(rows).map(|row| row.to_kind(Kind::Double)).collect();
        let values = Vec::<f64>::try_from(Tensor::f_cat(&all, 0)?.f_to_device(Device::Cpu)?)?;
        let (norms, rest) = values.split_at(2);
        let mut rows = rest.chunks(self.indices.len().max(1)).map(|row| row.iter().map(|&x| x as f32).collect());
        let weights = rows.next().unwrap_or_default();
        let terms = self.terms.iter().map(|(name, _)| *name).zip(rows).collect();
        let samples = SampleTerms { indices: self.indices, timesteps: self.timesteps, weights, terms };
        Ok(([norms[0], norms[1]], samples))
    }
}

impl SampleTerms {
    /// Timestep and loss of each sample, the loss without its importance weight: what a timestep sampler learns from.
    pub fn unweighted_losses(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        let losses = self.terms.iter().find(|(name, _)| *name == "loss").map_or(&[][..], |(_, losses)| losses);
        let weighted = self.timesteps.iter().zip(&self.weights).zip(losses);
        weighted.map(|((&timestep, &weight), &loss)| (timestep, f64::from(loss) / f64::from(weight)))
    }

    /// The mean of a term over this rank's samples, if there is such a term.
    #[must_use]
    pub fn mean(&self, name: &str) -> Option<f64> {
        let (_, values) = self.terms.iter().find(|(term, _)| *term == name)?;
        Some(values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64)
    }
}

/// Where the gradient of each parameter lies, in the network's order.
fn gradient_slots(memory: &FlatMemory) -> Vec<Slot> {
    let places = memory.segments().iter().enumerate().flat_map(|(buffer, segment)| {
        let slot = move |offset, length| Slot { buffer, elements: offset..offset + length };
        segment.layout.places.iter().map(move |place| (place.param, slot(place.offset, place.length)))
    });
    let mut places: Vec<(usize, Slot)> = places.collect();
    places.sort_by_key(|(param, _)| *param);
    places.into_iter().map(|(_, slot)| slot).collect()
}

/// Measures laps.
struct Watch {
    last: Instant,
    device: Device,
    wait: bool,
}

impl Watch {
    fn new(device: Device, wait: bool) -> Self {
        Self { last: Instant::now(), device, wait }
    }

    fn lap(&mut self) -> Duration {
        if let (true, Device::Cuda(index)) = (self.wait, self.device) {
            tch::Cuda::synchronize(index as i64);
        }
        let now = Instant::now();
        now - std::mem::replace(&mut self.last, now)
    }
}
