//! Counts the gradients that overflowed under loss scaling.

use std::collections::BTreeMap;

use admiral_telemetry::{Metric, MetricSink};

/// For each parameter, the number of skipped steps in which its gradient overflowed first, since the start of the attempt.
#[derive(Debug, Default)]
pub(super) struct Overflows(BTreeMap<String, u64>);

impl Overflows {
    /// Counts a skipped step in which the gradient of the parameter `name` overflowed first, and records the parameter's
    /// count.
    pub(super) fn add(&mut self, name: &str, step: u64, metrics: &dyn MetricSink) {
        tracing::debug!(step, "skipped, because the gradient of {name} overflowed first");
        let num = self.0.entry(name.to_owned()).or_default();
        *num += 1;
        metrics.record(Metric::counter(&format!("overflows/{name}"), step, *num as f64));
    }
}
