//! The space that the files of a run take.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Counting stops after this many files.
const MAX_ENTRIES: u64 = 1_000_000;
/// The unit of `st_blocks`, in bytes.
const BLOCK: u64 = 512;

/// The space of a folder on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Usage {
    /// The bytes that the files occupy.
    pub(super) bytes: u64,
    /// The number of files.
    pub(super) files: u64,
    /// Whether all files were counted.
    pub(super) is_complete: bool,
    /// The bytes that are free on the disk, if the system says so.
    pub(super) free: Option<u64>,
}

/// Adds up the files of a folder, for at most `patience`. Links are not followed. A file that vanishes is not counted.
pub(super) fn of_folder(folder: &Path, patience: Duration) -> std::io::Result<Usage> {
    let end = Instant::now() + patience;
    let disk = rustix::fs::statvfs(folder).ok();
    let free = disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let mut usage = Usage { free, ..Usage::default() };
    let mut waiting = vec![std::fs::read_dir(folder)?];
    while let Some(mut entries) = waiting.pop() {
        while let Some(entry) = entries.next() {
            if usage.files >= MAX_ENTRIES || Instant::now() >= end {
                return Ok(usage);
            }
            let Ok(entry) = entry else { break };
            let Ok(metadata) = entry.metadata() else { continue };
            usage.files += u64::from(!metadata.is_dir());
            usage.bytes = usage.bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK));
            if metadata.is_dir()
                && let Ok(inner) = std::fs::read_dir(entry.path())
            {
                // The depth of folders is bounded by the length of paths.
                waiting.push(entries);
                entries = inner;
            }
        }
    }
    usage.is_complete = true;
    Ok(usage)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn files_of_all_folders_are_counted_without_links() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b/c");
        std::fs::create_dir_all(&inner).unwrap();
        let empty = of_folder(folder.path(), LONG).unwrap();
        for (name, bytes) in [("x", 100_000), ("y", 50_000)] {
            std::fs::write(inner.join(name), vec![1; bytes]).unwrap();
        }
        std::os::unix::fs::symlink("/", folder.path().join("all")).unwrap();
        std::os::unix::fs::symlink(folder.path(), inner.join("loop")).unwrap();
        let usage = of_folder(folder.path(), LONG).unwrap();
        assert_eq!((usage.files - empty.files, usage.is_complete), (4, true));
        assert!((150_000..400_000).contains(&(usage.bytes - empty.bytes)), "{usage:?}");
        assert!(usage.free.is_some());
        let none = of_folder(folder.path(), Duration::ZERO).unwrap();
        assert!(!none.is_complete && none.files == 0);
        assert!(of_folder(&folder.path().join("nowhere"), LONG).is_err());
    }
}
