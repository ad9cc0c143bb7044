//! The command line. Each command has its own file.

mod bench;
mod checkpoint;
mod cli;
mod config;
mod device;
mod flops;
mod plan;
mod ranks;
mod sample;
mod train;
mod version;

pub use cli::Cli;
