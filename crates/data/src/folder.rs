//! A folder of image files as a source.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config::ClassSource;
use super::decode::decode;
use super::error::DataError;
use super::files::{ReadError, may_pass, read, retry};
use super::pixels::Pixels;
use super::source::{ImageSource, digest_of};

/// The image files of a folder and of all folders below it, sorted by path. Hidden files and folders, whose names begin
/// with a dot, are left out.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    paths: Vec<PathBuf>,
    classes: Vec<u32>,
    class_names: Vec<String>,
}

impl Folder {
    /// Lists the image files in `root`. Classes are numbered in the order of their names, which are compared byte by
    /// byte.
    ///
    /// # Errors
    /// If the folder cannot be listed or contains no image file, or if an image file has no class although `classes`
    /// wants one.
    pub fn open(root: &Path, classes: ClassSource) -> Result<Self, DataError> {
        let mut listing = Listing::default();
        listing.add(root)?;
        let Listing { mut paths, hidden, .. } = listing;
        if let Some(first) = hidden.first() {
            tracing::info!("{} hidden files and folders are left out, the first is {}", hidden.len(), first.display());
        }
        paths.sort();
        if paths.is_empty() {
            return Err(DataError::Empty {
                path: root.display().to_string(),
                what: "jpg, jpeg, png, gif or webp file",
                field: "data.path",
            });
        }
        let root_path = root.to_owned();
        let names: Vec<&OsStr> = match classes {
            ClassSource::None => {
                return Ok(Self { root: root_path, paths, classes: Vec::new(), class_names: Vec::new() });
            }
            ClassSource::FileName => paths.iter().map(|path| class_of_file_name(path)).collect::<Result<_, _>>()?,
            ClassSource::Folder => paths.iter().map(|path| class_of_folder(path, root)).collect::<Result<_, _>>()?,
        };
        let mut numbers: BTreeMap<&OsStr, u32> = names.iter().map(|&name| (name, 0)).collect();
        numbers.values_mut().zip(0..).for_each(|(number, index)| *number = index);
        let classes = names.iter().map(|name| numbers[name]).collect();
        let class_names = numbers.keys().map(|name| shown(name)).collect();
        Ok(Self { root: root_path, paths, classes, class_names })
    }
}

/// Returns a name as text. Bytes that are not UTF-8 are shown as numbers, so that different names look different.
fn shown(name: &OsStr) -> String {
    name.as_bytes().utf8_chunks().fold(String::new(), |text, chunk| {
        chunk.invalid().iter().fold(text + chunk.valid(), |text, byte| text + &format!("\\x{byte:02x}"))
    })
}

/// The files and folders that were found.
#[derive(Debug, Default)]
struct Listing {
    paths: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
    /// The device and number of each folder. A link may lead to a folder that is listed already, or is being listed.
    seen: BTreeSet<(u64, u64)>,
}

