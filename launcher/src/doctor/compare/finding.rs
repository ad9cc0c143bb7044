//! The findings of the doctor.

use serde::{Deserialize, Serialize};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The run would fail.
    Bad,
    /// The run may fail, or be slow.
    Warning,
    /// Information.
    Note,
}

/// A problem or remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The hosts, in their order; empty if it does not concern hosts.
    pub hosts: Vec<String>,
    /// The severity.
    pub severity: Severity,
    /// The problem, as the rest of a sentence that begins with the hosts' names.
    pub what: String,
    /// The remedy.
    pub remedy: String,
}

impl Finding {
    /// Creates a finding on one host.
    pub fn of(host: &str, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::among(vec![host.to_owned()], severity, what, remedy)
    }

    /// Creates a finding on several hosts, or on none.
    pub fn among(hosts: Vec<String>, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { hosts, severity, what: what.into(), remedy: remedy.into() }
    }
}

/// Returns `node1`, `node1 and node2`, or `node1 and 2 more`.
pub(super) fn abbreviated(hosts: &[String]) -> String {
    match hosts {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
