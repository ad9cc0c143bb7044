//! Compares the time of a run's first steps with the plan.

use admiral_plan::{GpuKind, MEASURED_STEPS, Speed, how_far_off, plan};

use crate::host_gpus::HostGpus;
use crate::run_config::{RunConfig, plan_request};

/// The planned time of a step, and the measured times of the first steps.
#[derive(Debug)]
pub(super) struct PlanCheck {
    planned_seconds: f64,
    step_seconds: Vec<f64>,
}

impl PlanCheck {
    /// Plans a run on `world` GPUs. Returns `None` if there is no plan for the GPUs of this host.
    pub(super) fn open(config: &RunConfig, world: usize) -> Option<Self> {
        Self::of_kind(config, world, HostGpus::of_this_host().kind()?)
    }

    fn of_kind(config: &RunConfig, world: usize, kind: GpuKind) -> Option<Self> {
        let hardware = kind.hardware();
        let request = plan_request("", config, kind, world as u64, 0).ok()?;
        let time = plan(&request, &hardware, Speed::Mfu(hardware.mfu)).ok()?.time?;
        Some(Self { planned_seconds: time.step_seconds, step_seconds: Vec::new() })
    }

    /// Adds the time of a step. After the first [`MEASURED_STEPS`], returns a sentence about the deviation from the
    /// plan.
    pub(super) fn add(&mut self, step_seconds: f64) -> Option<String> {
        if self.step_seconds.len() >= MEASURED_STEPS {
            return None;
        }
        self.step_seconds.push(step_seconds);
        if self.step_seconds.len() < MEASURED_STEPS {
            None
        } else {
            how_far_off(self.planned_seconds, &self.step_seconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_reported_once_after_the_measured_steps() {
        let mut check = PlanCheck::of_kind(&RunConfig::default(), 8, GpuKind::V100)
            .unwrap_or_else(|| panic!("the default can be planned"));
        let seconds = 2.0 * check.planned_seconds;
        let said: Vec<Option<String>> = (0..250).map(|_| check.add(seconds)).collect();
        let places: Vec<usize> = said.iter().enumerate().filter(|(_, line)| line.is_some()).map(|(i, _)| i).collect();
        assert_eq!(places, [MEASURED_STEPS - 1]);
        assert!(said[MEASURED_STEPS - 1].as_ref().is_some_and(|line| line.contains("100 % slower")), "{said:?}");
    }
}
