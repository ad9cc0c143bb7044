//! The contract between a rank of Admiral and its launcher: exit codes ([`ExitCode`]), the progress ledger
//! ([`ledger`]), environment variables ([`environment`]), the identity of hosts and processes ([`host`]), files at
//! fixed names ([`files`]), folders in a run's folder ([`run_folder`]), files of lines ([`LineFile`]), addresses of
//! metrics ([`listen_address`]), standard error ([`StandardError`], [`print_error`]), what is secret ([`secret`]), ignored signals
//! ([`signals`]), the division of a batch over ranks ([`BatchDivision`]), and the section `launch` of the configuration
//! ([`LaunchConfig`]).

mod batch;
mod config;
pub mod environment;
mod exit;
pub mod files;
pub mod host;
pub mod ledger;
mod line_file;
mod listen;
mod notify;
mod printable;
mod reading;
pub mod run_folder;
pub mod secret;
mod shared_text;
pub mod signals;
mod standard_error;

pub use batch::{BatchDivision, Indivisible, largest_world_size, world_sizes};
pub use config::{LaunchConfig, Timeouts};
pub use exit::ExitCode;
pub use ledger::Ledger;
pub use line_file::{Existing, LineFile};
pub use listen::{LISTEN_ADDRESS, TEXTFILE_NAME, listen_address};
pub use notify::Notify;
pub use printable::{controls_terminal, printable, printable_json};
pub use reading::{Phase, Reading};
pub use standard_error::{StandardError, print_error};
