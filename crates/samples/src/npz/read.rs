//! Reads npz files: those of a job, the published sample files, and others that NumPy wrote, compressed or not.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::header::{self, NpyHeader};
use super::source::Source;
use crate::error::Error;

/// The first bytes of every zip archive that is not empty.
const MAGIC: [u8; 4] = *b"PK\x03\x04";

/// The largest number of arrays in a file that is read.
const MAX_MEMBERS: usize = 10_000;

/// The largest number of labels that are read.
const MAX_LABELS: u64 = 1 << 26;

/// The largest image that is read, in bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 28;

/// The size of one read from a file.
const BUFFER_BYTES: usize = 1 << 18;

/// An array of a file.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// The name without `.npy`.
    key: String,
    /// The offset of its data in the file.
    start: u64,
    /// The length of its data in the file.
    stored_bytes: u64,
    /// The length of the npy file.
    pub(super) length: u64,
    is_compressed: bool,
    crc32: u32,
}

/// The directory of an npz file.
#[derive(Debug)]
pub(super) struct Npz {
    name: String,
    source: Source,
    members: Vec<Member>,
}

impl Npz {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let refuse = |reason: String| Error::Npz { file: name.clone(), reason };
        // A pipe would block, and cannot be read at an offset.
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(refuse("it is not a file; give an npz file".into())),
            Err(error) => return Err(refuse(format!("it cannot be opened ({error})"))),
        }
        let source = File::open(path).and_then(Source::file);
        Self::from_source(source.map_err(|error| refuse(format!("it cannot be opened ({error})")))?, name)
    }

    fn from_source(source: Source, name: String) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Npz { file: name.clone(), reason };
        let mut start = Vec::new();
        let is_read = source.window(0, source.length.min(4)).read_to_end(&mut start);
        is_read.map_err(|error| refuse(format!("it cannot be read ({error})")))?;
        if start != MAGIC {
            return Err(refuse("it is not an npz file; np.savez writes one".into()));
        }
        let unreadable = |error: zip::result::ZipError| refuse(format!("its zip directory cannot be read ({error})"));
        let mut archive = ZipArchive::new(BufReader::new(source.window(0, source.length))).map_err(unreadable)?;
        if archive.len() > MAX_MEMBERS {
            return Err(refuse(format!("it has {} entries; at most {MAX_MEMBERS} are read", archive.len())));
        }
        let mut members = Vec::new();
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(unreadable)?;
            let Some(key) = entry.name().strip_suffix(".npy").map(str::to_owned) else { continue };
            let is_compressed = match entry.compression() {
                CompressionMethod::Stored => false,
                CompressionMethod::Deflated => true,
                other => {
                    return Err(refuse(format!("{key} is compressed by {other}; NumPy writes Stored or Deflated")));
                }
            };
            let (length, stored_bytes) = (entry.size(), entry.compressed_size());
            let start = entry.data_start().filter(|start| {
                start.checked_add(stored_bytes).is_some_and(|end| end <= source.length)
                    && (is_compressed || stored_bytes == length)
            });
            let Some(start) = start.filter(|_| !entry.encrypted()) else {
                return Err(refuse(format!("{key} is encrypted, or longer than the file; the file may be cut off")));
            };
            members.push(Member { key, start, stored_bytes, length, is_compressed, crc32: entry.crc32() });
        }
        drop(archive);
        Ok(Self { name, source, members })
    }

    pub(super) fn refuse(&self, reason: String) -> Error {
        Error::Npz { file: self.name.clone(), reason }
    }

    pub(super) fn member(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.key == key)
    }

    fn keys(&self) -> String {
        let keys: Vec<&str> = self.members.iter().take(20).map(|member| member.key.as_str()).collect();
        if keys.is_empty() { "no arrays".into() } else { keys.join(", ") }
    }

    fn fingerprint(&self) -> String {
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort_by(|a, b| a.key.cmp(&b.key));
        members.iter().map(|member| format!("{} {} {:08x}\n", member.key, member.length, member.crc32)).collect()
    }

    /// Returns the npy file of an array, without its first bytes.
    pub(super) fn reader(&self, member: &Member, skip: u64) -> Result<Box<dyn Read + Send>, Error> {
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

    fn damaged(&self, member: &Member, error: Option<std::io::Error>) -> Error {
        let cause = error.map_or_else(|| "its data end early".into(), |error| error.to_string());
        self.refuse(format!("{} is damaged: {cause}", member.key))
    }

    /// Returns the header of an array whose dimensions match the length of its data.
    pub(super) fn header(&self, member: &Member, element_bytes: u64) -> Result<NpyHeader, Error> {
        let header = header::read(&mut self.reader(member, 0)?)
            .map_err(|reason| self.refuse(format!("{}: {reason}", member.key)))?;
        let bytes = header.shape.iter().try_fold(element_bytes, |bytes, &dimension| bytes.checked_mul(dimension));
        if bytes.and_then(|bytes| bytes.checked_add(header.length)) != Some(member.length) {
            return Err(self.refuse(format!(
                "{} has shape {:?} and type {}, and {} bytes, which do not fit together",
                member.key, header.shape, header.descr, member.length
            )));
        }
        Ok(header)
    }

    /// Reads the whole npy file of an array and compares its checksum. The caller bounds its length.
    pub(super) fn read_all(&self, member: &Member) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.reader(member, 0)?.take(member.length).read_to_end(&mut bytes);
        if !matches!(read, Ok(read) if read as u64 == member.length) {
            return Err(self.damaged(member, read.err()));
        }
        if crc32fast::hash(&bytes) != member.crc32 {
            return Err(self.refuse(format!("{} is damaged: its checksum differs", member.key)));
        }
        Ok(bytes)
    }

    /// Reads labels: a vector of integers.
    fn labels(&self, key: &str) -> Result<Vec<i64>, Error> {
        let Some(member) = self.member(key) else {
            return Err(Error::NoLabels { file: self.name.clone(), key: key.to_owned(), found: self.keys() });
        };
        let refuse = |found: &NpyHeader| {
            self.refuse(format!(
                "{key} has type {} and shape {:?}; labels are integers (int8 to int64) of shape [N]",
                found.descr, found.shape
            ))
        };
        let mut reader = self.reader(member, 0)?;
        let found = header::read(&mut reader).map_err(|reason| self.refuse(format!("{key}: {reason}")))?;
        let decode: fn(&[u8]) -> Option<i64> = match found.descr.as_str() {
            "|u1" => |bytes| Some(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            "|i1" => |bytes| Some(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            "<u2" => |bytes| Some(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            "<i2" => |bytes| Some(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            "<u4" => |bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            "<i4" => |bytes| Some(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            "<u8" => |bytes| u64::from_le_bytes(bytes.try_into().ok()?).try_into().ok(),
            "<i8" => |bytes| Some(i64::from_le_bytes(bytes.try_into().ok()?)),
            _ => return Err(refuse(&found)),
        };
        let element_bytes = found.descr[2..].parse::<usize>().unwrap_or(1);
        let found = self.header(member, element_bytes as u64)?;
        let &[count] = &found.shape[..] else { return Err(refuse(&found)) };
        if count > MAX_LABELS {
            return Err(self.refuse(format!("{key} has {count} labels; at most {MAX_LABELS} are read")));
        }
        let bytes = self.read_all(member)?;
        let bytes = &bytes[found.length as usize..];
        let labels: Option<Vec<i64>> = bytes.chunks_exact(element_bytes).map(decode).collect();
        labels.ok_or_else(|| self.refuse(format!("{key} has a label above 2^63 - 1")))
    }
}

/// Reads the labels of a local npz file: its array `key`, a vector of integers.
///
/// # Errors
/// [`Error::NoLabels`] if there is no such array, with those that are there; [`Error::Npz`] if the file or the array has
/// another form, or is damaged.
pub fn read_labels(path: &Path, key: &str) -> Result<Vec<i64>, Error> {
    Npz::open(path)?.labels(key)
}

/// The images of an npz file: its array `arr_0` of type uint8 and shape `[N, height, width, channels]`. Reading images in
/// ascending order reads the file once, front to back.
pub struct NpzImages {
    npz: Npz,
    member: Member,
    shape: [usize; 3],
    num: u64,
    header_bytes: u64,
    /// The rest of the npy file from `position`.
    reader: Box<dyn Read + Send>,
    position: u64,
    /// The checksum of the npy file before `position`. `None` if a part of it was skipped.
    hash: Option<Hasher>,
}

impl std::fmt::Debug for NpzImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NpzImages").field("npz", &self.npz).field("position", &self.position).finish_non_exhaustive()
    }
}

impl NpzImages {
    /// Opens a local file.
    ///
    /// # Errors
    /// [`Error::Npz`] with what was found and what is expected.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::new(Npz::open(path)?)
    }

    /// Opens a file in memory. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::Npz`] with what was found and what is expected.
    pub fn from_bytes(bytes: Bytes, name: &str) -> Result<Self, Error> {
        Self::new(Npz::from_source(Source::memory(bytes), name.to_owned())?)
    }

    fn new(npz: Npz) -> Result<Self, Error> {
        let expected = "images are uint8 of shape [N, height, width, channels] in C order";
        let Some(member) = npz.member("arr_0").cloned() else {
            return Err(npz.refuse(format!("it has no array arr_0 (found: {}); {expected}", npz.keys())));
        };
        let mut reader = npz.reader(&member, 0)?;
        let found = header::read(&mut reader).map_err(|reason| npz.refuse(format!("arr_0: {reason}")))?;
        let refuse = |what: &str| Err(npz.refuse(format!("arr_0 has {what}; {expected}")));
        match found.descr.as_str() {
            "|u1" => {}
            "|O" => return refuse("pickled Python objects, which are never executed"),
            other => return refuse(&format!("type {other}")),
        }
        if found.fortran_order {
            return refuse("Fortran order");
        }
        let found = npz.header(&member, 1)?;
        let &[num, height, width, channels] = &found.shape[..] else {
            return refuse(&format!("shape {:?}", found.shape));
        };
        let image_bytes =
            [height, width, channels].iter().try_fold(1_u64, |bytes, &dimension| bytes.checked_mul(dimension));
        if image_bytes.is_none_or(|bytes| bytes == 0 || bytes > MAX_IMAGE_BYTES) {
            return refuse(&format!(
                "shape {:?}, images with no or with more than {MAX_IMAGE_BYTES} bytes",
                found.shape
            ));
        }
        // No larger than an image.
        let shape = [height, width, channels].map(|side| side as usize);
        let reader = npz.reader(&member, 0)?;
        Ok(Self { npz, member, shape, num, header_bytes: found.length, reader, position: 0, hash: Some(Hasher::new()) })
    }

    /// Returns height, width and channels of the images.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Returns the number of images.
    #[must_use]
    pub fn num(&self) -> u64 {
        self.num
    }

    /// Returns the length and CRC-32 of each array as text. Two files with the same images and labels have the same text.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.npz.fingerprint()
    }

    /// Reads the pixels of images, `[number, height, width, channels]`. A range that starts before the end of the last one
    /// reads a compressed file from its start again.
    ///
    /// The checksum of the file is compared when the last image has been read, if all images were read in order.
    ///
    /// # Errors
    /// [`Error::Npz`] if there are not that many images, or the file is damaged.
    pub fn read(&mut self, images: Range<u64>) -> Result<Vec<u8>, Error> {
        if images.start > images.end || images.end > self.num {
            return Err(self.npz.refuse(format!("it has {} images, and images {images:?} are needed", self.num)));
        }
        let image_bytes = self.shape.iter().product::<usize>() as u64;
        let from = self.header_bytes + images.start * image_bytes;
        self.advance_to(from)?;
        // The vector grows with what is there, not with what the file claims.
        let pixels = self.take((images.end - images.start) * image_bytes)?;
        if self.position == self.member.length
            && self.hash.take().is_some_and(|hash| hash.finalize() != self.member.crc32)
        {
            return Err(self.npz.refuse("arr_0 is damaged: its checksum differs".into()));
        }
        Ok(pixels)
    }

    /// Reads labels: the array `key`, a vector of integers, one for each image.
    ///
    /// # Errors
    /// [`Error::NoLabels`] if there is no such array; [`Error::Npz`] if it has another form or number, or is damaged.
    pub fn labels(&self, key: &str) -> Result<Vec<i64>, Error> {
        let labels = self.npz.labels(key)?;
        if labels.len() as u64 != self.num {
            let (labels, num) = (labels.len(), self.num);
            return Err(self.npz.refuse(format!("{key} has {labels} labels for {num} images")));
        }
        Ok(labels)
    }

    /// Moves to an offset in the npy file.
    fn advance_to(&mut self, offset: u64) -> Result<(), Error> {
        if offset == self.position {
            return Ok(());
        }
        if self.position == 0 && offset == self.header_bytes {
            self.take(offset)?;
            return Ok(());
        }
        if offset < self.position || !self.member.is_compressed {
            self.reader = self.npz.reader(&self.member, offset)?;
        } else {
            self.take_to_nowhere(offset - self.position)?;
        }
        self.hash = None;
        self.position = offset;
        Ok(())
    }

    fn take(&mut self, count: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(count).read_to_end(&mut bytes);
        if !matches!(read, Ok(read) if read as u64 == count) {
            return Err(self.npz.damaged(&self.member, read.err()));
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&bytes);
        }
        self.position += count;
        Ok(bytes)
    }

    fn take_to_nowhere(&mut self, count: u64) -> Result<(), Error> {
        let skipped = std::io::copy(&mut (&mut self.reader).take(count), &mut std::io::sink());
        if !matches!(skipped, Ok(skipped) if skipped == count) {
            return Err(self.npz.damaged(&self.member, skipped.err()));
        }
        Ok(())
    }
}
