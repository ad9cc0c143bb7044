//! Writes a file atomically.

use std::io::Write;
use std::path::Path;

use admiral_contract::files::replace;

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
    replace(path, ".partial", |mut file| file.write_all(bytes).map(|()| file))
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
}
