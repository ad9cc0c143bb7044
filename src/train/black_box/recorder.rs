//! Collects what the ranks know of a step that went wrong.

use std::path::PathBuf;

use admiral_checkpoint::Writer;
use admiral_comm::Collective;
use admiral_contract::host::host_name;
use admiral_goodput::seconds_since_epoch;
use admiral_storage::Store;

use crate::context::RunContext;
use crate::run_config::OnLossJump;
use crate::train::error::TrainError;
use crate::train::run_state::RunState;
use crate::train::sample_terms::SampleTerms;
use crate::train::session::Session;
use crate::train::step::StepReport;
use crate::version::Versions;

use super::capsule::{Capsule, CheckpointPlace, FORMAT, GradientRecord, RankRecord, Reason, SampleRecord, Start};
use super::loss_watch::LossWatch;
use super::number::Number;
use super::publish::publish;

/// The most damaged parameters that a rank lists.
const MAX_BAD_PARAMETERS: usize = 10;

/// Records steps that went wrong. Every rank has one, and calls its methods in the same order.
#[derive(Debug)]
pub(in crate::train) struct BlackBox {
    folder: PathBuf,
    store: String,
    writer: Writer,
    /// The step of the checkpoint that this attempt started from.
    resumed_from: Option<u64>,
    losses: Option<LossWatch>,
}

/// What happened in a step.
struct Event<'a> {
    reason: Reason,
    message: String,
    step: u64,
    report: &'a StepReport,
    median_loss: Option<f64>,
}

impl BlackBox {
    /// Opens the black box of an attempt, before its first step. Nothing is written.
    pub(in crate::train) fn open(session: &Session, store: &Store, writer: Writer) -> Self {
        let config = &session.state.config;
        let first_step = session.state.trainer.counters.step;
        Self {
            folder: PathBuf::from(&config.run.folder),
            store: store.url(""),
            writer,
            resumed_from: (first_step > 0).then_some(first_step),
            losses: config.training.loss_jump_factor.map(LossWatch::new),
        }
    }

    /// Records the step that ended with `error`, if training diverged in it. `published` is the step of the newest checkpoint
    /// of this attempt. Every rank calls it.
    pub(in crate::train) fn failed(
        &self,
        session: &Session,
        error: &TrainError,
        published: Option<u64>,
        context: &RunContext<'_>,
    ) {
        let TrainError::Diverged { step, .. } = error else { return };
        let Some(report) = session.state.trainer.diverged_step() else { return };
        let (reason, message) = (Reason::NotFinite, error.to_string());
        self.record(session, &Event { reason, message, step: *step, report, median_loss: None }, published, context);
    }

    /// Compares the loss of a step with its bound, if there is one, and records the step if the loss exceeds it. Every rank
    /// calls it.
    ///
    /// # Errors
    /// [`TrainError::LossJumped`] if the run stops, or when the ranks cannot reach each other.
    pub(in crate::train) fn watch_loss(
        &mut self,
        session: &Session,
        report: &StepReport,
        published: Option<u64>,
        context: &RunContext<'_>,
    ) -> Result<(), TrainError> {
        let Some(losses) = &mut self.losses else { return Ok(()) };
        let loss = mean_loss(&report.samples, context.collective)?;
        let Some(median) = losses.add(loss) else { return Ok(()) };
        let training = &session.state.config.training;
        let step = session.state.trainer.counters.step - 1;
        let factor = training.loss_jump_factor.unwrap_or_default();
        let error = TrainError::LossJumped { step, loss, median, factor };
        let (reason, message, median_loss) = (Reason::LossJump, error.to_string(), Some(median));
        self.record(session, &Event { reason, message, step, report, median_loss }, published, context);
        match training.on_loss_jump {
            OnLossJump::Stop => Err(error),
            OnLossJump::Continue => {
                if context.collective.rank() == 0 {
                    tracing::warn!("{error}; training continues");
                }
                Ok(())
            }
        }
    }

