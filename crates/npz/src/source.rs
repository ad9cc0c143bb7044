//! Bytes that can be read at any offset: of a file, or in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

/// Something whose bytes can be read at any offset, for example a file in an object store.
pub trait ReadAt: std::fmt::Debug + Send + Sync {
    /// Reads bytes from `offset` into `buffer`. Returns their number, which is 0 only at the end.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Bytes of a known length. Clones share them, and each reader of them has its own position.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    place: Place,
    pub(crate) length: u64,
}

#[derive(Debug, Clone)]
enum Place {
    File(Arc<File>),
    Memory(Bytes),
    Other(Arc<dyn ReadAt>),
}

impl Source {
    pub(crate) fn file(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { place: Place::File(Arc::new(file)), length })
    }

    pub(crate) fn memory(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    pub(crate) fn other(other: Arc<dyn ReadAt>, length: u64) -> Self {
        Self { length, place: Place::Other(other) }
    }

    /// Returns a reader of the bytes from `start` to `end`.
    pub(crate) fn window(&self, start: u64, end: u64) -> Window {
        Window { source: self.clone(), start, position: start, end }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.place {
            Place::File(file) => file.read_at(buffer, offset),
            Place::Other(other) => other.read_at(buffer, offset),
            Place::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }
}

/// Reads a part of a source.
#[derive(Debug)]
pub(crate) struct Window {
    source: Source,
    start: u64,
    position: u64,
    end: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.position);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.source.read_at(&mut buffer[..count], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => self.start.checked_add(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.end.checked_add_signed(offset),
        };
        self.position = position
            .filter(|&position| position >= self.start)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.position - self.start)
    }
}

/// Reads a part of a source, and no more than a number of bytes in all, wherever they are and however often.
#[derive(Debug)]
pub(crate) struct Limited {
    window: Window,
    left: u64,
}

impl Limited {
    pub(crate) fn new(window: Window, limit: u64) -> Self {
        Self { window, left: limit }
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.window.read(buffer)?;
        let left = self.left.checked_sub(read as u64);
        // Once it is reached, every further read fails.
        self.left = left.unwrap_or(0);
        left.map(|_| read).ok_or_else(|| io::Error::other("it is too large"))
    }
}

impl Seek for Limited {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.window.seek(to)
    }
}
