//! Reads ranges of bytes and lists files, for sources of training data.

use std::ops::Range;

use bytes::Bytes;
use object_store::ObjectStoreExt;

use crate::error::Error;
use crate::store::Store;

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

    /// Lists all files under `path` with their lengths in bytes. Their paths are relative to `path`, and sorted. Blocks the
    /// calling thread, which must not belong to an asynchronous runtime.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store cannot list.
    pub fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>, Error> {
        self.wait(self.files(path))
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
        let files = store.list_files("images").unwrap();
        assert_eq!(files, [("a.tar".to_owned(), 10), ("b/c.tar".to_owned(), 2)]);
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
