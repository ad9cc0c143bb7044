//! A folder of image files as a source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::ClassSource;
use super::decode::decode;
use super::error::DataError;
use super::pixels::Pixels;
use super::source::ImageSource;

/// The image files of a folder and of all folders below it, sorted by path.
#[derive(Debug)]
pub struct Folder {
    paths: Vec<PathBuf>,
    classes: Vec<u32>,
    num_classes: usize,
}

impl Folder {
    /// Lists the image files in `root`. Classes are numbered in the order of their names.
    ///
    /// # Errors
    /// If the folder cannot be listed or contains no image file, or if an image file has no class although `classes`
    /// wants one.
    pub fn open(root: &Path, classes: ClassSource) -> Result<Self, DataError> {
        let mut paths = Vec::new();
        list(root, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            return Err(DataError::Empty {
                path: root.display().to_string(),
                what: "jpg, jpeg, png or gif file",
                field: "data.path",
            });
        }
        let names = match classes {
            ClassSource::None => return Ok(Self { paths, classes: Vec::new(), num_classes: 0 }),
            ClassSource::FileName => {
                paths.iter().map(|path| class_of_file_name(path)).collect::<Result<Vec<_>, _>>()?
            }
            ClassSource::Folder => {
                paths.iter().map(|path| class_of_folder(path, root)).collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut numbers: BTreeMap<&str, u32> = names.iter().map(|name| (name.as_str(), 0)).collect();
        numbers.values_mut().zip(0..).for_each(|(number, index)| *number = index);
        let classes = names.iter().map(|name| numbers[name.as_str()]).collect();
        let num_classes = numbers.len();
        Ok(Self { paths, classes, num_classes })
    }
}

/// Appends the image files in `folder` and below it to `paths`.
fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let unreadable = |error: std::io::Error| DataError::Unreadable {
        path: folder.display().to_string(),
        reason: error.to_string(),
        field: "data.path",
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            list(&path, paths)?;
        } else if is_image_file(&path) {
            paths.push(path);
        }
    }
    Ok(())
}

fn is_image_file(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| matches!(extension.as_str(), "jpg" | "jpeg" | "png" | "gif"))
}

fn class_of_file_name(path: &Path) -> Result<String, DataError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.split_once('_') {
        Some((class, _)) if !class.is_empty() => Ok(class.to_owned()),
        _ => Err(DataError::Malformed {
            path: path.display().to_string(),
            reason: "its name has no class before a \"_\", as `data.classes: file_name` requires; rename it or take \
                     the class from its folder (`data.classes: folder`)"
                .into(),
        }),
    }
}

fn class_of_folder(path: &Path, root: &Path) -> Result<String, DataError> {
    match path.parent() {
        Some(parent) if parent != root => {
            Ok(parent.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
        }
        _ => Err(DataError::Malformed {
            path: path.display().to_string(),
            reason: "it is not in a folder that names its class, as `data.classes: folder` requires; move it into one"
                .into(),
        }),
    }
}

impl ImageSource for Folder {
    fn num_images(&self) -> u64 {
        self.paths.len() as u64
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn name(&self, item: u64) -> String {
        self.paths[item as usize].display().to_string()
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.classes.get(item as usize).map(|&class| i64::from(class))
    }

    fn load(&self, item: u64) -> Result<Pixels, DataError> {
        let broken = |reason: String| DataError::Broken { path: self.name(item), reason };
        let bytes = std::fs::read(&self.paths[item as usize]).map_err(|error| broken(error.to_string()))?;
        decode(&bytes).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        root
    }

    #[test]
    fn classes_come_from_file_names_or_folders() {
        let root = tree(&["b/dog_1.JPG", "b/cat_2.png", "a/dog_3.gif", "a/readme.txt"]);
        let by_name = Folder::open(root.path(), ClassSource::FileName).unwrap();
        assert_eq!((by_name.num_images(), by_name.num_classes()), (3, 2));
        // Sorted by path: a/dog_3, b/cat_2, b/dog_1.
        assert_eq!([0, 1, 2].map(|item| by_name.class(item)), [Some(1), Some(0), Some(1)]);
        let by_folder = Folder::open(root.path(), ClassSource::Folder).unwrap();
        assert_eq!([0, 1, 2].map(|item| by_folder.class(item)), [Some(0), Some(1), Some(1)]);
        assert_eq!(Folder::open(root.path(), ClassSource::None).unwrap().class(0), None);
    }

    #[test]
    fn unusable_files_are_reported_by_path() {
        let open = |root: &Path, classes| Folder::open(root, classes).unwrap_err().to_string();
        assert!(open(Path::new("/no/such/folder"), ClassSource::None).contains("/no/such/folder"));
        assert!(open(tree(&["a.txt"]).path(), ClassSource::None).contains("holds no jpg"));
        assert!(open(tree(&["plain.png"]).path(), ClassSource::FileName).contains("plain.png"));
        assert!(open(tree(&["plain.png"]).path(), ClassSource::Folder).contains("plain.png"));
        let root = tree(&["x_1.png"]);
        let error = Folder::open(root.path(), ClassSource::FileName).unwrap().load(0).unwrap_err().to_string();
        assert!(error.contains("x_1.png") && error.contains("empty"), "{error}");
    }
}
