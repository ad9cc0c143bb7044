//! Something that was found.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The run would fail.
    Bad,
    /// The run may fail, or be slow.
    Warning,
    /// Good to know.
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// On which hosts, in their order; none: it is not about hosts.
    pub hosts: Vec<String>,
    /// How bad.
    pub severity: Severity,
    /// What is so, without the hosts' names at its beginning.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// About one host.
    pub fn of(host: &str, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::among(vec![host.to_owned()], severity, what, remedy)
    }

    /// About several hosts, or none.
    pub fn among(hosts: Vec<String>, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { hosts, severity, what: what.into(), remedy: remedy.into() }
    }
}

/// `node1`, or `node1 and 2 more`: in the middle of a sentence.
pub(super) fn some_of(hosts: &[String]) -> String {
    match hosts {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
