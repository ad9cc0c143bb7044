//! The images of an npz file, read one after another.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crc32fast::Hasher;

use crate::error::Error;
use crate::file::{Member, Npz};
use crate::source::ReadAt;

/// The largest image that is read, in bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 28;

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
    /// [`Error::File`] with what was found and what is expected.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::new(Npz::open(path)?)
    }

    /// Opens a file in memory. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::File`] with what was found and what is expected.
    pub fn from_bytes(bytes: Bytes, name: &str) -> Result<Self, Error> {
        Self::new(Npz::from_bytes(bytes, name)?)
    }

    /// Opens a file of `length` bytes that is read through `file`. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::File`] with what was found and what is expected.
    pub fn from_reader(file: Arc<dyn ReadAt>, length: u64, name: &str) -> Result<Self, Error> {
        Self::new(Npz::from_reader(file, length, name)?)
    }

    /// Opens the same file with a reader of its own, at its start.
    ///
    /// # Errors
    /// [`Error::File`] if it has another form by now.
    pub fn from_start(&self) -> Result<Self, Error> {
        Self::new(self.npz.clone())
    }

    fn new(npz: Npz) -> Result<Self, Error> {
        let expected = "images are uint8 of shape [N, height, width, channels] in C order";
        let Some(member) = npz.member("arr_0").cloned() else {
            return Err(npz.refuse(format!("it has no array arr_0 (found: {}); {expected}", npz.shown_keys())));
        };
        let found = npz.header(&member)?;
        let refuse = |what: &str| Err(npz.refuse(format!("arr_0 has {what}; {expected}")));
        match found.descr.as_str() {
            "|u1" => {}
            "|O" => return refuse("pickled Python objects, which are never executed"),
            other => return refuse(&format!("type {other}")),
        }
        if found.fortran_order {
            return refuse("Fortran order");
        }
        npz.check_length(&member, &found, 1)?;
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

    /// Returns the offset of the first image in the file, after which the others follow one after another. `None` if the
    /// array is compressed.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        (!self.member.is_compressed).then_some(self.member.start + self.header_bytes)
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
    /// [`Error::File`] if there are not that many images, or the file is damaged.
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
    /// [`Error::NoLabels`] if there is no such array; [`Error::File`] if it has another form or number, or is damaged.
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
