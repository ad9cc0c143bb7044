//! Timing several ways of doing one thing against each other, in turn.

use std::time::{Duration, Instant};

use serde::Serialize;
use tch::Device;

use crate::ops::Error;

use super::super::bench::median;

/// One way of doing what is compared.
pub(super) type Contender<'a> = Box<dyn FnMut() -> Result<(), Error> + 'a>;

/// A contender that does `work`.
pub(super) fn contender<'a>(work: impl FnMut() -> Result<(), Error> + 'a) -> Contender<'a> {
    Box::new(work)
}

/// A median with the range of what was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    pub(in crate::train) fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        Self {
            median: median(values.clone()),
            least: values.clone().fold(f64::INFINITY, f64::min),
            most: values.fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// What seconds are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::train) enum Clock {
    /// The time that passes.
    Wall,
    /// The time that this process spends on processors, over its number of threads: what the machine does besides
    /// counts less, and a thread that waits by turning round counts too. Not for work of a GPU's.
    Processor,
}

impl Clock {
    fn now(self) -> Duration {
        match self {
            Self::Wall => {
                static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
                START.get_or_init(Instant::now).elapsed()
            }
            Self::Processor => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
                Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32) / tch::get_num_threads().max(1) as u32
            }
        }
    }
}

/// How often each contender runs, where, and what counts its seconds.
#[derive(Debug, Clone, Copy)]
pub(in crate::train) struct Rules {
    pub(in crate::train) warmup: usize,
    pub(in crate::train) rounds: usize,
    pub(in crate::train) clock: Clock,
    /// Where the work is done, whose end counts.
    pub(in crate::train) device: Device,
}

/// Returns when the device has done what it was given.
pub(in crate::train) fn wait_for(device: Device) {
    if let Device::Cuda(ordinal) = device {
        tch::Cuda::synchronize(ordinal as i64);
    }
}

/// The seconds of each round of each contender, after rounds of warm-up that do not count. Within a round all take
/// their turn, so what else the machine does meets all alike.
pub(super) fn hold(contenders: &mut [Contender<'_>], rules: Rules) -> Result<Vec<Vec<f64>>, Error> {
    let mut seconds = vec![Vec::with_capacity(rules.rounds); contenders.len()];
    for round in 0..rules.warmup + rules.rounds {
        for (contender, seconds) in contenders.iter_mut().zip(&mut seconds) {
            wait_for(rules.device);
            let start = rules.clock.now();
            contender()?;
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
    fn contenders_take_turns_and_warming_up_does_not_count() {
        let order = RefCell::new(String::new());
        let seconds = hold(
            &mut [
                contender(|| {
                    order.borrow_mut().push('a');
                    Ok(())
                }),
                contender(|| {
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
