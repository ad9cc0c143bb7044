//! Estimates of a training run before it starts: the memory of a GPU by part, the time of a step, the communication
//! between GPUs, the days of the run and the size of its checkpoints.
//!
//! This package computes with plain numbers and knows no network and no device. `docs/plan.md` explains the model and
//! the sources of its numbers.

mod all_reduce;
mod deviation;
mod hardware;
mod memory;
mod paper;
mod print;
mod report;
mod step;

pub use admiral_contract::BatchDivision;
pub use all_reduce::{Algorithm, AllReduce};
pub use deviation::{MEASURED_STEPS, how_far_off};
pub use hardware::{GPUS_PER_NODE, GpuKind, Hardware, Link, UnknownGpu};
pub use memory::{LayerMemory, Memory, MemoryParts, Norms, Weights};
pub use paper::{PaperError, PaperRow, TABLE_7, row_for};
pub use print::text;
pub use report::{
    CheckpointStorage, DataRate, MemoryVariant, PlanError, Report, Request, RunTime, Scaling, Shortage, Speed, World,
    plan,
};
pub use step::{Rate, StepTime, Work, microbatch_option, step_time};
