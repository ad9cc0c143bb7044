//! What writers leave behind that die while they write: uploads in parts that nobody completes, whose parts a bucket
//! keeps and bills without showing them, and the staging files of a folder.
//!
//! Both are removed only under a checkpoint's own names, because a place may lie in a bucket or a folder with other
//! things in it; and only by a run that owns the place, because those of a run at work look the same.

mod files;
mod listing;
mod uploads;

pub(super) use uploads::Uploads;

use files::remove_staging_files;

use super::layout::{DAMAGED_MANIFEST, LATEST, MANIFEST, OWNER, step_of};
use super::{Error, Location, Store};

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
    for trial in store.files_right_under("").await?.into_iter().filter(|name| is_trial(name)) {
        store.delete(&trial).await?;
        removed.push(trial);
    }
    if let Some(uploads) = store.uploads() {
        let failed = |error: object_store::Error| store.failed("list or abort unfinished uploads of", "", &error);
        for upload in uploads.list(&store.at("")).await.map_err(failed)? {
            uploads.abort(&upload).await.map_err(failed)?;
            removed.push(format!("the upload of {}", upload.path));
        }
    }
    Ok(removed)
}

/// Whether a path, from a place's root, is one that this version or an earlier one writes.
fn is_checkpoint_file(path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        [LATEST | OWNER] => true,
        // A trial's: `trial-ATTEMPT-00000`.
        [file] => is_trial(file),
        [step, MANIFEST | DAMAGED_MANIFEST] => step_of(step).is_some(),
        [step, _role, file] => {
            let writer = file.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
            step_of(step).is_some() && writer.is_some_and(|numbers| numbers.split("-of-").all(is_number))
        }
        _ => false,
    }
}

/// Whether a name is a trial's.
fn is_trial(name: &str) -> bool {
    name.strip_prefix("trial-").and_then(|rest| rest.rsplit_once('-')).is_some_and(|(_, rank)| is_number(rank))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_checkpoints_write_is_theirs() {
        for path in [
            "latest.json",
            "owner.json",
            "trial-1a2b-00003",
            "step-000000020/manifest.json",
            "step-000000020/master/model-00001-of-00002.safetensors",
            "step-000000020/manifest.damaged.json",
            "step-1000000000/ema-0.9999/model-00001.safetensors",
        ] {
            assert!(is_checkpoint_file(path), "{path}");
        }
        for path in [
            "",
            "manifest.json",
            "other.json",
            "trial-",
            "trial-run-of-mine",
            "step-20/manifest.json",
            "step-000000020/latest.json",
            "step-000000020/model-00001.safetensors",
            "step-000000020/master/model-.safetensors",
            "step-000000020/master/model-00001-of-.safetensors",
            "step-000000020/master/model-mine.safetensors",
            "step-000000020/master/other/model-00001.safetensors",
            "x/step-000000020/manifest.json",
            "latest.json/x",
        ] {
            assert!(!is_checkpoint_file(path), "{path}");
        }
    }
}
