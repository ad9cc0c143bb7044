//! The exit codes of a rank.

/// Why a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The run finished.
    Finished = 0,
    /// The configuration or the data is wrong: starting again cannot help.
    Config = 64,
    /// Training diverged: the loss scale reached its floor, or a value became NaN.
    Diverged = 65,
    /// The store cannot be reached or written.
    Store = 69,
    /// A bug in Admiral.
    Bug = 70,
    /// This node is bad: the GPU is lost, memory has errors, the disk fails.
    Node = 74,
    /// Stopped by a signal, with a checkpoint written.
    Preempted = 75,
}

impl ExitCode {
    /// Every code.
    pub const ALL: [Self; 7] =
        [Self::Finished, Self::Config, Self::Diverged, Self::Store, Self::Bug, Self::Node, Self::Preempted];

    /// The code that a process exited with, if it is one of these.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&code| code as u8 == byte)
    }
}