impl Listing {
    /// Adds the image files in `folder` and below it.
    fn add(&mut self, folder: &Path) -> Result<(), DataError> {
        let mut folders = vec![folder.to_owned()];
        // A folder keeps its own name even if a link to it comes first, so links are followed last.
        let mut links = BTreeSet::new();
        while let Some(folder) = folders.pop().or_else(|| links.pop_first()) {
            let is_new = retry(|| std::fs::metadata(&folder), std::thread::sleep)
                .map(|meta| self.seen.insert((meta.dev(), meta.ino())));
            if !is_new.map_err(|error| unreadable(&folder, &error))? {
                continue;
            }
            let list = || std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
            let mut entries = retry(list, std::thread::sleep).map_err(|error| unreadable(&folder, &error))?;
            entries.sort();
            for path in entries {
                let is_hidden = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
                let is_image = is_image_file(&path);
                // The target of a link counts. A link to nothing, or to itself, has no target.
                let meta = match retry(|| std::fs::metadata(&path), std::thread::sleep) {
                    Err(error) if may_pass(&error) => return Err(unreadable(&path, &error)),
                    meta => meta.ok(),
                };
                let (is_folder, is_file) = meta.map_or((false, false), |meta| (meta.is_dir(), meta.is_file()));
                match (is_hidden, is_folder) {
                    (true, is_folder) if is_folder || is_image => self.hidden.push(path),
                    (false, true) if path.is_symlink() => _ = links.insert(path),
                    (false, true) => folders.push(path),
                    (false, false) if is_image && is_file => self.paths.push(path),
                    (false, false) if is_image => {
                        let reason = "it is no regular file: a link to nothing, a pipe, or a device; remove it".into();
                        return Err(DataError::Malformed { path: path.display().to_string(), reason });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> DataError {
    let (path, reason) = (path.display().to_string(), error.to_string());
    if may_pass(error) {
        DataError::Unavailable { path, reason }
    } else {
        DataError::Unreadable { path, reason, field: "data.path" }
    }
}

fn is_image_file(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| matches!(extension.as_str(), "jpg" | "jpeg" | "png" | "gif" | "webp"))
}

fn class_of_file_name(path: &Path) -> Result<&OsStr, DataError> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    match name.iter().position(|&byte| byte == b'_') {
        Some(end) if end > 0 => Ok(OsStr::from_bytes(&name[..end])),
        _ => Err(DataError::Malformed {
            path: path.display().to_string(),
            reason: "its name has no class before a \"_\", as `data.classes: file_name` requires; rename it or take \
                     the class from its folder (`data.classes: folder`)"
                .into(),
        }),
    }
}

fn class_of_folder<'a>(path: &'a Path, root: &Path) -> Result<&'a OsStr, DataError> {
    match path.parent() {
        Some(parent) if parent != root => Ok(parent.file_name().unwrap_or_default()),
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
        self.class_names.len()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn digest(&self) -> [u8; 32] {
        let paths = self.paths.iter().map(|path| path.strip_prefix(&self.root).unwrap_or(path));
        let classes: Vec<u8> = self.classes.iter().flat_map(|class| class.to_le_bytes()).collect();
        digest_of(paths.map(|path| path.as_os_str().as_bytes()).chain([&classes[..]]))
    }

    fn name(&self, item: u64) -> String {
        self.paths[item as usize].display().to_string()
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.classes.get(item as usize).map(|&class| i64::from(class))
    }

    fn load(&self, item: u64) -> Result<Pixels, DataError> {
        let broken = |reason: String| DataError::Broken { path: self.name(item), reason };
        let bytes = read(&self.paths[item as usize]).map_err(|error| match error {
            ReadError::Unusable(reason) => broken(reason),
            ReadError::Unavailable(error) => {
                DataError::Unavailable { path: self.name(item), reason: error.to_string() }
            }
        })?;
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

    #[test]
    fn each_folder_is_listed_once_and_only_regular_files_are_images() {
        let root = tree(&["x/1.png", "y/2.png"]);
        for link in ["self", "x/up", "y/up"] {
            std::os::unix::fs::symlink(root.path(), root.path().join(link)).unwrap();
        }
        std::os::unix::fs::symlink(root.path().join("x/1.png"), root.path().join("y/3.png")).unwrap();
        std::os::unix::fs::symlink(root.path().join("x"), root.path().join("z")).unwrap();
        assert_eq!(Folder::open(root.path(), ClassSource::Folder).unwrap().class_names(), ["x", "y"]);
        assert_eq!(Folder::open(root.path(), ClassSource::None).unwrap().num_images(), 3);
        let (link, pipe) = (root.path().join("loop.png"), root.path().join("pipe.png"));
        std::os::unix::fs::symlink(&link, &link).unwrap();
        let error = Folder::open(root.path(), ClassSource::None).unwrap_err().to_string();
        assert!(error.contains("loop.png") && error.contains("no regular file"), "{error}");
        std::fs::remove_file(link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        let error = Folder::open(root.path(), ClassSource::None).unwrap_err().to_string();
        assert!(error.contains("pipe.png") && error.contains("no regular file"), "{error}");
    }

    #[test]
    fn hidden_files_and_folders_are_no_classes() {
        let root = tree(&["cat/1.png", "dog/2.png", ".ipynb_checkpoints/1.png", "cat/._1.png"]);
        let folder = Folder::open(root.path(), ClassSource::Folder).unwrap();
        assert_eq!((folder.num_images(), folder.class_names()), (2, &["cat".to_owned(), "dog".to_owned()][..]));
    }

    #[test]
    fn names_of_classes_are_bytes() {
        let root = tempfile::tempdir().unwrap();
        for name in [&b"\xfe"[..], b"\xff", b"a"] {
            let folder = root.path().join(OsStr::from_bytes(name));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("1.png"), b"").unwrap();
        }
        let folder = Folder::open(root.path(), ClassSource::Folder).unwrap();
        assert_eq!(folder.class_names(), ["a", "\\xfe", "\\xff"]);
        assert_eq!([0, 1, 2].map(|item| folder.class(item)), [Some(0), Some(1), Some(2)]);
    }
}
