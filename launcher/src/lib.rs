//! Starts the ranks of a run under `mpirun`, says what is wrong, and brings the run back.

pub mod attend;
pub mod console;
pub mod facts;
pub mod files;
pub mod incident;
pub mod protocol;
pub mod status;
pub mod supervise;
