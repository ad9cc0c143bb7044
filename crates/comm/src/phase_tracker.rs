//! What this rank does now, recorded in its progress ledger. Injected faults strike at these points, because a fault must
//! be able to strike in the middle of any phase.

use std::path::Path;
use std::sync::Arc;

use admiral_contract::ledger::LedgerError;
use admiral_contract::{Ledger, Phase};

use crate::faults::FaultInjector;

/// Opens the ledger that the launcher made for this rank at `path`, or a private one if there is no path or the file
/// cannot be used. A ledger that cannot be opened is no reason not to run: its error is returned for a warning.
#[must_use]
pub fn open_ledger(path: Option<&Path>) -> (Arc<Ledger>, Option<LedgerError>) {
    let (ledger, error) = match path.map(Ledger::open) {
        Some(Ok(ledger)) => (ledger, None),
        Some(Err(error)) => (Ledger::private(), Some(error)),
        None => (Ledger::private(), None),
    };
    ledger.sign(std::process::id());
    (Arc::new(ledger), error)
}

/// The seconds of a step on one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepSeconds {
    /// The whole step.
    pub step: f64,
    /// Waiting for data.
    pub data: f64,
    /// In exchanges with other ranks, mostly waiting for them.
    pub wait: f64,
}

/// Records the phases of this rank in its ledger. Clones share the ledger and the faults.
#[derive(Debug, Clone)]
pub struct PhaseTracker {
    ledger: Arc<Ledger>,
    faults: Option<Arc<FaultInjector>>,
}

impl PhaseTracker {
    /// Records in `ledger`, and lets `faults` strike.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, faults: Option<Arc<FaultInjector>>) -> Self {
        Self { ledger, faults }
    }

    /// A tracker that no other process watches, without faults.
    #[must_use]
    pub fn private() -> Self {
        Self::new(Arc::new(Ledger::private()), None)
    }

    /// Records the step from which the run starts, whether it is that of a checkpoint, and where the run ends.
    pub fn begin(&self, step: u64, is_from_checkpoint: bool, last_step: u64, global_batch: u64) {
        self.ledger.begin(step, last_step, global_batch);
        if is_from_checkpoint {
            self.ledger.checkpoint(step);
        }
    }

    /// Records the attempt's id, as `owner.json` has it.
    pub fn attempt(&self, id: &str) {
        self.ledger.attempt(id);
    }

    /// Records that the checkpoint of this step is published.
    pub fn checkpoint(&self, step: u64) {
        self.ledger.checkpoint(step);
    }

    /// Records the start of a step; steps are counted from 1.
    pub fn begin_step(&self, step: u64) {
        self.ledger.begin_step(step);
        if let Some(faults) = &self.faults {
            faults.begin_step(step);
        }
    }

    /// Records the end of the step's work. Returns the seconds it took.
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

    /// Records that the rank enters `phase`. `pass` is the step's pass, in phases that have passes, otherwise 0.
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

    /// Counts an exchange of a background thread, which does not change what the rank is doing.
    pub fn count_exchange(&self) {
        self.ledger.count_exchange();
    }

    /// Lets the faults of the reduce phase strike: the first bucket is ready to be summed in the background.
    pub fn first_bucket_ready(&self) {
        if let Some(faults) = &self.faults {
            faults.leave_phase(&self.ledger);
            faults.enter_phase(Phase::Reduce, self.ledger.step());
        }
    }

    /// Records that the rank waits for the sum of a bucket, which a background thread computes, until the returned value
    /// is dropped.
    pub fn wait_for_bucket(&self, bucket: usize) -> Exchange {
        let before = self.ledger.phase();
        self.ledger.wait(bucket as u64);
        Exchange { ledger: Arc::clone(&self.ledger), before: Some(before) }
    }

    /// Records that the rank sums a bucket of gradients until the returned value is dropped.
    pub fn reduce(&self, bucket: usize) -> Exchange {
        let before = self.ledger.phase();
        // Faults strike before the ledger shows the rank at the bucket: a rank that is struck has not come to it.
        self.first_bucket_ready();
        self.ledger.enter(Phase::Reduce, bucket as u64);
        Exchange { ledger: Arc::clone(&self.ledger), before: Some(before) }
    }
}

/// Shows this rank inside an exchange with the others until it is dropped. Then the ledger shows the earlier phase again.
#[derive(Debug)]
#[must_use = "the exchange ends when this is dropped"]
pub struct Exchange {
    ledger: Arc<Ledger>,
    before: Option<(Phase, u64)>,
}

impl Exchange {
    /// Enters an exchange of any kind. Inside another exchange, such as the sum of a bucket, it changes nothing.
    pub fn enter(ledger: &Arc<Ledger>) -> Self {
        let (phase, pass) = ledger.phase();
        let before = (!phase.is_collective()).then(|| {
            ledger.enter(Phase::Exchange, pass);
            (phase, pass)
        });
        Self { ledger: Arc::clone(ledger), before }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((phase, pass)) = self.before {
            self.ledger.enter(phase, pass);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_inside_a_bucket_is_part_of_it() {
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
    fn a_background_exchange_is_counted_and_does_not_change_the_phase() {
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
