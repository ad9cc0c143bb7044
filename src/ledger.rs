//! Where this rank stands, for who watches it: every change of what it does goes through here. It is also where the
//! faults of a drill strike (`faults`), because a fault is to strike a rank in the middle of something.

use std::cell::Cell;

pub use admiral_contract::Phase;
use admiral_contract::ledger::{own, own_error};

use crate::faults;

/// Says that the process is there: the first thing that a rank does, because what comes next may take long.
pub fn open() {
    let _ = own();
}

/// Warns where nobody can watch this rank although it was told where, which is no reason not to run.
pub fn warn() {
    if let Some(error) = own_error() {
        tracing::warn!("{error}; whoever watches this rank cannot see where it stands");
    }
}

/// The rank knows its run: the step that it goes on from, whether that is a checkpoint's, and where the run ends.
pub fn begin(step: u64, is_of_checkpoint: bool, last_step: u64, global_batch: u64) {
    own().begin(step, last_step, global_batch);
    if is_of_checkpoint {
        own().checkpoint(step);
    }
}

/// The attempt has this name in `owner.json`.
pub fn attempt(id: &str) {
    own().attempt(id);
}

/// A checkpoint of this step is published.
pub fn checkpoint(step: u64) {
    own().checkpoint(step);
}

/// The step of this number, from 1, begins.
pub fn begin_step(step: u64) {
    own().begin_step(step);
    if let Some(strike) = faults::armed() {
        strike.begin_step(step);
    }
}

/// The step's work is done. Returns what it took.
pub fn end_step() -> StepSeconds {
    own().end_step();
    let reading = own().read();
    StepSeconds { step: reading.step_seconds, data: reading.data_seconds, wait: reading.wait_seconds }
}

/// Where this rank stands, in words for an error message.
#[must_use]
pub fn standing() -> String {
    let reading = own().read();
    format!(
        "the ledger says: step {}, {:?} for {:.0} s, {} exchanges entered",
        reading.step, reading.phase, reading.phase_seconds, reading.collectives
    )
}

/// The seconds of a step on one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepSeconds {
    /// All of it.
    pub step: f64,
    /// Waiting for data.
    pub data: f64,
    /// In exchanges with other ranks, mostly waiting for them.
    pub wait: f64,
}

/// The rank begins to do something else: in the step's pass `pass`, where the phase has passes.
pub fn enter(phase: Phase, pass: usize) {
    if let Some(strike) = faults::armed() {
        strike.drag(own().phase().0);
        own().enter(phase, pass as u64);
        strike.at(phase, own().step());
    } else {
        own().enter(phase, pass as u64);
    }
}

/// The step's gradients are set to zero: that is the optimizer's, but not where a fault of the optimizer strikes.
pub fn enter_zeroing() {
    own().enter(Phase::Optimizer, 0);
    if let Some(strike) = faults::armed() {
        strike.go_on();
    }
}

/// This rank is in an exchange with the others until the value is dropped; then it does again what it did before.
#[derive(Debug)]
#[must_use = "the exchange ends when this is dropped"]
pub struct Exchange {
    before: Option<(Phase, u64)>,
}

thread_local! {
    static IS_IN_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

/// What this thread does from now on is done beside the rank's own work: its exchanges are counted and do not say what
/// the rank does.
pub fn work_in_background() {
    IS_IN_BACKGROUND.set(true);
}

/// A thread in the background enters the sum of a bucket.
pub fn reduce_in_background() {
    own().count_exchange();
}

/// The rank has its first bucket ready to be summed in the background: where the faults of that phase strike.
pub fn hand_over() {
    if let Some(strike) = faults::armed() {
        strike.drag(own().phase().0);
        strike.at(Phase::Reduce, own().step());
    }
}

/// The rank waits for the sum of a bucket that is taken in the background.
pub fn wait_for_bucket(bucket: usize) -> Exchange {
    let before = own().phase();
    own().wait(bucket as u64);
    Exchange { before: Some(before) }
}

/// Any exchange. Within another one, as within the sum of a bucket, it is part of that.
pub fn exchange() -> Exchange {
    if IS_IN_BACKGROUND.get() {
        return Exchange { before: None };
    }
    let (phase, pass) = own().phase();
    if phase.is_collective() {
        return Exchange { before: None };
    }
    own().enter(Phase::Exchange, pass);
    Exchange { before: Some((phase, pass)) }
}

/// The sum of a bucket of gradients, by its number.
pub fn reduce(bucket: usize) -> Exchange {
    let before = own().phase();
    // Before the ledger says that the rank has come to the bucket: a rank that is struck has not.
    hand_over();
    own().enter(Phase::Reduce, bucket as u64);
    Exchange { before: Some(before) }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((phase, pass)) = self.before {
            own().enter(phase, pass);
            if let Some(strike) = faults::armed() {
                strike.go_on();
            }
        }
    }
}
