//! The start of a run: chooses the checkpoint to resume from, takes the lease, probes the store for writing, and falls
//! back to an older checkpoint if the newest is damaged.

use std::path::Path;
use std::sync::Arc;

use admiral_checkpoint::{
    Catalog, Checkpoint, Error as CheckpointError, Expected, Retention, Saver, SaverSettings, WriteProbe, identify,
    store_faults, write_probe,
};
use admiral_comm::{Collective, Ending, agree};
use admiral_storage::Store;

use crate::context::RunContext;
use crate::run_config::RunConfig;

use super::error::TrainError;
use super::session::OpenedSession;
use super::state::{check_same_run, parameters, restore, roles};

/// The step that a run starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Step 0. It is an error if the store has checkpoints.
    Fresh,
    /// The newest checkpoint. It is an error if there is none.
    Latest,
    /// The newest checkpoint, or step 0 if there is none.
    Auto,
    /// The checkpoint of this step.
    Step(u64),
}

impl std::str::FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Step).map_err(|_| "expected latest, auto or a step".into()),
        }
    }
}

/// Creates the run's folder and opens the store for its checkpoints.
///
/// # Errors
/// When the folder cannot be created or the store cannot be opened.
pub(super) fn open_store(config: &RunConfig, folder: &Path, context: &RunContext<'_>) -> Result<Store, TrainError> {
    if config.faults.enabled {
        tracing::warn!("FAULTS ARE ON: this run injects faults into itself: {}", config.faults.fields().join(", "));
    }
    admiral_contract::run_folder::check_no_links_out(folder).map_err(|error| TrainError::Refused(error.to_string()))?;
    std::fs::create_dir_all(folder)
        .map_err(|source| TrainError::Folder { path: folder.display().to_string(), source })?;
    let environment = context.environment;
    let options = config.checkpoint.store_options(&environment.clouds);
    let store = Store::create(&config.checkpoint.location(folder)?, &options)?;
    let rank = context.collective.rank();
    Ok(store.with_faults(store_faults(&config.faults, rank, environment.attempt, context.faults.as_ref())))
}

/// The checkpoint to start from, and the newer checkpoints that are damaged.
#[derive(Debug)]
pub(super) struct Start {
    resume: Resume,
    /// `None` if the run starts at step 0.
    pub(super) checkpoint: Option<Checkpoint>,
    damaged: Vec<(u64, CheckpointError)>,
}

/// Finds the checkpoint to start from, the same on all ranks. Changes nothing in the store.
///
/// # Errors
/// When there is no checkpoint that `resume` allows, on all ranks ([`Ending::Together`]).
pub(super) fn choose_checkpoint(store: &Store, resume: Resume, collective: &dyn Collective) -> Result<Start, Ending> {
    let list = || -> Result<_, Ending> {
        let step = agree(collective, choose_step(store, resume), TrainError::exit_code)?;
        Ok((step, gather_steps(collective, step)?))
    };
    let (mut step, mut steps) = list()?;
    if first_disagreement(&steps).is_some() {
        // Another run may have published a checkpoint while the ranks listed the store.
        (step, steps) = list()?;
    }
    agree(collective, check_same_step(&steps, &store.url("")), TrainError::exit_code)?;
    let code = CheckpointError::exit_code;
    let (checkpoint, damaged) = match (resume, step) {
        (_, None) => (None, Vec::new()),
        (Resume::Step(step), _) => {
            (Some(agree(collective, Catalog::new(store).checkpoint_on_all_ranks(step, collective), code)?), Vec::new())
        }
        _ => {
            let newest = agree(collective, Catalog::new(store).newest_on_all_ranks(collective), code)?;
            (newest.checkpoint, newest.damaged)
        }
    };
    let start = Start { resume, checkpoint, damaged };
    agree(collective, start.check_not_all_damaged(store), TrainError::exit_code)?;
    Ok(start)
}

