//! The images of a container as a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use admiral_containers::{Container, Fetched, Index, Labels, shown};

use super::classes::doubt;
use super::config::ClassSource;
use super::error::DataError;
use super::source::{ImageSource, digest_of, with_class};

/// The images of a container, in the order of their names, which are compared byte by byte.
#[derive(Debug)]
pub struct Indexed {
    container: Arc<Container>,
    classes: Vec<u32>,
    class_names: Vec<String>,
    num_classes: usize,
}

impl Indexed {
    /// Returns the images of a container with their classes. Classes with names are numbered in the order of their names,
    /// which are compared byte by byte.
    ///
    /// # Errors
    /// [`DataError::NoClasses`] if an image has no class although `classes` wants one, [`DataError::Malformed`] if a label is
    /// too large.
    pub fn new(container: Arc<Container>, classes: ClassSource) -> Result<Self, DataError> {
        let (classes, class_names, num_classes) = match classes {
            ClassSource::None => (Vec::new(), Vec::new(), 0),
            ClassSource::Container => labeled(&container)?,
            ClassSource::FileName => numbered(&container, class_of_file_name)?,
            ClassSource::Folder => numbered(&container, class_of_folder)?,
        };
        Ok(Self { container, classes, class_names, num_classes })
    }
}

/// The class of each image, the names of the classes (empty if the classes have numbers only), and the number of classes.
type Classes = (Vec<u32>, Vec<String>, usize);

/// The largest number of classes, as for IDX files: more are a mistake.
const MAX_CLASSES: usize = 65_536;

/// Returns the classes that the container has.
fn labeled(container: &Container) -> Result<Classes, DataError> {
    let refuse = |reason: String| Err(DataError::Malformed { path: container.shown(0), reason });
    match container.index().labels() {
        Labels::None => Err(DataError::NoClasses {
            path: container.shown(0),
            reason: "it has no label, as `data.classes: container` requires; take the class from its name \
                     (`data.classes: file_name` or `folder`), or none"
                .into(),
        }),
        Labels::Numbers(numbers) => {
            let of_labels = numbers.iter().max().map_or(0, |&most| most as usize + 1);
            if of_labels > MAX_CLASSES {
                return refuse(format!("a label is {}, and the largest is {}", of_labels - 1, MAX_CLASSES - 1));
            }
            // A class may have lost all its images.
            let listed = container.index().num_classes().map_or(0, |num| num as usize);
            if listed > MAX_CLASSES {
                return refuse(format!("its first sample says {listed} classes, and the most are {MAX_CLASSES}"));
            }
            if listed == 0
                && let Some(reason) = doubt(numbers)
            {
                tracing::warn!("{}: {reason}", container.shown(0));
            }
            Ok((numbers.clone(), Vec::new(), of_labels.max(listed)))
        }
        Labels::Names(numbers, names) => {
            Ok((numbers.clone(), names.iter().map(|name| shown(name)).collect(), names.len()))
        }
    }
}

/// Numbers the classes that the names of the images have.
fn numbered(container: &Container, class_of: fn(&[u8]) -> Result<&[u8], &'static str>) -> Result<Classes, DataError> {
    let index = container.index();
    let class = |item| {
        class_of(index.name(item))
            .map_err(|reason| DataError::NoClasses { path: container.shown(item), reason: reason.into() })
    };
    let mut numbers: BTreeMap<&[u8], u32> = BTreeMap::new();
    for item in 0..index.num_images() {
        numbers.insert(class(item)?, 0);
    }
    numbers.values_mut().zip(0..).for_each(|(number, place)| *number = place);
    let classes = (0..index.num_images()).map(|item| Ok(numbers[class(item)?])).collect::<Result<_, DataError>>()?;
    Ok((classes, numbers.keys().map(|name| shown(name)).collect(), numbers.len()))
}

fn class_of_file_name(path: &[u8]) -> Result<&[u8], &'static str> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    match name.iter().position(|&byte| byte == b'_') {
        Some(end) if end > 0 => Ok(&name[..end]),
        _ => Err("its name has no class before a \"_\", as `data.classes: file_name` requires; rename it or take the \
                  class from its folder (`data.classes: folder`)"),
    }
}

fn class_of_folder(path: &[u8]) -> Result<&[u8], &'static str> {
    match path.rsplit(|&byte| byte == b'/').nth(1) {
        Some(folder) if !folder.is_empty() => Ok(folder),
        _ => Err("it is not in a folder that names its class, as `data.classes: folder` requires; move it into one"),
    }
}

/// Returns the names of all images.
fn names(index: &Index) -> impl Iterator<Item = &[u8]> {
    (0..index.num_images()).map(|item| index.name(item))
}

