//! The schedules of the learning rate and of the averages' rates, as pure functions of the step.

use crate::run_config::OptimizerConfig;

/// Returns the learning rate of step `step` (from 0): a linear warm-up, and, if annealing is on, a linear decay to
/// zero.
///
/// As in the published implementation, the annealed rate is set after a step, so both step 0 and step 1 have the full
/// rate.
#[must_use]
pub fn learning_rate(config: &OptimizerConfig, step: u64) -> f64 {
    let warmup = match config.warmup_steps {
        0 => 1.0,
        steps => ((step + 1) as f64 / steps as f64).min(1.0),
    };
    let annealing = match config.lr_anneal_steps {
        0 => 1.0,
        steps => (1.0 - step.saturating_sub(1) as f64 / steps as f64).max(0.0),
    };
    config.learning_rate * warmup * annealing
}

/// Returns the rate of an average at optimizer step `step` (from 1). With `ema_warmup`, the rate is at most
/// `(1 + step) / (10 + step)`, so that the average forgets the initial values faster.
#[must_use]
pub fn ema_rate(config: &OptimizerConfig, rate: f64, step: u64) -> f64 {
    if config.ema_warmup { rate.min((1.0 + step as f64) / (10.0 + step as f64)) } else { rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_warms_up_and_anneals() {
        let plain = OptimizerConfig { learning_rate: 2.0, ..OptimizerConfig::default() };
        assert_eq!(learning_rate(&plain, 1_000_000), 2.0);
        let warm = OptimizerConfig { warmup_steps: 4, ..plain.clone() };
        assert_eq!([0, 1, 3, 4].map(|step| learning_rate(&warm, step)), [0.5, 1.0, 2.0, 2.0]);
        let annealed = OptimizerConfig { lr_anneal_steps: 10, ..plain };
        assert_eq!([0, 1, 2, 6, 11, 20].map(|step| learning_rate(&annealed, step)), [2.0, 2.0, 1.8, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn warm_up_limits_the_rate_of_an_average() {
        let config = OptimizerConfig { ema_warmup: true, ..OptimizerConfig::default() };
        assert_eq!(ema_rate(&config, 0.9, 1), 2.0 / 11.0);
        assert_eq!(ema_rate(&config, 0.9, 1000), 0.9);
    }
}
