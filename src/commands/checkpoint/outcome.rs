//! How a command ended that had no error.

/// How a command ended that had no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as it should be.
    Done,
    /// Two things that were compared differ.
    Different,
}
