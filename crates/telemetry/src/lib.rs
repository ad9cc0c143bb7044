//! The output of a run for its user: event files for TensorBoard, the progress line, `metrics.jsonl`, metrics
//! for Prometheus, and log lines.
//!
//! Nothing here stops or slows training. The first failure is logged, and all failures are counted.

mod config;
mod families;
mod grid;
mod logging;
mod metrics;
mod metrics_file;
mod progress;
mod run_metrics;
mod scalars;
mod tensorboard;
mod terminal;
mod write_file;

pub use config::TelemetryConfig;
pub use grid::{Grid, GridError};
pub use logging::{LogFormat, LogSettings, LoggingError, init_logging};
pub use metrics::{Metric, MetricKind, MetricSink, MetricSinks};
pub use metrics_file::MetricsFile;
pub use progress::ProgressLine;
pub use run_metrics::RunMetrics;
pub use scalars::{Detail, ScalarId, ScalarSums};
pub use tensorboard::{
    BoardEntry, ChartGroup, Hyperparameter, ImagePlace, LeftOut, TensorBoard, read_entries, read_image,
};
pub use terminal::Terminal;
pub use write_file::{check_write, write_file};
