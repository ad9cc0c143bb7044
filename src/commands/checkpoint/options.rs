//! The options of the stores that commands open.

use admiral_storage::{S3Settings, StoreOptions};

/// Returns the default options with these settings of S3.
pub(super) fn options_of(s3: &S3Settings) -> StoreOptions {
    StoreOptions { s3: s3.clone(), ..StoreOptions::default() }
}
