//! A container of images that is open.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use admiral_contract::files::open_to_read;
use admiral_storage::{MAX_SMALL_FILE, Store, StoreOptions, hex};
use sha2::{Digest, Sha256};

use crate::blob::Blob;
use crate::cache::Cache;
use crate::error::Error;
use crate::fetched::{Fetched, unpack};
use crate::files::{ReadError, read_image, retry};
use crate::find::{Listing, files, kind_of};
use crate::index::{Index, Shard, Span};
use crate::kind::Kind;
use crate::limits::refusal_of_bytes;
use crate::make::{make, shards};
use crate::names::shown;
use crate::place::{Place, Root};
use crate::tree;

/// The folder of the index beside the files.
const INDEX_FOLDER: &str = ".admiral";

/// The smallest number of files of a tree whose list is kept. A list of fewer files is made in a moment.
const MIN_KEPT_TREE: u64 = 20_000;

/// The longest index that is read, in bytes.
const MAX_INDEX_BYTES: u64 = 1 << 36;

/// How a container is opened.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// The kind. `None` tells it from the files.
    pub kind: Option<Kind>,
    /// A local folder that keeps images that were read, and the bytes that it may take.
    pub cache: Option<(&'a Path, u64)>,
    /// The threads that make an index.
    pub threads: usize,
    /// The settings of stores.
    pub stores: &'a StoreOptions,
}

/// A container of images.
#[derive(Debug)]
pub struct Container {
    text: String,
    index: Index,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Folder(PathBuf),
    /// With the [stamp](Listing::stamp) of the files.
    Store(Arc<Store>, [u8; 32]),
    Shards(Vec<Arc<Blob>>, Option<Cache>),
}

impl Container {
    /// Returns the kind that the names of the files at `text` tell.
    ///
    /// # Errors
    /// If it cannot be listed, or is a file whose name tells no kind.
    pub fn kind_at(text: &str, stores: &StoreOptions) -> Result<Kind, Error> {
        Ok(kind_of(&Place::open(text, stores)?)?.0)
    }

    /// Opens the container at `text`: a folder, a file, a pattern of files, or a URL of a store.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or has no images.
    pub fn open(text: &str, settings: &Settings<'_>) -> Result<Self, Error> {
        Self::at(Place::open(text, settings.stores)?, settings)
    }

    fn at(place: Place, settings: &Settings<'_>) -> Result<Self, Error> {
        let (kind, listing) = settings.kind.map_or_else(|| kind_of(&place), |kind| Ok((kind, None)))?;
        let text = place.text.clone();
        if kind == Kind::Tree {
            let (index, files) = match &place.root {
                _ if place.pattern.is_some() => {
                    return Err(Error::malformed(text, "it is a file, and a folder of images is expected"));
                }
                Root::Folder(root) => (tree_of(root)?, Files::Folder(root.clone())),
                Root::Store(store) => {
                    let listing = listed(&place, listing)?;
                    let files = Files::Store(Arc::clone(store), listing.stamp());
                    (tree::of_names(listing.into_names(), &text), files)
                }
            };
            if index.num_images() == 0 {
                return Err(Error::Empty { path: text, what: "jpg, jpeg, png, webp, gif, ppm or pgm file".into() });
            }
            return Ok(Self { text, index, files });
        }
        let blobs = files(&place, kind, listed(&place, listing)?)?;
        let keeper = Keeper::new(&place, kind, &blobs, settings.cache.map(|(folder, _)| folder));
        let index = match keeper.load() {
            Some(index) => index,
            None => {
                let index = make(&place, kind, &blobs, settings.threads)?;
                keeper.store(&index);
                index
            }
        };
        let identity = match &place.root {
            Root::Folder(root) => std::fs::canonicalize(root).unwrap_or_else(|_| root.clone()).display().to_string(),
            Root::Store(store) => store.real_url(),
        };
        let cache = settings.cache.map(|(folder, limit)| Cache::open(folder, limit, &identity, &index.shards));
        Ok(Self { text, index, files: Files::Shards(blobs, cache.transpose()?) })
    }

