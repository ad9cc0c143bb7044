//! Training: the step, precision, the optimizer, and the loop.

mod batches;
mod begin;
pub mod bench;
pub mod bench_allreduce;
pub mod bench_checkpoint;
pub mod bench_loader;
pub mod bench_ops;
mod config;
mod curves;
mod error;
mod facts;
mod flat;
mod grid;
mod loss_scale;
mod objective;
pub mod plan;
mod plan_check;
mod rank_times;
mod run;
mod run_config;
pub mod samples;
mod saving;
mod schedule;
mod session;
mod state;
mod step;
mod stop;
mod validation;

pub use batches::{BatchPlan, worlds};
pub use begin::Resume;
pub use config::{
    ClassifierConfig, DeviceChoice, FusedKernels, OptimizerConfig, PrecisionConfig, PrecisionMode, RunSection,
    TrainingConfig,
};
pub use error::TrainError;
pub use facts::Facts;
pub use flat::FlatMemory;
pub use loss_scale::LossScale;
pub use objective::{Microbatch, Objective};
pub use run::{Finish, run};
pub use run_config::{RunConfig, group_digits};
pub use session::Session;
pub use state::{parameters, params_from_named, restore, roles};
pub use step::{SampleTerms, StepReport, StepTimes, Trainer};
pub use stop::Stop;
