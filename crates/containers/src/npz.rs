//! The images of an npz file in the published form: `arr_0` with images, and optionally `arr_1` with their labels.
//!
//! The arrays must be stored without compression, as `numpy.savez` does, because a compressed array has no random access.

use std::sync::Arc;

use admiral_npz::{NpzImages, ReadAt};

use crate::blob::Blob;
use crate::error::Error;
use crate::index::{Encoding, Found, Label};

/// The images that are read at once.
const BATCH: u64 = 64;

impl ReadAt for Blob {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let count = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let bytes = self.read(offset, count).map_err(std::io::Error::other)?;
        buffer[..count].copy_from_slice(&bytes);
        Ok(count)
    }
}

/// Finds the images. Their names are their numbers, with leading zeros. Reads the whole file once.
///
/// # Errors
/// If the file has another form, and which is expected.
pub(crate) fn find(blob: &Arc<Blob>) -> Result<Vec<Found>, Error> {
    let path = blob.shown();
    let refuse = |error: admiral_npz::Error| Error::malformed(&*path, error.to_string());
    let file: Arc<dyn ReadAt> = Arc::<Blob>::clone(blob);
    let mut images = NpzImages::from_reader(file, blob.length, &path).map_err(refuse)?;
    let labels = match images.labels("arr_1") {
        Ok(labels) => Some(labels),
        Err(admiral_npz::Error::NoLabels { .. }) => None,
        Err(error) => return Err(refuse(error)),
    };
    let ([height, width, channels], num) = (images.shape(), images.num());
    let Some(start) = images.offset() else {
        let reason = "arr_0 is compressed, so that single images cannot be read; write it with numpy.savez instead of \
                      numpy.savez_compressed";
        return Err(Error::malformed(path, reason));
    };
    if channels != 1 && channels != 3 {
        return Err(Error::malformed(path, format!("its images have {channels} channels; 1 or 3 are read")));
    }
    let encoding = Encoding::Pixels { height: height as u32, width: width as u32, channels: channels as u32 };
    let image_bytes = (height * width * channels) as u64;
    let digits = num.saturating_sub(1).to_string().len();
    let mut found = Vec::new();
    for first in (0..num).step_by(BATCH as usize) {
        let pixels = images.read(first..num.min(first + BATCH)).map_err(refuse)?;
        for (item, image) in (first..).zip(pixels.chunks_exact(image_bytes as usize)) {
            let label = match &labels {
                None => None,
                Some(labels) => Some(Label::Number(u32::try_from(labels[item as usize]).map_err(|_| {
                    let reason = format!("arr_1 has the label {} for image {item}", labels[item as usize]);
                    Error::malformed(&*path, reason)
                })?)),
            };
            found.push(Found {
                name: format!("{item:0digits$}").into_bytes(),
                offset: start + item * image_bytes,
                // At most 2^28.
                length: image_bytes as u32,
                crc: crc32fast::hash(image),
                encoding,
                label,
                is_packed: false,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_and_labels_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let pixels: Vec<u8> = (0..66).collect();
        let labels: Vec<u8> = (0..11_i64).flat_map(i64::to_le_bytes).collect();
        let hasher = |bytes: &[u8]| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(bytes);
            hasher
        };
        let archive = admiral_npz::Archive::samples(11, [2, 3, 1], hasher(&pixels), Some(hasher(&labels)));
        let bytes = [archive.before(0), pixels.clone(), archive.before(1), labels, archive.end()].concat();
        std::fs::write(&path, &bytes).unwrap();
        let blob = Arc::new(Blob::local("a.npz".into(), path, false).unwrap());
        let found = find(&blob).unwrap();
        assert_eq!((found.len(), &found[10].name[..]), (11, &b"10"[..]));
        assert_eq!(found[10].label, Some(Label::Number(10)));
        assert_eq!(found[3].encoding, Encoding::Pixels { height: 2, width: 3, channels: 1 });
        assert_eq!(blob.read(found[3].offset, 6).unwrap(), pixels[18..24]);
    }

    #[test]
    fn a_compressed_array_is_refused_with_what_to_do() {
        // A file that numpy.savez_compressed wrote.
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/npz/compressed.npz");
        let blob = Arc::new(Blob::local("compressed.npz".into(), path, false).unwrap());
        let error = find(&blob).unwrap_err().to_string();
        assert!(error.contains("compressed.npz: arr_0 is compressed"), "{error}");
        assert!(error.contains("write it with numpy.savez instead"), "{error}");
    }
}
