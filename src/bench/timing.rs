//! Timing several cases against each other, in turn.

use std::time::Duration;

use rustix::time::ClockId;
use serde::Serialize;
use tch::Device;

use crate::ops::Error;
use crate::statistics::Spread;

/// One way of doing what is compared.
pub(super) type Case<'a> = Box<dyn FnMut() -> Result<(), Error> + 'a>;

/// A case that does `work`.
pub(super) fn case<'a>(work: impl FnMut() -> Result<(), Error> + 'a) -> Case<'a> {
    Box::new(work)
}

/// What seconds are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Clock {
    /// The time that passes.
    Wall,
    /// The time that this process spends on processors, over its number of threads: what the machine does besides
    /// counts less, and a thread that waits by turning round counts too. Not for work of a GPU's.
    Processor,
}

impl Clock {
    fn now(self) -> Duration {
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

/// How often each case runs, where, and what counts its seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) warmup: usize,
    pub(super) rounds: usize,
    pub(super) clock: Clock,
    /// Where the work is done, whose end counts.
    pub(super) device: Device,
}

/// Returns when the device has done what it was given.
pub(super) fn wait_for(device: Device) {
    if let Device::Cuda(ordinal) = device {
        tch::Cuda::synchronize(ordinal as i64);
    }
}

/// The seconds of each round of each case, after rounds of warm-up that do not count. Within a round all take
/// their turn, so what else the machine does meets all alike.
pub(super) fn time_in_turn(cases: &mut [Case<'_>], rules: Rules) -> Result<Vec<Vec<f64>>, Error> {
    let mut seconds = vec![Vec::with_capacity(rules.rounds); cases.len()];
    for round in 0..rules.warmup + rules.rounds {
        for (case, seconds) in cases.iter_mut().zip(&mut seconds) {
            wait_for(rules.device);
            let start = rules.clock.now();
            case()?;
            wait_for(rules.device);
            if round >= rules.warmup {
                seconds.push((rules.clock.now() - start).as_secs_f64());
            }
        }
    }
    Ok(seconds)
}

/// How many times as long `others` took as `own`, round by round.
pub(super) fn ratio(others: &[f64], own: &[f64]) -> Spread {
    Spread::of(others.iter().zip(own).map(|(other, own)| other / own))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn cases_take_turns_and_warming_up_does_not_count() {
        let order = RefCell::new(String::new());
        let seconds = time_in_turn(
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
            Rules { warmup: 1, rounds: 2, clock: Clock::Processor, device: Device::Cpu },
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
