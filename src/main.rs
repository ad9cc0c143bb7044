//! The program `admiral`.

use std::process::ExitCode;
use std::time::Duration;

use admiral::commands::Cli;
use admiral::environment::Environment;
use admiral::host_memory;
use clap::Parser;

/// The time in which the first rank tells a wrong command line. The others wait for it, because MPI ends all ranks when one
/// has ended, perhaps before the first one has started.
const FIRST_RANK_TIME: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // SAFETY: nothing has run yet, so there is no other thread and no tensor.
    unsafe { host_memory::keep() };
    match Cli::try_parse() {
        Ok(cli) => cli.run(&Environment::read()),
        Err(error) => {
            if error.use_stderr() && !Environment::read().is_first_rank() {
                std::thread::sleep(FIRST_RANK_TIME);
            }
            error.exit()
        }
    }
}
