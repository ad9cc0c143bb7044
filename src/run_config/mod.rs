//! The configuration of a run: the sections of all components, and values that are derived from them.

mod config;
mod evaluation;
mod facts;
mod plan_request;
mod sampling;
mod sections;

pub use config::{RunConfig, group_digits};
pub use evaluation::EvaluationConfig;
pub use facts::Facts;
pub use plan_request::plan_request;
pub use sampling::SamplingConfig;
pub use sections::{
    ClassifierConfig, DeviceChoice, FusedKernels, MAX_THREADS, OnLossJump, OnNan, OptimizerConfig, PrecisionConfig,
    PrecisionMode, RunSection, TrainingConfig,
};
