//! A save in progress, and the background job of its current phase.

use std::time::{Duration, Instant};

use admiral_checkpoints_schema::FileRecord;
use admiral_storage::{ABORT_GRACE, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::layout;
use crate::write::Content;

/// The phase of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Write,
    Publish,
    Verify,
    Delete,
}

/// The result of a phase on this rank.
#[derive(Debug)]
pub(crate) enum Done {
    /// The files that this rank has written.
    Share(Vec<FileRecord>),
    /// The checkpoint is published. Rank 0 has the steps that retention deletes, the other ranks have none.
    Published(Vec<u64>),
    /// The files of this rank were read back and are correct.
    Verified,
    /// Older checkpoints are deleted.
    Deleted,
}

/// The work of this rank in the current phase.
#[derive(Debug)]
pub(crate) enum Job {
    Running(JoinHandle<Result<Done, Error>>),
    Over(Result<Done, Error>),
}

impl Job {
    /// Starts a job that fails at `deadline`, which is `limit` after the start of its phase.
    pub(crate) fn start(
        store: &Store,
        step: u64,
        deadline: Instant,
        limit: Duration,
        work: impl Future<Output = Result<Done, Error>> + Send + 'static,
    ) -> Self {
        let url = store.url(&layout::step_folder(step));
        Self::Running(store.spawn(async move {
            let result = tokio::time::timeout_at(deadline.into(), work).await;
            result.unwrap_or_else(|_| Err(deadline_error(url, limit)))
        }))
    }
}

/// A save in progress.
#[derive(Debug)]
pub(crate) struct Save {
    pub(crate) content: Content,
    pub(crate) phase: Phase,
    pub(crate) job: Job,
    pub(crate) cancel: watch::Sender<bool>,
    pub(crate) start: Instant,
    /// The time at which the current phase fails.
    pub(crate) deadline: Instant,
    /// The files of this rank, once they are written.
    pub(crate) files: Vec<FileRecord>,
    /// Whether older checkpoints are deleted after this one is published.
    pub(crate) deletes_older: bool,
    /// The steps to delete in the last phase.
    pub(crate) to_delete: Vec<u64>,
}

impl Save {
    /// Stores the result of the job if it has ended. Aborts a job that hangs past its deadline.
    pub(crate) fn poll(&mut self, store: &Store, now: Instant) {
        let Job::Running(handle) = &mut self.job else { return };
        let url = || store.url(&layout::step_folder(self.content.training.step));
        if handle.is_finished() {
            let result = store.wait(handle).unwrap_or_else(|error| {
                Err(Error::Store { operation: "save".into(), url: url(), cause: error.to_string() })
            });
            self.job = Job::Over(result);
        } else if now > self.deadline + ABORT_GRACE {
            handle.abort();
            self.job = Job::Over(Err(deadline_error(url(), now - self.start)));
        }
    }
}

fn deadline_error(url: String, limit: Duration) -> Error {
    let cause = format!("it took longer than checkpoint.deadline_seconds = {}", limit.as_secs());
    Error::Store { operation: "finish saving".into(), url, cause }
}
