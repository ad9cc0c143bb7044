//! What writers leave behind that die while they write: uploads in parts that nobody completes, whose parts a bucket
//! keeps and bills without showing them, and the staging files of a folder.
//!
//! Both are removed only under a checkpoint's own names, because a place may lie in a bucket or a folder with other
//! things in it; and only by a run that owns the place, because those of a run at work look the same.

use admiral_storage::{Location, Store};

use crate::error::Error;
use crate::layout::{is_checkpoint_file, is_probe};
use crate::staging_files::remove_staging_files;

/// Removes what earlier runs have left in a place that is now this run's. That it cannot be done stops nobody.
pub(super) fn clear(store: &Store) {
    match store.wait(remove(store)) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(
            "removed what a run left unfinished in {}: {} ({} in all)",
            store.url(""),
            removed.iter().take(3).cloned().collect::<Vec<_>>().join(", "),
            removed.len()
        ),
        Err(error) => tracing::warn!("{error}; what earlier runs left unfinished there may cost room"),
    }
}

/// Removes what writers have left that died while they wrote: unfinished uploads, and a folder's staging files.
/// Only whoever owns the place may call it, while nothing of its own is on its way. Gives their names.
///
/// # Errors
/// [`Error::Store`].
async fn remove(store: &Store) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    if let Some(Location::Folder(folder)) = store.location() {
        let files = remove_staging_files(folder).map_err(|error| Error::Store {
            operation: "clear".into(),
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
