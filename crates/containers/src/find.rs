//! The files of a container, and its kind where the user does not name it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::blob::Blob;
use crate::error::Error;
use crate::files::retry;
use crate::kind::Kind;
use crate::names::{is_hidden, is_image_name, shown};
use crate::place::{Place, Root};

/// The local files that are kept open. Others are opened for each read, because the number of open files is limited.
const MAX_OPEN: usize = 512;

/// The most numbers that a list `{000..999}` stands for.
const MAX_LIST: u64 = 1_000_000;

/// The longest list of shards that is read, in bytes.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// The name of the file of an LMDB database in its folder.
const LMDB_NAME: &str = "data.mdb";

/// The ending of the names of DALI's indexes.
const DALI_ENDING: &str = ".idx";

/// A list of shards in the form of WebDataset's `wids`.
#[derive(Deserialize)]
struct ShardList {
    shardlist: Vec<ListedShard>,
}

#[derive(Deserialize)]
struct ListedShard {
    url: String,
}

/// The files of a place, which were listed once.
#[derive(Debug)]
pub(crate) struct Listing(Vec<File>);

impl Listing {
    /// Lists all files of a place. Those of a local folder are only its own, and not those of the folders in it; those of a
    /// store are all below its prefix. Hidden files are left out.
    ///
    /// # Errors
    /// If the place cannot be listed.
    pub(crate) fn of(place: &Place) -> Result<Self, Error> {
        let files: Vec<File> = match &place.root {
            Root::Folder(path) => names_in(path)?,
            Root::Store(store) => {
                let entries = store.list_entries("")?.into_iter();
                entries.map(|entry| File::remote(entry.path, entry.length, entry.version)).collect()
            }
        };
        Ok(Self(files.into_iter().filter(|file| !is_hidden(file.name.as_bytes())).collect()))
    }

    /// Returns the names of the files that are not in folders of the place. Only they belong to a container of files, as long
    /// as the user names no others: what is below a folder of shards is often another data set, such as `val/`.
    fn own_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|file| file.is_own()).map(|file| &file.name[..])
    }

    /// Returns a digest of the names, lengths and versions of the files that may be images, in a store.
    pub(crate) fn stamp(&self) -> [u8; 32] {
        let mut files: Vec<&File> = self.0.iter().filter(|file| is_image_name(file.name.as_bytes())).collect();
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let mut digest = Sha256::new();
        for File { name, remote, .. } in files {
            let (length, version) = remote.as_ref().map_or((0, ""), |(length, version)| (*length, version.as_str()));
            for text in [name.as_str(), version] {
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
            digest.update(length.to_le_bytes());
        }
        digest.finalize().into()
    }

    /// Returns the names of the files.
    pub(crate) fn into_names(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|file| file.name)
    }
}

/// Returns the kind of the container at a place, that of its first file whose name tells it, else a tree; and the files
/// of the place if it had to be listed for that.
///
/// # Errors
/// If the place cannot be listed.
pub(crate) fn kind_of(place: &Place) -> Result<(Kind, Option<Listing>), Error> {
    if let Some(pattern) = &place.pattern {
        let is_list = pattern.ends_with(".json");
        let text = format!(
            "{}: its name tells no kind of container, as .tar or .zip would; a configuration may name the kind in data.source",
            place.text
        );
        let kind = Kind::of_name(pattern).or(is_list.then_some(Kind::Tar));
        return Ok((kind.ok_or_else(|| Error::malformed(text, "no known ending"))?, None));
    }
    let listing = Listing::of(place)?;
    let names = || listing.own_names();
    let kind = if names().any(|name| name == LMDB_NAME) {
        Kind::Lmdb
    } else if names().any(|name| is_image_name(name.as_bytes())) {
        Kind::Tree
    } else {
        names().find_map(Kind::of_name).unwrap_or(Kind::Tree)
    };
    Ok((kind, Some(listing)))
}

fn names_in(folder: &Path) -> Result<Vec<File>, Error> {
    let list = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
    let mut names =
        retry(list, std::thread::sleep).map_err(|error| Error::of_file(&folder.display().to_string(), &error))?;
    names.sort();
    Ok(names.into_iter().map(File::local).collect())
}

