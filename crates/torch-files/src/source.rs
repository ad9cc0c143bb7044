//! A file of known length, read at places.

use std::io::{Read, Seek, SeekFrom};

use crate::error::Error;

/// Bytes that are read at once where something is only passed through.
pub(crate) const PIECE: usize = 1 << 20;

/// A file of known length.
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

    /// Fills `bytes` from `offset` on.
    pub(crate) fn fill(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.check(offset, bytes.len() as u64)?;
        self.inner.seek(SeekFrom::Start(offset))?;
        Ok(self.inner.read_exact(bytes)?)
    }

    /// `length` bytes from `offset` on. They are known to be there before memory is taken.
    pub(crate) fn bytes(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.check(offset, length)?;
        let length = usize::try_from(length).map_err(|_| Error::Damaged("a part does not fit into memory".into()))?;
        let mut bytes = vec![0; length];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Shows `length` bytes from `offset` on, in pieces: each a multiple of eight bytes but the last.
    pub(crate) fn pieces(&mut self, offset: u64, length: u64, mut show: impl FnMut(&[u8])) -> Result<(), Error> {
        self.check(offset, length)?;
        self.inner.seek(SeekFrom::Start(offset))?;
        let mut buffer = vec![0; PIECE.min(length as usize)];
        let mut left = length;
        while left > 0 {
            let piece = &mut buffer[..(left.min(PIECE as u64)) as usize];
            self.inner.read_exact(piece)?;
            show(piece);
            left -= piece.len() as u64;
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
