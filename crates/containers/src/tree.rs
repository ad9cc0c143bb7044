//! A tree of image files: a local folder, or a prefix in a store.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::files::{may_pass, retry};
use crate::index::{Index, Shard};
use crate::left_out::LeftOut;
use crate::names::{is_hidden, is_image_name};

/// Lists the image files below a local folder. Hidden files and folders, whose names begin with a dot, are left out. What
/// has the name of an image and is a pipe, a device, or a link that leads nowhere, is listed too: it is a broken image.
///
/// # Errors
/// If a folder cannot be listed.
pub(crate) fn list_folder(root: &Path) -> Result<Index, Error> {
    let mut listing = Listing::default();
    listing.add(root)?;
    listing.left_out.say(&root.display().to_string());
    listing.folders.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Index::of_tree(listing.folders, listing.paths))
}

/// Returns the image files among those of a store at `place`.
pub(crate) fn of_names(names: impl Iterator<Item = String>, place: &str) -> Index {
    let is_taken = |path: &Vec<u8>| is_image_name(path) && !is_hidden(path);
    let (paths, others): (Vec<_>, Vec<_>) = names.map(String::into_bytes).partition(is_taken);
    let mut left_out = LeftOut::default();
    others.iter().for_each(|path| left_out.add(path));
    left_out.say(place);
    Index::of_tree(Vec::new(), paths)
}

/// Returns whether the folders of a tree are as they were when it was listed: no file was added or removed.
pub(crate) fn is_current(root: &Path, folders: &[Shard]) -> bool {
    !folders.is_empty()
        && folders.iter().all(|folder| {
            let path = root.join(std::ffi::OsStr::from_bytes(&unescaped(&folder.name)));
            std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() && version(&meta) == folder.version)
        })
}

fn version(meta: &std::fs::Metadata) -> String {
    format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())
}

/// Returns a path as text from which [`unescaped`] gets it back.
fn escaped(path: &[u8]) -> String {
    path.iter()
        .map(|&byte| {
            if byte == b'%' || !byte.is_ascii_graphic() { format!("%{byte:02x}") } else { char::from(byte).to_string() }
        })
        .collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut path, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, others)) = rest.split_first() {
        let code = others.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if first == b'%' => (path.push(byte), rest = &others[2..]).1,
            _ => (path.push(first), rest = others).1,
        }
    }
    path
}

/// The files and folders that were found.
#[derive(Debug, Default)]
struct Listing {
    /// The image files, relative to the root.
    paths: Vec<Vec<u8>>,
    left_out: LeftOut,
    folders: Vec<Shard>,
    /// The device and number of each folder. A link may lead to a folder that is listed already, or is being listed.
    seen: BTreeSet<(u64, u64)>,
}

impl Listing {
    /// Adds the image files in `root` and below it.
    fn add(&mut self, root: &Path) -> Result<(), Error> {
        let mut folders = vec![PathBuf::new()];
        // A folder keeps its own name even if a link to it comes first, so links are followed last.
        let mut links = BTreeSet::new();
        while let Some(folder) = folders.pop().or_else(|| links.pop_first()) {
            let full = root.join(&folder);
            let fail = |error: io::Error| Error::of_file(&full.display().to_string(), &error);
            let meta = retry(|| std::fs::metadata(&full), std::thread::sleep).map_err(fail)?;
            if !self.seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            let name = escaped(folder.as_os_str().as_bytes());
            self.folders.push(Shard { name, length: 0, version: version(&meta) });
            let list = || {
                let entries = std::fs::read_dir(&full)?.map(|entry| {
                    let entry = entry?;
                    Ok((entry.file_name(), entry.file_type()?))
                });
                entries.collect::<io::Result<Vec<_>>>()
            };
            let mut entries = retry(list, std::thread::sleep).map_err(fail)?;
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            for (name, kind) in entries {
                let path = folder.join(&name);
                let bytes = path.as_os_str().as_bytes();
                let is_image = is_image_name(name.as_bytes());
                // Most files need no further look, which matters for millions of them on a network file system.
                if kind.is_file() && !is_image {
                    self.left_out.add(bytes);
                    continue;
                }
                if is_hidden(name.as_bytes()) {
                    if kind.is_dir() {
                        self.left_out.add_hidden_folder(bytes);
                    } else {
                        self.left_out.add(bytes);
                    }
                    continue;
                }
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_symlink() && leads_to_folder(&root.join(&path))? {
                    links.insert(path);
                } else if is_image {
                    self.paths.push(bytes.to_vec());
                } else {
                    self.left_out.add(bytes);
                }
            }
        }
        Ok(())
    }
}

