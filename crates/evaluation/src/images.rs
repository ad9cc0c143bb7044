//! Sets of images: an npz file, the output of a sampling job, pictures in folders or containers, or an IDX file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use admiral_containers::Kind;
use admiral_data::{
    ClassSource, DataConfig, DataError, Draws, ImageSource, SourceKind, load_square, load_whole, open_with_any_classes,
};
use admiral_samples::{Images, names_npz};
use admiral_storage::{StoreOptions, hex};
use rayon::prelude::*;

use crate::check::ImageCount;
use crate::error::Error;

/// Images that are read by number, all of one shape.
#[derive(Debug)]
pub struct ImageSet {
    location: String,
    shape: [usize; 3],
    num: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Those of an npz file or of a job.
    Samples(Box<Images>),
    /// Pictures, in their stored size, or scaled and cropped to a square around their center.
    Pictures { source: Arc<dyn ImageSource>, is_square: bool },
}

/// How pictures become images of one shape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PictureShape {
    /// Height and width to which pictures are scaled and cropped around their center, as in training. Without it, all
    /// pictures must have the same size.
    pub size: Option<usize>,
    /// The channels that the network takes, 1 or 3. Pictures are converted to them.
    pub channels: usize,
}

/// What is known of the classes of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classes {
    /// The images have no labels, the labels cannot be read, or the source of pictures has a single class.
    Unknown,
    /// All images have this label.
    One(i64),
    /// The images have at least two different labels.
    Several,
}

impl ImageSet {
    /// Opens the images at a location: an npz file or a sampling job (a path or a bucket's URL), pictures in folders or
    /// containers such as tar shards (in a local folder or a bucket), or an IDX file, gzipped or not. The classes of pictures
    /// are the labels in the container, else the names of the folders that hold them; those of an IDX file are not known.
    /// `pictures` only applies to pictures and IDX files.
    ///
    /// # Errors
    /// [`Error::Samples`], [`Error::Data`] if they cannot be read; [`Error::Refused`] if there are none, or a picture size is
    /// asked of images that already have one.
    pub fn open(location: &str, pictures: PictureShape, options: &StoreOptions) -> Result<Self, Error> {
        let path = Path::new(location);
        let images = if names_npz(location) || path.join("job.json").exists() {
            Images::open(location, options)?
        } else if location.contains("://") {
            match Images::open(location, options) {
                Ok(images) => images,
                Err(no_job @ admiral_samples::Error::NotFound { .. }) => {
                    let source = open_pictures(location, SourceKind::Auto, options);
                    // Without any image, the more general message says what was looked for.
                    let source = source.map_err(|error| match error {
                        DataError::Empty { .. } => Error::from(no_job),
                        other => other.into(),
                    });
                    return Self::of_source(location, source?, pictures);
                }
                Err(error) => return Err(error.into()),
            }
        } else {
            let is_idx = path.is_file() && Kind::of_name(location).is_none() && !location.ends_with(".json");
            let kind = match (is_idx, path.is_dir()) {
                (true, _) => SourceKind::Idx,
                // An archive beside folders of pictures does not count.
                (false, true) => SourceKind::Folder,
                (false, false) => SourceKind::Auto,
            };
            let source = match open_pictures(location, kind, options) {
                Err(DataError::Empty { .. }) if kind == SourceKind::Folder => {
                    open_pictures(location, SourceKind::Auto, options)
                }
                source => source,
            };
            return Self::of_source(location, source?, pictures);
        };
        let (shape, num) = (images.shape(), images.num());
        if num == 0 {
            return Err(Error::Refused(format!("{location} has no images")));
        }
        if shape[2] != 1 && shape[2] != 3 {
            let reason = if shape[0] == 1 || shape[0] == 3 { "; is it [N, channels, height, width]?" } else { "" };
            return Err(Error::Refused(format!(
                "{location}: its images have {} channels; arr_0 must be [N, height, width, channels] with 1 or 3 \
                 channels{reason}",
                shape[2]
            )));
        }
        if pictures.size.is_some_and(|size| shape[..2] != [size, size]) {
            return Err(Error::Refused(format!(
                "{location}: its images have {} x {} pixels, and {size} x {size} are needed, as the network of the features \
                 or an option says; draw them in that size, or give the pictures as a folder, which is scaled",
                shape[0],
                shape[1],
                size = pictures.size.unwrap_or(0)
            )));
        }
        Ok(Self { location: location.to_owned(), shape, num, content: Content::Samples(Box::new(images)) })
    }

