//! Starts the ranks of a run under `mpirun`, diagnoses failures, and restarts the run.

pub mod agent;
mod channel;
pub mod cli;
pub mod console;
pub mod decide;
pub mod doctor;
pub mod drill;
pub mod environment;
pub mod facts;
mod file_writer;
pub mod files;
pub mod goodput;
pub mod hosts;
pub mod incident;
pub mod job;
pub mod layout;
pub mod mpirun;
pub mod paths;
pub mod protocol;
mod queued_writer;
mod random;
pub mod run;
mod session;
mod shell;
pub mod status;
pub mod supervise;
pub mod template;
