//! Where the endpoint and the file get what they serve.

use std::fmt::Debug;

use serde_json::Value;

use crate::table::Table;

/// Whether a program does its work, for `/health`.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Whether it does.
    pub is_healthy: bool,
    /// What it does, as a JSON object.
    pub details: Value,
}

/// The metrics of a program. Other threads than the program's own read them, so the methods must return soon.
pub trait Source: Debug + Send + Sync {
    /// Returns the metrics as they are now.
    fn table(&self) -> Table;

    /// Returns whether the program does its work now.
    fn health(&self) -> Health;
}
