//! What to think of a group of ranks, and what to do about it. Everything here is pure: the time and the state of the
//! world are passed in, nothing is read and nothing is done.
//!
//! - [`verdict`]: from the ledgers of all ranks, who holds the group up.
//! - [`slow`]: who does not stand still but takes longer than the others.
//! - [`group`]: the life of a group, from its start until nothing of it is left.
//! - [`heal`]: after an incident, whether and where to start again.

mod admit;
mod cause;
mod end;
pub mod group;
pub mod heal;
mod sentence;
pub mod slow;
mod unreachable;
pub mod verdict;
mod view;

pub use admit::{Admitted, Demand, Examined, admit};
pub use cause::{Cause, Incident, code_of};
pub use end::{End, signal_name};
pub use group::{Event, Group, GroupOptions, Outcome, Output};
pub use heal::{Action, Situation, decide, next_resume};
pub use slow::{SlowRank, SlowStreaks, slow_ranks};
pub use unreachable::blame_unreachable;
pub use verdict::{Verdict, verdict};
pub use view::RankView;
