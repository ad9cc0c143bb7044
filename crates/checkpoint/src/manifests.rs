//! Helpers for manifests and messages about them.

use admiral_checkpoints_schema::{FileRecord, Manifest, TensorRecord};
use admiral_storage::Store;
use serde::Serialize;

use crate::error::Error;

/// The number of problems that a message lists.
const PROBLEMS_LISTED: usize = 4;

/// Shortens a list of problems to the first few and the number of the others.
pub(crate) fn shortened(mut problems: Vec<String>) -> Vec<String> {
    if problems.len() > PROBLEMS_LISTED {
        let more = problems.len() - PROBLEMS_LISTED;
        problems.truncate(PROBLEMS_LISTED);
        problems.push(format!("and {more} more"));
    }
    problems
}

/// Encodes `value`, which is to be written to `path`, as JSON.
///
/// # Errors
/// [`Error::Schema`] if it has no JSON form.
pub(crate) fn json<T: Serialize>(store: &Store, path: &str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Schema { url: store.url(path), reason: error.to_string() })
}

/// Returns the tensors that the manifest lists for a file.
pub(crate) fn tensors_of<'a>(manifest: &'a Manifest, file: &'a FileRecord) -> impl Iterator<Item = &'a TensorRecord> {
    manifest.tensors.iter().filter(|tensor| tensor.file == file.path)
}
