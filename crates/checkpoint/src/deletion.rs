//! Deleting checkpoints, and what saves that were cut short have left.

use std::collections::BTreeSet;

use admiral_storage::{Location, Store};

use crate::error::Error;
use crate::retention::Retention;
use crate::{catalog, layout};

/// Deletes the checkpoint of a step. One process calls it.
///
/// # Errors
/// [`Error::Store`].
pub fn delete(store: &Store, step: u64) -> Result<(), Error> {
    store.wait(delete_checkpoint(store, step))
}

/// Deletes what a place has besides checkpoints: who wrote to it, and which was the newest. One process calls it, when
/// nobody writes there.
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

/// The steps whose folders may go: of the checkpoints those that retention does not keep, and what saves and deletions
/// that were cut short have left before the newest one.
pub(super) async fn to_delete(store: &Store, retention: &Retention, in_use: Option<u64>) -> Result<Vec<u64>, Error> {
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

/// Deletes what a failed save has left, unless it has been published after all.
pub(super) async fn delete_unpublished(store: &Store, step: u64) -> Result<(), Error> {
    let manifest = layout::join(&layout::step_folder(step), layout::MANIFEST);
    if store.length(&manifest).await?.is_some() { Ok(()) } else { delete_checkpoint(store, step).await }
}

/// Deletes a checkpoint, its manifest first: what is left of it then is no checkpoint.
///
/// # Errors
/// [`Error::Store`].
pub(super) async fn delete_checkpoint(store: &Store, step: u64) -> Result<(), Error> {
    let folder = layout::step_folder(step);
    store.delete(&layout::join(&folder, layout::MANIFEST)).await?;
    for (path, _) in store.files(&folder).await? {
        store.delete(&layout::join(&folder, &path)).await?;
    }
    remove_empty_folders(store, &folder);
    Ok(())
}

/// Removes the folders right under `path` and itself where they are empty; object stores have none.
fn remove_empty_folders(store: &Store, path: &str) {
    let Some(Location::Folder(root)) = store.location() else { return };
    let folder = root.join(path);
    for inner in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        // One that is not empty stays, which is what is wanted.
        let _ = std::fs::remove_dir(inner.path());
    }
    let _ = std::fs::remove_dir(folder);
}
