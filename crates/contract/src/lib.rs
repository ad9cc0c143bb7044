//! What a rank of Admiral and the launcher agree on, free of libtorch: how a rank ends ([`ExitCode`]), where it stands
//! ([`ledger`]), what it finds in its environment ([`environment`]), and the configuration's section `launch`
//! ([`LaunchConfig`]).

mod config;
pub mod environment;
mod exit;
pub mod ledger;
mod reading;

pub use config::{LaunchConfig, Timeouts};
pub use exit::ExitCode;
pub use ledger::Ledger;
pub use reading::{Phase, Reading};
