//! Saves checkpoints in the background, while training continues.
//!
//! A save has four phases. Every rank writes its share. Rank 0 publishes the checkpoint. If retention deletes something,
//! every rank reads its share back, and then rank 0 deletes. In each phase every rank has a background job. After each
//! training step the ranks sum their [`Report`]s, together with the flags by which they agree on stopping. They all enter
//! the next phase, or abandon the save, after the same step. A slow rank blocks nobody: it has not finished yet, until it
//! exceeds the deadline and fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_checkpoints_schema::{FileRecord, Parameter, Role, Writer};
use admiral_comm::Collective;
use admiral_storage::{Store, is_abort_overdue};
use tokio::sync::watch;

use crate::config::CheckpointConfig;
use crate::deletion::{delete_checkpoint, delete_unpublished, to_delete};
use crate::error::Error;
use crate::events::{Report, SaveEvent};
use crate::lease::Lease;
use crate::retention::Retention;
use crate::save_job::{Done, Job, Phase, Save};
use crate::staging::Staging;
use crate::write::{Content, delete_unnamed, publish, write_share};
use crate::write_probe::check_new_files;
use crate::{agree, catalog, cleanup, layout, read};

/// Saves the checkpoints of a run. Every rank has one, and calls its methods in the same order.
#[derive(Debug)]
pub struct Saver {
    store: Store,
    writer: Writer,
    roles: Vec<Role>,
    staging: Staging,
    retention: Retention,
    resumed_from: Option<u64>,
    deadline: Duration,
    max_failures: u64,
    rank: usize,
    world_size: usize,
    total_bytes: u64,
    /// The lease of the store, on rank 0.
    lease: Option<Lease>,
    save: Option<Save>,
    failures_in_a_row: u64,
    /// The reason and the time of the last failure. The reason is the same on every rank.
    last_failure: Option<(String, Instant)>,
    /// The step of the last save that failed, whose files have not been deleted yet.
    failed_step: Option<u64>,
}

/// The properties that all saves of a run have in common.
#[derive(Debug)]
pub struct SaverSettings {
    /// The run and the attempt.
    pub writer: Writer,
    /// The roles in which each parameter is saved.
    pub roles: Vec<Role>,
    /// All parameters of the network.
    pub parameters: Arc<Vec<Parameter>>,
    /// The step that the run was resumed from. `None` if it started at step 0.
    pub resumed_from: Option<u64>,
    /// The IDs of attempts whose processes are known to have ended. Their lease is taken over immediately.
    pub ended_attempts: Vec<String>,
}

impl Saver {
    /// Acquires the lease of the store and allocates the buffers that saves are uploaded from. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::Owned`] if another run holds the lease; [`Error::Url`] if the store cannot protect a lease;
    /// [`Error::Store`]. The same on every rank.
    pub fn open(
        store: &Store,
        config: &CheckpointConfig,
        plan: SaverSettings,
        collective: &dyn Collective,
    ) -> Result<Self, Error> {
        let (rank, world_size) = (collective.rank(), collective.world_size());
        let lease = (rank == 0).then(|| {
            // The lease depends on it.
            store.wait(check_new_files(store, &plan.writer.attempt_id))?;
            let lease = Lease::acquire(store, plan.writer.clone(), plan.resumed_from, &plan.ended_attempts)?;
            cleanup::clean_up(store);
            Ok(lease)
        });
        let result = lease.as_ref().map(|lease| lease.as_ref().map(|_| ()).map_err(Error::clone));
        agree::of_root(collective, 0, result)?;
        let elements: u64 = plan.parameters.iter().map(|p| p.num_elements().unwrap_or(0) as u64).sum();
        Ok(Self {
            store: store.clone(),
            staging: Staging::new(plan.parameters, &plan.roles, &plan.writer.attempt_id, rank, world_size),
            writer: plan.writer,
            total_bytes: 4 * elements * plan.roles.len() as u64,
            roles: plan.roles,
            retention: config.retention(),
            resumed_from: plan.resumed_from,
            deadline: config.deadline(),
            max_failures: config.max_failures,
            rank,
            world_size,
            lease: lease.and_then(Result::ok),
            save: None,
            failures_in_a_row: 0,
            last_failure: None,
            failed_step: None,
        })
    }

