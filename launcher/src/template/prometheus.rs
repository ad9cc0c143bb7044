//! The configuration of Prometheus, and its alert rules.

use std::net::SocketAddr;

use super::input::TemplateInput;
use super::text::{fill, title};

/// Returns the configuration that scrapes the run and its launcher.
pub fn render_config(input: &TemplateInput) -> String {
    let monitoring = &input.monitoring;
    let jobs = [("admiral", monitoring.run), ("admiral-launch", monitoring.launcher)];
    let job = |(name, address): (&str, Option<SocketAddr>)| {
        let target = reachable(address?);
        Some(format!("  - job_name: {name}\n    static_configs:\n      - targets: [\"{target}\"]"))
    };
    fill(
        include_str!("prometheus.yml"),
        &[
            ("title", &title(&input.name)),
            ("scrape", &monitoring.scrape_seconds.to_string()),
            ("jobs", &jobs.into_iter().filter_map(job).collect::<Vec<_>>().join("\n")),
        ],
    )
}

/// Returns the alert rules.
pub fn render_rules(input: &TemplateInput) -> String {
    let monitoring = &input.monitoring;
    fill(
        include_str!("prometheus-rules.yml"),
        &[
            ("title", &title(&input.name)),
            ("stall", &monitoring.stall_seconds.to_string()),
            ("for", &monitoring.for_seconds.to_string()),
            // Prometheus fills these.
            ("run", "{{ $labels.run }}"),
            ("job", "{{ $labels.job }}"),
            ("instance", "{{ $labels.instance }}"),
            ("value", "{{ $value | humanize }}"),
        ],
    )
}

/// Returns an address at which this machine reaches a program that listens at `address`.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}
