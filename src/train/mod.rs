//! Training: the step, mixed precision, schedules, saving and resuming, and the training loop.

mod accounting;
mod begin;
mod class_dropout;
mod curves;
mod drawing;
mod error;
mod evaluation;
mod evaluation_records;
mod flat;
mod grid;
mod loss_scale;
mod objective;
mod plan_check;
mod quarantine;
mod rank_times;
mod run;
mod run_state;
mod same_images;
mod saving;
mod schedule;
mod session;
mod state;
mod step;
mod validation;

pub use begin::Resume;
pub use error::TrainError;
pub use flat::{FlatMemory, Segment};
pub use loss_scale::LossScale;
pub use objective::{Microbatch, Objective};
pub use run::{Finish, run};
pub use run_state::RunState;
pub use same_images::images_record;
pub use saving::sum_reports;
pub use session::{OpenedSession, Session};
pub use state::{copy_share, parameters, read_roles, restore, roles};
pub use step::{Counters, GradientSums, SampleTerms, StepReport, StepTimes, Trainer};
