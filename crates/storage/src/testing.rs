//! Stores for tests.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;

use crate::connect::with_timeouts;
use crate::location::Location;
use crate::options::{StoreOptions, client_retries};
use crate::settings::CloudSettings;
use crate::store::Store;

#[allow(unreachable_pub)]
#[path = "../../../tests/support/s3.rs"]
pub(crate) mod s3;

#[allow(unreachable_pub)]
#[path = "../../../tests/support/clouds.rs"]
pub(crate) mod clouds;

/// A store in memory.
pub(crate) fn memory() -> Store {
    Store::from_backend(Arc::new(InMemory::new()), Path::from("some/prefix"), "memory://some/prefix").unwrap()
}

/// A store on the S3 server that listens at `port`.
pub(crate) fn on_s3(port: u16, options: StoreOptions) -> Store {
    let builder = with_timeouts(s3::builder(port), &options).with_retry(client_retries(&options));
    let store =
        Store::from_backend(Arc::new(builder.build().unwrap()), Path::from("some/prefix"), "s3://bucket/some/prefix");
    store.unwrap().with_options(options)
}

/// A store at `url` with settings from these variables.
pub(crate) fn with_vars(url: &str, vars: Vec<(String, String)>) -> Store {
    let options = StoreOptions { clouds: CloudSettings::from_vars(vars), ..StoreOptions::default() };
    Store::create(&Location::parse(url).unwrap(), &options).unwrap()
}
