//! Judging a group of ranks, and deciding what to do. Everything here is pure: time and state are passed in, nothing is
//! read, and nothing is done.
//!
//! - [`mod@verdict`]: names the rank that the others wait for, from the ledgers of all ranks.
//! - [`slow`]: which ranks make progress but take longer than the others.
//! - [`group`]: the life of a group, from its start until nothing of it is left.
//! - [`heal`]: whether and where to restart after an incident.

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
