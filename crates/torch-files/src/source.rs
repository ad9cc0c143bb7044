//! Reads at offsets of a file.

use std::io::{Read, Seek, SeekFrom};

use crate::error::Error;

/// The largest chunk that [`Source::pieces`] reads at once, in bytes.
const CHUNK: usize = 1 << 20;

/// A file with a known length.
#[derive(Debug)]
pub(crate) struct Source<R> {
    inner: R,
    length: u64,
}

impl<R: Read + Seek> Source<R> {
    pub(crate) fn new(mut inner: R) -> Result<Self, Error> {
        let length = inner.seek(SeekFrom::End(0))?;
        Ok(Self { inner, length })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `bytes` from the file, starting at `offset`.
    pub(crate) fn fill(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.check(offset, bytes.len() as u64)?;
        self.inner.seek(SeekFrom::Start(offset))?;
        Ok(self.inner.read_exact(bytes)?)
    }

    /// Reads `length` bytes at `offset`. The range is checked before memory is allocated.
    pub(crate) fn bytes(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.check(offset, length)?;
        let length = usize::try_from(length).map_err(|_| Error::Damaged("a part does not fit into memory".into()))?;
        let mut bytes = vec![0; length];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Calls `visit` with `length` bytes at `offset`, in chunks. Every chunk except the last is a multiple of eight
    /// bytes.
    pub(crate) fn pieces(&mut self, offset: u64, length: u64, mut visit: impl FnMut(&[u8])) -> Result<(), Error> {
        self.check(offset, length)?;
        self.inner.seek(SeekFrom::Start(offset))?;
        let mut buffer = vec![0; CHUNK.min(length as usize)];
        let mut remaining = length;
        while remaining > 0 {
            let piece = &mut buffer[..(remaining.min(CHUNK as u64)) as usize];
            self.inner.read_exact(piece)?;
            visit(piece);
            remaining -= piece.len() as u64;
        }
        Ok(())
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Error::damaged(format!(
                "it has {} bytes, and {length} bytes are said to lie at byte {offset}: it was cut off, or is no such file",
                self.length
            )),
        }
    }
}
