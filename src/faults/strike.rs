//! The faults of a step, as one rank of a run suffers them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use admiral_contract::Phase;
use rustix::process::{Signal, getpid, kill_process};

use super::FaultsConfig;

/// What strikes this rank. It is told of every step and phase, and does what it has to do there and then.
#[derive(Debug)]
pub struct Strike {
    faults: FaultsConfig,
    rank: usize,
    at_step: u64,
    has_struck: AtomicBool,
    is_slow: AtomicBool,
    /// When the phase began that a slow rank makes longer.
    phase_since: Mutex<Instant>,
    /// When the storage is there again.
    cut_until: OnceLock<Instant>,
}

static ARMED: OnceLock<Option<Strike>> = OnceLock::new();

/// Lets the faults of a step strike this process as `rank`, where they are wanted. The first call counts.
pub fn arm(faults: &FaultsConfig, rank: usize) {
    let _ = ARMED.set(Strike::of(faults, rank));
}

/// What strikes this process; almost always nothing.
pub fn armed() -> Option<&'static Strike> {
    ARMED.get()?.as_ref()
}

impl Strike {
    fn of(faults: &FaultsConfig, rank: usize) -> Option<Self> {
        let at_step = faults.at_step.filter(|_| faults.strikes_now())?;
        Some(Self {
            faults: faults.clone(),
            rank,
            at_step,
            has_struck: AtomicBool::new(false),
            is_slow: AtomicBool::new(false),
            phase_since: Mutex::new(Instant::now()),
            cut_until: OnceLock::new(),
        })
    }

    /// A step begins.
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

    /// The rank comes to a phase of a step.
    pub fn at(&self, phase: Phase, step: u64) {
        self.go_on();
        if step < self.at_step || phase != self.faults.phase.phase() || self.has_struck.swap(true, Ordering::Relaxed) {
            return;
        }
        let is_own = |rank: Option<usize>| rank == Some(self.rank);
        let say = |what: &str| tracing::error!("faults: this rank {what} at step {step}, {}", phase.doing());
        if is_own(self.faults.kill_rank) {
            say("kills itself");
            signal(Signal::KILL);
        }
        if is_own(self.faults.segv_rank) {
            say("touches memory that is not there");
            let nothing = std::ptr::without_provenance_mut::<u8>(std::hint::black_box(8));
            // SAFETY: there is none: the process is meant to die here, and nothing lies at this address.
            unsafe { nothing.write_volatile(0) };
        }
        if is_own(self.faults.exit_rank) {
            say("leaves");
            std::process::exit(i32::from(self.faults.exit_code));
        }
        if is_own(self.faults.stop_rank) {
            say("stops itself");
            signal(Signal::STOP);
        }
        if is_own(self.faults.hang_rank) {
            say("hangs");
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }

    /// The rank is about to leave `phase`: a slow one stays in it.
    pub fn drag(&self, phase: Phase) {
        if self.is_slow.load(Ordering::Relaxed) {
            let spent = self.phase_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            std::thread::sleep(self.longer(phase, spent));
        }
    }

    /// What a slow rank adds to what it has spent in a phase.
    fn longer(&self, phase: Phase, spent: Duration) -> Duration {
        match phase {
            Phase::Data | Phase::Forward | Phase::Backward | Phase::Optimizer => {
                spent.mul_f64(self.faults.slow_factor - 1.0)
            }
            _ => Duration::ZERO,
        }
    }

    /// The rank is in another phase from now on, or again in one after an exchange.
    pub fn go_on(&self) {
        *self.phase_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the place of the checkpoints is out of reach now.
    #[must_use]
    pub fn storage_is_cut(&self) -> bool {
        self.cut_until.get().is_some_and(|until| Instant::now() < *until)
    }
}

fn signal(signal: Signal) {
    if let Err(error) = kill_process(getpid(), signal) {
        tracing::error!("faults: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::StrikePhase;

    fn strike(faults: FaultsConfig) -> Option<Strike> {
        Strike::of(&FaultsConfig { at_step: Some(3), ..faults }, 1)
    }

    #[test]
    fn nothing_strikes_unless_it_is_switched_on_and_this_is_the_start() {
        let on = FaultsConfig { enabled: true, ..FaultsConfig::default() };
        assert!(strike(FaultsConfig::default()).is_none());
        assert!(strike(FaultsConfig { attempt: 7, ..on.clone() }).is_none());
        assert!(strike(on.clone()).is_some());
        assert!(Strike::of(&on, 1).is_none());
    }

    #[test]
    fn the_storage_is_cut_from_the_step_on_for_a_time() {
        let faults = FaultsConfig { enabled: true, cut_storage_seconds: Some(0.05), ..FaultsConfig::default() };
        let strike = strike(faults).expect("it is on");
        strike.begin_step(2);
        assert!(!strike.storage_is_cut());
        strike.begin_step(3);
        assert!(strike.storage_is_cut());
        std::thread::sleep(Duration::from_millis(60));
        strike.begin_step(4);
        assert!(!strike.storage_is_cut());
    }

    #[test]
    fn a_strike_comes_once_in_its_phase_at_its_step_or_later() {
        let faults = FaultsConfig { enabled: true, phase: StrikePhase::Checkpoint, ..FaultsConfig::default() };
        let strike = strike(faults).expect("it is on");
        strike.at(Phase::Checkpoint, 2);
        strike.at(Phase::Forward, 3);
        assert!(!strike.has_struck.load(Ordering::Relaxed));
        strike.at(Phase::Checkpoint, 5);
        assert!(strike.has_struck.load(Ordering::Relaxed));
    }

    #[test]
    fn a_slow_rank_takes_its_factor_in_its_own_work_alone() {
        let faults = FaultsConfig { enabled: true, slow_rank: Some(1), slow_factor: 3.0, ..FaultsConfig::default() };
        let strike = strike(faults).expect("it is on");
        let spent = Duration::from_millis(10);
        assert_eq!(strike.longer(Phase::Forward, spent), 2 * spent);
        assert_eq!(strike.longer(Phase::Reduce, spent), Duration::ZERO);
        strike.begin_step(2);
        assert!(!strike.is_slow.load(Ordering::Relaxed));
        strike.begin_step(3);
        assert!(strike.is_slow.load(Ordering::Relaxed));
    }
}
