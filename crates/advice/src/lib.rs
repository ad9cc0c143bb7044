//! Advice on the configuration of a run: a proposal for given images, and doubts about a given configuration.
//!
//! [`find_classes`] and [`survey`] look at the images. Everything else is a pure function of numbers: [`propose_size`],
//! [`nearest_column`], [`choose_network`] and [`schedule`] make a proposal, which a [`Document`] writes as YAML with a
//! reason beside each choice; [`doubts`] compares a configuration with its images, its plan and the paper. Both sides
//! take their bounds from [`limits`], so that a proposal raises no doubts, except those that its images raise.
//!
//! This package knows no network. Its callers count parameters and plan memory.

mod check;
mod choice;
mod classes;
mod column;
mod document;
pub mod limits;
mod network;
mod schedule;
mod size;
mod survey;

pub use check::{Doubt, EmaFacts, Evaluation, LearningRate, Planned, RunFacts, doubts};
pub use choice::Choice;
pub use classes::{Found, find_classes};
pub use column::{Column, nearest_column};
pub use document::Document;
pub use network::{Candidate, ChosenNetwork, NoNetwork, choose_network, largest_microbatch};
pub use schedule::{Ranks, Schedule, save_interval, schedule};
pub use size::propose_size;
pub use survey::{Pictures, survey};
