//! The staging files of a folder.

use std::io;
use std::path::{Path, PathBuf};

use crate::layout::{is_checkpoint_file, is_number, join, step_of};

/// Removes the staging files of checkpoint files in a folder that holds checkpoints, and gives their paths in the
/// order of names. Links to folders are not followed. A place that is not there has none.
///
/// A put or an upload in parts to a folder writes `file#1` (or the next number that is free), which listings leave
/// out, and renames it when it is whole.
///
/// # Errors
/// What the system says about a folder that cannot be listed or a file that cannot be removed.
pub(crate) fn remove_staging_files(place: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    remove_below(place, "", &mut removed)?;
    removed.sort();
    Ok(removed)
}

fn remove_below(place: &Path, below: &str, removed: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match std::fs::read_dir(place.join(below)) {
        // Other ranks may be clearing up too.
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
            // A place's folders are those of steps, and in each those of roles.
            let parts = path.split('/').collect::<Vec<_>>();
            if parts.len() <= 2 && step_of(parts[0]).is_some() {
                remove_below(place, &path, removed)?;
            }
        } else if kind.is_file() && staged(&path).is_some_and(is_checkpoint_file) {
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

/// The path that a staging file would have become; none for any other file.
fn staged(path: &str) -> Option<&str> {
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
    fn what_a_writer_that_died_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("checkpoints");
        std::fs::create_dir(&place).unwrap();
        let store = LocalFileSystem::new_with_prefix(&place).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            store.put(&FILE.into(), b"whole".to_vec().into()).await.unwrap();
            // Two writers that die in an upload, one after the other: their names differ.
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
            let file = place.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        // What links lead to is not the place's.
        let elsewhere = folder.path().join("step-000000040");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("manifest.json#1"), "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, place.join("step-000000040")).unwrap();
        std::fs::write(place.join("latest.json#17"), "").unwrap();
        std::fs::write(place.join("step-000000020/manifest.json#1"), "").unwrap();

        let removed = remove_staging_files(&place).unwrap();
        let expected = ["latest.json#17", "step-000000020/manifest.json#1", &format!("{FILE}#1"), &format!("{FILE}#2")];
        assert_eq!(removed, expected.map(|file| place.join(file)));
        assert!(removed.iter().all(|file| !file.exists()));
        assert!(others.iter().all(|file| place.join(file).exists()));
        assert!(elsewhere.join("manifest.json#1").exists());
        assert_eq!(std::fs::read(place.join(FILE)).unwrap(), b"whole");
        assert!(remove_staging_files(&place).unwrap().is_empty());
        assert!(remove_staging_files(&place.join("not/there")).unwrap().is_empty());
    }
}
