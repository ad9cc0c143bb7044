//! The hosts of a run and their slots, from a hostfile, from `--hosts`, or from the cluster's scheduler. Without any of
//! these the run uses this machine alone.

mod error;
mod here;
mod host;
mod hostfile;
mod list;
mod nodelist;
mod option;
mod resolve;
mod scheduler;

pub use error::HostError;
pub use here::is_this_host;
pub use host::{DEFAULT_SLOTS, Host, LOCALHOST, MAX_SLOTS_PER_HOST, is_host_name};
pub use list::{HostList, Source};
pub use nodelist::expand;
pub use resolve::{HostRequest, resolve};
