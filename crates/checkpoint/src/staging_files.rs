//! Removes the staging files that crashed writers leave in a folder.

use std::io;
use std::path::{Path, PathBuf};

use crate::layout::{is_checkpoint_file, is_number, join, step_folder, step_of};

/// Removes the staging files of checkpoint files in a folder, and returns their paths, sorted. Links to folders are not
/// followed. Does nothing if the folder does not exist.
///
/// The object store client writes to a staging file `file#1`, or with the next number that is free, and renames it when it
/// is complete. Listings omit staging files.
///
/// # Errors
/// If a folder cannot be listed or a file cannot be removed.
pub(crate) fn remove_staging_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    remove_below(folder, "", &mut removed)?;
    removed.sort();
    Ok(removed)
}

/// Removes the staging files in the folder of a step, unless the folder is a link.
///
/// # Errors
/// If a folder cannot be listed or a file cannot be removed.
pub(crate) fn remove_staging_files_of_step(root: &Path, step: u64) -> io::Result<()> {
    let folder = step_folder(step);
    let is_folder = std::fs::symlink_metadata(root.join(&folder)).is_ok_and(|meta| meta.is_dir());
    if is_folder { remove_below(root, &folder, &mut Vec::new()) } else { Ok(()) }
}

/// Removes the staging files under the path `below` in the folder `root`.
fn remove_below(root: &Path, below: &str, removed: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match std::fs::read_dir(root.join(below)) {
        // Another process may have removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = join(below, name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            // The store has folders of steps, which have folders of roles.
            let parts = path.split('/').collect::<Vec<_>>();
            if parts.len() <= 2 && step_of(parts[0]).is_some() {
                remove_below(root, &path, removed)?;
            }
        } else if kind.is_file() && target_of(&path).is_some_and(is_checkpoint_file) {
            match std::fs::remove_file(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                result => {
                    result?;
                    removed.push(entry.path());
                }
            }
        }
    }
    Ok(())
}

/// Returns the path that a staging file is renamed to, or `None` if it is not a staging file.
fn target_of(path: &str) -> Option<&str> {
    let (path, number) = path.split_once('#')?;
    is_number(number).then_some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::local::LocalFileSystem;
    use object_store::{MultipartUpload as _, ObjectStoreExt};

    use super::*;

    const FILE: &str = "step-000000020/master/model-00001-of-00001.safetensors";

    #[test]
    fn only_staging_files_of_checkpoints_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("checkpoints");
        std::fs::create_dir(&root).unwrap();
        let store = LocalFileSystem::new_with_prefix(&root).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            store.put(&FILE.into(), b"whole".to_vec().into()).await.unwrap();
            // Two uploads that are never completed. Their staging files have different numbers.
            for _ in 0..2 {
                let mut upload = store.put_multipart(&FILE.into()).await.unwrap();
                upload.put_part(b"half".to_vec().into()).await.unwrap();
                std::mem::forget(upload);
            }
        });
        let others = [
            "latest.json",
            "notes#1",
            "latest.json#x",
            "latest.json#",
            "latest.json#1#2",
            "logs/latest.json#1",
            "step-000000020/master/deep/model-00001-of-00001.safetensors#1",
            "step-20/manifest.json#1",
        ];
        for file in others {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        // A link to a folder outside.
        let elsewhere = folder.path().join("step-000000040");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("manifest.json#1"), "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("step-000000040")).unwrap();
        std::fs::write(root.join("latest.json#17"), "").unwrap();
        std::fs::write(root.join("step-000000020/manifest.json#1"), "").unwrap();

        let removed = remove_staging_files(&root).unwrap();
        let expected = ["latest.json#17", "step-000000020/manifest.json#1", &format!("{FILE}#1"), &format!("{FILE}#2")];
        assert_eq!(removed, expected.map(|file| root.join(file)));
        assert!(removed.iter().all(|file| !file.exists()));
        assert!(others.iter().all(|file| root.join(file).exists()));
        assert!(elsewhere.join("manifest.json#1").exists());
        assert_eq!(std::fs::read(root.join(FILE)).unwrap(), b"whole");
        assert!(remove_staging_files(&root).unwrap().is_empty());
        assert!(remove_staging_files(&root.join("not/there")).unwrap().is_empty());
    }
}
