//! `admiral checkpoint probe`: whether checkpoints can be written to a place from this host.

use std::time::Duration;

use admiral_checkpoint::probe_from_one_process;
use admiral_contract::host::host_name;
use admiral_storage::{Location, S3Settings, Store, StoreOptions};
use clap::Args;
use serde_json::json;

use super::error::ToolError;
use super::print::{print, print_json};

/// Shorter than a run's own: somebody waits for the answer.
const REQUEST: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// What is tried.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// A place for checkpoints: a path or an s3:// URL. A folder that is not there is made
    place: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &ProbeOptions, s3: &S3Settings) -> Result<(), ToolError> {
    let location = Location::parse(&options.place)?;
    let store_options =
        StoreOptions { request_timeout: REQUEST, patience: PATIENCE, s3: s3.clone(), ..StoreOptions::default() };
    let store = Store::create(&location, &store_options)?;
    let host = host_name();
    let mut number = [0; 4];
    getrandom::fill(&mut number).map_err(std::io::Error::from)?;
    let seconds = probe_from_one_process(&store, &host, u32::from_le_bytes(number))?.as_secs_f64();
    let url = store.url("");
    if options.json {
        return print_json(&json!({"url": url, "host": host, "seconds": seconds}));
    }
    print(&format!("{url} can be written from {host}: written, listed, read and deleted in {seconds:.2} s\n"))
}
