//! Saves behind the training step.
//!
//! A save has four phases: every rank writes its share; rank 0 publishes; where retention would delete something, every
//! rank reads its share back; rank 0 deletes. In each phase every rank has a job that runs beside training. After each
//! step the ranks add up how many have finished theirs and how many have failed ([`Report`]), which they do anyway to
//! agree on stopping, and so all go on to the next phase, or give the save up, after the same step. A slow rank holds
//! up nobody: it has not finished yet, until its time is over and it has failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_checkpoints_schema::{FileRecord, Parameter, Role, Writer};
use admiral_comm::Collective;
use admiral_storage::{ABORT_GRACE, Store, is_abort_overdue};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::CheckpointConfig;
use crate::deletion::{delete_checkpoint, delete_unpublished, to_delete};
use crate::error::Error;
use crate::events::{Report, SaveEvent};
use crate::lease::Claim;
use crate::retention::Retention;
use crate::staging::Staging;
use crate::write::{Content, publish, write_share};
use crate::{agree, catalog, cleanup, layout, read};

/// What a job gives the next phase.
#[derive(Debug)]
enum Done {
    /// What this rank has written.
    Share(Vec<FileRecord>),
    /// The steps that retention would delete, on rank 0.
    Published(Vec<u64>),
    /// What has been read back is what was written.
    Verified,
    /// Older checkpoints are gone.
    Deleted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Write,
    Publish,
    Verify,
    Delete,
}

#[derive(Debug)]
enum Job {
    Running(JoinHandle<Result<Done, Error>>),
    Over(Result<Done, Error>),
}

/// A save on its way.
#[derive(Debug)]
struct Save {
    content: Content,
    phase: Phase,
    job: Job,
    cancel: watch::Sender<bool>,
    began: Instant,
    /// When the current phase has failed.
    deadline: Instant,
    /// This rank's files, once they are written.
    files: Vec<FileRecord>,
    /// Whether older checkpoints are looked at when this one is published.
    tidies: bool,
    /// What is deleted at the end.
    to_delete: Vec<u64>,
}

/// Takes checkpoints of one run, behind its steps. Every rank has one, and calls its methods in the same order.
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
    /// Rank 0's claim on the place.
    claim: Option<Claim>,
    save: Option<Save>,
    failures_in_a_row: u64,
    /// Why the last save that failed did, and when. The reason is the same on every rank.
    last_failure: Option<(String, Instant)>,
    /// The step of the last save that failed, whose files are still there.
    leftover: Option<u64>,
}

/// What a run's saves have in common.
#[derive(Debug)]
pub struct SaverPlan {
    /// The run and the attempt.
    pub writer: Writer,
    /// What is saved of each parameter.
    pub roles: Vec<Role>,
    /// Every parameter of the network.
    pub parameters: Arc<Vec<Parameter>>,
    /// The step that the run was resumed from.
    pub resumed_from: Option<u64>,
    /// The ids of attempts whose processes are known to be gone: a place that one of them owns is free at once.
    pub ended_attempts: Vec<String>,
}

impl Saver {
    /// Takes the place for this attempt and allocates the buffers that saves are sent from. Every rank calls it.
    ///
    /// # Errors
    /// The same on every rank: [`Error::Owned`] where another run lives there, [`Error::Store`].
    pub fn open(
        store: &Store,
        config: &CheckpointConfig,
        plan: SaverPlan,
        collective: &dyn Collective,
    ) -> Result<Self, Error> {
        let (rank, world_size) = (collective.rank(), collective.world_size());
        let claim = (rank == 0).then(|| {
            let claim = Claim::take(store, plan.writer.clone(), plan.resumed_from, &plan.ended_attempts)?;
            cleanup::clear(store);
            Ok(claim)
        });
        let agreed = claim.as_ref().map(|claim| claim.as_ref().map(|_| ()).map_err(Error::clone));
        agree::of_root(collective, 0, agreed)?;
        let elements: u64 = plan.parameters.iter().map(|p| p.num_elements().unwrap_or(0) as u64).sum();
        Ok(Self {
            store: store.clone(),
            writer: plan.writer,
            staging: Staging::new(plan.parameters, &plan.roles, rank, world_size),
            total_bytes: 4 * elements * plan.roles.len() as u64,
            roles: plan.roles,
            retention: config.retention(),
            resumed_from: plan.resumed_from,
            deadline: config.deadline(),
            max_failures: config.max_failures,
            rank,
            world_size,
            claim: claim.and_then(Result::ok),
            save: None,
            failures_in_a_row: 0,
            last_failure: None,
            leftover: None,
        })
    }

    /// The run and the attempt.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The bytes of tensors that this rank writes, which its buffers hold.
    #[must_use]
    pub fn share_bytes(&self) -> u64 {
        self.staging.bytes()
    }

