//! IDX files, the format of MNIST, as a source. A file consists of a big-endian header and the values.

use std::io::Read;
use std::path::Path;

use admiral_containers::{self as containers, Fetched, ReadError};
use flate2::bufread::GzDecoder;

use super::error::DataError;
use super::pixels::Pixels;
use super::source::{ImageSource, digest_of, with_class};

/// The type code of unsigned bytes in the header.
const UNSIGNED_BYTES: u8 = 0x08;

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
    /// If a file cannot be read or is not an IDX file of the right shape, or if the numbers of images and labels
    /// differ.
    pub fn open(images: &Path, labels: Option<&Path>) -> Result<Self, DataError> {
        let path = images.display().to_string();
        let malformed = |path: &Path, reason: String| DataError::Malformed { path: path.display().to_string(), reason };
        let found = read(images, "data.path")?;
        if found.kind != UNSIGNED_BYTES {
            let reason = format!("its values are {}, and images are unsigned bytes", kind_name(found.kind));
            return Err(malformed(images, reason));
        }
        let (height, width, channels) = match found.shape[..] {
            [_, height, width] => (height, width, 1),
            [_, height, width, channels @ (1 | 3)] => (height, width, channels),
            _ => {
                let reason = format!(
                    "its shape is {:?}; images have the shape [images, height, width], with 1 or 3 channels as a fourth",
                    found.shape
                );
                return Err(malformed(images, reason));
            }
        };
        if found.bytes.is_empty() {
            return Err(DataError::Empty { path, what: "image".into(), field: "data.path" });
        }
        let labels = match labels {
            None => Vec::new(),
            Some(labels) => {
                let values = read(labels, "data.label_path")?;
                let [count] = values.shape[..] else {
                    return Err(malformed(
                        labels,
                        format!("its shape is {:?}; labels have one dimension", values.shape),
                    ));
                };
                if count != found.shape[0] {
                    let reason = format!("it has {count} labels, but {path} has {} images", found.shape[0]);
                    return Err(malformed(labels, reason));
                }
                classes(&values).map_err(|reason| malformed(labels, reason))?
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

/// The content of an IDX file.
#[derive(Debug, PartialEq)]
struct Values {
    /// The code of the type.
    kind: u8,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Returns the name and the size in bytes of the type with this code; `None` if there is no such type.
fn kind_of(code: u8) -> Option<(&'static str, usize)> {
    Some(match code {
        UNSIGNED_BYTES => ("unsigned bytes", 1),
        0x09 => ("signed bytes", 1),
        0x0B => ("16-bit integers", 2),
        0x0C => ("32-bit integers", 4),
        0x0D => ("32-bit floats", 4),
        0x0E => ("64-bit floats", 8),
        _ => return None,
    })
}

fn kind_name(code: u8) -> &'static str {
    kind_of(code).map_or("of an unknown type", |(name, _)| name)
}

/// Returns the class of each label.
///
/// # Errors
/// If the labels are no integers, or one is negative or larger than 65,535, which no number of classes needs.
fn classes(labels: &Values) -> Result<Vec<u32>, String> {
    let wide: Vec<i64> = match labels.kind {
        UNSIGNED_BYTES => labels.bytes.iter().map(|&byte| i64::from(byte)).collect(),
        0x09 => labels.bytes.iter().map(|&byte| i64::from(byte as i8)).collect(),
        0x0B => labels.bytes.as_chunks().0.iter().map(|bytes| i64::from(i16::from_be_bytes(*bytes))).collect(),
        0x0C => labels.bytes.as_chunks().0.iter().map(|bytes| i64::from(i32::from_be_bytes(*bytes))).collect(),
        other => return Err(format!("its values are {}, and labels are integers", kind_name(other))),
    };
    let class = |(place, &label): (usize, &i64)| {
        u16::try_from(label).map(u32::from).map_err(|_| format!("label {place} is {label}, which is no class"))
    };
    wide.iter().enumerate().map(class).collect()
}

/// Returns the content of a file. `field` is the configuration field that names it.
fn read(path: &Path, field: &'static str) -> Result<Values, DataError> {
    let name = || path.display().to_string();
    let malformed = |reason: String| DataError::Malformed { path: name(), reason };
    if path.is_dir() {
        return Err(malformed(format!("it is a folder; `{field}` must name one IDX file")));
    }
    let bytes = containers::read(path).map_err(|error| match error {
        ReadError::Unusable(reason) => DataError::Unreadable { path: name(), reason, field },
        ReadError::Unavailable(error) => DataError::Unavailable { path: name(), reason: error.to_string() },
    })?;
    let values = if bytes.starts_with(&GZIP) {
        parse(GzipMembers(Some(GzDecoder::new(bytes.as_slice()))))
    } else {
        parse(bytes.as_slice())
    };
    values.map_err(malformed)
}

/// The start of a gzip file, and of each of its members (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// The content of a gzip file, which may have several members (RFC 1952, section 2.2). What follows the last member, such as
/// zeros that fill a block, is ignored, as by `gzip` itself.
struct GzipMembers<'a>(Option<GzDecoder<&'a [u8]>>);

impl Read for GzipMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(mut member) = self.0.take() {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.0 = Some(member);
                return Ok(count);
            }
            let rest = member.into_inner();
            self.0 = rest.starts_with(&GZIP).then(|| GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// Returns the content of an uncompressed IDX file. Reads no more than its header promises.
fn parse(mut file: impl Read) -> Result<Values, String> {
    let damaged = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends within its header".to_owned(),
        _ => error.to_string(),
    };
    let mut start = [0; 4];
    file.read_exact(&mut start).map_err(damaged)?;
    let [0, 0, kind, num_dimensions] = start else { return Err("it is no IDX file".into()) };
    let Some((_, size)) = kind_of(kind) else {
        return Err(format!("it is no IDX file: there is no type {kind:#04x}"));
    };
    let mut shape = Vec::with_capacity(num_dimensions.into());
    for _ in 0..num_dimensions {
        let mut word = [0; 4];
        file.read_exact(&mut word).map_err(damaged)?;
        shape.push(u32::from_be_bytes(word) as usize);
    }
    let expected = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
    let Some(expected) = expected else { return Err(format!("its header promises {shape:?} values, too many")) };
    // One more byte than promised shows that the file is longer. Memory grows with the bytes that are there.
    let mut bytes = Vec::new();
    let limit = (expected as u64).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() != expected {
        let follow = if bytes.len() > expected { "more".to_owned() } else { format!("only {}", bytes.len()) };
        return Err(format!("its header promises {shape:?} values of {size} bytes, but {follow} bytes follow"));
    }
    Ok(Values { kind, shape, bytes })
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
        let error = |bytes: &[u8]| parse(bytes).unwrap_err();
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
}
