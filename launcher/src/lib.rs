//! Starts the ranks of a run under `mpirun`, says what is wrong, and brings the run back.

pub mod attend;
pub mod protocol;
pub mod supervise;
