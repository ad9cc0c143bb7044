//! IDX files, the format of MNIST, as a source. A file consists of a big-endian header and the bytes.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::error::DataError;
use super::pixels::Pixels;
use super::source::{ImageSource, digest_of};

/// The type code of unsigned bytes in the header.
const UNSIGNED_BYTES: u8 = 8;

/// The gray images of an IDX file and the labels of another one, in memory.
#[derive(Debug)]
pub struct Idx {
    path: String,
    height: usize,
    width: usize,
    images: Vec<u8>,
    labels: Vec<u8>,
    num_classes: usize,
}

impl Idx {
    /// Reads the images, `[images, height, width]` bytes, and the labels, `[images]` bytes. Both may be gzipped. The
    /// labels are the classes. The number of classes is the largest label plus 1.
    ///
    /// # Errors
    /// If a file cannot be read or is not an IDX file of the right shape, or if the numbers of images and labels
    /// differ.
    pub fn open(images: &Path, labels: Option<&Path>) -> Result<Self, DataError> {
        let (shape, pixels) = read(images, 3, "data.path")?;
        let path = images.display().to_string();
        if pixels.is_empty() {
            return Err(DataError::Empty { path, what: "image", field: "data.path" });
        }
        let labels = match labels {
            None => Vec::new(),
            Some(labels) => {
                let (count, values) = read(labels, 1, "data.label_path")?;
                if count[0] != shape[0] {
                    let reason = format!("it has {} labels, but {path} has {} images", count[0], shape[0]);
                    return Err(DataError::Malformed { path: labels.display().to_string(), reason });
                }
                values
            }
        };
        let num_classes = labels.iter().max().map_or(0, |&largest| usize::from(largest) + 1);
        Ok(Self { path, height: shape[1], width: shape[2], images: pixels, labels, num_classes })
    }
}

/// Returns the shape and the bytes of a file. `field` is the configuration field that names it.
fn read(path: &Path, num_dimensions: usize, field: &'static str) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let unreadable = |error: std::io::Error| DataError::Unreadable {
        path: path.display().to_string(),
        reason: error.to_string(),
        field,
    };
    let malformed = |reason: String| DataError::Malformed { path: path.display().to_string(), reason };
    if path.is_dir() {
        return Err(malformed(format!("it is a folder; `{field}` must name one IDX file")));
    }
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    if bytes.starts_with(&[0x1F, 0x8B]) {
        let mut unzipped = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut unzipped).map_err(|error| malformed(error.to_string()))?;
        bytes = unzipped;
    }
    parse(&bytes, num_dimensions).map_err(malformed)
}

/// Returns the shape and the bytes of an uncompressed IDX file.
fn parse(bytes: &[u8], num_dimensions: usize) -> Result<(Vec<usize>, Vec<u8>), String> {
    let header = 4 + 4 * num_dimensions;
    if bytes.len() < header || bytes[..2] != [0, 0] || bytes[2] != UNSIGNED_BYTES {
        return Err("it is no IDX file of bytes".into());
    }
    if usize::from(bytes[3]) != num_dimensions {
        return Err(format!("it has {} dimensions, not {num_dimensions}", bytes[3]));
    }
    let shape: Vec<usize> = bytes[4..header]
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    let expected = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    if expected != Some(bytes.len() - header) {
        return Err(format!("its header promises {shape:?} bytes, but {} follow", bytes.len() - header));
    }
    Ok((shape, bytes[header..].to_vec()))
}

impl ImageSource for Idx {
    fn num_images(&self) -> u64 {
        (self.images.len() / (self.height * self.width)) as u64
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn digest(&self) -> [u8; 32] {
        let shape = [self.height as u64, self.width as u64].map(u64::to_le_bytes).concat();
        digest_of([&shape[..], &self.images, &self.labels])
    }

    fn name(&self, item: u64) -> String {
        format!("{} image {item}", self.path)
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.labels.get(item as usize).map(|&label| i64::from(label))
    }

    fn is_padded(&self) -> bool {
        true
    }

    fn load(&self, item: u64) -> Result<Pixels, DataError> {
        let size = self.height * self.width;
        let bytes = self.images[item as usize * size..][..size].to_vec();
        Ok(Pixels { width: self.width, height: self.height, channels: 1, bytes })
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
    fn damaged_files_are_errors_that_name_the_damage() {
        let error = |bytes: &[u8]| parse(bytes, 3).unwrap_err();
        assert!(error(b"not idx at all, sorry").contains("no IDX file"));
        assert!(error(&idx(&[2], &[0; 40])).contains("1 dimensions"));
        assert!(error(&idx(&[2, 1, 2], &[1, 2, 3])).contains("3 follow"));
        let folder = tempfile::tempdir().unwrap();
        let (images, labels) = (folder.path().join("i"), folder.path().join("l"));
        std::fs::write(&images, idx(&[2, 1, 1], &[1, 2])).unwrap();
        std::fs::write(&labels, idx(&[3], &[1, 2, 3])).unwrap();
        let text = Idx::open(&images, Some(&labels)).unwrap_err().to_string();
        assert!(text.contains("3 labels") && text.contains("2 images"), "{text}");
        assert!(Idx::open(folder.path(), None).unwrap_err().to_string().contains("is a folder"));
    }
}
