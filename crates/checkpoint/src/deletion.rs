//! Deletes checkpoints, and the files of interrupted saves.

use std::collections::{BTreeMap, BTreeSet};

use admiral_storage::{Location, Store};

use crate::error::Error;
use crate::evaluations::score_of;
use crate::read::Checkpoint;
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

/// Returns the steps whose folders may be deleted: the checkpoints of the run `run_id` that retention does not keep, and
/// the unpublished folders before the newest checkpoint, which interrupted saves and deletions have left.
///
/// Checkpoints that another run wrote, and links to other folders, are kept: a user has put them there.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn to_delete(
    store: &Store,
    retention: &Retention,
    in_use: Option<u64>,
    run_id: &str,
) -> Result<Vec<u64>, Error> {
    let (mut own, mut scores) = (BTreeSet::new(), BTreeMap::new());
    for step in catalog::published_steps(store, "").await? {
        if first_link(store, step).await?.is_some() {
            continue;
        }
        match Checkpoint::in_folder(store, &layout::step_folder(step)).await {
            Ok(Some(checkpoint)) if checkpoint.manifest().writer.run_id == run_id => {
                own.insert(step);
                if retention.keep_best > 0 {
                    scores.extend(score_of(store, checkpoint.manifest()).await?.map(|score| (step, score)));
                }
            }
            // A damaged checkpoint names no run. It stays until the user looks at it.
            Ok(_) | Err(Error::Damaged { .. } | Error::Schema { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut steps = retention.to_delete(&own, &scores, in_use);
    for step in catalog::steps_under(store, "").await? {
        let is_past = own.last().is_some_and(|newest| step < *newest);
        let folder = layout::step_folder(step);
        let is_free = async |file: &str| Ok::<_, Error>(store.length(&layout::join(&folder, file)).await?.is_none());
        if is_past
            && is_free(layout::MANIFEST).await?
            && is_free(layout::DAMAGED_MANIFEST).await?
            && first_link(store, step).await?.is_none()
            && store.files(&folder).await?.iter().any(|(path, _)| layout::is_file_of_step(path))
        {
            steps.push(step);
        }
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Returns the path of a folder of the step that is a symbolic link: the step's own, or one in it. `None` if there is none.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn first_link(store: &Store, step: u64) -> Result<Option<String>, Error> {
    if !matches!(store.location(), Some(Location::Folder(_))) {
        return Ok(None);
    }
    let step = layout::step_folder(step);
    if store.is_link(&step).await {
        return Ok(Some(step));
    }
    for folder in store.folders(&step).await? {
        let folder = layout::join(&step, &folder);
        if store.is_link(&folder).await {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

/// Deletes the files of a failed save, unless the checkpoint was published after all.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn delete_unpublished(store: &Store, step: u64) -> Result<(), Error> {
    let manifest = layout::join(&layout::step_folder(step), layout::MANIFEST);
    if store.length(&manifest).await?.is_some() { Ok(()) } else { delete_checkpoint(store, step).await }
}

/// Deletes a checkpoint, but no file with a name that Admiral does not write. The manifest is deleted first, so that an
/// interrupted deletion leaves no damaged checkpoint.
///
/// # Errors
/// [`Error::Store`], also if the folder, or one in it, is a link. Nothing is deleted then.
pub(crate) async fn delete_checkpoint(store: &Store, step: u64) -> Result<(), Error> {
    let folder = layout::step_folder(step);
    if let Some(link) = first_link(store, step).await? {
        let cause = "it is a symbolic link, and nothing is deleted through links; remove the link by hand".into();
        return Err(Error::Store { operation: "delete".into(), url: store.url(&link), cause });
    }
    store.delete(&layout::join(&folder, layout::MANIFEST)).await?;
    for (path, _) in store.files(&folder).await? {
        if layout::is_file_of_step(&path) {
            store.delete(&layout::join(&folder, &path)).await?;
        }
    }
    remove_empty_folders(store, &folder);
    Ok(())
}

/// Removes the empty folders directly under `path`, and `path` if it is empty then. Object stores have no folders.
fn remove_empty_folders(store: &Store, path: &str) {
    let Some(Location::Folder(root)) = store.location() else { return };
    let folder = root.join(path);
    for inner in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        // Fails for a folder that is not empty, and for a link, which must stay.
        let _ = std::fs::remove_dir(inner.path());
    }
    let _ = std::fs::remove_dir(folder);
}
