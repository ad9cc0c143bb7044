//! The end of a rank: its last message and its exit code.

use std::fmt::Display;

use admiral_contract::{ExitCode, print_error};

use crate::collective::Collective;
use crate::error::CollectiveError;

/// Why a run cannot continue, for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code of the process.
    pub code: ExitCode,
    /// The cause, its location, and the remedy.
    pub message: String,
}

/// How a run that cannot continue ends on this rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every rank knows of the failure. They end together, and rank 0 prints the message.
    Together(Failure),
    /// Only this rank knows of the failure. It prints the message and aborts the others.
    Alone(Failure),
}

impl Ending {
    /// The ending of a rank whose failure the others do not know of, for example in the middle of a step.
    pub fn alone(code: ExitCode, message: &impl Display) -> Self {
        Self::Alone(Failure { code, message: message.to_string() })
    }

    /// Returns the message and the exit code.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Together(failure) | Self::Alone(failure) => failure,
        }
    }

    /// Prints the message on standard error and disconnects from the other ranks. Returns the exit code of the process.
    /// With [`Ending::Alone`] and more than one rank it aborts all ranks and does not return.
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
    /// A rank that cannot reach the others ends alone.
    fn from(error: CollectiveError) -> Self {
        Self::alone(ExitCode::Bug, &error)
    }
}
