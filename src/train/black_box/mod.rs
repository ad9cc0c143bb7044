//! The black box: records a step that went wrong, so that it can be taken again.

mod capsule;
mod loss_watch;
mod number;
mod publish;
mod recorder;

pub use capsule::{Capsule, RankRecord, Reason};
pub use number::Number;
pub(super) use recorder::BlackBox;
