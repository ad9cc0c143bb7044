//! Training: the step, precision, the optimizer, and the loop.

mod batches;
mod config;
mod error;
mod flat;
mod loss_scale;
mod objective;
mod schedule;
mod step;

pub use batches::{BatchPlan, worlds};
pub use config::{
    ClassifierConfig, DeviceChoice, OptimizerConfig, PrecisionConfig, PrecisionMode, RunSection, TrainingConfig,
};
pub use error::TrainError;
pub use flat::FlatMemory;
pub use loss_scale::LossScale;
pub use objective::{Microbatch, Objective};
pub use step::{SampleTerms, StepReport, StepTimes, Trainer};
