//! One object store under everything that a run keeps: a folder, or a prefix in an S3 bucket.
//!
//! [`Store`] has the operations: small files written at once, uploads in parts, ranges of bytes read, listings. Each of
//! them has a timeout and is retried while that may help. [`MultipartUploads`] finds the uploads that writers left behind
//! when they died. [`InjectedFaults`] let tests crash the process, or cut the store off, at any operation.

mod error;
mod fault_injection;
mod location;
mod multipart;
mod options;
mod ranges;
mod retry;
mod store;
mod upload;

pub use error::Error;
pub use fault_injection::InjectedFaults;
pub use location::Location;
pub use multipart::{MultipartUploads, UnfinishedUpload};
pub use options::{S3Settings, StoreOptions};
pub use store::Store;
pub use upload::{ABORT_GRACE, Cancelled, is_abort_overdue, never, upload};
