//! Small helpers around manifests.

use admiral_checkpoints_schema::{FileRecord, Manifest, TensorRecord};
use admiral_storage::Store;
use serde::Serialize;

use crate::error::Error;

/// Differences that a message lists before it says "and more".
const PROBLEMS_LISTED: usize = 4;

/// The first few of a list of differences.
pub(crate) fn shortened(mut problems: Vec<String>) -> Vec<String> {
    if problems.len() > PROBLEMS_LISTED {
        let more = problems.len() - PROBLEMS_LISTED;
        problems.truncate(PROBLEMS_LISTED);
        problems.push(format!("and {more} more"));
    }
    problems
}

pub(crate) fn json<T: Serialize>(store: &Store, path: &str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Schema { url: store.url(path), reason: error.to_string() })
}

/// The tensors of a file, by the manifest.
pub(crate) fn tensors_of<'a>(manifest: &'a Manifest, file: &'a FileRecord) -> impl Iterator<Item = &'a TensorRecord> {
    manifest.tensors.iter().filter(|tensor| tensor.file == file.path)
}
