//! The errors that stop a run, with their exit codes.

use admiral_checkpoint::Error as CheckpointError;
use admiral_comm::{CollectiveError, Ending, ExitCode, Failure};
use admiral_data::DataError;
use admiral_exposition::ExportError;

use crate::context::ContextError;
use crate::evaluate;
use crate::model::ParamError;
use crate::ops;
use crate::sample;

use super::difference::Difference;

/// An error that stops training or keeps it from starting.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration or an option asks for something that this run cannot do.
    #[error("{0}")]
    Refused(String),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Metrics cannot be served, or written for node_exporter.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The network does not fit the parameters that were loaded.
    #[error(transparent)]
    Model(#[from] ParamError),
    /// Checkpoints cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The run cannot be evaluated.
    #[error(transparent)]
    Evaluate(#[from] evaluate::Error),
    /// A bug in Admiral.
    #[error("this is a bug in Admiral: {0}")]
    Bug(String),
    /// The ranks cannot reach each other.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A libtorch operation failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// One of Admiral's own operations failed.
    #[error(transparent)]
    Operation(#[from] ops::Error),
    /// The run's folder or a file in it cannot be used.
    #[error("{path}: {source}; choose another `run.folder` or make this one writable")]
    Folder {
        /// The path of the folder or file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The states of the ranks differ.
    #[error("{0}")]
    Corrupted(Difference),
    /// Training diverged: gradients are not finite.
    #[error("{}", describe_divergence(*step, *lg_loss_scale, parameter.as_deref(), *sample))]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// The loss scale at which gradients still overflowed.
        lg_loss_scale: f64,
        /// The first parameter whose gradient is not finite; `None` if only the sum over ranks is not finite.
        parameter: Option<String>,
        /// The global index and timestep of a sample whose loss is not finite.
        sample: Option<(u64, i64)>,
    },
    /// The loss of a step exceeded its bound, and `training.on_loss_jump` is `stop`.
    #[error(
        "the loss jumped to {loss:.4} at step {step}, more than training.loss_jump_factor = {factor} times the median \
         {median:.4} of the steps before"
    )]
    LossJumped {
        /// The step, from 0.
        step: u64,
        /// The mean loss of the step.
        loss: f64,
        /// The median of the losses before.
        median: f64,
        /// The factor that the loss exceeded.
        factor: f64,
    },
}

impl From<ContextError> for TrainError {
    fn from(error: ContextError) -> Self {
        match error {
            ContextError::Device(message) => Self::Refused(message),
            ContextError::Operation(error) => Self::Operation(error),
            ContextError::Collective(error) => Self::Collective(error),
        }
    }
}

impl From<sample::Error> for TrainError {
    fn from(error: sample::Error) -> Self {
        use sample::Error as Sample;
        match error {
            Sample::Data(error) => Self::Data(error),
            Sample::Model(error) => Self::Model(error),
            Sample::Checkpoint(error) => Self::Checkpoint(error),
            Sample::Collective(error) => Self::Collective(error),
            Sample::Operation(error) => Self::Operation(error),
            // A grid of a run writes no file, and reads and writes no job.
            error @ (Sample::Refused(_) | Sample::Output(_) | Sample::File { .. }) => Self::Refused(error.to_string()),
            Sample::Bug(message) => Self::Bug(message),
        }
    }
}

impl From<admiral_storage::Error> for TrainError {
    fn from(error: admiral_storage::Error) -> Self {
        Self::Checkpoint(error.into())
    }
}

impl TrainError {
    /// Returns the exit code of the rank.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            // The file system may be back at the next start.
            Self::Data(error) if error.may_pass() => ExitCode::Store,
            Self::Data(DataError::Cancelled) => ExitCode::Preempted,
            Self::Refused(_) | Self::Data(_) | Self::Folder { .. } => ExitCode::Config,
            Self::Model(_) | Self::Export(_) => ExitCode::Config,
            Self::Checkpoint(error) => error.exit_code(),
            Self::Evaluate(error) => error.exit_code(),
            Self::Collective(_) | Self::Torch(_) | Self::Operation(_) | Self::Bug(_) => ExitCode::Bug,
            Self::Diverged { .. } | Self::LossJumped { .. } => ExitCode::Diverged,
            Self::Corrupted(_) => ExitCode::Corrupted,
        }
    }
}

impl TrainError {
    /// Returns how the ranks end a run that has started: together if all ranks have this error, else this rank alone.
    #[must_use]
    pub fn ending(self) -> Ending {
        let failure = Failure { code: self.exit_code(), message: self.to_string() };
        match self {
            Self::Checkpoint(CheckpointError::Collective { .. }) => Ending::Alone(failure),
            // A rank that is at fault ends the run, so that the launcher sees which one it is. The others wait for that.
            Self::Corrupted(difference) if difference.is_at_fault => Ending::Alone(failure),
            // All ranks have these errors: saves agree on their outcome, and the sums of gradients are equal on all
            // ranks.
            Self::Checkpoint(_) | Self::Diverged { .. } | Self::LossJumped { .. } | Self::Corrupted(_) => {
                Ending::Together(failure)
            }
            _ => Ending::Alone(failure),
        }
    }
}

fn describe_divergence(step: u64, lg: f64, parameter: Option<&str>, sample: Option<(u64, i64)>) -> String {
    let mut text = format!("training diverged at step {step}: gradients are not finite");
    if lg != 0.0 {
        text += &format!(", even at loss scale 2^{lg:.3}");
    }
    match parameter {
        Some(name) => text += &format!("; first bad gradient: {name}"),
        None => text += "; the gradients of every rank are finite, their sum is not",
    }
    if let Some((index, timestep)) = sample {
        text += &format!("; sample {index} at timestep {timestep} has a loss that is not finite");
    }
    text + ". The newest checkpoint is untouched: resume from it with a lower optimizer.learning_rate"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_names_step_scale_parameter_and_sample() {
        let text = describe_divergence(7, 3.0, Some("out.2.weight"), Some((91, 17)));
        for part in ["step 7", "2^3.000", "out.2.weight", "sample 91", "timestep 17"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
