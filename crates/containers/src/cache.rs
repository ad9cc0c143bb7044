//! A cache of images on a local disk, shared by all processes of a host.
//!
//! Each file of a container has one sparse file in the cache, in which every image is at its own offset. An image is
//! looked up by reading its bytes and comparing their checksum with the index. So there are no locks and no lists of
//! contents: a process may be killed at any moment, and a half-written image is a miss.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use admiral_contract::files::open_regular;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::index::{Shard, Span};

/// The ending of the names of the cache's files, and the hexadecimal digits before it.
const ENDING: &str = ".images";
const DIGITS: usize = 32;

/// After this many bytes, a process looks again how much all processes have stored.
const BYTES_BETWEEN_LOOKS: u64 = 16 << 20;

/// A folder that keeps images, and how many bytes it may take.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    limit: u64,
    files: Vec<PathBuf>,
    /// The bytes that are stored: as of the last look, and what this process has added.
    stored: AtomicU64,
    until_look: AtomicU64,
    /// Whether nothing more is stored.
    is_closed: AtomicBool,
}

impl Cache {
    /// Opens the cache for the files of a container at `place`. Creates the folder. Files of other containers are removed,
    /// the oldest first, as far as the limit demands.
    ///
    /// # Errors
    /// If the folder cannot be created or used.
    pub(crate) fn open(folder: &Path, limit: u64, place: &str, shards: &[Shard]) -> Result<Self, Error> {
        let fail = |error: io::Error| Error::of_file(&folder.display().to_string(), &error);
        std::fs::create_dir_all(folder).map_err(fail)?;
        let files = shards.iter().map(|shard| folder.join(file_name(place, shard))).collect();
        let cache = Self {
            folder: folder.to_owned(),
            limit,
            files,
            stored: AtomicU64::new(0),
            until_look: AtomicU64::new(BYTES_BETWEEN_LOOKS),
            is_closed: AtomicBool::new(false),
        };
        cache.look().map_err(fail)?;
        Ok(cache)
    }

    /// Returns the bytes of an image, if they are stored.
    pub(crate) fn get(&self, span: Span) -> Option<Vec<u8>> {
        let file = open_regular(self.files.get(span.shard as usize)?, File::options().read(true)).ok()?;
        let mut bytes = vec![0; span.length as usize];
        file.read_exact_at(&mut bytes, span.offset).ok()?;
        (crc32fast::hash(&bytes) == span.crc).then_some(bytes)
    }

    /// Stores the bytes of an image. If that fails or the cache is full, nothing more is stored, and a message says so.
    pub(crate) fn put(&self, span: Span, bytes: &[u8]) {
        let Some(path) = self.files.get(span.shard as usize) else { return };
        if self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let length = bytes.len() as u64;
        let store = || {
            if self.until_look.fetch_sub(length.min(self.until_look.load(Ordering::Relaxed)), Ordering::Relaxed)
                <= length
            {
                self.until_look.store(BYTES_BETWEEN_LOOKS, Ordering::Relaxed);
                self.look()?;
            }
            // A block of the disk more at each end.
            if self.stored.fetch_add(length + 8192, Ordering::Relaxed) + length + 8192 > self.limit {
                return Err(io::Error::other("its size in data.cache is reached"));
            }
            // A neighbour may have put a link there, which is not followed.
            let mut options = File::options();
            open_regular(path, options.write(true).create(true).mode(0o600))?.write_all_at(bytes, span.offset)
        };
        if let Err(error) = store()
            && !self.is_closed.swap(true, Ordering::Relaxed)
        {
            tracing::info!("the cache {} takes no more images: {error}", self.folder.display());
        }
    }

    /// Looks how much is stored, and removes files of other containers as far as the limit demands. What the cache did not
    /// make is neither counted nor removed.
    fn look(&self) -> io::Result<()> {
        let mut others: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        let mut stored = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_file_name) {
                continue;
            }
            // Another process may have removed it.
            let Some(meta) = std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file) else { continue };
            stored += meta.blocks() * 512;
            if !self.files.contains(&path) {
                others.push((meta.modified()?, meta.blocks() * 512, path));
            }
        }
        others.sort();
        for (_, bytes, path) in others {
            if stored + BYTES_BETWEEN_LOOKS <= self.limit {
                break;
            }
            // It may belong to another user, and then it stays. Another process may have been faster.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => stored -= bytes,
            }
        }
        self.stored.store(stored, Ordering::Relaxed);
        Ok(())
    }
}

