//! What a run tells its user while it goes on: event files for TensorBoard, a progress line, log lines.
//!
//! Nothing here may stop or slow training: failures are logged once, counted, and otherwise ignored.

mod config;
mod grid;
mod logging;
mod metrics;
mod progress;
mod scalars;
mod tensorboard;
mod terminal;

pub use config::TelemetryConfig;
pub use grid::{Grid, GridError, write_file};
pub use logging::{LogFormat, LoggingError, init_logging};
pub use metrics::{Metric, MetricKind, MetricSink, MetricSinks};
pub use progress::ProgressLine;
pub use scalars::{Detail, ScalarId, ScalarSums};
pub use tensorboard::TensorBoard;
pub use terminal::Terminal;
