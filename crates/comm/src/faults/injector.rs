//! Injects the configured faults into one rank.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use admiral_contract::{Ledger, Phase};
use rustix::process::{Signal, getpid, kill_process};

use super::{BadValue, FaultsConfig};

/// Injects faults into this rank. It is called at every step and phase, and strikes in the calling thread.
#[derive(Debug)]
pub struct FaultInjector {
    faults: FaultsConfig,
    rank: usize,
    at_step: u64,
    has_struck: AtomicBool,
    has_flipped: AtomicBool,
    has_damaged: AtomicBool,
    is_slow: AtomicBool,
    /// When [`Self::enter_phase`] was called last. A phase that it enters without a change of the ledger, as backward
    /// when its first bucket is ready, is then slowed down only for the time after that.
    entered: Mutex<Instant>,
    /// When the storage is available again. Not set before the storage is cut off.
    cut_until: OnceLock<Instant>,
}

impl FaultInjector {
    /// Returns the injector for `rank` in the start of the run with number `attempt`, which is counted from 0. `None` if
    /// no fault that strikes at a step is configured for this start.
    #[must_use]
    pub fn new(faults: &FaultsConfig, rank: usize, attempt: u64) -> Option<Self> {
        let at_step = faults.at_step.filter(|_| faults.is_active(attempt))?;
        Some(Self {
            faults: faults.clone(),
            rank,
            at_step,
            has_struck: AtomicBool::new(false),
            has_flipped: AtomicBool::new(false),
            has_damaged: AtomicBool::new(false),
            is_slow: AtomicBool::new(false),
            entered: Mutex::new(Instant::now()),
            cut_until: OnceLock::new(),
        })
    }

    /// Called when a step starts.
    pub fn begin_step(&self, step: u64) {
        if step < self.at_step {
            return;
        }
        if let Some(seconds) = self.faults.cut_storage_seconds {
            self.cut_until.get_or_init(|| {
                tracing::error!("faults: the storage is cut off for {seconds} s from step {step} on");
                Instant::now() + Duration::from_secs_f64(seconds)
            });
        }
        if self.faults.slow_rank == Some(self.rank) && !self.is_slow.swap(true, Ordering::Relaxed) {
            tracing::error!("faults: this rank is slow from step {step} on, {} times", self.faults.slow_factor);
        }
    }

    /// Returns what to damage in this rank's memory before `step`, from 1. Every call after the first one that returns
    /// damage returns `None`.
    pub fn damage(&self, step: u64) -> Option<Damage<'_>> {
        let FaultsConfig { bad_rank, bad_value, bad_parameter, bad_gradient, .. } = &self.faults;
        let damage =
            Damage { value: *bad_value, parameter: bad_parameter.as_deref(), gradient: bad_gradient.as_deref() };
        let is_any = damage.parameter.is_some() || damage.gradient.is_some();
        if !is_any || step < self.at_step || *bad_rank != self.rank || self.has_damaged.swap(true, Ordering::Relaxed) {
            return None;
        }
        tracing::error!("faults: this rank damages its memory before step {step}");
        Some(damage)
    }

    /// Called when the rank enters a phase of a step. Strikes if it is the configured one.
    pub fn enter_phase(&self, phase: Phase, step: u64) {
        *self.entered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if step < self.at_step || phase != self.faults.phase.phase() || self.has_struck.swap(true, Ordering::Relaxed) {
            return;
        }
        let is_this_rank = |rank: Option<usize>| rank == Some(self.rank);
        let log = |what: &str| tracing::error!("faults: this rank {what} at step {step}, {}", phase.doing());
        if is_this_rank(self.faults.kill_rank) {
            log("kills itself");
            signal(Signal::KILL);
        }
        if is_this_rank(self.faults.segv_rank) {
            log("touches memory that is not there");
            let unmapped = std::ptr::without_provenance_mut::<u8>(std::hint::black_box(8));
            // SAFETY: none. Nothing is mapped at this address, and the process is meant to die here.
            unsafe { unmapped.write_volatile(0) };
        }
        if is_this_rank(self.faults.exit_rank) {
            log("leaves");
            std::process::exit(i32::from(self.faults.exit_code));
        }
        if is_this_rank(self.faults.stop_rank) {
            log("stops itself");
            signal(Signal::STOP);
        }
        if is_this_rank(self.faults.hang_rank) {
            log("hangs");
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }

    /// Returns whether a bit of this rank's parameters is to change now, after `step`. Returns true once.
    #[must_use]
    pub fn flips_bit(&self, step: u64) -> bool {
        let strikes = step >= self.at_step
            && self.faults.flip_bit_rank == Some(self.rank)
            && !self.has_flipped.swap(true, Ordering::Relaxed);
        if strikes {
            tracing::error!("faults: this rank changes a bit of its parameters after step {step}");
        }
        strikes
    }

    /// Called before the rank leaves the phase that `ledger` shows. Sleeps if the rank is slow.
    pub fn leave_phase(&self, ledger: &Ledger) {
        if self.is_slow.load(Ordering::Relaxed) {
            let in_phase = Duration::from_secs_f64(ledger.read().phase_seconds);
            std::thread::sleep(self.delay(ledger.phase().0, self.not_yet_slowed(in_phase)));
        }
    }

    /// Returns the part of `in_phase`, the time since the ledger entered its phase, for which the rank was not yet slowed
    /// down.
    fn not_yet_slowed(&self, in_phase: Duration) -> Duration {
        in_phase.min(self.entered.lock().unwrap_or_else(PoisonError::into_inner).elapsed())
    }

    /// Returns how much longer a slow rank takes for a phase in which it has spent `spent`. Exchanges are not slowed down.
    fn delay(&self, phase: Phase, spent: Duration) -> Duration {
        match phase {
            Phase::Data | Phase::Forward | Phase::Backward | Phase::Optimizer => {
                spent.mul_f64(self.faults.slow_factor - 1.0)
            }
            _ => Duration::ZERO,
        }
    }

    /// Returns whether the storage is cut off now.
    #[must_use]
    pub fn is_storage_cut(&self) -> bool {
        self.cut_until.get().is_some_and(|until| Instant::now() < *until)
    }
}

