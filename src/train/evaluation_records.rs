//! Records evaluations beside the checkpoints of their steps, when both exist.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use admiral_checkpoint::{Catalog, Evaluation};
use admiral_storage::Store;

/// The time between two looks at a record that is being written.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The evaluations of a run on rank 0.
///
/// A record is written by a thread of its own: training does not wait for the store.
#[derive(Debug)]
pub(super) struct EvaluationRecords {
    catalog: Catalog,
    /// The evaluations whose checkpoints are not published.
    waiting: BTreeMap<u64, Evaluation>,
    writing: Vec<JoinHandle<()>>,
}

impl EvaluationRecords {
    pub(super) fn new(store: &Store) -> Self {
        Self { catalog: Catalog::new(store), waiting: BTreeMap::new(), writing: Vec::new() }
    }

    /// Returns whether the published checkpoint of a step has no evaluation. If that cannot be found out, it counts as having
    /// one.
    pub(super) fn is_missing(&self, step: u64) -> bool {
        match self.catalog.evaluation(step) {
            Ok(record) => record.is_none(),
            Err(error) => {
                tracing::warn!("the evaluation of step {step} cannot be read: {error}");
                false
            }
        }
    }

    /// Keeps an evaluation until the checkpoint of its step is published. Steps without a checkpoint are forgotten.
    pub(super) fn add(&mut self, step: u64, evaluation: Evaluation) {
        self.waiting.insert(step, evaluation);
    }

    /// Records the evaluation of a step whose checkpoint is published.
    pub(super) fn published(&mut self, step: u64) {
        let later = self.waiting.split_off(&(step + 1));
        let evaluation = std::mem::replace(&mut self.waiting, later).remove(&step);
        self.writing.retain(|thread| !thread.is_finished());
        let Some(evaluation) = evaluation else { return };
        let catalog = self.catalog.clone();
        let write = move || {
            if let Err(error) = catalog.record_evaluation(step, &evaluation) {
                tracing::warn!(
                    "the evaluation of step {step} is not recorded: {error}; checkpoint.keep_best ignores it"
                );
            }
        };
        match std::thread::Builder::new().name("evaluation-record".into()).spawn(write) {
            Ok(thread) => self.writing.push(thread),
            Err(error) => tracing::warn!("the evaluation of step {step} is not recorded: {error}"),
        }
    }

    /// Returns when all records are written, or after the deadline.
    pub(super) fn finish(&mut self, deadline: Duration) {
        let start = Instant::now();
        while self.writing.iter().any(|thread| !thread.is_finished()) && start.elapsed() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}
