//! The metrics of a run for other programs: the endpoint, the file for node_exporter and `metrics.jsonl`. Only rank 0 has
//! them.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use admiral_contract::listen_address;
use admiral_exposition::{ExportSettings, Exporter, WhenBusy};
use admiral_telemetry::{Metric, MetricSink, MetricSinks, MetricsFile, RunMetrics};

use crate::context::RankContext;
use crate::run_config::{PrecisionMode, RunConfig};

use super::error::TrainError;
use super::rank_times::RankMeans;

/// How long the end of a run waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the metrics of this rank go.
#[derive(Debug, Default)]
pub(super) struct Export {
    metrics: Option<RunMetrics>,
    exporter: Option<Exporter>,
    file: Option<Rc<MetricsFile>>,
}

impl Export {
    /// Starts the endpoint and the file for node_exporter on rank 0, so that they show the start of the run, too.
    ///
    /// # Errors
    /// When the address or the folder of the file cannot be used. After a restart by the launcher that is no error, because
    /// what is left of the attempt before may still have the address.
    pub(super) fn open(config: &RunConfig, rank: &RankContext<'_>) -> Result<Self, TrainError> {
        let telemetry = &config.telemetry;
        if rank.collective.rank() != 0 || telemetry.listen.is_none() && telemetry.textfile.is_none() {
            return Ok(Self::default());
        }
        let metrics = RunMetrics::new(
            Path::new(&config.run.folder),
            env!("CARGO_PKG_VERSION"),
            rank.collective.world_size(),
            config.training.steps,
            Arc::clone(rank.ledger),
            config.launch.timeouts().stall,
        );
        if config.precision.mode == PrecisionMode::Fp16 {
            metrics.loss_scale_floor(config.precision.min_lg_loss_scale);
        }
        let settings = ExportSettings {
            listen: telemetry.listen.as_deref().and_then(listen_address),
            when_busy: if rank.environment.attempt > 0 { WhenBusy::Retry } else { WhenBusy::Refuse },
            textfile: telemetry.textfile.clone(),
            failures: RunMetrics::failures(),
        };
        let exporter = Exporter::start(settings, Arc::new(metrics.clone()), &(Arc::new(warn) as _))?;
        if let Some(address) = telemetry.listen.as_deref().and_then(listen_address) {
            tracing::info!("metrics are served at http://{address}/metrics, the state at /health");
        }
        Ok(Self { metrics: Some(metrics), exporter: Some(exporter), file: None })
    }

    /// Returns the sinks of metrics, and starts `metrics.jsonl` if the configuration wants it. Called once, on rank 0, when
    /// the run's folder exists. `first_step` is the first step that this attempt does.
    pub(super) fn sinks(&mut self, config: &RunConfig, first_step: u64) -> Vec<Rc<dyn MetricSink>> {
        if config.telemetry.metrics_file {
            match MetricsFile::start(Path::new(&config.run.folder), first_step) {
                Ok(file) => self.file = Some(Rc::new(file)),
                Err(error) => tracing::warn!("metrics.jsonl is not written: {error}"),
            }
        }
        let metrics = self.metrics.iter().map(|metrics| Rc::new(metrics.clone()) as Rc<dyn MetricSink>);
        metrics.chain(self.file.iter().map(|file| Rc::clone(file) as Rc<dyn MetricSink>)).collect()
    }

    /// Records that `step` is done.
    pub(super) fn step_done(&self, step: u64) {
        let Some(metrics) = &self.metrics else { return };
        metrics.step_done(step);
        if let Some(file) = &self.file {
            metrics.lost_lines(file.num_lost());
        }
    }

    /// Ends the endpoint and the files. Waits a moment for the disk. `sinks` are those that [`Self::sinks`] are part of.
    pub(super) fn finish(self, sinks: MetricSinks) {
        drop(sinks);
        if let Some(problem) = self.file.and_then(Rc::into_inner).and_then(|file| file.finish(PATIENCE)) {
            tracing::warn!("{problem}");
        }
        if let Some(exporter) = self.exporter {
            exporter.finish(PATIENCE);
        }
    }
}

fn warn(text: &str) {
    tracing::warn!("{text}");
}

/// Records the times of each rank.
pub(super) fn record_ranks(metrics: &MetricSinks, step: u64, ranks: &[RankMeans]) {
    for (rank, means) in ranks.iter().enumerate() {
        let seconds = &means.seconds;
        for (name, value) in
            [("step_seconds", seconds.step), ("data_wait_seconds", seconds.data), ("exchange_seconds", seconds.wait)]
        {
            metrics.record_of_rank(Metric::seconds(name, step, value), rank);
        }
    }
}