/// Returns whether a link leads to a folder. A link to nothing, or to itself, does not.
fn leads_to_folder(link: &Path) -> Result<bool, Error> {
    match retry(|| std::fs::metadata(link), std::thread::sleep) {
        Err(error) if may_pass(&error) => Err(Error::of_file(&link.display().to_string(), &error)),
        meta => Ok(meta.is_ok_and(|meta| meta.is_dir())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::names::shown;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        root
    }

    fn names(root: &Path) -> Vec<String> {
        let index = list_folder(root).unwrap();
        (0..index.num_images()).map(|item| shown(index.name(item))).collect()
    }

    #[test]
    fn images_are_sorted_by_the_bytes_of_their_paths() {
        let root = tree(&["b/1.png", "a/z.JPG", "a-1/x.gif", "a/readme.txt", "c.webp", ".x/1.png", "a/._z.jpg"]);
        assert_eq!(names(root.path()), ["a-1/x.gif", "a/z.JPG", "b/1.png", "c.webp"]);
    }

    #[test]
    fn images_of_formats_that_are_not_read_are_counted() {
        let root = tree(&["b/1.png", "a/2.bmp", "3.TIFF", "4.jfif", ".5.avif", "6.txt"]);
        assert_eq!(names(root.path()), ["4.jfif", "b/1.png"]);
        let mut listing = Listing::default();
        listing.add(root.path()).unwrap();
        assert_eq!(listing.left_out.num_other(), 2);
    }

    #[test]
    fn each_folder_is_listed_once_and_all_else_of_an_images_name_is_an_image() {
        let root = tree(&["x/1.png", "y/2.png"]);
        for link in ["self", "x/up", "y/up"] {
            std::os::unix::fs::symlink(root.path(), root.path().join(link)).unwrap();
        }
        std::os::unix::fs::symlink(root.path().join("x/1.png"), root.path().join("y/3.png")).unwrap();
        std::os::unix::fs::symlink(root.path().join("x"), root.path().join("a")).unwrap();
        assert_eq!(names(root.path()), ["x/1.png", "y/2.png", "y/3.png"]);
        // Which of them can be read is known when they are read, and the run's setting for broken images applies.
        std::os::unix::fs::symlink("loop.png", root.path().join("loop.png")).unwrap();
        std::os::unix::fs::symlink("nothing", root.path().join("x/link.png")).unwrap();
        std::os::unix::fs::symlink("nothing", root.path().join("x/link.txt")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(root.path().join("pipe.png")).status().unwrap().success());
        assert_eq!(names(root.path()), ["loop.png", "pipe.png", "x/1.png", "x/link.png", "y/2.png", "y/3.png"]);
    }

    #[test]
    fn a_tree_is_current_until_a_file_comes_or_goes() {
        let root = tree(&["x/1.png", "y y%/2.png"]);
        let folders = list_folder(root.path()).unwrap().shards;
        assert!(is_current(root.path(), &folders));
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(root.path().join("y y%/3.png"), b"").unwrap();
        assert!(!is_current(root.path(), &folders));
        assert!(!is_current(root.path(), &[]));
        assert!(!is_current(Path::new("/no/such/folder"), &folders));
    }

    #[test]
    fn any_path_is_escaped_and_back() {
        for path in [&b"a b%/\xff\n"[..], b"", b"plain/a", b"%41"] {
            assert_eq!(unescaped(&escaped(path)), path);
        }
    }
}
