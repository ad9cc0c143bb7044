//! The black box: records a step that went wrong, so that it can be taken again.

mod capsule;
mod loss_watch;
mod number;
mod publish;
mod recorder;

pub use capsule::{BatchRecord, Capsule, CheckpointPlace, GradientRecord, RankRecord, Reason, SampleRecord, Start};
pub use number::Number;
pub(super) use recorder::BlackBox;