impl Start {
    /// The step of the checkpoint to start from, or 0.
    pub(super) fn step(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.manifest().training.step)
    }

    fn check_not_all_damaged(&self, store: &Store) -> Result<(), TrainError> {
        match (&self.checkpoint, self.damaged.first()) {
            (None, Some((_, error))) => Err(no_whole_checkpoint(store, error)),
            _ => Ok(()),
        }
    }

    /// Loads the checkpoint. If it is damaged, sets it aside and loads the one before it, unless the user asked for a
    /// particular step. Every rank calls it, after the run has taken the lease.
    ///
    /// # Errors
    /// When no checkpoint can be loaded, with the same error on every rank.
    pub(super) fn restore(
        mut self,
        session: &mut OpenedSession,
        store: &Store,
        collective: &dyn Collective,
    ) -> Result<(), TrainError> {
        loop {
            for (step, error) in std::mem::take(&mut self.damaged) {
                if collective.rank() == 0 {
                    tracing::error!(
                        "THE CHECKPOINT OF STEP {step} IS DAMAGED and is set aside; the run continues from the one \
                         before it. {error}"
                    );
                }
                Catalog::new(store).set_aside(step, collective)?;
            }
            let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
            match restore(session, checkpoint, collective) {
                Err(TrainError::Checkpoint(error @ CheckpointError::Damaged { .. }))
                    if matches!(self.resume, Resume::Latest | Resume::Auto) =>
                {
                    let step = self.step();
                    checkpoint.confirm_damage(&error, collective)?;
                    let earlier = Catalog::new(store).newest_before_on_all_ranks(step, collective)?;
                    let Some(checkpoint) = earlier.checkpoint else { return Err(no_whole_checkpoint(store, &error)) };
                    check_same_run(&session.state, &checkpoint)?;
                    self.damaged = vec![(step, error)];
                    self.damaged.extend(earlier.damaged);
                    self.checkpoint = Some(checkpoint);
                }
                outcome => return outcome,
            }
        }
    }
}

fn no_whole_checkpoint(store: &Store, error: &CheckpointError) -> TrainError {
    TrainError::Refused(format!(
        "{} holds no checkpoint that is whole; the newest: {error}; restore one, or start a new run in another \
         run.folder",
        store.url("")
    ))
}

/// Takes the lease for this attempt, probes the store for writing, and allocates the memory for saves. Every rank calls
/// it.
///
/// # Errors
/// When another run holds the lease or the store cannot be written, with the same error on every rank.
pub(super) fn open_saver(
    session: &OpenedSession,
    store: &Store,
    start: &Start,
    context: &RunContext<'_>,
) -> Result<Saver, TrainError> {
    let (config, collective) = (&session.state.config, context.collective);
    let saved_run_id = start.checkpoint.as_ref().map(|checkpoint| checkpoint.manifest().writer.run_id.clone());
    // Manifests of schema version 1 do not name a run.
    let run_id = saved_run_id.filter(|run_id| run_id != "unknown");
    let writer = identify(run_id, collective)?;
    // Before the lease is taken: if this attempt is killed while it holds the lease, the launcher must know its id.
    context.phases.attempt(&writer.attempt_id);
    let settings = SaverSettings {
        writer,
        roles: roles(&config.optimizer.ema_rates),
        parameters: Arc::new(parameters(session.state.trainer.memory.specs())),
        resumed_from: start.checkpoint.as_ref().map(|_| start.step()),
        ended_attempts: context.environment.ended_attempts.clone(),
    };
    let saver = Saver::open(store, &config.checkpoint, settings, collective)?;
    let retention: Retention = config.checkpoint.retention();
    let steps = config.training.steps.saturating_sub(start.step());
    let expected = Expected {
        attempt_id: &saver.writer().attempt_id,
        share_bytes: saver.share_bytes(),
        checkpoint_bytes: saver.total_bytes(),
        num_saves: steps.div_ceil(config.training.save_interval),
        retention: &retention,
    };
    let probe = write_probe(store, expected, collective)?;
    if collective.rank() == 0 {
        log_store(config, store, &saver, &probe);
    }
    Ok(saver)
}

