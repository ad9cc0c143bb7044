//! A value with the reason for it.

/// A proposed value with the reason for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<T> {
    /// The value.
    pub value: T,
    /// The reason, a short phrase for the comment beside the value.
    pub reason: String,
}

impl<T> Choice<T> {
    /// Returns a value with the reason for it.
    pub fn new(value: T, reason: impl Into<String>) -> Self {
        Self { value, reason: reason.into() }
    }
}
