//! The images of an npz file, on this machine or in a bucket.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use admiral_npz::{NpzImages, ReadAt};
use admiral_storage::{Location, Store, StoreOptions};

use crate::error::Error;
use crate::job::folder_of;

/// Returns whether a location names an npz file.
#[must_use]
pub fn names_npz(location: &str) -> bool {
    Path::new(location).extension().is_some_and(|end| end.eq_ignore_ascii_case("npz"))
}

/// The images of an npz file.
#[derive(Debug)]
pub struct NpzFile {
    images: NpzImages,
    /// The file, if it is in a bucket.
    stored: Option<Arc<StoredFile>>,
}

/// A file in a store, of which ranges are read.
#[derive(Debug)]
struct StoredFile {
    store: Store,
    path: String,
    length: u64,
    /// The error of the store behind the last failed read. The readers above this one do not pass it on.
    failure: Mutex<Option<admiral_storage::Error>>,
}

impl ReadAt for StoredFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64).min(self.length);
        if offset >= end {
            return Ok(0);
        }
        match self.store.read_range(&self.path, offset..end) {
            Ok(Some(bytes)) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            Ok(None) => Err(io::Error::new(io::ErrorKind::NotFound, "it was removed")),
            Err(error) => {
                let text = error.to_string();
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}

impl StoredFile {
    /// Returns the error of the store if it caused `error`, which then says nothing of the file.
    fn cause(&self, error: admiral_npz::Error) -> Error {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or_else(|| error.into(), Error::from)
    }
}

impl NpzFile {
    /// Opens the file at a path or a bucket's URL.
    pub(crate) fn open(location: &str, options: &StoreOptions) -> Result<Self, Error> {
        match location.rsplit_once('/') {
            Some((parent, name)) if location.contains("://") => {
                Self::stored(&Store::open(&Location::parse(parent)?, options)?, name)
            }
            _ => Ok(Self { images: NpzImages::open(Path::new(location))?, stored: None }),
        }
    }

    /// Opens a file of a store.
    pub(crate) fn in_store(store: &Store, path: &str) -> Result<Self, Error> {
        match folder_of(store) {
            Some(folder) => Ok(Self { images: NpzImages::open(&folder.join(path))?, stored: None }),
            None => Self::stored(store, path),
        }
    }

    fn stored(store: &Store, path: &str) -> Result<Self, Error> {
        let url = store.url(path);
        let Some(entry) = store.stat(path)? else {
            return Err(Error::NotFound { url, reason: "there is no such file".into() });
        };
        let (store, path, failure) = (store.clone(), path.to_owned(), Mutex::new(None));
        let file = Arc::new(StoredFile { store, path, length: entry.length, failure });
        let reader: Arc<dyn ReadAt> = Arc::<StoredFile>::clone(&file);
        let images = NpzImages::from_reader(reader, entry.length, &url).map_err(|error| file.cause(error))?;
        Ok(Self { images, stored: Some(file) })
    }

    pub(crate) fn images(&self) -> &NpzImages {
        &self.images
    }

    pub(crate) fn read(&mut self, images: Range<u64>) -> Result<Vec<u8>, Error> {
        self.images.read(images).map_err(|error| cause(self.stored.as_deref(), error))
    }

    pub(crate) fn labels(&self, key: &str) -> Result<Vec<i64>, Error> {
        self.images.labels(key).map_err(|error| cause(self.stored.as_deref(), error))
    }

    /// Reads all images in order, `at_once` together, which compares the checksum of the file.
    pub(crate) fn verify(&self, at_once: u64) -> Result<(), Error> {
        // This reader stays where it is.
        let mut images = self.images.from_start().map_err(|error| cause(self.stored.as_deref(), error))?;
        let num = images.num();
        for start in (0..num).step_by(at_once.max(1) as usize) {
            let read = images.read(start..num.min(start + at_once));
            read.map_err(|error| cause(self.stored.as_deref(), error))?;
        }
        Ok(())
    }
}

fn cause(stored: Option<&StoredFile>, error: admiral_npz::Error) -> Error {
    match stored {
        Some(file) => file.cause(error),
        None => error.into(),
    }
}
