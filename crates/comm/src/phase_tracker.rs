//! Records in the progress ledger what this rank is doing. Injected faults strike at the same points, so that a fault can
//! strike in the middle of any phase.

use std::path::Path;
use std::sync::Arc;

use admiral_contract::ledger::LedgerError;
use admiral_contract::{Ledger, Phase};

use crate::exchange::Exchange;
use crate::faults::FaultInjector;

/// [`Ledger::open_or_private`] for a ledger that is shared between threads.
#[must_use]
pub fn open_ledger(path: Option<&Path>) -> (Arc<Ledger>, Option<LedgerError>) {
    let (ledger, error) = Ledger::open_or_private(path);
    (Arc::new(ledger), error)
}

/// The duration of a step on one rank, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepSeconds {
    /// The whole step.
    pub step: f64,
    /// Waiting for data.
    pub data: f64,
    /// Exchanges with other ranks, most of which is waiting for them.
    pub wait: f64,
}

/// Records the phases of this rank in its ledger. Clones share the ledger and the fault injector.
#[derive(Debug, Clone)]
pub struct PhaseTracker {
    ledger: Arc<Ledger>,
    faults: Option<Arc<FaultInjector>>,
}

impl PhaseTracker {
    /// Records in `ledger`, and calls `faults` at every step and phase.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, faults: Option<Arc<FaultInjector>>) -> Self {
        Self { ledger, faults }
    }

    /// A tracker without faults whose ledger no other process can read.
    #[must_use]
    pub fn private() -> Self {
        Self::new(Arc::new(Ledger::private()), None)
    }

    /// Records the step that the run starts from, whether that step has a checkpoint, the last step of the run, and the
    /// global batch.
    pub fn begin(&self, step: u64, is_from_checkpoint: bool, last_step: u64, global_batch: u64) {
        self.ledger.begin(step, last_step, global_batch);
        if is_from_checkpoint {
            self.ledger.checkpoint(step);
        }
    }

    /// Records the attempt's ID, which is also in `owner.json`.
    pub fn attempt(&self, id: &str) {
        self.ledger.attempt(id);
    }

    /// Records that the checkpoint of this step is published.
    pub fn checkpoint(&self, step: u64) {
        self.ledger.checkpoint(step);
    }

    /// Publishes what the rank waits for in its current phase.
    pub fn awaits(&self, what: &str) {
        self.ledger.awaits(what);
    }

    /// Records the start of a step; steps are counted from 1.
    pub fn begin_step(&self, step: u64) {
        self.ledger.begin_step(step);
        if let Some(faults) = &self.faults {
            faults.begin_step(step);
        }
    }

    /// Records the end of the step's work. Returns how long the step took.
    pub fn end_step(&self) -> StepSeconds {
        self.ledger.end_step();
        let reading = self.ledger.read();
        StepSeconds { step: reading.step_seconds, data: reading.data_seconds, wait: reading.wait_seconds }
    }

    /// Describes what this rank is doing, for an error message.
    #[must_use]
    pub fn describe(&self) -> String {
        let reading = self.ledger.read();
        format!(
            "the ledger says: step {}, {:?} for {:.0} s, {} exchanges entered",
            reading.step, reading.phase, reading.phase_seconds, reading.collectives
        )
    }

    /// Records that the rank enters `phase`. `pass` is the number of the gradient accumulation pass in phases that have
    /// passes, and 0 in other phases.
    pub fn enter(&self, phase: Phase, pass: usize) {
        if let Some(faults) = &self.faults {
            faults.leave_phase(&self.ledger);
            self.ledger.enter(phase, pass as u64);
            faults.enter_phase(phase, self.ledger.step());
        } else {
            self.ledger.enter(phase, pass as u64);
        }
    }

    /// Records that the step's gradients are set to zero. That counts as the optimizer's work, but faults of the optimizer
    /// phase do not strike here.
    pub fn enter_zeroing(&self) {
        self.ledger.enter(Phase::Optimizer, 0);
    }

    /// Counts an exchange of a background thread. The phase of the rank stays the same.
    pub fn count_exchange(&self) {
        self.ledger.count_exchange();
    }

    /// Returns whether a fault changes a bit of this rank's parameters after `step`.
    #[must_use]
    pub fn flips_bit(&self, step: u64) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.flips_bit(step))
    }

    /// Lets the faults of the reduce phase strike when the first bucket is ready to be summed in the background.
    pub fn first_bucket_ready(&self) {
        if let Some(faults) = &self.faults {
            faults.leave_phase(&self.ledger);
            faults.enter_phase(Phase::Reduce, self.ledger.step());
        }
    }

    /// Records, until the returned value is dropped, that the rank waits for the sum of a bucket that a background thread
    /// computes.
    pub fn wait_for_bucket(&self, bucket: usize) -> Exchange {
        let before = self.ledger.phase();
        self.ledger.wait(bucket as u64);
        Exchange::entered(&self.ledger, before)
    }

    /// Records, until the returned value is dropped, that the rank sums a bucket of gradients.
    pub fn reduce(&self, bucket: usize) -> Exchange {
        let before = self.ledger.phase();
        // Faults strike before the ledger shows the bucket, because a rank that fails here has not reached it.
        self.first_bucket_ready();
        self.ledger.enter(Phase::Reduce, bucket as u64);
        Exchange::entered(&self.ledger, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_inside_the_sum_of_a_bucket_is_not_recorded_again() {
        let tracker = PhaseTracker::private();
        tracker.enter(Phase::Backward, 2);
        let bucket = tracker.reduce(5);
        drop(Exchange::enter(&tracker.ledger));
        assert_eq!(tracker.ledger.phase(), (Phase::Reduce, 5));
        drop(bucket);
        assert_eq!(tracker.ledger.phase(), (Phase::Backward, 2));
        assert_eq!(tracker.ledger.read().collectives, 1);
    }

    #[test]
    fn a_background_exchange_is_counted_without_changing_the_phase() {
        let tracker = PhaseTracker::private();
        tracker.enter(Phase::Backward, 0);
        tracker.count_exchange();
        assert_eq!((tracker.ledger.phase(), tracker.ledger.read().collectives), ((Phase::Backward, 0), 1));
        let waiting = tracker.wait_for_bucket(1);
        assert_eq!((tracker.ledger.phase(), tracker.ledger.read().collectives), ((Phase::Reduce, 1), 1));
        drop(waiting);
        assert_eq!(tracker.ledger.phase(), (Phase::Backward, 0));
    }
}
