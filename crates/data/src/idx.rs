//! IDX files, the format of MNIST, as a source.

use std::path::Path;

use admiral_containers::Fetched;

use super::classes::doubt;
use super::error::DataError;
use super::idx_file::{Header, UNSIGNED_BYTES, Values, kind_name, read};
use super::limits::refusal;
use super::memory::available_memory;
use super::pixels::Pixels;
use super::source::{ImageSource, digest_of, with_class};

/// The images of an IDX file and the labels of another one, in memory.
#[derive(Debug)]
pub struct Idx {
    path: String,
    height: usize,
    width: usize,
    channels: usize,
    images: Vec<u8>,
    labels: Vec<u32>,
    num_classes: usize,
}

impl Idx {
    /// Reads the images, `[images, height, width]` or `[images, height, width, 1 or 3]` unsigned bytes, and the labels,
    /// `[images]` integers. Both may be gzipped. The labels are the classes. The number of classes is the largest label
    /// plus 1.
    ///
    /// # Errors
    /// If a file cannot be read or is not an IDX file of the right shape, if the numbers of images and labels differ, or if
    /// an image or all of them are too large. Then the values are not read.
    pub fn open(images: &Path, labels: Option<&Path>) -> Result<Self, DataError> {
        Self::open_in(images, labels, available_memory())
    }

    /// Opens files that may take `memory` bytes.
    fn open_in(images: &Path, labels: Option<&Path>, memory: u64) -> Result<Self, DataError> {
        let path = images.display().to_string();
        let found = read(images, "data.path", memory, |header| size_of_images(header).map(drop))?;
        if found.bytes.is_empty() {
            return Err(DataError::Empty { path, what: "image".into(), field: "data.path" });
        }
        let malformed = |path: &Path, reason: String| DataError::Malformed { path: path.display().to_string(), reason };
        let [height, width, channels] = size_of_images(&found.header).map_err(|reason| malformed(images, reason))?;
        let labels = match labels {
            None => Vec::new(),
            Some(labels) => {
                let num_images = found.header.shape[0];
                let values = read(labels, "data.label_path", memory, |header| match header.shape[..] {
                    [count] if count == num_images => Ok(()),
                    [count] => Err(format!("it has {count} labels, but {path} has {num_images} images")),
                    _ => Err(format!("its shape is {:?}; labels have one dimension", header.shape)),
                })?;
                let classes = classes(&values).map_err(|reason| malformed(labels, reason))?;
                if let Some(reason) = doubt(&classes) {
                    tracing::warn!("{}: {reason}", labels.display());
                }
                classes
            }
        };
        let num_classes = labels.iter().max().map_or(0, |&largest| largest as usize + 1);
        Ok(Self { path, height, width, channels, images: found.bytes, labels, num_classes })
    }
}

impl Idx {
    fn pixels(&self, item: u64) -> &[u8] {
        let size = self.height * self.width * self.channels;
        &self.images[item as usize * size..][..size]
    }
}

/// Returns the height, the width and the number of channels of the images.
///
/// # Errors
/// If the values are no images, or those are too large.
fn size_of_images(header: &Header) -> Result<[usize; 3], String> {
    if header.kind != UNSIGNED_BYTES {
        return Err(format!("its values are {}, and images are unsigned bytes", kind_name(header.kind)));
    }
    let (height, width, channels) = match header.shape[..] {
        [_, height, width] => (height, width, 1),
        [_, height, width, channels @ (1 | 3)] => (height, width, channels),
        _ => {
            return Err(format!(
                "its shape is {:?}; images have the shape [images, height, width], with 1 or 3 channels as a fourth",
                header.shape
            ));
        }
    };
    // A file without values has no images.
    let is_empty = header.shape.contains(&0);
    match refusal(width, height).filter(|_| !is_empty) {
        Some(reason) => Err(format!("{reason} in each image")),
        None => Ok([height, width, channels]),
    }
}

