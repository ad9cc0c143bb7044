//! What a training run will cost, before it starts: memory of a GPU by part, the time of a step, the communication
//! between GPUs, days and bytes. Arithmetic over plain numbers: nothing here knows a network or a device.
//! `docs/plan.md` states the model and where its numbers come from.

mod all_reduce;
mod hardware;
mod memory;
mod off;
mod paper;
mod print;
mod report;
mod step;

pub use admiral_contract::BatchDivision;
pub use all_reduce::{Algorithm, AllReduce};
pub use hardware::{GPUS_PER_NODE, GpuKind, Hardware, Link, UnknownGpu};
pub use memory::{LayerMemory, Memory, Norms, Parts, Weights};
pub use off::{MEASURED_STEPS, how_far_off};
pub use paper::{PaperError, Row, TABLE_7, row_for};
pub use print::text;
pub use report::{Days, Duties, PlanError, Report, Request, Scaling, Shortage, Speed, Storage, Variant, World, plan};
pub use step::{Rate, StepTime, Work, step_time};
