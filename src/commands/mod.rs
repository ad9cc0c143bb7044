//! The command line. Each command has its own file.

mod bench;
mod checkpoint;
mod cli;
mod compute;
mod config;
mod data;
mod device;
mod encode;
mod evaluate;
mod flops;
mod given_images;
mod hardware;
mod interpolate;
mod model_options;
mod new;
mod nll;
mod plan;
mod planned;
mod ranks;
mod replay;
mod sample;
mod source_kind;
mod text;
mod train;
mod version;

pub use cli::Cli;
