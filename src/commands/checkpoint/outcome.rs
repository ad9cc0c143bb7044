//! The outcome of a command that succeeded.

/// The outcome of a command that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The command is done.
    Done,
    /// The compared checkpoints differ.
    Different,
}