    /// Returns the run and the attempt.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Returns the size of the tensors that this rank writes, in bytes. Its buffers have the same size.
    #[must_use]
    pub fn share_bytes(&self) -> u64 {
        self.staging.bytes()
    }

    /// Returns the size of all tensors of a checkpoint, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Changes the step that the run was resumed from, if it is not the one of the plan. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::Store`], the same on every rank.
    pub fn resumed_from(&mut self, step: u64, collective: &dyn Collective) -> Result<(), Error> {
        self.resumed_from = Some(step);
        let result = self.lease.as_ref().map(|lease| lease.set_resumed_from(step));
        agree::of_root(collective, 0, result)
    }

    /// Counts a save that could not start because an upload of an earlier save hangs on a rank and holds its buffers. Every
    /// rank must call it.
    ///
    /// # Errors
    /// [`Error::GivenUp`] after too many failures in a row.
    pub fn cannot_begin(&mut self, step: u64) -> Result<SaveEvent, Error> {
        let url = self.store.url(&layout::step_folder(step));
        let error = Error::Store { operation: "begin saving".into(), url, cause: self.why_held() };
        self.count(error, step)
    }

    /// Returns why a rank's buffers are held, and why that save failed. The same on every rank.
    #[must_use]
    pub fn why_held(&self) -> String {
        let held = "a write of an earlier save, which was abandoned, still hangs on a rank";
        self.last_failure
            .as_ref()
            .map_or_else(|| held.to_owned(), |(reason, _)| format!("{held}; that save failed: {reason}"))
    }

    /// Counts a failed save and remembers its reason.
    fn count_failure(&mut self, error: Error, step: u64, now: Instant) -> Result<SaveEvent, Error> {
        self.last_failure = Some((error.to_string(), now));
        self.count(error, step)
    }

    /// Counts a failed save.
    ///
    /// # Errors
    /// [`Error::GivenUp`] after too many failures in a row.
    fn count(&mut self, error: Error, step: u64) -> Result<SaveEvent, Error> {
        self.failures_in_a_row += 1;
        if self.failures_in_a_row >= self.max_failures {
            return Err(Error::GivenUp { count: self.failures_in_a_row, last: error.to_string() });
        }
        Ok(SaveEvent::Failed { step, error })
    }

    /// Stops deleting older checkpoints, because the process has little time left. Every rank must call it, after the same
    /// step.
    pub fn hurry(&mut self) {
        self.retention = Retention::default();
        match &mut self.save {
            Some(save) if matches!(save.phase, Phase::Verify | Phase::Delete) => {
                if let Job::Running(handle) = &save.job {
                    handle.abort();
                }
                self.save = None;
            }
            Some(save) => save.deletes_older = false,
            None => {}
        }
    }

