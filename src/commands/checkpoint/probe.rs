//! `admiral checkpoint probe`: checks whether this host can write checkpoints to a store.

use std::time::Duration;

use admiral_checkpoint::probe_from_one_process;
use admiral_contract::host::host_name;
use admiral_storage::{CloudSettings, Location, Store, StoreOptions};
use clap::Args;
use serde_json::json;

use super::error::ToolError;
use super::print::{print, print_json};

/// The timeouts are shorter than those of a run, because a user waits for the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// The options of `admiral checkpoint probe`.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// A folder for checkpoints: a path or a bucket's URL; a missing folder is created
    #[arg(value_name = "PLACE")]
    location: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &ProbeOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let location = Location::parse(&options.location)?;
    let store_options = StoreOptions {
        request_timeout: REQUEST_TIMEOUT,
        patience: PATIENCE,
        clouds: clouds.clone(),
        ..StoreOptions::default()
    };
    let store = Store::create(&location, &store_options)?;
    let host = host_name();
    let seconds = probe_from_one_process(&store)?.as_secs_f64();
    let url = store.url("");
    if options.json {
        return print_json(&json!({"url": url, "host": host, "seconds": seconds}));
    }
    print(&format!("{url} can be written from {host}: written, listed, read and deleted in {seconds:.2} s\n"))
}
