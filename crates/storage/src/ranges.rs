//! Reading ranges of bytes and listing files: what sources of images need of a store.

use std::ops::Range;

use bytes::Bytes;

use crate::error::Error;
use crate::store::Store;

impl Store {
    /// Reads a range of bytes of the file at `path`; `None` if there is no such file. It blocks the calling thread, which
    /// must not belong to an asynchronous runtime.
    ///
    /// # Errors
    /// [`Error::Failed`] if the range lies beyond the end of the file, or the store does not answer.
    pub fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        if range.is_empty() {
            return Ok(self.wait(self.length(path))?.map(|_| Bytes::new()));
        }
        let bytes = self.wait(self.piece(path, range));
        self.unless_missing("read", path, bytes)
    }

    /// Lists all files under `path` with their lengths in bytes, as paths relative to it, sorted. It blocks the calling
    /// thread, which must not belong to an asynchronous runtime.
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
    use crate::store::tests::memory;

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
    fn a_range_beyond_the_end_is_an_error() {
        let store = memory();
        store.wait(store.put("a", b"0123".to_vec())).unwrap();
        assert!(store.read_range("a", 2..9).is_err());
    }
}