    /// Returns the pictures of a source. `location` names them in messages.
    ///
    /// # Errors
    /// [`Error::Data`] if the first picture cannot be read.
    pub fn of_source(location: &str, source: Arc<dyn ImageSource>, pictures: PictureShape) -> Result<Self, Error> {
        let num = source.num_images();
        let [height, width] = match pictures.size {
            Some(size) => [size, size],
            None => {
                let first = load_whole(&*source, 0, pictures.channels)?;
                [first.height, first.width]
            }
        };
        let is_square = pictures.size.is_some();
        let content = Content::Pictures { source, is_square };
        Ok(Self { location: location.to_owned(), shape: [height, width, pictures.channels], num, content })
    }

    /// Returns the location, for messages and reports.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
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

    /// Returns the number of images and their shape.
    #[must_use]
    pub fn count(&self) -> ImageCount {
        ImageCount { location: self.location.clone(), num: self.num, shape: self.shape }
    }

    /// Returns a text that differs between different sets: from the checksums in an npz file, the settings of a job, or the
    /// names and classes of pictures. It is the same on hosts with copies of the same files. Features are kept under this
    /// text together with [`stamp`](Self::stamp).
    #[must_use]
    pub fn key(&self) -> String {
        match &self.content {
            Content::Samples(images) => format!("samples {}", images.digest()),
            Content::Pictures { source, is_square } => {
                let [height, width, channels] = self.shape;
                format!("pictures {} {height}x{width}x{channels} {is_square}", hex(source.digest()))
            }
        }
    }

    /// Returns a text that changes when pictures are replaced under the same names: the digest of their checksums, or of the
    /// lengths and versions or times of change of their files. Other images need none, because their [key](Self::key) tells
    /// them.
    ///
    /// # Errors
    /// [`Error::Data`] if a file cannot be looked at.
    pub fn stamp(&self) -> Result<String, Error> {
        match &self.content {
            Content::Samples(_) => Ok(String::new()),
            Content::Pictures { source, .. } => Ok(hex(source.stamp()?)),
        }
    }

    /// Reads all images of an npz file in order, which compares its checksum. Other images are verified when they are read.
    ///
    /// # Errors
    /// [`Error::Samples`] if the file is damaged.
    pub fn verify(&self) -> Result<(), Error> {
        match &self.content {
            Content::Samples(images) => Ok(images.verify(images_of_bytes(self.shape))?),
            Content::Pictures { .. } => Ok(()),
        }
    }