/// Returns the class of each label.
///
/// # Errors
/// If the labels are no integers, or one is negative or larger than 65,535, which no number of classes needs.
fn classes(labels: &Values) -> Result<Vec<u32>, String> {
    let class = |(place, label): (usize, i64)| {
        u16::try_from(label).map(u32::from).map_err(|_| format!("label {place} is {label}, which is no class"))
    };
    let bytes = &labels.bytes;
    match labels.header.kind {
        UNSIGNED_BYTES => Ok(bytes.iter().map(|&byte| byte.into()).collect()),
        0x09 => bytes.iter().map(|&byte| i64::from(byte as i8)).enumerate().map(class).collect(),
        0x0B => bytes.as_chunks().0.iter().map(|it| i16::from_be_bytes(*it).into()).enumerate().map(class).collect(),
        0x0C => bytes.as_chunks().0.iter().map(|it| i32::from_be_bytes(*it).into()).enumerate().map(class).collect(),
        other => Err(format!("its values are {}, and labels are integers", kind_name(other))),
    }
}

impl ImageSource for Idx {
    fn num_images(&self) -> u64 {
        (self.images.len() / (self.height * self.width * self.channels)) as u64
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn digest(&self) -> [u8; 32] {
        let shape = [self.height, self.width, self.channels].map(|size| (size as u64).to_le_bytes()).concat();
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        digest_of([&shape[..], &self.images, &labels])
    }

    fn stamp(&self) -> Result<[u8; 32], DataError> {
        // It has the pixels.
        Ok(self.digest())
    }

    fn name(&self, item: u64) -> String {
        format!("{} image {item}", self.path)
    }

    fn entry(&self, item: u64) -> String {
        let crc = crc32fast::hash(self.pixels(item));
        let (height, width, channels) = (self.height, self.width, self.channels);
        let name = format!("image {item} of {height} x {width} x {channels} with CRC-32 {crc:08x}");
        with_class(name, self.class(item), &[])
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.labels.get(item as usize).map(|&label| i64::from(label))
    }

    fn is_padded(&self) -> bool {
        true
    }

    fn fetch(&self, item: u64) -> Result<Fetched, DataError> {
        let bytes = self.pixels(item).to_vec();
        Ok(Pixels { width: self.width, height: self.height, channels: self.channels, bytes }.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::idx_file::{Failure, Stored, parse};

    fn idx(shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, shape.len() as u8];
        shape.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    #[test]
    fn images_and_labels_are_read_plain_and_gzipped() {
        let folder = tempfile::tempdir().unwrap();
        let (images, labels) = (folder.path().join("i"), folder.path().join("l.gz"));
        std::fs::write(&images, idx(&[2, 1, 2], &[1, 2, 3, 4])).unwrap();
        let file = std::fs::File::create(&labels).unwrap();
        let mut zipped = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut zipped, &idx(&[2], &[7, 0])).unwrap();
        zipped.finish().unwrap();
        let source = Idx::open(&images, Some(&labels)).unwrap();
        assert_eq!((source.num_images(), source.num_classes(), source.class(0)), (2, 8, Some(7)));
        assert_eq!(source.load(1).unwrap(), Pixels { width: 2, height: 1, channels: 1, bytes: vec![3, 4] });
    }

    #[test]
    fn colours_other_integers_and_several_gzip_members_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (images, labels) = (folder.path().join("i.gz"), folder.path().join("l"));
        let whole = idx(&[2, 1, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let mut zipped = Vec::new();
        for part in [&whole[..7], &whole[7..]] {
            let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut member, part).unwrap();
            zipped.extend(member.finish().unwrap());
        }
        zipped.extend([0; 512]);
        std::fs::write(&images, zipped).unwrap();
        for (kind, values) in [(9, &[0, 9][..]), (0x0B, &[0, 0, 0, 9]), (0x0C, &[0, 0, 0, 0, 0, 0, 0, 9])] {
            let mut bytes = idx(&[2], values);
            bytes[2] = kind;
            std::fs::write(&labels, bytes).unwrap();
            let source = Idx::open(&images, Some(&labels)).unwrap();
            assert_eq!((source.num_images(), source.num_classes(), source.class(1)), (2, 10, Some(9)));
            assert_eq!(source.load(1).unwrap(), Pixels { width: 1, height: 1, channels: 3, bytes: vec![4, 5, 6] });
        }
    }

    #[test]
    fn damaged_files_are_errors_that_name_the_damage() {
        let error =
            |bytes: &[u8]| match parse(bytes, Stored::Plain(bytes.len() as u64), u64::MAX, &|_| Ok(())).unwrap_err() {
                Failure::Wrong(reason) => reason,
                Failure::Unread(error) => panic!("{error}"),
            };
        assert!(error(b"not idx at all, sorry").contains("no IDX file"));
        assert!(error(&idx(&[2, 1, 2], &[1, 2, 3])).contains("only 3 bytes follow"));
        assert!(error(&idx(&[2], &[1, 2, 3])).contains("more bytes follow"));
        assert!(error(&idx(&[2], &[])[..6]).contains("within its header"));
        // A header that promises 2^64 values, and one that promises far more than follow.
        assert!(error(&idx(&[u32::MAX; 3], &[1])).contains("too many"));
        assert!(error(&idx(&[u32::MAX], &[1])).contains("only 1 bytes follow"));
        let folder = tempfile::tempdir().unwrap();
        let (images, labels) = (folder.path().join("i"), folder.path().join("l"));
        let opened = |of_images: Vec<u8>, of_labels: Vec<u8>| {
            std::fs::write(&images, of_images).unwrap();
            std::fs::write(&labels, of_labels).unwrap();
            Idx::open(&images, Some(&labels)).unwrap_err().to_string()
        };
        let two = || idx(&[2, 1, 1], &[1, 2]);
        let text = opened(two(), idx(&[3], &[1, 2, 3]));
        assert!(text.contains("3 labels") && text.contains("2 images"), "{text}");
        assert!(opened(idx(&[2], &[1, 2]), idx(&[2], &[1, 2])).contains("its shape is [2]"));
        assert!(opened(two(), two()).contains("labels have one dimension"));
        let of_kind = |kind: u8, values: &[u8]| {
            let mut bytes = idx(&[1, 1, 1], values);
            bytes[2] = kind;
            bytes
        };
        assert!(opened(of_kind(0x0D, &[0; 4]), two()).contains("32-bit floats"));
        let mut negative = idx(&[2], &[0, 255]);
        negative[2] = 9;
        assert!(opened(two(), negative).contains("label 1 is -1"));
        assert!(Idx::open(folder.path(), None).unwrap_err().to_string().contains("is a folder"));
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i");
        let error = |content: &[u8], memory| {
            std::fs::write(&path, content).unwrap();
            Idx::open_in(&path, None, memory).unwrap_err().to_string()
        };
        let gzipped = |content: &[u8]| {
            let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut member, content).unwrap();
            member.finish().unwrap()
        };
        // The values are missing, so that a reader of them finds another error.
        for header in [idx(&[2, 40_000, 40_000], &[]), gzipped(&idx(&[2, 40_000, 40_000], &[]))] {
            let text = error(&header, u64::MAX);
            assert!(text.contains("40000 x 40000 pixels, and at most 178956970"), "{text}");
        }
        // More values than the bytes of the file can unpack to, and than the memory holds.
        let text = error(&gzipped(&idx(&[1 << 20, 1 << 10, 1 << 10], &[])), u64::MAX);
        assert!(text.contains("at most") && text.contains("bytes follow"), "{text}");
        let whole = idx(&[1000, 10, 10], &[0; 100_000]);
        for content in [whole.clone(), gzipped(&whole)] {
            let text = error(&content, 99_999);
            assert!(text.contains("100000 bytes do not fit") && text.contains("99999 are free"), "{text}");
            assert!(Idx::open_in(&path, None, 100_000).is_ok());
        }
        // A damaged content after a header that is refused is not reached.
        let mut damaged = gzipped(&whole);
        damaged.truncate(damaged.len() - 8);
        assert!(error(&damaged, 99_999).contains("do not fit"));
    }
}