fn file_name(place: &str, shard: &Shard) -> String {
    let mut digest = Sha256::new();
    for part in [place, &shard.name, &shard.length.to_string(), &shard.version] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let name: String = digest.finalize()[..DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect();
    name + ENDING
}

/// Returns whether a name is one that [`file_name`] makes.
fn is_file_name(name: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.strip_suffix(ENDING).is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shards(names: &[&str]) -> Vec<Shard> {
        names.iter().map(|name| Shard { name: (*name).into(), length: 1 << 30, version: String::new() }).collect()
    }

    fn span(shard: u32, offset: u64, bytes: &[u8]) -> Span {
        Span { shard, offset, length: bytes.len() as u32, crc: crc32fast::hash(bytes) }
    }

    #[test]
    fn what_was_stored_is_found_by_every_process_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let open = |names: &[&str]| Cache::open(folder.path(), 1 << 30, "place", &shards(names)).unwrap();
        let (one, other) = (open(&["a", "b"]), open(&["a", "b"]));
        let bytes = [7; 5000];
        one.put(span(1, 100_000, &bytes), &bytes);
        assert_eq!(other.get(span(1, 100_000, &bytes)), Some(bytes.to_vec()));
        assert_eq!(other.get(span(0, 100_000, &bytes)), None);
        assert_eq!(other.get(span(1, 99_999, &bytes)), None);
        assert_eq!(other.get(span(1, 1_000, &[1; 100])), None);
        assert_eq!(open(&["c"]).get(span(0, 100_000, &bytes)), None);
    }

    #[test]
    fn a_half_written_image_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 1 << 30, "place", &shards(&["a"])).unwrap();
        let bytes: Vec<u8> = (0..20_000_u32).map(|value| (value % 251) as u8).collect();
        cache.put(span(0, 0, &bytes), &bytes);
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        File::options().write(true).open(path).unwrap().write_all_at(&[0; 4096], 8192).unwrap();
        assert_eq!(cache.get(span(0, 0, &bytes)), None);
        cache.put(span(0, 0, &bytes), &bytes);
        assert_eq!(cache.get(span(0, 0, &bytes)), Some(bytes));
    }

    #[test]
    fn the_size_is_bounded_and_other_containers_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 40 << 20;
        let stored = || -> u64 {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            entries.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
        };
        let bytes = vec![3; 1 << 20];
        for name in ["a", "b"] {
            let cache = Cache::open(folder.path(), limit, "place", &shards(&[name])).unwrap();
            for image in 0..100 {
                cache.put(span(0, image << 20, &bytes), &bytes);
                assert!(stored() <= limit, "{} bytes", stored());
            }
            assert!(cache.get(span(0, 0, &bytes)).is_some());
            assert!(cache.get(span(0, 99 << 20, &bytes)).is_none());
        }
    }

    #[test]
    fn only_files_that_a_cache_made_are_counted_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = vec![3; 1 << 20];
        let old = Cache::open(folder.path(), 64 << 20, "place", &shards(&["old"])).unwrap();
        old.put(span(0, 0, &bytes), &bytes);
        let digits = "0123456789abcdef0123456789abcdef";
        let theirs = ["holiday-2024.images", ".images", &format!("{}.images", &digits[1..])].map(str::to_owned);
        let upper = format!("{}.images", digits.to_uppercase());
        for name in theirs.iter().chain([&upper]) {
            std::fs::write(folder.path().join(name), &bytes).unwrap();
        }
        std::fs::create_dir(folder.path().join("album.images")).unwrap();
        std::fs::create_dir(folder.path().join(format!("{digits}.images"))).unwrap();
        let link = folder.path().join(format!("{}.images", digits.replace('0', "1")));
        std::os::unix::fs::symlink(folder.path().join(&upper), &link).unwrap();
        // The limit asks that everything else goes.
        let new = Cache::open(folder.path(), 1, "place", &shards(&["new"])).unwrap();
        assert_eq!(new.stored.load(Ordering::Relaxed), 0);
        assert!(old.get(span(0, 0, &bytes)).is_none());
        let mut left: Vec<String> = theirs.into();
        left.extend([upper, "album.images".into(), format!("{digits}.images")]);
        left.push(link.file_name().unwrap().to_str().unwrap().to_owned());
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut found: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        found.sort();
        assert_eq!(found, left);
    }

    #[test]
    fn links_are_not_followed() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = other.path().join("precious");
        std::fs::write(&target, b"precious").unwrap();
        let shard = shards(&["a"]);
        std::os::unix::fs::symlink(&target, folder.path().join(file_name("place", &shard[0]))).unwrap();
        let cache = Cache::open(folder.path(), 1 << 30, "place", &shard).unwrap();
        cache.put(span(0, 0, b"overwritten"), b"overwritten");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    }
}