    /// The bytes of tensors in a checkpoint.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The step that the run has really been resumed from, where that is not the one of the plan. Every rank calls it.
    ///
    /// # Errors
    /// The same on every rank: [`Error::Store`].
    pub fn resumed_from(&mut self, step: u64, collective: &dyn Collective) -> Result<(), Error> {
        self.resumed_from = Some(step);
        let told = self.claim.as_ref().map(|claim| claim.resumed_from(step));
        agree::of_root(collective, 0, told)
    }

    /// Counts a save that could not begin because something that was given up still hangs in the system of a rank,
    /// with the buffers in its hands. Every rank calls it.
    ///
    /// # Errors
    /// [`Error::GivenUp`] after too many failures in a row.
    pub fn cannot_begin(&mut self, step: u64) -> Result<SaveEvent, Error> {
        let url = self.store.url(&layout::step_folder(step));
        let error = Error::Store { operation: "begin saving".into(), url, cause: self.why_held() };
        self.count(error, step)
    }

    /// What holds the buffers, and why it was given up. The same on every rank.
    #[must_use]
    pub fn why_held(&self) -> String {
        let held = "a write of an earlier save, which was given up, still hangs in the system of a rank";
        self.last_failure
            .as_ref()
            .map_or_else(|| held.to_owned(), |(reason, _)| format!("{held}; that save failed: {reason}"))
    }

    fn count_failure(&mut self, error: Error, step: u64, now: Instant) -> Result<SaveEvent, Error> {
        self.last_failure = Some((error.to_string(), now));
        self.count(error, step)
    }

    fn count(&mut self, error: Error, step: u64) -> Result<SaveEvent, Error> {
        self.failures_in_a_row += 1;
        if self.failures_in_a_row >= self.max_failures {
            return Err(Error::GivenUp { count: self.failures_in_a_row, last: error.to_string() });
        }
        Ok(SaveEvent::Failed { step, error })
    }

    /// Leaves older checkpoints alone from now on: the process has little time left. Every rank calls it, after the
    /// same step.
    pub fn hurry(&mut self) {
        self.retention = Retention::default();
        match &mut self.save {
            Some(save) if matches!(save.phase, Phase::Verify | Phase::Delete) => {
                if let Job::Running(handle) = &save.job {
                    handle.abort();
                }
                self.save = None;
            }
            Some(save) => save.tidies = false,
            None => {}
        }
    }

