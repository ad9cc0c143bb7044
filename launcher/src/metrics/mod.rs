//! The launcher's metrics for Prometheus: what it knows of the run, and the accounts of the run's time.

mod accounts;
mod families;
mod launch_metrics;

pub(crate) use accounts::Accounts;
pub(crate) use launch_metrics::LaunchMetrics;