    /// Returns the index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns a digest that changes when images are replaced under the same names. It is made of the lengths and checksums
    /// of images in a container; of the lengths and versions of files in a store; and of the lengths and times of the last
    /// change of local files, which are looked at by this call. Those of files in a store are from when it was opened.
    ///
    /// # Errors
    /// If a local file cannot be looked at.
    pub fn stamp(&self) -> Result<[u8; 32], Error> {
        let mut digest = Sha256::new();
        match &self.files {
            Files::Folder(root) => {
                for item in 0..self.index.num_images() {
                    let path = root.join(<std::ffi::OsStr as OsStrExt>::from_bytes(self.index.name(item)));
                    let meta = retry(|| std::fs::metadata(&path), std::thread::sleep);
                    let meta = meta.map_err(|error| Error::of_file(&path.display().to_string(), &error))?;
                    digest.update(meta.len().to_le_bytes());
                    digest.update(meta.mtime().to_le_bytes());
                    digest.update(meta.mtime_nsec().to_le_bytes());
                }
            }
            Files::Store(_, stamp) => return Ok(*stamp),
            Files::Shards(..) => {
                for span in &self.index.spans {
                    digest.update(span.length.to_le_bytes());
                    digest.update(span.crc.to_le_bytes());
                }
            }
        }
        Ok(digest.finalize().into())
    }

    /// Returns the place of an image for messages.
    #[must_use]
    pub fn shown(&self, item: u64) -> String {
        let name = shown(self.index.name(item));
        match &self.files {
            Files::Folder(root) => format!("{}/{name}", root.display()),
            Files::Store(store, _) => store.url(&name),
            Files::Shards(blobs, _) => {
                let span = self.index.spans[item as usize];
                let path = blobs.get(span.shard as usize).map_or_else(|| self.text.clone(), |blob| blob.shown());
                format!("{path}, member {name} at byte {}", span.offset)
            }
        }
    }

    /// Reads an image.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its bytes are not those that were indexed, or are too many for an image. [`Error::Unavailable`] and [`Error::Storage`] if the
    /// file system or the store fails.
    pub fn fetch(&self, item: u64) -> Result<Fetched, Error> {
        let damaged = |reason: String| Error::Damaged { path: self.shown(item), reason };
        match &self.files {
            Files::Folder(root) => {
                let name = <std::ffi::OsStr as OsStrExt>::from_bytes(self.index.name(item));
                let bytes = read_image(&root.join(name)).map_err(|error| match error {
                    ReadError::Unusable(reason) => damaged(reason),
                    ReadError::Unavailable(error) => {
                        Error::Unavailable { path: self.shown(item), reason: error.to_string() }
                    }
                })?;
                Ok(Fetched::File(bytes))
            }
            Files::Store(store, _) => {
                let name = String::from_utf8_lossy(self.index.name(item));
                let bytes = store.wait(store.get(&name)).map_err(|error| match store.wait(store.length(&name)) {
                    // The store is sound. Another try would fail, too.
                    Ok(Some(length)) if length > MAX_SMALL_FILE => damaged(format!(
                        "it has {length} bytes, and at most {MAX_SMALL_FILE} of a file in a store are read"
                    )),
                    _ => error.into(),
                })?;
                bytes.map(|bytes| Fetched::File(bytes.into())).ok_or_else(|| damaged("it is no longer there".into()))
            }
            Files::Shards(blobs, cache) => {
                let span = self.index.spans[item as usize];
                let unpacked = self.index.encoding(item).unpacked_bytes(span.length);
                if let Some(reason) = refusal_of_bytes(unpacked.max(span.length.into())) {
                    return Err(damaged(reason));
                }
                let bytes = self.read(&blobs[span.shard as usize], span, cache.as_ref(), &damaged)?;
                unpack(self.index.encoding(item), bytes).map_err(damaged)
            }
        }
    }

    fn read(
        &self,
        blob: &Blob,
        span: Span,
        cache: Option<&Cache>,
        damaged: &dyn Fn(String) -> Error,
    ) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = cache.and_then(|cache| cache.get(span)) {
            return Ok(bytes);
        }
        // A store may send wrong bytes once.
        for is_last in [!blob.is_remote(), true] {
            let bytes = blob.read(span.offset, span.length as usize)?;
            if crc32fast::hash(&bytes) == span.crc {
                if let Some(cache) = cache {
                    cache.put(span, &bytes);
                }
                return Ok(bytes);
            }
            if is_last {
                break;
            }
        }
        Err(damaged("its checksum differs from that of the index; the file has changed or is damaged".into()))
    }
}