    /// Writes a capsule. A failure is logged only: the run has something more important to say.
    fn record(&self, session: &Session, event: &Event<'_>, published: Option<u64>, context: &RunContext<'_>) {
        let written = self.capsule(session, event, published, context).and_then(|capsule| match capsule {
            Some(capsule) => publish(&self.folder, &capsule).map(Some),
            None => Ok(None),
        });
        match written {
            Ok(Some(folder)) => {
                let folder = folder.display().to_string();
                // For a shell.
                let quoted = folder.replace('\'', "'\\''");
                tracing::error!(
                    "step {} is recorded in {folder}; take it again with: admiral replay '{quoted}'",
                    event.step
                );
            }
            Ok(None) => {}
            Err(reason) => tracing::warn!("step {} is not recorded for a replay: {reason}", event.step),
        }
    }

    /// Gathers the capsule on rank 0.
    fn capsule(
        &self,
        session: &Session,
        event: &Event<'_>,
        published: Option<u64>,
        context: &RunContext<'_>,
    ) -> Result<Option<Capsule>, String> {
        let collective = context.collective;
        let own = serde_json::to_vec(&rank_record(&session.state, event.report)).map_err(|error| error.to_string())?;
        let gathered = collective.gather(0, &own).map_err(|error| error.to_string())?;
        let Some(gathered) = gathered else { return Ok(None) };
        let ranks: Vec<RankRecord> = gathered
            .iter()
            .map(|bytes| serde_json::from_slice(bytes))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let RunState { config, trainer, images, .. } = &session.state;
        let norms = trainer.gradient_norms(event.report.lg_loss_scale).map_err(|error| error.to_string())?;
        let names = trainer.memory.specs().iter().map(|spec| spec.name.clone());
        let gradients = names.zip(norms).map(|(name, norm)| GradientRecord { name, norm: Number(norm) }).collect();
        let json = |value: serde_json::Result<serde_json::Value>| value.map_err(|error| error.to_string());
        let checkpoint = published.or(self.resumed_from);
        let losses: Vec<f64> = ranks.iter().flat_map(|rank| rank.samples.iter().map(|sample| sample.loss.0)).collect();
        Ok(Some(Capsule {
            format: FORMAT,
            reason: event.reason,
            message: event.message.clone(),
            time: seconds_since_epoch(),
            step: event.step,
            start: Start {
                checkpoint: checkpoint.map(|step| CheckpointPlace { store: self.store.clone(), step }),
                steps_since: event.step.saturating_sub(checkpoint.unwrap_or(0)),
            },
            writer: self.writer.clone(),
            batch: session.division().into(),
            seed: config.run.seed,
            images: images.clone(),
            precision: json(serde_json::to_value(config.precision.mode))?,
            device: if context.device.is_cuda() { "cuda" } else { "cpu" }.into(),
            kernels: json(serde_json::to_value(context.kernels.choice()))?,
            versions: json(serde_json::to_value(Versions::of_this_process().map_err(|error| error.to_string())?))?,
            lg_loss_scale: event.report.lg_loss_scale,
            learning_rate: event.report.learning_rate,
            loss: Number(losses.iter().sum::<f64>() / losses.len().max(1) as f64),
            median_loss: event.median_loss.map(Number),
            gradients,
            ranks,
            configuration: json(serde_json::to_value(config))?,
        }))
    }
}

/// Returns the mean loss over the samples of all ranks, the same on every rank.
fn mean_loss(samples: &SampleTerms, collective: &dyn Collective) -> Result<f64, TrainError> {
    let mut sum = [samples.mean("loss").unwrap_or(f64::NAN)];
    collective.all_reduce_sum_f64(&mut sum)?;
    Ok(sum[0] / collective.world_size() as f64)
}

fn rank_record(state: &RunState, report: &StepReport) -> RankRecord {
    let trainer = &state.trainer;
    let bad = trainer.memory.bad_values();
    RankRecord {
        host: host_name(),
        bad_parameters: bad.into_iter().take(MAX_BAD_PARAMETERS).map(str::to_owned).collect(),
        bad_gradient: trainer.own_bad_gradient(),
        samples: sample_records(&report.samples),
    }
}

/// Returns the record of each sample.
fn sample_records(samples: &SampleTerms) -> Vec<SampleRecord> {
    let losses = samples.term("loss");
    let columns = samples.indices.iter().zip(&samples.timesteps).zip(&samples.weights).zip(losses);
    let record = |(((&index, &timestep), &weight), &loss): (((&u64, &i64), &f32), &f32)| {
        let [weight, loss] = [weight, loss].map(|value| Number(value.into()));
        SampleRecord { index, timestep, weight, loss }
    };
    columns.map(record).collect()
}