impl ImageSource for Indexed {
    fn num_images(&self) -> u64 {
        self.container.index().num_images()
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn digest(&self) -> [u8; 32] {
        let classes: Vec<u8> = self.classes.iter().flat_map(|class| class.to_le_bytes()).collect();
        digest_of(names(self.container.index()).chain([&classes[..]]))
    }

    fn stamp(&self) -> Result<[u8; 32], DataError> {
        Ok(self.container.stamp()?)
    }

    fn name(&self, item: u64) -> String {
        self.container.shown(item)
    }

    fn path(&self, item: u64) -> Option<&[u8]> {
        Some(self.container.index().name(item))
    }

    fn entry(&self, item: u64) -> String {
        with_class(shown(self.container.index().name(item)), self.class(item), &self.class_names)
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.classes.get(item as usize).map(|&class| i64::from(class))
    }

    fn fetch(&self, item: u64) -> Result<Fetched, DataError> {
        Ok(self.container.fetch(item)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use admiral_containers::{Kind, Settings};
    use admiral_storage::StoreOptions;

    use super::*;
    use crate::buffers::Buffers;
    use crate::config::OnBrokenImage;
    use crate::sample::SampleReader;
    use crate::test_source::spec;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        root
    }

    fn open(root: &Path, classes: ClassSource) -> Result<Indexed, DataError> {
        let settings = Settings { kind: Some(Kind::Tree), cache: None, threads: 1, stores: &StoreOptions::default() };
        Indexed::new(Arc::new(Container::open(&root.display().to_string(), &settings)?), classes)
    }

    #[test]
    fn classes_come_from_file_names_or_folders() {
        let root = tree(&["b/dog_1.JPG", "b/cat_2.png", "a/dog_3.gif", "a/readme.txt"]);
        let by_name = open(root.path(), ClassSource::FileName).unwrap();
        assert_eq!((by_name.num_images(), by_name.num_classes()), (3, 2));
        // Sorted by path: a/dog_3, b/cat_2, b/dog_1.
        assert_eq!([0, 1, 2].map(|item| by_name.class(item)), [Some(1), Some(0), Some(1)]);
        let by_folder = open(root.path(), ClassSource::Folder).unwrap();
        assert_eq!([0, 1, 2].map(|item| by_folder.class(item)), [Some(0), Some(1), Some(1)]);
        assert_eq!(open(root.path(), ClassSource::None).unwrap().class(0), None);
        let error = open(root.path(), ClassSource::Container).unwrap_err().to_string();
        assert!(error.contains("no label"), "{error}");
    }

    #[test]
    fn unusable_files_are_reported_by_path() {
        let error = |root: &Path, classes| open(root, classes).unwrap_err().to_string();
        assert!(error(Path::new("/no/such/folder"), ClassSource::None).contains("/no/such/folder"));
        assert!(error(tree(&["a.txt"]).path(), ClassSource::None).contains("holds no jpg"));
        assert!(error(tree(&["plain.png"]).path(), ClassSource::FileName).contains("plain.png"));
        assert!(error(tree(&["plain.png"]).path(), ClassSource::Folder).contains("plain.png"));
        let root = tree(&["x_1.png"]);
        let error = open(root.path(), ClassSource::FileName).unwrap().load(0).unwrap_err().to_string();
        assert!(error.contains("x_1.png") && error.contains("empty"), "{error}");
    }

    #[test]
    fn pipes_and_links_to_nothing_are_broken_images() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for number in 0..8_u8 {
            image::GrayImage::from_pixel(4, 4, image::Luma([number])).save(path(&format!("{number}.png"))).unwrap();
        }
        assert!(std::process::Command::new("mkfifo").arg(path("pipe.png")).status().unwrap().success());
        std::os::unix::fs::symlink("nothing", path("link.png")).unwrap();
        std::os::unix::fs::symlink("loop.png", path("loop.png")).unwrap();
        let source = open(root.path(), ClassSource::None).unwrap();
        assert_eq!(source.num_images(), 11);
        for (item, name, word) in [
            (8, "link.png", "link to nothing"),
            (9, "loop.png", "Too many levels of symbolic links"),
            (10, "pipe.png", "not a regular file"),
        ] {
            let error = source.load(item).unwrap_err();
            assert!(
                matches!(&error, DataError::Broken { path, reason } if path.ends_with(name) && reason.contains(word))
            );
        }
        let source: Arc<dyn ImageSource> = Arc::new(source);
        let read = |on_broken_image| {
            let reader = SampleReader::new(Arc::clone(&source), spec(on_broken_image));
            reader.read((0..11).collect(), &mut Buffers::default())
        };
        assert!(matches!(read(OnBrokenImage::Stop), Err(DataError::Broken { .. })));
        let batch = read(OnBrokenImage::Skip).unwrap();
        assert!(batch.images.len() == 11 * 16 && batch.num_skipped >= 3);
        let mut broken: Vec<String> =
            read(OnBrokenImage::Quarantine).unwrap().broken.into_iter().map(|it| it.image).collect();
        broken.sort();
        assert_eq!(broken, ["link.png", "loop.png", "pipe.png"]);
    }

    #[test]
    fn names_of_classes_are_bytes() {
        let root = tempfile::tempdir().unwrap();
        for name in [&b"\xfe"[..], b"\xff", b"a"] {
            let folder = root.path().join(OsStr::from_bytes(name));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("1.png"), b"").unwrap();
        }
        let folder = open(root.path(), ClassSource::Folder).unwrap();
        assert_eq!(folder.class_names(), ["a", "\\xfe", "\\xff"]);
        assert_eq!([0, 1, 2].map(|item| folder.class(item)), [Some(0), Some(1), Some(2)]);
    }
}
