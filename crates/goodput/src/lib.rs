//! Accounts for each second of a run, over all its attempts and launches.
//!
//! Rank 0 and the launcher append [`Event`]s to files in the run's folder ([`Journal`]). [`Ledger::of`] reads the events of
//! all files and divides the time from the first to the last of them into spans without gaps or overlaps, each of which
//! belongs to one [`Account`]. It is a function of the events, so the ledger can be rebuilt at any time.

mod account;
mod checkpoint_interval;
mod event;
mod journal;
mod ledger;
mod table;

pub use account::{Account, Seconds};
pub use checkpoint_interval::{CheckpointInterval, checkpoint_interval};
pub use event::{Event, EventKind, IntervalSeconds, Stage};
pub use journal::{Journal, read_events, seconds_since_epoch};
pub use ledger::{Ledger, Span};
pub use table::{Day, Ratios, Shares, Table};
