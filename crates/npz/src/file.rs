//! The arrays of an npz file: those of a job, of the published files, and others that NumPy wrote, compressed or not.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use admiral_contract::files::open_to_read;
use bytes::Bytes;
use crc32fast::Hasher;
use flate2::read::DeflateDecoder;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, shown};
use crate::header::{self, NpyHeader};
use crate::source::{Limited, ReadAt, Source};

/// The first bytes of every zip archive that is not empty.
const MAGIC: [u8; 4] = *b"PK\x03\x04";

/// The largest number of arrays in a file that is read.
const MAX_MEMBERS: usize = 10_000;

/// The largest number of bytes that are read to find the arrays of a file. NumPy writes about 100 for each. A hostile file
/// may have many directories, of which only the last to be tried is whole.
const MAX_DIRECTORY_BYTES: u64 = 1 << 23;

/// Deflate makes at most this many bytes of one: 2 bits may stand for 258 bytes.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// The largest array that may be compressed to any degree, in bytes. A larger one that deflate makes more than
/// [`MAX_LARGE_RATIO`] times smaller holds almost nothing, and would take hours to read.
const MAX_ANY_RATIO_BYTES: u64 = 1 << 30;

/// The most bytes of a larger array for each byte in the file.
const MAX_LARGE_RATIO: u64 = 200;

/// The size of one read from a file. It has a whole number of values of every type.
const BUFFER_BYTES: usize = 1 << 18;

/// An array of a file.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The name without `.npy`.
    pub(crate) key: String,
    /// The offset of its header in the file.
    header_start: u64,
    /// The offset of its data in the file.
    pub(crate) start: u64,
    /// The length of its data in the file.
    stored_bytes: u64,
    /// The length of the npy file.
    pub(crate) length: u64,
    pub(crate) is_compressed: bool,
    pub(crate) crc32: u32,
}

/// An open npz file. Its arrays are read when they are asked for.
#[derive(Debug, Clone)]
pub struct Npz {
    pub(crate) name: String,
    source: Source,
    members: Vec<Member>,
}

impl Npz {
    /// Opens a local file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be opened, or is not an npz file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let refuse = |reason: String| Error::File { file: name.clone(), reason };
        let source = open_to_read(path).and_then(Source::file);
        Self::from_source(source.map_err(|error| refuse(format!("it cannot be opened ({error})")))?, name)
    }

    /// Opens a file in memory. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::File`] if it is not an npz file.
    pub fn from_bytes(bytes: Bytes, name: &str) -> Result<Self, Error> {
        Self::from_source(Source::memory(bytes), name.to_owned())
    }

    /// Opens a file of `length` bytes that is read through `file`. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::File`] if it is not an npz file.
    pub fn from_reader(file: Arc<dyn ReadAt>, length: u64, name: &str) -> Result<Self, Error> {
        Self::from_source(Source::other(file, length), name.to_owned())
    }

    fn from_source(source: Source, name: String) -> Result<Self, Error> {
        let members = members(&source).map_err(|reason| Error::File { file: name.clone(), reason })?;
        Ok(Self { name, source, members })
    }

    /// Returns the names of the arrays, without `.npy`, in the order of the file's directory.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.key.as_str())
    }

    pub(crate) fn refuse(&self, reason: String) -> Error {
        Error::File { file: self.name.clone(), reason }
    }

    pub(crate) fn member(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.key == key)
    }

    /// Returns the first names for a message.
    pub(crate) fn shown_keys(&self) -> String {
        let keys: Vec<String> = self.keys().take(20).map(shown).collect();
        if keys.is_empty() { "no arrays".into() } else { keys.join(", ") }
    }

    pub(crate) fn fingerprint(&self) -> String {
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort_by(|a, b| a.key.cmp(&b.key));
        members.iter().map(|member| format!("{} {} {:08x}\n", member.key, member.length, member.crc32)).collect()
    }

    /// Returns the npy file of an array, without its first bytes.
    pub(crate) fn reader(&self, member: &Member, skip: u64) -> Result<Box<dyn Read + Send>, Error> {
        let (start, end) = (member.start, member.start + member.stored_bytes);
        if !member.is_compressed {
            return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, self.source.window(start + skip, end))));
        }
        let compressed = BufReader::with_capacity(BUFFER_BYTES, self.source.window(start, end));
        let mut reader = DeflateDecoder::new(compressed);
        let skipped = std::io::copy(&mut (&mut reader).take(skip), &mut std::io::sink());
        match skipped {
            Ok(count) if count == skip => Ok(Box::new(reader)),
            result => Err(self.damaged(member, result.err())),
        }
    }

    pub(crate) fn damaged(&self, member: &Member, error: Option<std::io::Error>) -> Error {
        let cause = error.map_or_else(|| "its data end early".into(), |error| error.to_string());
        self.refuse(format!("{} is damaged: {cause}", shown(&member.key)))
    }

    /// Returns the header of an array.
    pub(crate) fn header(&self, member: &Member) -> Result<NpyHeader, Error> {
        header::read(&mut self.reader(member, 0)?)
            .map_err(|reason| self.refuse(format!("{}: {reason}", shown(&member.key))))
    }

    /// Checks that the dimensions of an array match the length of its data.
    pub(crate) fn check_length(&self, member: &Member, header: &NpyHeader, element_bytes: usize) -> Result<(), Error> {
        let all = header.shape.iter().try_fold(element_bytes as u64, |all, &dimension| all.checked_mul(dimension));
        if all.and_then(|bytes| bytes.checked_add(header.length)) != Some(member.length) {
            return Err(self.refuse(format!(
                "{} has shape {:?} and type {}, and {} bytes, which do not fit together",
                shown(&member.key),
                header.shape,
                header.descr,
                member.length
            )));
        }
        Ok(())
    }

    /// Reads the values of an array whose length was checked, and compares its checksum. The caller bounds their number.
    /// Returns `None` if `decode` does, for any value.
    pub(crate) fn values<T>(
        &self,
        member: &Member,
        header: &NpyHeader,
        element_bytes: usize,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let mut reader = self.reader(member, 0)?;
        let mut hash = Hasher::new();
        let mut block = Vec::new();
        let mut read = |count: u64, block: &mut Vec<u8>| -> Result<(), Error> {
            block.clear();
            let read = (&mut reader).take(count).read_to_end(block);
            if !matches!(read, Ok(read) if read as u64 == count) {
                return Err(self.damaged(member, read.err()));
            }
            hash.update(block);
            Ok(())
        };
        read(header.length, &mut block)?;
        let mut left = member.length - header.length;
        let num = left / element_bytes as u64;
        let mut values = Vec::with_capacity(num as usize);
        while left > 0 {
            let count = left.min(BUFFER_BYTES as u64);
            read(count, &mut block)?;
            left -= count;
            values.extend(block.chunks_exact(element_bytes).map_while(&decode));
        }
        if hash.finalize() != member.crc32 {
            return Err(self.refuse(format!("{} is damaged: its checksum differs", shown(&member.key))));
        }
        Ok((values.len() as u64 == num).then_some(values))
    }
}