/// Logs the store's URL, the size of a checkpoint and the expected time of a save.
fn log_store(config: &RunConfig, store: &Store, saver: &Saver, probe: &WriteProbe) {
    let seconds = probe.save.as_secs_f64();
    tracing::info!(
        "{} can be written, listed and read; a checkpoint has {:.2} GB and takes about {seconds:.1} s",
        store.real_url(),
        saver.total_bytes() as f64 / 1e9,
    );
    if let Some(warning) = &probe.warning {
        tracing::warn!("{}: {warning}", store.url(""));
    }
    // A save that is in progress when the run is asked to stop is finished first.
    let needed = 2.0 * seconds;
    if needed > config.checkpoint.grace_seconds as f64 {
        tracing::warn!(
            "a run that is asked to stop needs about {needed:.0} s for its checkpoint and the time of one more step, \
             but checkpoint.grace_seconds is {}: give your scheduler and mpirun more time before they kill the run \
             (see docs/mpirun.md, Stop), and set checkpoint.grace_seconds to that time",
            config.checkpoint.grace_seconds
        );
    }
}

/// Returns the step of the checkpoint to start from, or `None` for step 0.
fn choose_step(store: &Store, resume: Resume) -> Result<Option<u64>, TrainError> {
    let newest = Catalog::new(store).latest()?;
    match (resume, newest) {
        (Resume::Step(step), Some(newest)) if newest > step => Err(TrainError::Refused(format!(
            "{} has a later checkpoint, of step {newest}, which a run from step {step} would reach and may not \
             overwrite; move the later ones away, or copy the one of step {step} to another run.folder",
            store.url("")
        ))),
        (Resume::Step(step), _) => Ok(Some(step)),
        (Resume::Latest | Resume::Auto, Some(step)) => Ok(Some(step)),
        (Resume::Auto | Resume::Fresh, None) => Ok(None),
        (Resume::Latest, None) => Err(TrainError::Refused(format!(
            "there is no checkpoint in {} to resume from; start without --resume, or with --resume auto",
            store.url("")
        ))),
        (Resume::Fresh, Some(step)) => Err(TrainError::Refused(format!(
            "{} has checkpoints already, the newest of step {step}; continue with --resume latest, or choose another \
             run.folder",
            store.url("")
        ))),
    }
}

/// Returns the step that each rank chose.
fn gather_steps(collective: &dyn Collective, step: Option<u64>) -> Result<Vec<Option<u64>>, Ending> {
    let bytes = step.map_or_else(Vec::new, |step| step.to_le_bytes().to_vec());
    let all = collective.all_gather(&bytes)?;
    Ok(all.iter().map(|bytes| bytes.as_slice().try_into().ok().map(u64::from_le_bytes)).collect())
}

/// Returns the first rank that chose another step than rank 0.
fn first_disagreement(steps: &[Option<u64>]) -> Option<usize> {
    steps.iter().position(|step| *step != steps[0])
}

/// Refuses ranks that chose different steps: they would wait for each other forever.
fn check_same_step(steps: &[Option<u64>], url: &str) -> Result<(), TrainError> {
    let name = |step: Option<u64>| step.map_or_else(|| "no checkpoint".to_owned(), |step| format!("step {step}"));
    match first_disagreement(steps) {
        None => Ok(()),
        Some(rank) => Err(TrainError::Refused(format!(
            "in {url} rank 0 finds {}, rank {rank} {}; all hosts must see the same folder: share it, or set \
             checkpoint.url to one that they share",
            name(steps[0]),
            name(steps[rank])
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_finds_another_step_is_named() {
        assert!(check_same_step(&[Some(3), Some(3)], "x").is_ok() && check_same_step(&[None], "x").is_ok());
        let text =
            check_same_step(&[Some(3), Some(3), None], "x").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("rank 0 finds step 3, rank 2 no checkpoint"), "{text}");
    }
}
