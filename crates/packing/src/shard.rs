//! Writes a shard: a tar file whose bytes depend on its members only.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use admiral_storage::hex;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::sample::Packed;

/// The size of a block of a tar file, in bytes.
const BLOCK: u64 = 512;

/// The bytes at the end of a tar file: two empty blocks.
const END: u64 = 2 * BLOCK;

/// A shard that is being written.
pub(crate) struct ShardWriter {
    tar: Builder<Counted>,
    length: u64,
}

/// A file with the SHA-256 of what was written to it.
struct Counted {
    file: BufWriter<File>,
    digest: Sha256,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A whole shard.
pub(crate) struct Finished {
    pub(crate) file: File,
    /// The length in bytes.
    pub(crate) length: u64,
    pub(crate) sha256: String,
}

impl ShardWriter {
    /// Starts a shard in an empty file.
    pub(crate) fn new(file: File) -> Self {
        let counted = Counted { file: BufWriter::with_capacity(1 << 20, file), digest: Sha256::new() };
        Self { tar: Builder::new(counted), length: END }
    }

    /// Returns the length of the shard with one more image, in bytes.
    pub(crate) fn length_with(&self, image: &Packed) -> u64 {
        self.length + member_length(&image.file) + member_length(&image.json)
    }

    /// Appends an image: first its file, then its description.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn append(&mut self, key: &str, image: &Packed) -> io::Result<()> {
        self.length = self.length_with(image);
        self.append_member(&format!("{key}.{}", image.format.ending()), &image.file)?;
        self.append_member(&format!("{key}.json"), &image.json)
    }

    fn append_member(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        // The same for everyone and at any time, so that the same images make the same bytes.
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.tar.append(&header, content)
    }

    /// Ends the shard.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn finish(self) -> io::Result<Finished> {
        let Counted { file, digest } = self.tar.into_inner()?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Finished { file, length: self.length, sha256: hex(digest.finalize()) })
    }
}

/// Returns the length of a member with its header, in bytes.
fn member_length(content: &[u8]) -> u64 {
    BLOCK + (content.len() as u64).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_data::Format;

    use super::*;

    #[test]
    fn a_shard_has_the_announced_length_and_fixed_headers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.tar");
        let mut writer = ShardWriter::new(File::create(&path).unwrap());
        for (number, length) in [0, 1, 511, 512, 513].into_iter().enumerate() {
            let image = Packed { bytes_in: 0, format: Format::Png, file: vec![7; length], json: b"{}".to_vec() };
            writer.append(&format!("{number:09}"), &image).unwrap();
        }
        let finished = writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len() as u64, hex(Sha256::digest(&bytes))), (finished.length, finished.sha256));
        let mut names = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.mode().unwrap()), (0, 0, 0o644));
            names.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(names[..3], ["000000000.png", "000000000.json", "000000001.png"]);
    }
}
