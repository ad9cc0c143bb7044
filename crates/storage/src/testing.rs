//! Stores for tests.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;

use crate::options::{StoreOptions, client_retries, with_timeouts};
use crate::store::Store;

#[allow(unreachable_pub)]
#[path = "../../../tests/support/s3.rs"]
pub(crate) mod s3;

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