/// Returns the files of a place, which are listed if they are not yet.
fn listed(place: &Place, listing: Option<Listing>) -> Result<Listing, Error> {
    listing.map_or_else(|| Listing::of(place), Ok)
}

/// Returns the list of a local tree: the one that is kept if it is still right.
fn tree_of(root: &Path) -> Result<Index, Error> {
    let path = root.join(INDEX_FOLDER).join("tree.index");
    if let Some(index) =
        read_local(&path).filter(|index| index.kind == Kind::Tree && tree::is_current(root, &index.shards))
    {
        return Ok(index);
    }
    let mut index = tree::list_folder(root)?;
    if index.num_images() >= MIN_KEPT_TREE {
        let folder = root.join(INDEX_FOLDER);
        if !folder.is_dir() && std::fs::create_dir(&folder).is_ok() {
            // The new folder has changed the time of the root.
            index = tree::list_folder(root)?;
        }
        if let Err(error) = write_local(&path, &index.to_bytes()) {
            tracing::info!("the list of {} is not kept, and is made at each start: {error}", root.display());
        }
    }
    Ok(index)
}

/// Keeps the index of shards: beside them, or in the folder of the cache.
struct Keeper<'a> {
    place: &'a Place,
    kind: Kind,
    shards: Vec<Shard>,
    /// The name of the index, which tells its files.
    name: String,
    cache: Option<&'a Path>,
}

impl<'a> Keeper<'a> {
    fn new(place: &'a Place, kind: Kind, blobs: &[Arc<Blob>], cache: Option<&'a Path>) -> Self {
        let shards = shards(blobs);
        let mut digest = Sha256::new();
        digest.update(kind.name());
        for shard in &shards {
            digest.update((shard.name.len() as u64).to_le_bytes());
            digest.update(&shard.name);
        }
        let name = format!("{}.index", &hex(digest.finalize())[..16]);
        Self { place, kind, shards, name, cache }
    }

    fn cached(&self) -> Option<PathBuf> {
        self.cache.map(|folder| folder.join(&self.name))
    }

    /// Returns the index that is kept, if it is that of the files as they are.
    fn load(&self) -> Option<Index> {
        let is_right = |index: &Index| index.kind == self.kind && index.shards == self.shards;
        let remote = format!("{INDEX_FOLDER}/{}", self.name);
        let beside = match &self.place.root {
            Root::Folder(root) => read_local(&root.join(&remote)),
            Root::Store(store) => {
                store.wait(store.get(&remote)).ok().flatten().and_then(|bytes| Index::from_bytes(&bytes))
            }
        };
        beside.filter(is_right).or_else(|| read_local(&self.cached()?).filter(is_right))
    }

    /// Keeps an index. If no place takes it, a message says so.
    fn store(&self, index: &Index) {
        let bytes = index.to_bytes();
        let remote = format!("{INDEX_FOLDER}/{}", self.name);
        let beside = match &self.place.root {
            Root::Folder(root) => write_local(&root.join(&remote), &bytes).map_err(|error| error.to_string()),
            Root::Store(store) => store.wait(store.put(&remote, bytes.clone())).map_err(|error| error.to_string()),
        };
        let Err(reason) = beside else { return };
        match self.cached().map(|path| write_local(&path, &bytes)) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!("the index of {} is not kept: {reason}; {error}", self.place.text),
            None => tracing::warn!(
                "the index of {} is not kept, so that each start reads all its files: {reason}; set data.cache to a folder",
                self.place.text
            ),
        }
    }
}

fn read_local(path: &Path) -> Option<Index> {
    let mut bytes = Vec::new();
    open_to_read(path).ok()?.take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > MAX_INDEX_BYTES {
        return None;
    }
    Index::from_bytes(&bytes)
}

