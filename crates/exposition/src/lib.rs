//! Metrics for Prometheus and programs like it: a [`Table`] of metrics, its text formats ([`encode`]), an HTTP endpoint
//! and a file for node_exporter ([`Exporter`]).
//!
//! The endpoint and the file are served by threads of their own, which read the metrics from a [`Source`]. Nothing here
//! stops or slows the program that has the metrics: the first failure is reported, and all are counted.

mod accept;
mod encode;
mod exporter;
mod failures;
mod server;
mod source;
mod table;
mod textfile;

pub use encode::{Format, encode};
pub use exporter::{ExportError, ExportSettings, Exporter, WhenBusy};
pub use failures::{Failures, Warn};
pub use source::{Health, Source};
pub use table::{Family, Kind, Table, Unit, metric_name};
