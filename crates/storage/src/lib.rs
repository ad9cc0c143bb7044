//! One object store for everything that a run reads and writes: a folder, or a prefix in a bucket of
//! S3, Google Cloud Storage or Azure Blob Storage.
//!
//! [`Store`] has the operations: write small files, upload large ones in parts, read ranges of bytes, list files. Each
//! operation has a timeout and is retried if that may help. The store can abort the multipart uploads that crashed writers
//! left behind. [`InjectedFaults`] let tests crash the process or cut off the store at any operation.

// The files that its own tests share with those of other packages name this one.
#[cfg(test)]
extern crate self as admiral_storage;

mod classify;
mod connect;
mod error;
mod fault_injection;
mod folder;
mod hash;
mod location;
mod multipart;
mod operations;
mod options;
mod ranges;
mod retry;
mod settings;
mod store;
#[cfg(test)]
mod testing;
mod tls;
mod upload;

pub use error::Error;
pub use fault_injection::InjectedFaults;
pub use hash::hex;
pub use location::Location;
pub use operations::{MAX_SMALL_FILE, PROBE};
pub use options::StoreOptions;
pub use ranges::Entry;
pub use settings::CloudSettings;
pub use store::Store;
pub use tls::choose_cryptography;
pub use upload::{ABORT_GRACE, Cancelled, is_abort_overdue, never, upload, upload_stream};
