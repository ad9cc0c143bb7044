//! The place of a container: a local folder or a store, and the pattern of its files' names.

use std::path::Path;
use std::sync::Arc;

use admiral_storage::{Location, Store, StoreOptions};

use crate::error::Error;

/// A folder or store, and which of its files belong to the container.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) root: Root,
    /// The names of files, relative to the root, with `*`, `?`, `[..]` and `{000..999}`. `None` for all files.
    pub(crate) pattern: Option<String>,
    /// The place as the user wrote it.
    pub(crate) text: String,
}

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Folder(std::path::PathBuf),
    Store(Arc<Store>),
}

impl Place {
    /// Opens the place that `text` describes: a folder, a file, or a pattern of files, local or in a store.
    ///
    /// # Errors
    /// If there is no such folder, or the store cannot be opened.
    pub(crate) fn open(text: &str, options: &StoreOptions) -> Result<Self, Error> {
        let of =
            |root, pattern: Option<&str>| Self { root, pattern: pattern.map(str::to_owned), text: text.to_owned() };
        let special = text.find(['*', '?', '[', '{']);
        if text.contains("://") {
            let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let has_file = special.is_some() || (!text.ends_with('/') && names_a_file(last));
            let end = special.unwrap_or(text.len());
            let (folder, pattern) = match text[..end].rfind('/') {
                Some(slash) if has_file => (&text[..slash], Some(&text[slash + 1..])),
                _ => (text, None),
            };
            let location = Location::parse(folder)?;
            return Ok(of(Root::Store(Arc::new(Store::open(&location, options)?)), pattern));
        }
        let path = Path::new(text);
        let meta = crate::files::retry(|| std::fs::metadata(path), std::thread::sleep);
        match (meta, special) {
            (Ok(meta), _) if meta.is_dir() => Ok(of(Root::Folder(path.to_owned()), None)),
            (Ok(_), _) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new(".")).to_owned();
                let name = path.file_name().map(|name| glob::Pattern::escape(&name.to_string_lossy()));
                Ok(of(Root::Folder(folder), name.as_deref()))
            }
            (Err(_), Some(special)) => {
                let (folder, pattern) = match text[..special].rfind('/') {
                    Some(0) => ("/", &text[1..]),
                    Some(slash) => (&text[..slash], &text[slash + 1..]),
                    None => (".", text),
                };
                Ok(of(Root::Folder(folder.into()), Some(pattern)))
            }
            (Err(error), None) => Err(Error::of_file(text, &error)),
        }
    }
}

/// Returns whether a name is that of a container's file, and not of a folder.
#[must_use]
pub fn names_a_file(name: &str) -> bool {
    let endings = ["tar", "zip", "npz", "json", "mdb", "parquet", "gz", "tgz"];
    name.rsplit_once('.').is_some_and(|(_, ending)| endings.iter().any(|other| ending.eq_ignore_ascii_case(other)))
}
