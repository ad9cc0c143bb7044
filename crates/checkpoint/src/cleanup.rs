//! Cleans up what crashed writers leave behind: unfinished multipart uploads, whose parts a bucket keeps and bills without
//! listing them, and the staging files of a folder.
//!
//! Only files with the names of checkpoint files are removed, because the bucket or folder may hold other files too. Only
//! the run that holds the lease may do it, because the files of a running writer look the same.

use admiral_storage::{Location, Store};

use crate::error::Error;
use crate::layout::{is_checkpoint_file, is_probe};
use crate::staging_files::remove_staging_files;

/// Removes the unfinished files of earlier runs in a store whose lease this run holds. Failures are only logged.
pub(crate) fn clean_up(store: &Store) {
    match store.wait(remove(store)) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(
            "removed unfinished files of earlier runs in {}: {} ({} in all)",
            store.url(""),
            removed.iter().take(3).cloned().collect::<Vec<_>>().join(", "),
            removed.len()
        ),
        Err(error) => tracing::warn!("{error}; unfinished files of earlier runs may take up space there"),
    }
}

/// Removes unfinished uploads, staging files and the files of write probes, and returns their names. The caller must hold
/// the lease and must not be writing.
///
/// # Errors
/// [`Error::Store`].
async fn remove(store: &Store) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    if let Some(Location::Folder(folder)) = store.location() {
        let files = remove_staging_files(folder).map_err(|error| Error::Store {
            operation: "clean up".into(),
            url: store.url(""),
            cause: error.to_string(),
        })?;
        removed.extend(files.iter().map(|path| path.display().to_string()));
    }
    for probe in store.files_right_under("").await?.into_iter().filter(|name| is_probe(name)) {
        store.delete(&probe).await?;
        removed.push(probe);
    }
    let uploads = store.abort_unfinished_uploads(is_checkpoint_file).await?;
    removed.extend(uploads.iter().map(|path| format!("the upload of {path}")));
    Ok(removed)
}