/// Returns the arrays in a file.
///
/// # Errors
/// The reason, if it is not an npz file.
fn members(source: &Source) -> Result<Vec<Member>, String> {
    let mut start = Vec::new();
    let is_read = source.window(0, source.length.min(4)).read_to_end(&mut start);
    is_read.map_err(|error| format!("it cannot be read ({error})"))?;
    if start != MAGIC {
        return Err("it is not an npz file; np.savez writes one".into());
    }
    let unreadable = |error: ZipError| format!("its zip directory cannot be read ({error})");
    // Nothing is before the first entry, so nothing has to be searched for.
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let reader = Limited::new(source.window(0, source.length), MAX_DIRECTORY_BYTES);
    let mut archive = ZipArchive::with_config(config, reader).map_err(unreadable)?;
    if archive.len() > MAX_MEMBERS {
        return Err(format!("it has {} entries; at most {MAX_MEMBERS} are read", archive.len()));
    }
    let directory = archive.central_directory_start();
    let mut members = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(unreadable)?;
        let Some(key) = entry.name().strip_suffix(".npy").map(str::to_owned) else { continue };
        let is_compressed = match entry.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            other => {
                return Err(format!("{} is compressed by {other}; NumPy writes Stored or Deflated", shown(&key)));
            }
        };
        let (length, stored_bytes) = (entry.size(), entry.compressed_size());
        let is_possible = if is_compressed {
            length <= stored_bytes.saturating_mul(MAX_DEFLATE_RATIO)
        } else {
            length == stored_bytes
        };
        let start = entry
            .data_start()
            .filter(|start| start.checked_add(stored_bytes).is_some_and(|end| end <= directory.min(source.length)));
        let Some(start) = start.filter(|_| is_possible && !entry.encrypted()) else {
            return Err(format!("{} is encrypted, or longer than the file; the file may be cut off", shown(&key)));
        };
        if is_compressed && length > MAX_ANY_RATIO_BYTES && length > stored_bytes.saturating_mul(MAX_LARGE_RATIO) {
            return Err(format!(
                "{} has {stored_bytes} bytes and would unpack to {length}, more than {MAX_LARGE_RATIO} times as many, so it \
                 holds almost nothing; if you want that, write it without compression, by np.savez",
                shown(&key)
            ));
        }
        let (header_start, crc32) = (entry.header_start(), entry.crc32());
        members.push(Member { key, header_start, start, stored_bytes, length, is_compressed, crc32 });
    }
    // Overlapping entries let a small file hold any number of large arrays.
    let mut ordered: Vec<&Member> = members.iter().collect();
    ordered.sort_by_key(|member| member.header_start);
    if let Some(pair) = ordered.windows(2).find(|pair| pair[0].start + pair[0].stored_bytes > pair[1].header_start) {
        return Err(format!("{} and {} overlap; NumPy writes no such file", shown(&pair[0].key), shown(&pair[1].key)));
    }
    Ok(members)
}
