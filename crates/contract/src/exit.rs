//! The exit codes of a rank.

/// The reason why a rank exited, with the exit code as value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The run finished.
    Finished = 0,
    /// The configuration or the data is wrong; a restart cannot help.
    Config = 64,
    /// Training diverged: the loss scale reached its floor, or a value became NaN.
    Diverged = 65,
    /// The checkpoint store cannot be reached or written.
    Store = 69,
    /// A bug in Admiral.
    Bug = 70,
    /// This node is faulty: the GPU is lost, memory has errors, or the disk fails.
    Node = 74,
    /// A signal stopped the rank, and a checkpoint was written.
    Preempted = 75,
    /// The state of this rank differs from that of the others: memory was corrupted.
    Corrupted = 76,
}

impl ExitCode {
    /// All exit codes.
    pub const ALL: [Self; 8] = [
        Self::Finished,
        Self::Config,
        Self::Diverged,
        Self::Store,
        Self::Bug,
        Self::Node,
        Self::Preempted,
        Self::Corrupted,
    ];

    /// Returns the variant of an exit code, or `None` for a code that Admiral does not use.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&code| code as u8 == byte)
    }
}
