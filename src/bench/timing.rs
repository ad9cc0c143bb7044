//! Timing of several cases against each other, in alternation.

use std::time::Duration;

use rustix::time::ClockId;
use serde::Serialize;
use tch::Device;

use crate::ops::Error;
use crate::statistics::Spread;

/// One of the cases that are compared.
pub(super) type Case<'a> = Box<dyn FnMut() -> Result<(), Error> + 'a>;

/// Returns a case that does `work`.
pub(super) fn case<'a>(work: impl FnMut() -> Result<(), Error> + 'a) -> Case<'a> {
    Box::new(work)
}

/// The clock that measures seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Clock {
    /// Elapsed time.
    Wall,
    /// The CPU time of this process divided by its number of threads. Other load on the machine has less influence, but
    /// busy waiting counts as work. Not for work on a GPU.
    Processor,
}

impl Clock {
    /// Returns the time since some moment in the past.
    pub(super) fn now(self) -> Duration {
        match self {
            Self::Wall => read(ClockId::Monotonic),
            Self::Processor => read(ClockId::ProcessCPUTime) / tch::get_num_threads().max(1) as u32,
        }
    }
}

fn read(clock: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// How cases are timed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Rounds of warm-up, which are not measured.
    pub(super) warmup: usize,
    /// Rounds that are measured.
    pub(super) rounds: usize,
    pub(super) clock: Clock,
    /// The device that does the work. A round ends when the device has finished.
    pub(super) device: Device,
}

/// Returns when the device has finished its work.
pub(super) fn wait_for(device: Device) {
    if let Device::Cuda(ordinal) = device {
        tch::Cuda::synchronize(ordinal as i64);
    }
}

/// Returns the seconds of each case in each round, without the rounds of warm-up. A round runs all cases once, so that
/// other load on the machine affects all cases equally.
pub(super) fn time_alternating(cases: &mut [Case<'_>], timing: Timing) -> Result<Vec<Vec<f64>>, Error> {
    let mut seconds = vec![Vec::with_capacity(timing.rounds); cases.len()];
    for round in 0..timing.warmup + timing.rounds {
        for (case, seconds) in cases.iter_mut().zip(&mut seconds) {
            wait_for(timing.device);
            let start = timing.clock.now();
            case()?;
            wait_for(timing.device);
            if round >= timing.warmup {
                seconds.push((timing.clock.now() - start).as_secs_f64());
            }
        }
    }
    Ok(seconds)
}

/// Returns the time of `others` divided by the time of `own`, over the rounds.
pub(super) fn ratio(others: &[f64], own: &[f64]) -> Spread {
    Spread::of(others.iter().zip(own).map(|(other, own)| other / own))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn cases_alternate_and_warm_up_is_not_measured() {
        let order = RefCell::new(String::new());
        let seconds = time_alternating(
            &mut [
                case(|| {
                    order.borrow_mut().push('a');
                    Ok(())
                }),
                case(|| {
                    order.borrow_mut().push('b');
                    Ok(())
                }),
            ],
            Timing { warmup: 1, rounds: 2, clock: Clock::Processor, device: Device::Cpu },
        )
        .unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(seconds.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ratio = ratio(&[3.0, 8.0, 10.0], &[2.0, 2.0, 2.0]);
        assert_eq!(ratio, Spread { median: 4.0, least: 1.5, most: 5.0 });
    }
}
