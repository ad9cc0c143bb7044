//! Metrics of a run, and where they go.

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

/// One value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric<'a> {
    /// The name, for example `loss`. TensorBoard shows each name as one curve.
    pub name: &'a str,
    /// The number of optimizer steps since the run began.
    pub step: u64,
    /// The value. May be NaN or infinite.
    pub value: f64,
    /// How to read the value.
    pub kind: MetricKind,
}

/// How to read the value of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A value that goes up and down, for example the loss or the learning rate.
    Gauge,
    /// A total since the run began, which never decreases, for example the number of samples seen.
    Counter,
    /// A duration in seconds, for example the time that a step waits for data.
    Seconds,
}

impl<'a> Metric<'a> {
    /// Returns a metric of the kind [`MetricKind::Gauge`].
    pub fn gauge(name: &'a str, step: u64, value: f64) -> Self {
        Self { name, step, value, kind: MetricKind::Gauge }
    }

    /// Returns a metric of the kind [`MetricKind::Counter`].
    pub fn counter(name: &'a str, step: u64, value: f64) -> Self {
        Self { name, step, value, kind: MetricKind::Counter }
    }

    /// Returns a metric of the kind [`MetricKind::Seconds`].
    pub fn seconds(name: &'a str, step: u64, value: f64) -> Self {
        Self { name, step, value, kind: MetricKind::Seconds }
    }
}

/// A destination of metrics, for example TensorBoard or the progress line.
///
/// Training calls a sink between steps, so both methods must be cheap: they must not wait for a disk or a network. A
/// sink cannot report an error to its caller. It logs its first failure and counts the others.
pub trait MetricSink: fmt::Debug {
    /// Takes one value. A sink ignores metrics that it does not show.
    fn record(&self, metric: Metric<'_>);

    /// Takes the value of one rank. A sink that shows only values of the whole run ignores it.
    fn record_of_rank(&self, metric: Metric<'_>, rank: usize) {
        let _ = (metric, rank);
    }

    /// Ends the metrics of `step` at the time `now`. A sink that shows several metrics together shows them now.
    fn commit(&self, step: u64, now: Instant);
}

/// Several sinks, each of which gets every metric. Without a sink, metrics are discarded.
#[derive(Debug, Clone, Default)]
pub struct MetricSinks(Vec<Rc<dyn MetricSink>>);

impl MetricSinks {
    /// Returns a sink that passes metrics on to `sinks`, in this order.
    pub fn new(sinks: Vec<Rc<dyn MetricSink>>) -> Self {
        Self(sinks)
    }
}

impl MetricSink for MetricSinks {
    fn record(&self, metric: Metric<'_>) {
        for sink in &self.0 {
            sink.record(metric);
        }
    }

    fn record_of_rank(&self, metric: Metric<'_>, rank: usize) {
        for sink in &self.0 {
            sink.record_of_rank(metric, rank);
        }
    }

    fn commit(&self, step: u64, now: Instant) {
        for sink in &self.0 {
            sink.commit(step, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Keeps each call as a line of text.
    #[derive(Debug, Default)]
    struct Calls(RefCell<Vec<String>>);

    impl MetricSink for Calls {
        fn record(&self, metric: Metric<'_>) {
            let Metric { name, step, value, kind } = metric;
            self.0.borrow_mut().push(format!("{name} {step} {value} {kind:?}"));
        }

        fn commit(&self, step: u64, _: Instant) {
            self.0.borrow_mut().push(format!("commit {step}"));
        }
    }

    #[test]
    fn every_sink_gets_every_metric_in_order() {
        let (first, second) = (Rc::new(Calls::default()), Rc::new(Calls::default()));
        let sinks = MetricSinks::new(vec![first.clone(), second.clone()]);
        sinks.record(Metric::gauge("loss", 7, 0.5));
        sinks.record(Metric::counter("samples", 7, 112.0));
        sinks.record(Metric::seconds("data_wait_seconds", 7, 0.25));
        sinks.commit(7, Instant::now());
        let expected = ["loss 7 0.5 Gauge", "samples 7 112 Counter", "data_wait_seconds 7 0.25 Seconds", "commit 7"];
        assert_eq!(*first.0.borrow(), expected);
        assert_eq!(*second.0.borrow(), expected);
    }

    #[test]
    fn metrics_without_a_sink_are_discarded() {
        let sinks = MetricSinks::default();
        sinks.record(Metric::gauge("loss", 7, 0.5));
        sinks.commit(7, Instant::now());
    }
}
