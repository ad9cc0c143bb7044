//! Something doubtful, with its remedy.

use serde::Serialize;

/// Something doubtful in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// The field, from the top of the file.
    pub field: String,
    /// What is doubtful, and why.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Doubt {
    /// Returns a doubt about `field`.
    pub fn new(field: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Doubt {
    /// Writes `field: reason; remedy`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}; {}", self.field, self.reason, self.remedy)
    }
}