    /// Returns whether a save is in progress. The same on every rank.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.save.is_some()
    }

    /// Returns the state of the save on this rank. The sum over all ranks is passed to [`advance`](Self::advance).
    #[must_use]
    pub fn report(&mut self, now: Instant) -> Report {
        let lost = self.lease.as_ref().is_some_and(|lease| lease.lost().is_some());
        let is_held = self.staging.is_held();
        let since_failure = self.last_failure.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
        let is_stuck = is_held && self.save.is_none() && is_abort_overdue(since_failure);
        let (held, stuck) = (flag(is_held), flag(is_stuck));
        let mut report = Report { failed: flag(lost), held, stuck, ..Report::default() };
        if let Some(save) = &mut self.save {
            save.poll(&self.store, now);
            match &save.job {
                Job::Over(Ok(_)) => report.finished = 1.0,
                Job::Over(Err(_)) => report.failed = 1.0,
                Job::Running(_) => {}
            }
        }
        report
    }

    /// Starts a save. `fill` copies the values of this rank's tensors to the buffers, which is all that training waits for.
    /// It gets the role, the index of the parameter in the network, and the buffer of every tensor in one call, so that it
    /// can copy in parallel. The saver must not be [busy](Self::is_busy), and no rank's buffers may be held. Every rank must
    /// call it.
    ///
    /// # Errors
    /// The error of `fill`, on this rank only.
    pub fn begin<E>(
        &mut self,
        content: Content,
        now: Instant,
        fill: impl FnOnce(Vec<(Role, usize, &mut [f32])>) -> Result<(), E>,
    ) -> Result<(), E> {
        fill(self.staging.targets().unwrap_or_default())?;
        let step = content.training.step;
        let files = self.staging.outgoing(step);
        let store = self.store.clone();
        let (cancel, signal) = watch::channel(false);
        let deadline = now + self.deadline;
        let writer = self.writer.clone();
        // No buffers are held, so no upload of the failed save is running any more, and its files can be deleted.
        let failed_step = self.failed_step.take().filter(|&failed| failed != step && self.rank == 0);
        let job = self.job(deadline, step, async move {
            if let Some(failed) = failed_step
                && let Err(error) = delete_unpublished(&store, failed).await
            {
                tracing::warn!("{error}; the files of the failed save of step {failed} take up space");
            }
            write_share(&store, step, files, &writer, deadline, &signal).await.map(Done::Share)
        });
        self.save = Some(Save {
            content,
            phase: Phase::Write,
            job,
            cancel,
            start: now,
            deadline,
            files: Vec::new(),
            deletes_older: true,
            to_delete: Vec::new(),
        });
        Ok(())
    }

    /// Enters the next phase if all ranks have finished the current one, or abandons the save if a rank has failed. `summed`
    /// is the sum of the reports of all ranks. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::AlreadyPublished`] or [`Error::Owned`], which no retry can fix; [`Error::GivenUp`] after too many failures
    /// in a row. The same on every rank.
    pub fn advance(
        &mut self,
        summed: Report,
        now: Instant,
        collective: &dyn Collective,
    ) -> Result<Option<SaveEvent>, Error> {
        if summed.failed > 0.0 {
            return self.fail(now, collective).map(Some);
        }
        let Some(mut save) = self.save.take() else { return Ok(None) };
        if summed.finished < self.world_size as f32 {
            self.save = Some(save);
            return Ok(None);
        }
        let Job::Over(Ok(done)) = std::mem::replace(&mut save.job, Job::Over(Ok(Done::Verified))) else {
            return Err(Error::Collective { cause: "a rank continues before its part of a save has ended".into() });
        };
        save.deadline = now + self.deadline;
        match done {
            Done::Share(files) => {
                save.files.clone_from(&files);
                let all: Vec<FileRecord> = agree::all(collective, Ok(files))?.into_iter().flatten().collect();
                save.phase = Phase::Publish;
                save.job = self.publish(&save, all);
                self.save = Some(save);
                Ok(None)
            }
            Done::Published(to_delete) => {
                // Only rank 0 knows the steps to delete.
                save.to_delete = agree::of_root(collective, 0, Some(Ok(to_delete)))?;
                let event = SaveEvent::Published {
                    step: save.content.training.step,
                    seconds: (now - save.start).as_secs_f64(),
                    bytes: self.total_bytes,
                };
                if save.to_delete.is_empty() || !save.deletes_older {
                    self.failures_in_a_row = 0;
                } else {
                    save.phase = Phase::Verify;
                    save.job = self.verify(&save);
                    self.save = Some(save);
                }
                Ok(Some(event))
            }
            Done::Verified => {
                // Reset only after verification, because a published checkpoint that is damaged counts as a failure.
                self.failures_in_a_row = 0;
                save.phase = Phase::Delete;
                save.job = self.delete(&save);
                self.save = Some(save);
                Ok(None)
            }
            Done::Deleted => Ok(Some(SaveEvent::Deleted { steps: save.to_delete })),
        }
    }

    /// Starts the phase in which rank 0 publishes the checkpoint.
    fn publish(&self, save: &Save, files: Vec<FileRecord>) -> Job {
        let Some(lease) = &self.lease else { return Job::Over(Ok(Done::Published(Vec::new()))) };
        let manifest = save.content.manifest(&self.roles, self.world_size, files);
        let (store, retention, in_use, check) =
            (self.store.clone(), self.retention.clone(), self.resumed_from, lease.check());
        let (run_id, check_again) = (self.writer.run_id.clone(), lease.check());
        self.job(save.deadline, save.content.training.step, async move {
            check.await?;
            let attempt_id = manifest.writer.attempt_id.clone();
            let published = publish(&store, manifest).await?;
            if published.writer.attempt_id != attempt_id {
                // Its files were not read back, so nothing is deleted for it.
                return Ok(Done::Published(Vec::new()));
            }
            // This attempt may have lost the lease while it published.
            check_again.await?;
            delete_unnamed(&store, &published).await;
            if retention.keep_last.is_none() {
                return Ok(Done::Published(Vec::new()));
            }
            Ok(Done::Published(to_delete(&store, &retention, in_use, &run_id).await.unwrap_or_else(|error| {
                // The checkpoint is published. The next save looks again for checkpoints to delete.
                tracing::warn!("{error}");
                Vec::new()
            })))
        })
    }

    /// Starts the phase in which every rank reads its files back.
    fn verify(&self, save: &Save) -> Job {
        let (store, files) = (self.store.clone(), save.files.clone());
        let folder = layout::step_folder(save.content.training.step);
        let is_root = self.rank == 0;
        self.job(save.deadline, save.content.training.step, async move {
            if is_root {
                read::verify_manifest(&store, &folder).await?;
            }
            for file in &files {
                read::verify_file(&store, &folder, file, None).await?;
            }
            Ok(Done::Verified)
        })
    }

    /// Starts the phase in which rank 0 deletes older checkpoints.
    fn delete(&self, save: &Save) -> Job {
        let Some(lease) = &self.lease else { return Job::Over(Ok(Done::Deleted)) };
        let (store, steps) = (self.store.clone(), save.to_delete.clone());
        let checks: Vec<_> = steps.iter().map(|_| lease.check()).collect();
        self.job(save.deadline, save.content.training.step, async move {
            for (step, check) in steps.into_iter().zip(checks) {
                // Another attempt may have taken the lease, and resumed from one of them.
                check.await?;
                delete_checkpoint(&store, step).await?;
            }
            Ok(Done::Deleted)
        })
    }

    fn job(
        &self,
        deadline: Instant,
        step: u64,
        work: impl Future<Output = Result<Done, Error>> + Send + 'static,
    ) -> Job {
        Job::start(&self.store, step, deadline, self.deadline, work)
    }

    /// Abandons the save on every rank, with the error of the lowest failing rank.
    fn fail(&mut self, now: Instant, collective: &dyn Collective) -> Result<SaveEvent, Error> {
        let save = self.save.take();
        let lost = self.lease.as_ref().and_then(Lease::lost);
        let (own, step, phase) = match save {
            Some(save) => {
                // The uploads of the other ranks are aborted in the background.
                let _ = save.cancel.send(true);
                let own = match save.job {
                    Job::Over(Err(error)) => Some(error),
                    _ => None,
                };
                (lost.or(own), save.content.training.step, save.phase)
            }
            None => (lost, 0, Phase::Write),
        };
        if phase == Phase::Write || phase == Phase::Publish {
            self.failed_step = Some(step);
        }
        let reasons = agree::all(collective, Ok(own))?;
        let Some(error) = reasons.into_iter().flatten().next() else {
            return Err(Error::Collective { cause: "a save failed, but no rank has an error".into() });
        };
        if matches!(error, Error::AlreadyPublished { .. } | Error::Owned { .. }) {
            return Err(error);
        }
        match (phase, &error) {
            (Phase::Verify, Error::Damaged { .. }) => {
                if self.rank == 0
                    && let Err(error) = catalog::set_aside(&self.store, step)
                {
                    tracing::error!("{error}; the damaged checkpoint of step {step} is still listed");
                }
                self.count_failure(error, step, now)
            }
            (Phase::Verify | Phase::Delete, _) => Ok(SaveEvent::NotTidied { step, error }),
            (Phase::Write | Phase::Publish, _) => self.count_failure(error, step, now),
        }
    }
}

fn flag(value: bool) -> f32 {
    f32::from(u8::from(value))
}