/// Damage of a rank's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage<'a> {
    /// The value that the first value of each tensor becomes.
    pub value: BadValue,
    /// The name of a parameter that is damaged.
    pub parameter: Option<&'a str>,
    /// The name of a parameter whose gradient is damaged.
    pub gradient: Option<&'a str>,
}

fn signal(signal: Signal) {
    if let Err(error) = kill_process(getpid(), signal) {
        tracing::error!("faults: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::FaultPhase;

    fn injector(faults: FaultsConfig) -> Option<FaultInjector> {
        FaultInjector::new(&FaultsConfig { at_step: Some(3), ..faults }, 1, 0)
    }

    #[test]
    fn no_fault_strikes_unless_enabled_for_this_start_and_step() {
        let on = FaultsConfig { enabled: true, ..FaultsConfig::default() };
        assert!(injector(FaultsConfig::default()).is_none());
        assert!(injector(FaultsConfig { attempt: 7, ..on.clone() }).is_none());
        assert!(injector(on.clone()).is_some());
        assert!(FaultInjector::new(&on, 1, 0).is_none());
    }

    #[test]
    fn the_storage_is_cut_off_from_the_step_on_for_the_configured_time() {
        let faults = FaultsConfig { enabled: true, cut_storage_seconds: Some(0.05), ..FaultsConfig::default() };
        let injector = injector(faults).expect("faults are enabled");
        injector.begin_step(2);
        assert!(!injector.is_storage_cut());
        injector.begin_step(3);
        assert!(injector.is_storage_cut());
        std::thread::sleep(Duration::from_millis(60));
        injector.begin_step(4);
        assert!(!injector.is_storage_cut());
    }

    #[test]
    fn memory_is_damaged_once_on_one_rank() {
        let faults = FaultsConfig { enabled: true, bad_gradient: Some("a".into()), ..FaultsConfig::default() };
        assert_eq!(injector(faults.clone()).expect("faults are enabled").damage(3), None);
        let injector = injector(FaultsConfig { bad_rank: 1, ..faults }).expect("faults are enabled");
        assert_eq!(injector.damage(2), None);
        let damage = Damage { value: BadValue::Nan, parameter: None, gradient: Some("a") };
        assert_eq!((injector.damage(4), injector.damage(5)), (Some(damage), None));
    }

    #[test]
    fn a_fault_strikes_once_in_its_phase_at_its_step_or_later() {
        let faults = FaultsConfig { enabled: true, phase: FaultPhase::Checkpoint, ..FaultsConfig::default() };
        let injector = injector(faults).expect("faults are enabled");
        injector.enter_phase(Phase::Checkpoint, 2);
        injector.enter_phase(Phase::Forward, 3);
        assert!(!injector.has_struck.load(Ordering::Relaxed));
        injector.enter_phase(Phase::Checkpoint, 5);
        assert!(injector.has_struck.load(Ordering::Relaxed));
    }

    #[test]
    fn a_bit_changes_once_on_its_rank() {
        let faults = FaultsConfig { enabled: true, flip_bit_rank: Some(1), ..FaultsConfig::default() };
        let here = injector(faults.clone()).expect("faults are enabled");
        assert_eq!([2, 4, 5].map(|step| here.flips_bit(step)), [false, true, false]);
        let other = injector(FaultsConfig { flip_bit_rank: Some(0), ..faults }).expect("faults are enabled");
        assert!(!other.flips_bit(4));
    }

    #[test]
    fn the_time_before_the_first_bucket_is_slowed_down_once() {
        let faults = FaultsConfig { enabled: true, slow_rank: Some(1), slow_factor: 3.0, ..FaultsConfig::default() };
        let injector = injector(faults).expect("faults are enabled");
        // The ledger is in backward for an hour, but the first bucket was ready just now.
        injector.enter_phase(Phase::Reduce, 3);
        assert!(injector.not_yet_slowed(Duration::from_secs(3600)) < Duration::from_secs(60));
        // The ledger entered another phase just now.
        assert_eq!(injector.not_yet_slowed(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_slow_rank_is_slow_only_in_its_own_work() {
        let faults = FaultsConfig { enabled: true, slow_rank: Some(1), slow_factor: 3.0, ..FaultsConfig::default() };
        let injector = injector(faults).expect("faults are enabled");
        let spent = Duration::from_millis(10);
        assert_eq!(injector.delay(Phase::Forward, spent), 2 * spent);
        assert_eq!(injector.delay(Phase::Reduce, spent), Duration::ZERO);
        injector.begin_step(2);
        assert!(!injector.is_slow.load(Ordering::Relaxed));
        injector.begin_step(3);
        assert!(injector.is_slow.load(Ordering::Relaxed));
    }
}
