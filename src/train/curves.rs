//! The scalars of a run, averaged over the steps of a log interval and over ranks.

use std::time::{Duration, Instant};

use admiral_comm::{Collective, CollectiveError};
use admiral_telemetry::{Detail, Metric, MetricKind, MetricSink, MetricSinks, ScalarId, ScalarSums};

use crate::model::Task;

use super::step::StepReport;

/// The sums of all logged scalars since the last log.
#[derive(Debug)]
pub struct Curves {
    sums: ScalarSums,
    terms: Vec<(&'static str, ScalarId)>,
    gradient_norm: ScalarId,
    parameter_norm: ScalarId,
    step: ScalarId,
    data_wait: ScalarId,
    all_reduce: ScalarId,
    all_reduce_exposed: ScalarId,
    skipped_steps: ScalarId,
    skipped_images: ScalarId,
    since: Instant,
    samples: u64,
    images_skipped_before: u64,
}

/// The summary of a log interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The name of each scalar and its mean over samples, steps and ranks.
    pub means: Vec<(String, f64)>,
    /// The images per second over all ranks.
    pub images_per_second: f64,
}

impl Summary {
    /// Returns the mean of a scalar, or NaN if there is none of that name.
    #[must_use]
    pub fn mean(&self, name: &str) -> f64 {
        self.means.iter().find(|(key, _)| key == name).map_or(f64::NAN, |(_, mean)| *mean)
    }
}

impl Curves {
    /// Creates the scalars of a task for a diffusion process of `num_timesteps`.
    #[must_use]
    pub fn new(task: Task, num_timesteps: usize, now: Instant) -> Self {
        let mut sums = ScalarSums::new(num_timesteps);
        let names: &[&'static str] = match task {
            Task::Classifier => &["loss", "acc@1", "acc@5"],
            Task::Diffusion | Task::SuperResolution => &["loss", "mse", "vb"],
        };
        let terms = names.iter().map(|&name| (name, sums.define(name, Detail::TimestepQuartiles))).collect();
        Self {
            terms,
            gradient_norm: sums.define("grad_norm", Detail::Mean),
            parameter_norm: sums.define("param_norm", Detail::Mean),
            step: sums.define("step_seconds", Detail::Mean),
            data_wait: sums.define("data_wait_seconds", Detail::Mean),
            all_reduce: sums.define("all_reduce_seconds", Detail::Mean),
            all_reduce_exposed: sums.define("all_reduce_exposed_seconds", Detail::Mean),
            skipped_steps: sums.define("skipped_steps", Detail::Mean),
            skipped_images: sums.define("skipped_images", Detail::Mean),
            sums,
            since: now,
            samples: 0,
            images_skipped_before: 0,
        }
    }

    /// Adds a step of this rank. `samples` is the number of samples of the step over all ranks, `images_skipped` the
    /// number of images that this rank has skipped since the start.
    pub fn add(&mut self, report: &StepReport, samples: u64, images_skipped: u64) {
        let timesteps: Vec<usize> = report.samples.timesteps.iter().map(|&t| t as usize).collect();
        for (name, id) in &self.terms {
            if let Some((_, values)) = report.samples.terms.iter().find(|(term, _)| term == name) {
                let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
                self.sums.add_samples(*id, &values, &timesteps);
            }
        }
        if report.took_step {
            self.sums.add(self.gradient_norm, report.gradient_norm);
            self.sums.add(self.parameter_norm, report.parameter_norm);
        }
        self.sums.add(self.step, report.seconds.step);
        self.sums.add(self.data_wait, report.times.data.as_secs_f64());
        self.sums.add(self.all_reduce, report.times.all_reduce_busy.as_secs_f64());
        self.sums.add(self.all_reduce_exposed, report.times.all_reduce_exposed.as_secs_f64());
        self.sums.add(self.skipped_steps, f64::from(u8::from(!report.took_step)));
        self.sums.add(self.skipped_images, (images_skipped - self.images_skipped_before) as f64);
        self.images_skipped_before = images_skipped;
        self.samples += samples;
    }

    /// Returns the means over all ranks and resets the sums. Every rank calls it.
    ///
    /// # Errors
    /// When the ranks cannot reach each other.
    pub fn take(&mut self, collective: &dyn Collective, now: Instant) -> Result<Summary, CollectiveError> {
        collective.all_reduce_sum_f64(self.sums.flat_mut())?;
        let seconds = (now - self.since).as_secs_f64();
        self.since = now;
        let samples = std::mem::take(&mut self.samples);
        Ok(Summary { means: self.sums.take_means(), images_per_second: samples as f64 / seconds.max(1e-9) })
    }

    /// Excludes a duration from the images per second: the time of a save or a sample grid is not training.
    pub fn skip_time(&mut self, duration: Duration) {
        self.since += duration;
    }
}

/// Records a summary in the metric sinks. `last` is the report of the interval's last step.
pub fn record(metrics: &MetricSinks, step: u64, samples: u64, last: &StepReport, summary: &Summary) {
    let gauge = |name: &str, value| metrics.record(Metric { name, step, value, kind: MetricKind::Gauge });
    for (name, mean) in &summary.means {
        gauge(name, *mean);
    }
    gauge("lg_loss_scale", last.lg_loss_scale);
    gauge("learning_rate", last.learning_rate);
    metrics.record(Metric { name: "samples", step, value: samples as f64, kind: MetricKind::Counter });
    gauge("images_per_second", summary.images_per_second);
}
