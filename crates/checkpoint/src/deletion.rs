//! Deletes checkpoints, and the files of interrupted saves.

use std::collections::BTreeSet;

use admiral_storage::{Location, Store};

use crate::error::Error;
use crate::retention::Retention;
use crate::{catalog, layout};

/// Deletes the checkpoint of a step. Only one process may call it.
///
/// # Errors
/// [`Error::Store`].
pub fn delete(store: &Store, step: u64) -> Result<(), Error> {
    store.wait(delete_checkpoint(store, step))
}

/// Deletes the files of a store that belong to no step: the lease and the pointer to the newest checkpoint. Only one process
/// may call it, and only while no run writes to the store.
///
/// # Errors
/// [`Error::Store`].
pub fn delete_place(store: &Store) -> Result<(), Error> {
    store.wait(async {
        store.delete(layout::LATEST).await?;
        store.delete(layout::OWNER).await?;
        Ok(())
    })
}

/// Returns the steps whose folders may be deleted: the checkpoints that retention does not keep, and the unpublished folders
/// before the newest checkpoint, which interrupted saves and deletions have left.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn to_delete(store: &Store, retention: &Retention, in_use: Option<u64>) -> Result<Vec<u64>, Error> {
    let published: BTreeSet<u64> = catalog::published_steps(store, "").await?.into_iter().collect();
    let mut steps = retention.to_delete(&published, in_use);
    for step in catalog::steps_under(store, "").await? {
        let is_past = published.last().is_some_and(|newest| step < *newest);
        let aside = layout::join(&layout::step_folder(step), layout::DAMAGED_MANIFEST);
        if is_past && !published.contains(&step) && store.length(&aside).await?.is_none() {
            steps.push(step);
        }
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Deletes the files of a failed save, unless the checkpoint was published after all.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn delete_unpublished(store: &Store, step: u64) -> Result<(), Error> {
    let manifest = layout::join(&layout::step_folder(step), layout::MANIFEST);
    if store.length(&manifest).await?.is_some() { Ok(()) } else { delete_checkpoint(store, step).await }
}

/// Deletes a checkpoint. The manifest is deleted first, so that an interrupted deletion leaves no damaged checkpoint.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn delete_checkpoint(store: &Store, step: u64) -> Result<(), Error> {
    let folder = layout::step_folder(step);
    store.delete(&layout::join(&folder, layout::MANIFEST)).await?;
    for (path, _) in store.files(&folder).await? {
        store.delete(&layout::join(&folder, &path)).await?;
    }
    remove_empty_folders(store, &folder);
    Ok(())
}

/// Removes the empty folders directly under `path`, and `path` if it is empty then. Object stores have no folders.
fn remove_empty_folders(store: &Store, path: &str) {
    let Some(Location::Folder(root)) = store.location() else { return };
    let folder = root.join(path);
    for inner in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        // Fails for a folder that is not empty, which must stay.
        let _ = std::fs::remove_dir(inner.path());
    }
    let _ = std::fs::remove_dir(folder);
}
