//! One file of a container, read at any offset.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use admiral_contract::files::open_to_read;
use admiral_storage::Store;

use crate::error::Error;
use crate::files::retry;

/// A file of a container, in a local folder or in a store.
#[derive(Debug)]
pub(crate) struct Blob {
    /// The name relative to the container's place.
    pub(crate) name: String,
    /// The length in bytes.
    pub(crate) length: u64,
    /// A text that changes when the file does: the time of its modification, or the tag of the store.
    pub(crate) version: String,
    /// DALI's index of this tar file, if there is one beside it.
    pub(crate) dali_index: Option<Box<Blob>>,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Local {
        path: PathBuf,
        /// The open file, if it is one of those that are kept open.
        file: OnceLock<File>,
        is_kept_open: bool,
    },
    Remote {
        store: Arc<Store>,
    },
}

impl Blob {
    /// Returns the local file at `path`, which must be a regular file.
    ///
    /// # Errors
    /// If it cannot be looked at, or is none.
    pub(crate) fn local(name: String, path: PathBuf, is_kept_open: bool) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let meta = retry(|| open_to_read(&path)?.metadata(), std::thread::sleep);
        let meta = meta.map_err(|error| Error::of_file(&shown, &error))?;
        let version = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let home = Home::Local { path, file: OnceLock::new(), is_kept_open };
        Ok(Self { name, length: meta.len(), version, dali_index: None, home })
    }

    /// Returns a file of a store.
    pub(crate) fn remote(name: String, store: Arc<Store>, length: u64, version: String) -> Self {
        Self { name, length, version, dali_index: None, home: Home::Remote { store } }
    }

    /// Returns the path or URL for messages.
    pub(crate) fn shown(&self) -> String {
        match &self.home {
            Home::Local { path, .. } => path.display().to_string(),
            Home::Remote { store } => store.url(&self.name),
        }
    }

    /// Returns whether the file is in a store.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.home, Home::Remote { .. })
    }

    /// Reads `length` bytes from `offset`.
    ///
    /// # Errors
    /// If the file is shorter or cannot be read. Errors that may pass are retried.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        match &self.home {
            Home::Local { path, file, is_kept_open } => {
                let mut bytes = vec![0; length];
                let mut fill = || match file.get() {
                    Some(file) => file.read_exact_at(&mut bytes, offset),
                    None => {
                        let opened = open_to_read(path)?;
                        opened.read_exact_at(&mut bytes, offset)?;
                        if *is_kept_open {
                            // Another thread may have been faster.
                            let _ = file.set(opened);
                        }
                        Ok(())
                    }
                };
                retry(&mut fill, std::thread::sleep).map_err(|error| Error::of_file(&self.shown(), &error))?;
                Ok(bytes)
            }
            Home::Remote { store } => match store.read_range(&self.name, offset..offset + length as u64)? {
                Some(bytes) => Ok(bytes.into()),
                None => Err(Error::Unreadable { path: self.shown(), reason: "it is no longer there".into() }),
            },
        }
    }

    /// Returns a reader from the start of the file.
    pub(crate) fn reader(&self) -> BlobReader<'_> {
        self.reader_of_blocks(if self.is_remote() { 8 << 20 } else { 1 << 20 })
    }

    /// Returns a reader from the start of the file, which reads at least `block` bytes at a time.
    pub(crate) fn reader_of_blocks(&self, block: usize) -> BlobReader<'_> {
        BlobReader { blob: self, position: 0, start: 0, buffer: Vec::new(), block, failure: None }
    }
}

/// Reads a file front to back in blocks, and from other places after a seek.
#[derive(Debug)]
pub(crate) struct BlobReader<'a> {
    blob: &'a Blob,
    position: u64,
    /// The offset of the buffer in the file.
    start: u64,
    buffer: Vec<u8>,
    block: usize,
    /// The error of the file or store behind the last error of this reader.
    pub(crate) failure: Option<Error>,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.blob.length || out.is_empty() {
            return Ok(0);
        }
        if !(self.start..self.start + self.buffer.len() as u64).contains(&self.position) {
            let length = (self.blob.length - self.position).min(self.block as u64) as usize;
            self.buffer = self.blob.read(self.position, length).map_err(|error| {
                let text = error.to_string();
                self.failure = Some(error);
                io::Error::other(text)
            })?;
            self.start = self.position;
        }
        let rest = &self.buffer[(self.position - self.start) as usize..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for BlobReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.blob.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::other("an offset before the start of the file"))?;
        Ok(self.position)
    }
}

/// Returns the CRC-32 of all that a reader has, which must be `length` bytes.
///
/// # Errors
/// If it cannot be read, or ends before.
pub(crate) fn crc_of(reader: &mut impl Read, length: u64) -> io::Result<u32> {
    let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; 64 << 10]);
    let mut seen = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 if seen < length => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(hasher.finalize()),
            count => {
                hasher.update(&buffer[..count]);
                seen += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_part_of_a_file_is_read_and_only_regular_files_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|value| (value / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        for is_kept_open in [false, true] {
            let blob = Blob::local("a".into(), path.clone(), is_kept_open).unwrap();
            assert_eq!(blob.read(1_000, 50).unwrap(), bytes[1_000..1_050]);
            assert!(blob.read(2_999_999, 2).is_err());
            let mut reader = blob.reader();
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            assert_eq!(all, bytes);
            reader.seek(SeekFrom::End(-5)).unwrap();
            all.clear();
            reader.read_to_end(&mut all).unwrap();
            assert_eq!(all, bytes[2_999_995..]);
            assert!(reader.seek(SeekFrom::Current(-4_000_000)).is_err());
        }
        let error = Blob::local("b".into(), folder.path().to_owned(), false).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