/// Returns the files of a container, sorted by name. `listing` is that of the place.
///
/// # Errors
/// If there are none, or one that the user names is missing.
pub(crate) fn files(place: &Place, kind: Kind, listing: Listing) -> Result<Vec<Arc<Blob>>, Error> {
    let is_index = |file: &&File| kind == Kind::Tar && file.name.ends_with(DALI_ENDING);
    let mut indexes: HashMap<String, File> =
        listing.0.iter().filter(is_index).map(|file| (file.name.clone(), file.clone())).collect();
    let mut files = match &place.pattern {
        Some(pattern) if pattern.ends_with(".json") => listed(place, pattern, listing.0)?,
        Some(pattern) => matching(place, pattern, listing.0)?,
        None => {
            let (own, nested): (Vec<File>, Vec<File>) =
                listing.0.into_iter().filter(|file| kind.has(&file.name)).partition(File::is_own);
            if let Some(first) = nested.first() {
                let num = nested.len();
                tracing::info!("{num} files in folders of {} are left out, the first is {}", place.text, first.name);
            }
            own
        }
    };
    files.retain(|file| !kind.is_beside(&file.name));
    if files.is_empty() {
        let ending = kind.ending().unwrap_or_default();
        let what = match &place.pattern {
            Some(_) => "file of this name".into(),
            None => format!("file whose name ends in .{ending}"),
        };
        return Err(Error::Empty { path: place.text.clone(), what });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let open = |(number, file): (usize, File)| {
        let index = file.name.rsplit_once('.').and_then(|(name, _)| indexes.remove(&format!("{name}{DALI_ENDING}")));
        let mut blob = file.open(place, number < MAX_OPEN)?;
        blob.dali_index = index.map(|index| index.open(place, false)).transpose()?.map(Box::new);
        Ok(Arc::new(blob))
    };
    files.into_iter().enumerate().map(open).collect()
}

/// A file of a place.
#[derive(Debug, Clone)]
struct File {
    name: String,
    /// The length and version in a store.
    remote: Option<(u64, String)>,
    /// The name of a local file that is not UTF-8, as it is. `name` has other characters then.
    real_name: Option<OsString>,
}

impl File {
    fn local(name: OsString) -> Self {
        match name.into_string() {
            Ok(name) => Self { name, remote: None, real_name: None },
            Err(name) => Self { name: name.to_string_lossy().into_owned(), remote: None, real_name: Some(name) },
        }
    }

    fn remote(name: String, length: u64, version: String) -> Self {
        Self { name, remote: Some((length, version)), real_name: None }
    }

    /// Returns whether the file is not in a folder of the place.
    fn is_own(&self) -> bool {
        !self.name.contains('/')
    }

    fn open(self, place: &Place, is_kept_open: bool) -> Result<Blob, Error> {
        match (&place.root, self.remote) {
            (Root::Store(store), Some((length, version))) => {
                Ok(Blob::remote(self.name, Arc::clone(store), length, version))
            }
            (Root::Store(store), None) => {
                Err(Error::Unreadable { path: store.url(&self.name), reason: "there is no such file".into() })
            }
            (Root::Folder(root), _) => {
                if let Some(name) = self.real_name {
                    let path = format!("{}/{}", root.display(), shown(name.as_bytes()));
                    return Err(Error::malformed(path, "its name is not UTF-8; rename it"));
                }
                let path = root.join(&self.name);
                Blob::local(self.name, path, is_kept_open)
            }
        }
    }
}

/// Returns the files that match a pattern. A list of numbers names files, each of which must exist.
fn matching(place: &Place, pattern: &str, mut all: Vec<File>) -> Result<Vec<File>, Error> {
    let wrong = |reason: String| Error::malformed(&*place.text, reason);
    if matches!(place.root, Root::Folder(_)) && pattern.contains('/') {
        return Err(wrong("a pattern in the name of a folder is not supported; use it in the names of files".into()));
    }
    let mut found = Vec::new();
    for pattern in expanded(pattern).map_err(wrong)? {
        let glob = Pattern::new(&pattern).map_err(|error| wrong(format!("its pattern is wrong: {error}")))?;
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let is_literal = Pattern::escape(&pattern) == pattern;
        let (matched, others): (Vec<File>, Vec<File>) =
            all.into_iter().partition(|file| glob.matches_with(&file.name, options));
        if matched.is_empty() && is_literal {
            return Err(Error::Unreadable { path: place.text.clone(), reason: format!("there is no file {pattern}") });
        }
        found.extend(matched);
        all = others;
    }
    Ok(found)
}

/// Returns the patterns that a pattern with lists `{000..999}` and `{a,b}` stands for.
fn expanded(pattern: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = pattern.split_once('{') else { return Ok(vec![pattern.to_owned()]) };
    let (list, after) = rest.split_once('}').ok_or("its list lacks a }")?;
    let items: Vec<String> = match list.split_once("..") {
        None => list.split(',').map(str::to_owned).collect(),
        Some((first, last)) => {
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{{{list}}} is no list of numbers"));
            let (start, end) = (number(first)?, number(last)?);
            if start > end || end - start >= MAX_LIST {
                return Err(format!("{{{list}}} is empty, or has more than {MAX_LIST} numbers"));
            }
            (start..=end).map(|number| format!("{number:0width$}", width = first.len())).collect()
        }
    };
    let mut all = Vec::new();
    for item in items {
        all.extend(expanded(&format!("{before}{item}{after}"))?);
        if all.len() as u64 > MAX_LIST {
            return Err(format!("its lists have more than {MAX_LIST} names"));
        }
    }
    Ok(all)
}

/// Returns the files that a list of shards names. They are at the place of the list.
fn listed(place: &Place, list: &str, all: Vec<File>) -> Result<Vec<File>, Error> {
    let list_name = Pattern::new(list).map_err(|error| Error::malformed(&*place.text, error.to_string()))?;
    let Some(file) = all.iter().find(|file| list_name.matches(&file.name)) else {
        return Err(Error::Unreadable { path: place.text.clone(), reason: "there is no such file".into() });
    };
    let blob = file.clone().open(place, false)?;
    if blob.length > MAX_LIST_BYTES {
        return Err(Error::malformed(&*place.text, format!("it has more than {MAX_LIST_BYTES} bytes")));
    }
    let content = blob.read(0, blob.length as usize)?;
    let list: ShardList = serde_json::from_slice(&content).map_err(|error| {
        let reason = format!("it is no list of shards {{\"shardlist\": [{{\"url\": ...}}]}}: {error}");
        Error::malformed(&*place.text, reason)
    })?;
    let mut patterns = Vec::new();
    for ListedShard { url } in list.shardlist {
        if url.contains("://") || url.starts_with('/') || url.split('/').any(|part| part == "..") {
            let reason = format!("its shard {url:?} is at another place; shards must be beside the list");
            return Err(Error::malformed(&*place.text, reason));
        }
        patterns.extend(expanded(&url).map_err(|reason| Error::malformed(&*place.text, reason))?);
    }
    let mut found = Vec::new();
    let mut all: std::collections::BTreeMap<String, File> =
        all.into_iter().map(|file| (file.name.clone(), file)).collect();
    for name in patterns {
        let file = all.remove(&name).ok_or_else(|| {
            let reason = format!("its shard {name:?} is not there, or is named twice");
            Error::malformed(&*place.text, reason)
        })?;
        found.push(file);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_storage::{Store, StoreOptions};

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        files.iter().for_each(|file| std::fs::write(root.path().join(file), b"").unwrap());
        root
    }

    fn found(root: &Path, rest: &str) -> Result<Vec<String>, String> {
        let text = format!("{}{rest}", root.display());
        let place = Place::open(&text, &StoreOptions::default()).map_err(|error| error.to_string())?;
        let (kind, listing) = kind_of(&place).map_err(|error| error.to_string())?;
        let listing = listing.map_or_else(|| Listing::of(&place), Ok).map_err(|error| error.to_string())?;
        let files = files(&place, kind, listing).map_err(|error| error.to_string())?;
        Ok(files.iter().map(|file| file.name.clone()).collect())
    }

    #[test]
    fn files_are_named_by_a_folder_a_name_a_pattern_or_a_list() {
        let root = folder(&["a-00.tar", "a-01.tar", "a-02.tar", "b.tar", "x.txt", ".c.tar"]);
        let root = root.path();
        assert_eq!(found(root, "").unwrap(), ["a-00.tar", "a-01.tar", "a-02.tar", "b.tar"]);
        assert_eq!(found(root, "/b.tar").unwrap(), ["b.tar"]);
        assert_eq!(found(root, "/a-*.tar").unwrap(), ["a-00.tar", "a-01.tar", "a-02.tar"]);
        assert_eq!(found(root, "/a-{01..02}.tar").unwrap(), ["a-01.tar", "a-02.tar"]);
        assert_eq!(found(root, "/{a-00,b}.tar").unwrap(), ["a-00.tar", "b.tar"]);
        let error = found(root, "/a-{01..03}.tar").unwrap_err();
        assert!(error.contains("no file a-03.tar"), "{error}");
        assert!(found(root, "/a-{01..}.tar").unwrap_err().contains("no list of numbers"));
        assert!(found(root, "/none-*.tar").unwrap_err().contains("holds no file"));
        assert!(found(root, "/none.tar").unwrap_err().contains("No such file"));
        let root_of_lmdb = folder(&["data.mdb", "lock.mdb"]);
        assert_eq!(found(root_of_lmdb.path(), "").unwrap(), ["data.mdb"]);
        let with_indexes = folder(&["0.tar", "0.idx", "1.tar", "1.idx"]);
        assert_eq!(found(with_indexes.path(), "").unwrap(), ["0.tar", "1.tar"]);
        assert_eq!(found(with_indexes.path(), "/{0,1}.tar").unwrap(), ["0.tar", "1.tar"]);
        let list = r#"{"__kind__": "wids-shard-index-v1", "shardlist": [{"url": "a-{00..01}.tar"}, {"url": "b.tar", "nsamples": 3}]}"#;
        std::fs::write(root.join("list.json"), list).unwrap();
        assert_eq!(found(root, "/list.json").unwrap(), ["a-00.tar", "a-01.tar", "b.tar"]);
        for (list, word) in [
            (r#"{"shardlist": [{"url": "../b.tar"}]}"#, "another place"),
            (r#"{"shardlist": [{"url": "c.tar"}]}"#, "is not there"),
            (r#"{"shardlist": [{"url": "b.tar"}, {"url": "b.tar"}]}"#, "named twice"),
            ("[]", "no list of shards"),
        ] {
            std::fs::write(root.join("list.json"), list).unwrap();
            assert!(found(root, "/list.json").unwrap_err().contains(word), "{list}");
        }
    }

    #[test]
    fn a_store_and_a_folder_have_the_same_files() {
        let backend = Arc::new(object_store::memory::InMemory::new());
        let store = Store::from_backend(backend, object_store::path::Path::from("bucket"), "s3://bucket").unwrap();
        let root = tempfile::tempdir().unwrap();
        let names = ["a.tar", "b.tar", "val/c.tar", "val/d/e.tar", "val/x.png"];
        for name in names {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
            store.wait(store.put(name, Vec::new())).unwrap();
        }
        let in_store = |pattern: Option<&str>| {
            let (root, text) = (Root::Store(Arc::new(store.clone())), "s3://bucket".to_owned());
            let place = Place { root, pattern: pattern.map(str::to_owned), text };
            let (kind, listing) = kind_of(&place).unwrap();
            let listing = listing.map_or_else(|| Listing::of(&place), Ok).unwrap();
            files(&place, kind, listing).unwrap().iter().map(|file| file.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(in_store(None), ["a.tar", "b.tar"]);
        assert_eq!(in_store(None), found(root.path(), "").unwrap());
        assert_eq!(in_store(Some("*.tar")), found(root.path(), "/*.tar").unwrap());
        // Files in folders are used if they are named.
        assert_eq!(in_store(Some("val/*.tar")), ["val/c.tar"]);
    }

    #[test]
    fn a_file_whose_name_is_no_utf8_is_refused_by_its_bytes() {
        let root = folder(&["a.tar"]);
        let name = <std::ffi::OsStr as OsStrExt>::from_bytes(b"b\xff.tar");
        std::fs::write(root.path().join(name), b"").unwrap();
        std::fs::write(root.path().join(<std::ffi::OsStr as OsStrExt>::from_bytes(b"\xff.txt")), b"").unwrap();
        let error = found(root.path(), "").unwrap_err();
        assert!(error.contains("/b\\xff.tar: its name is not UTF-8"), "{error}");
        assert_eq!(found(root.path(), "/a.tar").unwrap(), ["a.tar"]);
    }

    #[test]
    fn the_kind_is_told_by_the_files() {
        let kind = |files: &[&str]| {
            let root = folder(files);
            let place = Place::open(&root.path().display().to_string(), &StoreOptions::default()).unwrap();
            kind_of(&place).unwrap().0
        };
        assert_eq!(kind(&["a.tar"]), Kind::Tar);
        assert_eq!(kind(&["a.tar", "b.png"]), Kind::Tree);
        assert_eq!(kind(&["data.mdb", "lock.mdb"]), Kind::Lmdb);
        assert_eq!(kind(&["train-00000.parquet"]), Kind::Parquet);
        assert_eq!(kind(&["a.ZIP"]), Kind::Zip);
        assert_eq!(kind(&[]), Kind::Tree);
    }
}
