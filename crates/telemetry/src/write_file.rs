//! Writes a file atomically.

use std::io::Write;
use std::path::Path;

use admiral_contract::files::{create_anew, replace};

/// What the name of a file ends with until it is complete.
const PARTIAL: &str = ".partial";

/// Writes `bytes` to the file `path`. Creates the folder if it is missing. After an error, an older file is unchanged.
///
/// The bytes are written to `<path>.partial`, synced, and renamed to `path`.
///
/// # Errors
/// If the folder or the file cannot be created, written or renamed.
pub fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    replace(path, PARTIAL, |mut file| file.write_all(bytes).map(|()| file))
}

/// Checks that [`write_file`] can create the file `path`, and leaves nothing behind.
///
/// # Errors
/// If the folder or the file cannot be created.
pub fn check_write(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The innermost first.
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    let mut aside = path.as_os_str().to_owned();
    aside.push(PARTIAL);
    let tried = std::fs::create_dir_all(folder)
        .and_then(|()| create_anew(Path::new(&aside)))
        .and_then(|_| std::fs::remove_file(&aside));
    for folder in missing {
        // It may not have been created, or another program may have written something into it.
        let _ = std::fs::remove_dir(folder);
    }
    tried
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_older_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/picture.png");
        write_file(&path, b"old").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        std::fs::create_dir(folder.path().join("new/picture.png.partial")).unwrap();
        write_file(&path, b"lost").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_check_writes_nothing_and_finds_what_a_write_would() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "whole").unwrap();
        check_write(&path("new/deep/picture.png")).unwrap();
        check_write(&path("file")).unwrap();
        for name in ["file/picture.png", "file/deep/picture.png", &"x".repeat(250)] {
            assert!(check_write(&path(name)).is_err() && write_file(&path(name), b"lost").is_err(), "{name}");
        }
        assert!(check_write(Path::new("/proc/nowhere/picture.png")).is_err());
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
        assert_eq!(std::fs::read(path("file")).unwrap(), b"whole");
    }
}
