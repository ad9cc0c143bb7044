//! Removes the files that killed writers leave in a folder. The object store client writes to `file#1`, or the next number
//! that is free, and renames it when it is complete.

use std::io;
use std::path::Path;

use crate::layout::{JOB, MANIFEST, PARTS, PNG, is_assembled};

/// Removes the unpublished files of a job.
///
/// # Errors
/// If a folder cannot be listed or a file cannot be removed.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    remove_in(folder, |name| matches!(name, JOB | MANIFEST) || is_assembled(name))?;
    remove_in(&folder.join(PARTS), |name| name.starts_with("part-"))?;
    remove_in(&folder.join(PNG), |name| name.ends_with(".png"))
}

/// Removes the unpublished files in a folder whose published names satisfy `is_ours`. Does nothing if there is no folder.
fn remove_in(folder: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<()> {
    // A link may lead to a folder of somebody else.
    if !std::fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((name, number)) = name.to_str().and_then(|name| name.split_once('#')) else { continue };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && is_ours(name) && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