/// Writes a file aside and publishes it.
fn write_local(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".index").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    // Others of the group or the world may read it, as they may read the images.
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod oversized_tests;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(stores: &StoreOptions) -> Settings<'_> {
        Settings { kind: None, cache: None, threads: 2, stores }
    }

    fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn shards_are_read_by_their_index_which_is_kept_and_checked() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stores = StoreOptions::default();
        let text = folder.path().display().to_string();
        std::fs::write(folder.path().join("0.tar"), tar_of(&[("b.png", b"bb"), ("d.png", b"d")])).unwrap();
        std::fs::write(folder.path().join("1.tar"), tar_of(&[("a.png", b"aaa"), ("c.png", b"c")])).unwrap();
        let contents = |container: &Container| -> Vec<Fetched> {
            (0..container.index().num_images()).map(|item| container.fetch(item).unwrap()).collect()
        };
        let expected: Vec<Fetched> = [&b"aaa"[..], b"bb", b"c", b"d"].map(|it| Fetched::File(it.to_vec())).into();
        let first = Container::open(&text, &settings(&stores)).unwrap();
        assert_eq!(contents(&first), expected);
        let kept = std::fs::read_dir(folder.path().join(INDEX_FOLDER)).unwrap().next().unwrap().unwrap().path();
        // The second time, the index is read: what it says of the first image is believed.
        let mut index = read_local(&kept).unwrap();
        index.spans[0].crc ^= 1;
        write_local(&kept, &index.to_bytes()).unwrap();
        let cached = Settings { cache: Some((cache.path(), 1 << 20)), ..settings(&stores) };
        let second = Container::open(&text, &cached).unwrap();
        let error = second.fetch(0).unwrap_err().to_string();
        assert!(error.contains("1.tar, member a.png at byte 512") && error.contains("checksum"), "{error}");
        // A file that has changed is indexed again, and a damaged index is made anew.
        std::fs::write(folder.path().join("1.tar"), tar_of(&[("a.png", b"aaa"), ("c.png", b"c"), ("e.png", b"")]))
            .unwrap();
        assert_eq!(Container::open(&text, &settings(&stores)).unwrap().index().num_images(), 5);
        std::fs::write(&kept, b"damaged").unwrap();
        assert_eq!(Container::open(&text, &settings(&stores)).unwrap().index().num_images(), 5);
    }

    #[test]
    fn images_come_from_the_cache_once_they_are_there() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stores = StoreOptions::default();
        let path = folder.path().join("0.tar");
        std::fs::write(&path, tar_of(&[("a.png", b"aaa")])).unwrap();
        let settings = Settings { cache: Some((cache.path(), 1 << 20)), ..settings(&stores) };
        let container = Container::open(&path.display().to_string(), &settings).unwrap();
        assert_eq!(container.fetch(0).unwrap(), Fetched::File(b"aaa".to_vec()));
        let zeros = vec![0; std::fs::metadata(&path).unwrap().len() as usize];
        std::os::unix::fs::FileExt::write_all_at(&std::fs::File::options().write(true).open(&path).unwrap(), &zeros, 0)
            .unwrap();
        assert_eq!(container.fetch(0).unwrap(), Fetched::File(b"aaa".to_vec()));
    }

    #[test]
    fn a_stamp_tells_that_a_file_was_replaced_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreOptions::default();
        let file = folder.path().join("a/1.png");
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let location = admiral_storage::Location::Folder(folder.path().to_owned());
        let store = Root::Store(Arc::new(Store::open(&location, &stores).unwrap()));
        for root in [Root::Folder(folder.path().to_owned()), store] {
            let stamp = || {
                let place = Place { root: root.clone(), pattern: None, text: "images".into() };
                Container::at(place, &settings(&stores)).and_then(|container| container.stamp()).unwrap()
            };
            std::fs::write(&file, b"one").unwrap();
            let first = stamp();
            assert_eq!(stamp(), first);
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::write(&file, b"two").unwrap();
            assert_ne!(stamp(), first, "{root:?}");
        }
        let opened = Container::open(&folder.path().display().to_string(), &settings(&stores)).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(opened.stamp().unwrap_err().to_string().contains("a/1.png"));
    }

    #[test]
    fn wrong_places_are_errors() {
        let stores = StoreOptions::default();
        let open = |text: &str| Container::open(text, &settings(&stores)).unwrap_err().to_string();
        assert!(open("/no/such/folder").contains("/no/such/folder"));
        let folder = tempfile::tempdir().unwrap();
        assert!(open(&folder.path().display().to_string()).contains("holds no jpg"));
        std::fs::write(folder.path().join("a.tar"), tar_of(&[("a.txt", b"text")])).unwrap();
        assert!(open(&folder.path().display().to_string()).contains("holds no image"));
    }
}
