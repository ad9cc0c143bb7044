//! Reads ranges of bytes, and lists files with their versions, for sources of training data.

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};

use crate::error::Error;
use crate::store::Store;

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its path, relative to that which was asked for.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// Changes when the file is replaced: the entity tag without its quotes, or the time of the last modification if the
    /// store has no tags.
    pub version: String,
}

impl Entry {
    fn new(path: String, meta: &ObjectMeta) -> Self {
        let version = match &meta.e_tag {
            // Some stores put the tag between quotes only when they are asked for one file.
            Some(tag) => tag.trim_start_matches("W/").trim_matches('"').to_owned(),
            None => meta.last_modified.to_rfc3339(),
        };
        Self { path, length: meta.size, version }
    }
}

impl Store {
    /// Reads a range of bytes of the file at `path`. Returns `None` if the file does not exist. Blocks the calling thread,
    /// which must not belong to an asynchronous runtime.
    ///
    /// # Errors
    /// [`Error::Failed`] if the range exceeds the file, or the store refuses or does not answer.
    pub fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        if range.is_empty() {
            return Ok(self.wait(self.length(path))?.map(|_| Bytes::new()));
        }
        let at = self.full_path(path);
        let read = self.retry_read(path, self.range_timeout(&range), || async {
            let result = self.read_piece_once(path, range.clone()).await;
            // A range that exceeds the file looks like a connection that lost bytes, but a retry cannot help.
            if result.is_err()
                && let Ok(meta) = self.backend().head(&at).await
                && range.end > meta.size
            {
                let source = format!("the bytes {range:?} exceed the file, which has {} bytes", meta.size).into();
                return Err(object_store::Error::NotSupported { source });
            }
            result
        });
        self.none_if_missing("read", path, self.wait(read))
    }

    /// Lists all files under `path`, in any depth, sorted by their paths, which are relative to `path`. Blocks the calling
    /// thread, which must not belong to an asynchronous runtime.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub fn list_entries(&self, path: &str) -> Result<Vec<Entry>, Error> {
        self.wait(self.entries(path))
    }

    /// Lists all files under `path` with their lengths in bytes. Their paths are relative to `path`, and sorted. Blocks the
    /// calling thread, which must not belong to an asynchronous runtime.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>, Error> {
        self.wait(self.files(path))
    }

    /// Looks at the file at `path`. Returns `None` if it does not exist. Blocks the calling thread, which must not belong
    /// to an asynchronous runtime.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub fn stat(&self, path: &str) -> Result<Option<Entry>, Error> {
        self.wait(self.entry(path))
    }

    /// Looks at the file at `path`.
    pub(crate) async fn entry(&self, path: &str) -> Result<Option<Entry>, Error> {
        let at = self.full_path(path);
        let meta = self.retry_small("look at", path, || self.backend().head(&at)).await?;
        self.none_if_missing("look at", path, meta.map(|meta| Entry::new(path.to_owned(), &meta)))
    }

    /// Lists all files under `path`, in any depth, sorted by their paths.
    pub(crate) async fn entries(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let at = self.full_path(path);
        let work = || async {
            let mut entries = Vec::new();
            let mut stream = self.backend().list(Some(&at));
            while let Some(meta) = stream.next().await.transpose()? {
                if let Some(parts) = meta.location.prefix_match(&at) {
                    let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
                    entries.push(Entry::new(name, &meta));
                }
            }
            entries.sort();
            Ok(entries)
        };
        let listed = self.retry_small("list", path, work).await?;
        listed.map_err(|error: object_store::Error| self.failed("list", path, &error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::memory;

    #[test]
    fn ranges_are_read_and_files_are_listed() {
        let store = memory();
        store.wait(store.put("images/a.tar", b"0123456789".to_vec())).unwrap();
        store.wait(store.put("images/b/c.tar", b"xy".to_vec())).unwrap();
        assert_eq!(&store.read_range("images/a.tar", 3..6).unwrap().unwrap()[..], b"345");
        assert_eq!(store.read_range("images/a.tar", 4..4).unwrap(), Some(Bytes::new()));
        assert_eq!(store.read_range("images/none.tar", 0..1).unwrap(), None);
        assert_eq!(store.read_range("images/none.tar", 0..0).unwrap(), None);
        let files = store.list_entries("images").unwrap();
        let names: Vec<_> = files.iter().map(|entry| (entry.path.as_str(), entry.length)).collect();
        assert_eq!(names, [("a.tar", 10), ("b/c.tar", 2)]);
        assert_eq!(store.list_entries("none").unwrap(), []);
        let found = store.stat("images/b/c.tar").unwrap().unwrap();
        assert_eq!((found.path.as_str(), found.length), ("images/b/c.tar", 2));
        assert_eq!(found.version, files[1].version);
        assert_eq!(store.stat("images/none.tar").unwrap(), None);
        store.wait(store.put("images/b/c.tar", b"zw".to_vec())).unwrap();
        assert_ne!(store.stat("images/b/c.tar").unwrap().unwrap().version, found.version);
    }

    #[test]
    fn the_version_is_the_tag_without_quotes_or_the_time_of_the_last_modification() {
        let mut meta = ObjectMeta {
            location: "a".into(),
            last_modified: "2026-11-10T20:48:33.5Z".parse().unwrap(),
            size: 1,
            e_tag: None,
            version: None,
        };
        let version = |meta: &ObjectMeta| Entry::new("a".into(), meta).version;
        assert_eq!(version(&meta), "2026-11-10T20:48:33.500+00:00");
        for tag in ["0x8D", "\"0x8D\"", "W/\"0x8D\""] {
            meta.e_tag = Some(tag.into());
            assert_eq!(version(&meta), "0x8D");
        }
    }

    #[test]
    fn a_range_that_exceeds_the_file_is_an_error_without_retries() {
        let store = memory();
        store.wait(store.put("a", b"0123".to_vec())).unwrap();
        for range in [2..9, 4..5, 7..9] {
            let error = store.read_range("a", range).unwrap_err().to_string();
            assert!(error.contains("exceed the file, which has 4 bytes"), "{error}");
        }
    }
}
