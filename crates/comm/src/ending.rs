//! The end of a rank: its last message and its exit code.

use std::fmt::Display;
use std::io::Write;

use admiral_contract::ExitCode;

use crate::collective::Collective;
use crate::error::CollectiveError;

/// Prints why a command failed on standard error. It writes one line in one call, so that the messages of several ranks
/// do not mix, and ignores a closed standard error.
pub fn print_error(message: &impl Display) {
    let _ = std::io::stderr().write_all(format!("error: {message}\n").as_bytes());
}

/// Why a run cannot go on, in words for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the process exits with.
    pub code: ExitCode,
    /// What was wrong, where, and what to do.
    pub message: String,
}

/// How a run that cannot go on ends on this rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every rank has this ending: they leave together, and rank 0 speaks for all.
    Together(Failure),
    /// Only this rank knows: it speaks, and takes the others down.
    Alone(Failure),
}

impl Ending {
    /// The ending of a rank that fails where the others cannot know, in the middle of a step for example.
    pub fn alone(code: ExitCode, message: &impl Display) -> Self {
        Self::Alone(Failure { code, message: message.to_string() })
    }

    /// Why, and with which exit code.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Together(failure) | Self::Alone(failure) => failure,
        }
    }

    /// Says why on standard error and leaves the ranks. Returns what the process must exit with; a rank that ends
    /// alone does not return, and takes all others down at once.
    #[must_use]
    pub fn leave(self, collective: Box<dyn Collective>) -> ExitCode {
        let (rank, world_size) = (collective.rank(), collective.world_size());
        match self {
            Self::Together(failure) => {
                if rank == 0 {
                    print_error(&failure.message);
                }
                // Finalizes MPI, which blocks until all ranks arrive.
                drop(collective);
                failure.code
            }
            Self::Alone(failure) if world_size == 1 => {
                print_error(&failure.message);
                failure.code
            }
            Self::Alone(failure) => {
                print_error(&format!("rank {rank} of {world_size}: {}", failure.message));
                collective.abort(failure.code)
            }
        }
    }
}

impl From<CollectiveError> for Ending {
    /// A rank that cannot reach the others is alone.
    fn from(error: CollectiveError) -> Self {
        Self::alone(ExitCode::Bug, &error)
    }
}

