//! The machinery of configuration: read YAML, apply overrides, find the line of a mistake, print.
//!
//! This is the lowest layer: it knows no component. Each component owns its section as a struct in its own
//! folder; [`crate::train::RunConfig`] puts the sections together.

/// A value that cannot work, found by a section's `validate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as a path from the top of the file: `model.num_heads`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Invalid {
    /// A mistake in `field`, a path from the top of the file.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}
