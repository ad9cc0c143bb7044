//! A store for tests.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use admiral_storage::Store;
use object_store::memory::InMemory;
use object_store::path::Path;

/// A store in memory.
pub(crate) fn memory() -> Store {
    Store::from_backend(Arc::new(InMemory::new()), Path::from("some/prefix"), "memory://some/prefix").unwrap()
}