    /// Returns the class of each image, if they have classes.
    ///
    /// # Errors
    /// [`Error::Samples`] if they cannot be read.
    pub fn labels(&self) -> Result<Option<Vec<i64>>, Error> {
        match &self.content {
            Content::Samples(images) => match images.labels() {
                Ok(labels) => Ok(Some(labels)),
                Err(admiral_samples::Error::NoLabels { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Content::Pictures { source, .. } => Ok((0..self.num).map(|image| source.class(image)).collect()),
        }
    }

    /// Returns whether the images have one class or several. Labels that cannot be read are not known: a comparison does not
    /// need them. Nor is anything known of pictures without a second class, which often lie in a single folder.
    #[must_use]
    pub fn classes(&self) -> Classes {
        if let Content::Pictures { source, .. } = &self.content
            && source.num_classes() < 2
        {
            return Classes::Unknown;
        }
        match self.labels().ok().flatten().as_deref() {
            None | Some([]) => Classes::Unknown,
            Some([first, others @ ..]) if others.iter().all(|other| other == first) => Classes::One(*first),
            Some(_) => Classes::Several,
        }
    }

    /// Reads the pixels of images, `[number, height, width, channels]`. Fastest in ascending order.
    ///
    /// # Errors
    /// [`Error::Samples`], [`Error::Data`] if one cannot be read; [`Error::Refused`] if a picture has another size than the
    /// first.
    pub fn read(&mut self, images: Range<u64>) -> Result<Vec<u8>, Error> {
        let [height, width, channels] = self.shape;
        let (source, is_square) = match &mut self.content {
            Content::Samples(samples) => return Ok(samples.read(images)?),
            Content::Pictures { source, is_square } => (source, *is_square),
        };
        let draws = Draws { crop: None, flip: false };
        let load = |image: u64| -> Result<Vec<u8>, Error> {
            if is_square {
                return Ok(load_square(&**source, image, height, channels, &draws)?.bytes);
            }
            let picture = load_whole(&**source, image, channels)?;
            if [picture.height, picture.width] != [height, width] {
                return Err(Error::Refused(format!(
                    "{} has {} x {} pixels, the first picture of {} has {height} x {width}; give a size to which all are \
                     scaled and cropped",
                    source.name(image),
                    picture.height,
                    picture.width,
                    self.location
                )));
            }
            Ok(picture.bytes)
        };
        let pictures: Result<Vec<Vec<u8>>, Error> = images.into_par_iter().map(load).collect();
        Ok(pictures?.concat())
    }
}

/// Opens pictures. Their classes are the labels in the container, else the names of their folders, else there are none.
fn open_pictures(
    location: &str,
    source: SourceKind,
    options: &StoreOptions,
) -> Result<Arc<dyn ImageSource>, DataError> {
    let data = DataConfig { source, path: location.to_owned(), ..DataConfig::default() };
    let candidates = [ClassSource::Container, ClassSource::Folder];
    Ok(open_with_any_classes(&data, &candidates, options, |_, source| source.is_some())?.0)
}

/// The bytes of pixels that are in memory at once.
const BYTES_AT_ONCE: usize = 1 << 26;

/// Returns how many images of a shape are read at once: at least one.
#[must_use]
pub fn images_of_bytes(shape: [usize; 3]) -> u64 {
    (BYTES_AT_ONCE / shape.iter().product::<usize>().max(1)).max(1) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_data::Subset;

    use super::*;

    /// A PNG of one gray pixel.
    const PNG: &[u8] = &[
        137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 58, 126,
        155, 85, 0, 0, 0, 10, 73, 68, 65, 84, 120, 156, 99, 104, 0, 0, 0, 130, 0, 129, 221, 67, 106, 244, 0, 0, 0, 0,
        73, 69, 78, 68, 174, 66, 96, 130,
    ];

    #[test]
    fn pictures_in_shards_have_the_labels_and_a_stamp_that_tells_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let write = |members: &[(&str, &[u8])]| {
            let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
            for (name, bytes) in members {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
            builder.finish().unwrap();
        };
        let shape = PictureShape { size: Some(1), channels: 3 };
        let open = |path: &Path| ImageSet::open(path.to_str().unwrap(), shape, &StoreOptions::default());
        write(&[("1.png", PNG), ("1.cls", b"4"), ("2.png", PNG), ("2.cls", b"2")]);
        let stamp = open(&path).unwrap().stamp().unwrap();
        for place in [&path, folder.path()] {
            let mut images = open(place).unwrap();
            assert_eq!((images.num(), images.labels().unwrap()), (2, Some(vec![4, 2])));
            assert_eq!(images.stamp().unwrap(), stamp);
            assert_eq!(images.read(0..2).unwrap().len(), 6);
        }
        let half = || {
            let whole = open_pictures(path.to_str().unwrap(), SourceKind::Tar, &StoreOptions::default()).unwrap();
            ImageSet::of_source("validation", Arc::new(Subset::new(whole, vec![0]).unwrap()), shape).unwrap()
        };
        let of_half = half();
        let mut other = PNG.to_vec();
        // A comment after the end of the picture.
        other.push(0);
        write(&[("1.png", &other), ("1.cls", b"4"), ("2.png", PNG), ("2.cls", b"2")]);
        assert_ne!(open(&path).unwrap().stamp().unwrap(), stamp);
        assert_eq!(half().key(), of_half.key());
        assert_ne!(half().stamp().unwrap(), of_half.stamp().unwrap());
    }

    #[test]
    fn pictures_lie_in_a_folder_or_in_folders_of_classes() {
        let shape = PictureShape { size: None, channels: 3 };
        let (flat, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for class in ["cat", "dog"] {
            std::fs::write(flat.path().join(format!("{class}.png")), PNG).unwrap();
            std::fs::create_dir(tree.path().join(class)).unwrap();
            std::fs::write(tree.path().join(class).join("1.png"), PNG).unwrap();
        }
        let open = |folder: &tempfile::TempDir| {
            ImageSet::open(folder.path().to_str().unwrap(), shape, &StoreOptions::default()).unwrap()
        };
        let mut flat = open(&flat);
        assert_eq!((flat.num(), flat.shape(), flat.labels().unwrap()), (2, [1, 1, 3], None));
        std::fs::write(tree.path().join("left-over.tar"), b"no pictures").unwrap();
        let tree = open(&tree);
        assert_eq!(tree.labels().unwrap(), Some(vec![0, 1]));
        assert_eq!(flat.read(0..2).unwrap().len(), 6);
    }
}
