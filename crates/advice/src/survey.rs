//! What a data set consists of: its classes, and the sizes and colours of a sample of its images.

use admiral_data::{DataError, ImageSource, class_sizes, load_whole, spaced_items};

/// What a data set consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pictures {
    /// The number of images.
    pub count: u64,
    /// The number of images in each class; empty without classes.
    pub class_sizes: Vec<u64>,
    /// The names of the classes; empty if they have none.
    pub class_names: Vec<String>,
    /// The shorter sides in pixels of the decoded images of the sample, ascending. Never empty.
    pub short_sides: Vec<u64>,
    /// The number of decoded images of the sample in which red, green and blue are equal everywhere.
    pub num_gray: u64,
    /// The errors of the images of the sample that cannot be decoded.
    pub broken: Vec<String>,
    /// Whether small images get a black border instead of being enlarged.
    pub is_padded: bool,
}

impl Pictures {
    /// Whether all images of the sample are grey.
    #[must_use]
    pub fn is_gray(&self) -> bool {
        self.num_gray == self.short_sides.len() as u64
    }

    /// Returns the length in pixels that the shorter sides of three quarters of the sample reach.
    #[must_use]
    pub fn lower_quartile(&self) -> u64 {
        self.short_sides.get(self.short_sides.len() / 4).copied().unwrap_or(0)
    }

    /// Whether the images look like digits or text: small, and all grey.
    #[must_use]
    pub fn look_like_digits(&self) -> bool {
        let longest = self.short_sides.last().copied().unwrap_or(0);
        self.is_gray() && longest <= crate::limits::DIGIT_SIZE
    }
}

/// Looks at a source: counts its classes, and decodes up to `sample` images that are evenly spaced over it.
///
/// # Errors
/// [`DataError::Unavailable`] if the file system fails, and [`DataError::AllBroken`] if no image of the sample can be
/// decoded.
pub fn survey(source: &dyn ImageSource, sample: u64) -> Result<Pictures, DataError> {
    let count = source.num_images();
    let mut pictures = Pictures {
        count,
        class_sizes: class_sizes(source),
        class_names: source.class_names().to_vec(),
        is_padded: source.is_padded(),
        ..Pictures::default()
    };
    let mut last = None;
    for item in spaced_items(count, sample) {
        match load_whole(source, item, 3) {
            Ok(image) => {
                pictures.short_sides.push(image.short_side() as u64);
                let is_gray = image.bytes.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
                pictures.num_gray += u64::from(is_gray);
            }
            Err(DataError::Broken { path, reason }) => {
                pictures.broken.push(format!("{path}: {reason}"));
                last = Some((path, reason));
            }
            Err(error) => return Err(error),
        }
    }
    if let (true, Some((path, reason))) = (pictures.short_sides.is_empty(), last) {
        return Err(DataError::AllBroken { attempts: pictures.broken.len() as u64, path, reason });
    }
    pictures.short_sides.sort_unstable();
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use admiral_data::{ClassSource, DataConfig, open};
    use admiral_storage::StoreOptions;

    use super::*;

    fn source_of(root: &Path, classes: ClassSource) -> std::sync::Arc<dyn ImageSource> {
        let config = DataConfig { path: root.display().to_string(), classes, ..DataConfig::default() };
        open(&config, 0, &StoreOptions::default()).unwrap().train
    }

    #[test]
    fn sizes_colours_classes_and_broken_images_are_counted() {
        let root = tempfile::tempdir().unwrap();
        for class in ["a", "b"] {
            std::fs::create_dir(root.path().join(class)).unwrap();
        }
        let save = |name: &str, width, height, pixel| {
            image::RgbImage::from_pixel(width, height, image::Rgb(pixel)).save(root.path().join(name)).unwrap();
        };
        save("a/1.png", 20, 10, [7, 7, 7]);
        save("a/2.png", 30, 40, [7, 8, 7]);
        std::fs::write(root.path().join("b/3.png"), b"broken").unwrap();
        let source = source_of(root.path(), ClassSource::Folder);
        let pictures = survey(&*source, 64).unwrap();
        assert_eq!((pictures.count, &pictures.class_sizes[..]), (3, &[2, 1][..]));
        assert_eq!((&pictures.short_sides[..], pictures.num_gray), (&[10, 30][..], 1));
        assert!(pictures.broken[0].contains("3.png") && pictures.broken.len() == 1, "{:?}", pictures.broken);
        assert!(!pictures.is_gray() && !pictures.is_padded);
        // A sample of one image takes the first.
        assert_eq!(survey(&*source, 1).unwrap().short_sides, [10]);
    }

    #[test]
    fn a_sample_of_broken_images_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("1.png"), b"broken").unwrap();
        let source = source_of(root.path(), ClassSource::None);
        assert!(matches!(survey(&*source, 64), Err(DataError::AllBroken { attempts: 1, .. })));
    }
}