    /// Whether a save is on its way. All ranks have the same answer.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.save.is_some()
    }

    /// Where this rank stands, to be summed over all ranks and given to [`advance`](Self::advance).
    #[must_use]
    pub fn report(&mut self, now: Instant) -> Report {
        let lost = self.claim.as_ref().is_some_and(|claim| claim.lost().is_some());
        let is_held = self.staging.is_held();
        let since_failure = self.last_failure.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
        let is_stuck = is_held && self.save.is_none() && is_abort_overdue(since_failure);
        let (held, stuck) = (flag(is_held), flag(is_stuck));
        let mut report = Report { failed: flag(lost), held, stuck, ..Report::default() };
        if let Some(save) = &mut self.save {
            settle(&self.store, save, now);
            match &save.job {
                Job::Over(Ok(_)) => report.finished = 1.0,
                Job::Over(Err(_)) => report.failed = 1.0,
                Job::Running(_) => {}
            }
        }
        report
    }

    /// Begins a save: `fill` copies the values of this rank's tensors to where they are sent from, the only thing that
    /// training waits for. It is given, for each, the role, the parameter's place in the network, and room for its
    /// values, all at once so that it can copy side by side. Only where nothing [is busy](Self::is_busy) and no rank's buffers are held.
    ///
    /// # Errors
    /// Those of `fill`, on this rank alone.
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
        let attempt_id = self.writer.attempt_id.clone();
        // What is left of a failed save is in nobody's hands any more, now that no buffers are.
        let leftover = self.leftover.take().filter(|&failed| failed != step && self.rank == 0);
        let job = self.job(deadline, step, async move {
            if let Some(failed) = leftover
                && let Err(error) = delete_unpublished(&store, failed).await
            {
                tracing::warn!("{error}; what is left of the failed save of step {failed} takes room");
            }
            write_share(&store, step, files, &attempt_id, deadline, &signal).await.map(Done::Share)
        });
        self.save = Some(Save {
            content,
            phase: Phase::Write,
            job,
            cancel,
            began: now,
            deadline,
            files: Vec::new(),
            tidies: true,
            to_delete: Vec::new(),
        });
        Ok(())
    }

    /// Goes on to the next phase where all ranks have finished theirs, or gives the save up where one has failed.
    /// `summed` is the sum of all ranks' reports.
    ///
    /// # Errors
    /// The same on every rank. What no repetition mends: [`Error::AlreadyPublished`], [`Error::Owned`]; and
    /// [`Error::GivenUp`] after too many failures in a row.
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
            return Err(Error::Collective { cause: "a rank goes on before its part of a save has ended".into() });
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
                // Of all ranks only rank 0 knows what there is to delete.
                save.to_delete = agree::of_root(collective, 0, Some(Ok(to_delete)))?;
                let event = SaveEvent::Published {
                    step: save.content.training.step,
                    seconds: (now - save.began).as_secs_f64(),
                    bytes: self.total_bytes,
                };
                if save.to_delete.is_empty() || !save.tidies {
                    self.failures_in_a_row = 0;
                } else {
                    save.phase = Phase::Verify;
                    save.job = self.verify(&save);
                    self.save = Some(save);
                }
                Ok(Some(event))
            }
            Done::Verified => {
                // Not before: a checkpoint that is damaged as soon as it is published is a failure each time.
                self.failures_in_a_row = 0;
                save.phase = Phase::Delete;
                save.job = self.delete(&save);
                self.save = Some(save);
                Ok(None)
            }
            Done::Deleted => Ok(Some(SaveEvent::Deleted { steps: save.to_delete })),
        }
    }

    fn publish(&self, save: &Save, files: Vec<FileRecord>) -> Job {
        let Some(claim) = &self.claim else { return Job::Over(Ok(Done::Published(Vec::new()))) };
        let manifest = save.content.manifest(&self.roles, self.world_size, files);
        let (store, retention, in_use, check) =
            (self.store.clone(), self.retention.clone(), self.resumed_from, claim.check());
        self.job(save.deadline, save.content.training.step, async move {
            check.await?;
            publish(&store, &manifest).await?;
            if retention.keep_last.is_none() {
                return Ok(Done::Published(Vec::new()));
            }
            Ok(Done::Published(to_delete(&store, &retention, in_use).await.unwrap_or_else(|error| {
                // The checkpoint is there. What should go is looked for again at the next save.
                tracing::warn!("{error}");
                Vec::new()
            })))
        })
    }

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

    fn delete(&self, save: &Save) -> Job {
        if self.rank != 0 {
            return Job::Over(Ok(Done::Deleted));
        }
        let (store, steps) = (self.store.clone(), save.to_delete.clone());
        self.job(save.deadline, save.content.training.step, async move {
            for step in steps {
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
        let (limit, url) = (self.deadline, self.store.url(&layout::step_folder(step)));
        Job::Running(self.store.spawn(async move {
            let timed = tokio::time::timeout_at(deadline.into(), work).await;
            timed.unwrap_or_else(|_| Err(over_time(url, limit)))
        }))
    }

    /// Every rank gives the save up, for the reason that the lowest failing rank has.
    fn fail(&mut self, now: Instant, collective: &dyn Collective) -> Result<SaveEvent, Error> {
        let save = self.save.take();
        let lost = self.claim.as_ref().and_then(Claim::lost);
        let (own, step, phase) = match save {
            Some(save) => {
                // The others' uploads are taken back behind the steps to come.
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
            self.leftover = Some(step);
        }
        let reasons = agree::all(collective, Ok(own))?;
        let Some(error) = reasons.into_iter().flatten().next() else {
            return Err(Error::Collective { cause: "a save failed and no rank says why".into() });
        };
        if matches!(error, Error::AlreadyPublished { .. } | Error::Owned { .. }) {
            return Err(error);
        }
        match (phase, &error) {
            (Phase::Verify, Error::Damaged { .. }) => {
                if self.rank == 0
                    && let Err(error) = catalog::set_aside(&self.store, step)
                {
                    tracing::error!("{error}; the damaged checkpoint of step {step} is still in the list");
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

fn over_time(url: String, limit: Duration) -> Error {
    let cause = format!("it took longer than checkpoint.deadline_seconds = {}", limit.as_secs());
    Error::Store { operation: "finish saving".into(), url, cause }
}

/// Takes the outcome of a job that has ended, and ends one that hangs.
fn settle(store: &Store, save: &mut Save, now: Instant) {
    let Job::Running(handle) = &mut save.job else { return };
    if handle.is_finished() {
        let outcome = store.wait(handle);
        save.job = Job::Over(outcome.unwrap_or_else(|error| {
            let url = store.url(&layout::step_folder(save.content.training.step));
            Err(Error::Store { operation: "save".into(), url, cause: error.to_string() })
        }));
    } else if now > save.deadline + ABORT_GRACE {
        handle.abort();
        let url = store.url(&layout::step_folder(save.content.training.step));
        save.job = Job::Over(Err(over_time(url, now - save.began)));
    }
}
