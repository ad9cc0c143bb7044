//! The program `admiral`.

use std::process::ExitCode;

use admiral::commands::Cli;
use admiral::environment::Environment;
use admiral::host_memory;
use clap::Parser;

fn main() -> ExitCode {
    // SAFETY: nothing has run yet, so there is no other thread and no tensor.
    unsafe { host_memory::keep() };
    let cli = Cli::parse();
    cli.run(&Environment::read())
}
