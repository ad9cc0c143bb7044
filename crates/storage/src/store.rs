//! A place that holds checkpoints, and the operations on it: those of object stores, which folders have too.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::AmazonS3ConfigKey;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::error::{Error, chain};
use crate::fault_injection::{FaultyStore, InjectedFaults};
use crate::location::Location;
use crate::multipart::MultipartUploads;
use crate::options::{StoreOptions, s3_builder};
use crate::retry::{generic, is_silence, no_answer, retry};

/// The bytes that a large file is read in at a time, and the reads on their way at the same time.
const READ_BYTES: u64 = 16 << 20;
const READS_IN_FLIGHT: usize = 4;

/// Manifests and the like are far smaller; a larger file is none of them, and would only fill the memory.
const LARGEST_SMALL_FILE: u64 = 256 << 20;

/// Bytes that come at least in a second before a read has failed: what bounds a read whose length decides how long it
/// may take.
const SLOWEST_READ_BYTES_PER_SECOND: u64 = 1 << 20;

/// A place that holds checkpoints. Paths are relative to it. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    location: Option<Location>,
    /// S3's unfinished uploads; none for other places.
    uploads: Option<Arc<MultipartUploads>>,
    options: StoreOptions,
    runtime: Arc<Background>,
}

/// The threads that talk to the store. Those that hang in the system are left behind at the end.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`] if a folder does not exist, [`Error::Failed`] if the client cannot be set up.
    pub fn open(location: &Location, options: &StoreOptions) -> Result<Self, Error> {
        let url = location.to_string();
        let cannot = |error: object_store::Error| Error::Failed {
            operation: "open".into(),
            url: url.clone(),
            cause: chain(&error),
        };
        let (backend, prefix, uploads): (Arc<dyn ObjectStore>, Path, Option<MultipartUploads>) = match location {
            Location::Folder(path) => {
                if !path.is_dir() {
                    return Err(Error::NotFound { url, reason: "there is no such folder".into() });
                }
                let local = LocalFileSystem::new_with_prefix(path).map_err(cannot)?.with_fsync(true);
                (Arc::new(local), Path::default(), None)
            }
            Location::S3 { bucket, prefix } => {
                let (s3, uploads) = MultipartUploads::connect(s3_builder(bucket, options), retry(options)).map_err(cannot)?;
                (s3, Path::from(prefix.as_str()), Some(uploads))
            }
        };
        let mut store = Self::over(backend, prefix, &url)?;
        store.location = Some(location.clone());
        store.uploads = uploads.map(Arc::new);
        store.options = options.clone();
        Ok(store)
    }

    /// Opens a store for writing. A folder that does not exist is created.
    ///
    /// # Errors
    /// [`Error::Failed`] if the folder cannot be created or the client cannot be set up.
    pub fn create(location: &Location, options: &StoreOptions) -> Result<Self, Error> {
        if let Location::Folder(path) = location {
            std::fs::create_dir_all(path).map_err(|error| Error::Failed {
                operation: "make the folder".into(),
                url: location.to_string(),
                cause: error.to_string(),
            })?;
        }
        Self::open(location, options)
    }

    /// A place under `prefix` of any object store, which messages call `url`.
    ///
    /// # Errors
    /// [`Error::Failed`] where this process cannot start the threads that talk to the store.
    pub fn over(backend: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("checkpoint-store")
            .enable_all()
            .build()
            .map_err(|error| Error::Failed {
                operation: "start threads for".into(),
                url: url.to_owned(),
                cause: error.to_string(),
            })?;
        Ok(Self {
            backend,
            prefix,
            url: url.trim_end_matches('/').to_owned(),
            location: None,
            uploads: None,
            options: StoreOptions::default(),
            runtime: Arc::new(Background(Some(runtime))),
        })
    }

    /// The same store with injected faults.
    #[must_use]
    pub fn with_faults(mut self, faults: InjectedFaults) -> Self {
        self.backend = FaultyStore::over(self.backend, faults);
        self
    }

    /// The whole address of `path`; of the place itself where that is empty.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        if path.is_empty() { self.url.clone() } else { format!("{}/{path}", self.url) }
    }

    /// Where the place really is: a folder's path from the root, or the bucket with the server that has it where the
    /// environment names one.
    #[must_use]
    pub fn real_url(&self) -> String {
        match &self.location {
            Some(Location::Folder(path)) => {
                std::fs::canonicalize(path).map_or_else(|_| self.url(""), |path| path.display().to_string())
            }
            Some(Location::S3 { bucket, .. }) => {
                let builder = s3_builder(bucket, &self.options);
                match builder.get_config_value(&AmazonS3ConfigKey::Endpoint) {
                    Some(endpoint) => format!("{} (at {endpoint})", self.url("")),
                    None => self.url(""),
                }
            }
            None => self.url(""),
        }
    }

    /// Aborts the unfinished multipart uploads whose path in this store satisfies `is_ours`, and returns their paths. Only
    /// S3 has such uploads. Other writers' uploads look the same, so only the owner of the store may call this.
    ///
    /// # Errors
    /// [`Error::Failed`] if they cannot be listed or aborted.
    pub async fn abort_unfinished_uploads(&self, is_ours: fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let Some(uploads) = self.uploads.as_deref() else { return Ok(Vec::new()) };
        let failed = |error: object_store::Error| self.failed("list or abort unfinished uploads of", "", &error);
        let mut aborted = Vec::new();
        for upload in uploads.list(&self.at(""), is_ours).await.map_err(failed)? {
            uploads.abort(&upload).await.map_err(failed)?;
            aborted.push(upload.path.to_string());
        }
        Ok(aborted)
    }

    /// The place as the user named it; none for a store that was put together by hand.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Timeouts and sizes.
    #[must_use]
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub(crate) fn backend(&self) -> &Arc<dyn ObjectStore> {
        &self.backend
    }

    /// The path in the backend.
    pub fn at(&self, path: &str) -> Path {
        self.prefix.parts().chain(Path::from(path).parts()).collect()
    }

    /// Runs something that waits, on the caller's thread.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.0.as_ref().expect("taken only when the last clone is dropped").block_on(work)
    }

    /// Starts something beside the caller.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.0.as_ref().expect("taken only when the last clone is dropped").spawn(work)
    }

    /// The error of an operation on `path`.
    #[must_use]
    pub fn failed(&self, operation: &str, path: &str, error: &object_store::Error) -> Error {
        let cause = if is_silence(error) { no_answer(self.options.request_timeout) } else { chain(error) };
        Error::Failed { operation: operation.to_owned(), url: self.url(path), cause }
    }

    /// Writes a small file in one stroke, over one that may be there.
    pub async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let at = self.at(path);
        let payload = PutPayload::from(bytes);
        let result = self.tried("write", path, || self.backend.put(&at, payload.clone())).await?;
        result.map(drop).map_err(|error| self.failed("write", path, &error))
    }

    /// Writes a small file in one stroke unless one is there, and says whether it did.
    ///
    /// A request whose answer got lost is sent again, and then finds what it wrote itself: that counts as written.
    pub async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        let at = self.at(path);
        let bytes = Bytes::from(bytes);
        let create = || PutOptions::from(PutMode::Create);
        let work = || self.backend.put_opts(&at, bytes.clone().into(), create());
        match self.tried("write", path, work).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                match self.get(path).await? {
                    Some(found) => Ok(found == bytes),
                    None => Err(Error::Failed {
                        operation: "write".into(),
                        url: self.url(path),
                        cause: "the store says that it is there already, and does not find it".into(),
                    }),
                }
            }
            Err(error) => Err(self.failed("write", path, &error)),
        }
    }

    /// The bytes of a small file; none where there is no such file. What breaks off is begun again.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let at = self.at(path);
        let read = self.retried(path, self.time_of_small(), || async {
            let found = self.backend.get(&at).await?;
            let size = found.meta.size;
            if size > LARGEST_SMALL_FILE {
                let source = format!("it has {size} bytes, and no file of its kind has that many").into();
                return Err(object_store::Error::NotSupported { source });
            }
            let bytes = found.bytes().await?;
            if bytes.len() as u64 == size { Ok(bytes) } else { Err(cut(bytes.len(), size)) }
        });
        let read = read.await;
        self.unless_missing("read", path, read)
    }

    /// The SHA-256 of the first `length` bytes of a file, read `into` a buffer, or in little memory; none where there is
    /// no such file. Pieces come side by side, and one that breaks off is begun again.
    pub async fn read(
        &self,
        path: &str,
        length: u64,
        mut into: Option<&mut Vec<u8>>,
    ) -> Result<Option<String>, Error> {
        if let Some(bytes) = into.as_deref_mut() {
            bytes.clear();
            bytes.reserve(usize::try_from(length).unwrap_or(0));
        }
        let starts = (0..length).step_by(READ_BYTES as usize);
        let pieces = starts.map(|start| {
            let (store, path) = (self.clone(), path.to_owned());
            async move { store.piece(&path, start..(start + READ_BYTES).min(length)).await }
        });
        let mut pieces = futures::stream::iter(pieces).buffered(READS_IN_FLIGHT);
        let mut hash = Sha256::new();
        while let Some(piece) = pieces.next().await {
            let Some(piece) = self.unless_missing("read", path, piece)? else { return Ok(None) };
            hash.update(&piece);
            if let Some(bytes) = into.as_deref_mut() {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(Some(hexadecimal(hash)))
    }

    pub(crate) async fn piece(&self, path: &str, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let at = self.at(path);
        let length = range.end - range.start;
        let time = self.time_of_small() + Duration::from_secs(length / SLOWEST_READ_BYTES_PER_SECOND);
        self.retried(path, time, || async {
            let bytes = self.backend.get_range(&at, range.clone()).await?;
            if bytes.len() as u64 == length { Ok(bytes) } else { Err(cut(bytes.len(), length)) }
        })
        .await
    }

    /// The length of a file; none where there is no such file.
    pub async fn length(&self, path: &str) -> Result<Option<u64>, Error> {
        let at = self.at(path);
        let meta = self.tried("look at", path, || self.backend.head(&at)).await?;
        self.unless_missing("look at", path, meta.map(|meta| meta.size))
    }

    /// Gives a file another name in the same place, over one that may be there.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from_at, to_at) = (self.at(from), self.at(to));
        let result = self.tried("rename", from, || self.backend.rename(&from_at, &to_at)).await?;
        self.unless_missing("rename", from, result).map(drop)
    }

    /// Deletes a file; one that is not there is as good as deleted.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        let at = self.at(path);
        let result = self.tried("delete", path, || self.backend.delete(&at)).await?;
        self.unless_missing("delete", path, result).map(drop)
    }

    /// The names of the folders right under `path`, in the order of names.
    pub async fn folders(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.at(path);
        let listed = self.tried("list", path, || self.backend.list_with_delimiter(Some(&at))).await?;
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// The names of the files right under `path`, in the order of names.
    pub async fn files_right_under(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.at(path);
        let listed = self.tried("list", path, || self.backend.list_with_delimiter(Some(&at))).await?;
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.objects.iter().filter_map(|meta| Some(meta.location.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// The paths of all files under `path`, from there, with their lengths, in the order of names.
    pub async fn files(&self, path: &str) -> Result<Vec<(String, u64)>, Error> {
        let at = self.at(path);
        let work = || async {
            let mut names = Vec::new();
            let mut stream = self.backend.list(Some(&at));
            while let Some(meta) = stream.next().await.transpose()? {
                if let Some(parts) = meta.location.prefix_match(&at) {
                    let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
                    names.push((name, meta.size));
                }
            }
            names.sort();
            Ok(names)
        };
        let listed = self.tried("list", path, work).await?;
        listed.map_err(|error: object_store::Error| self.failed("list", path, &error))
    }

    pub(crate) fn unless_missing<T>(
        &self,
        operation: &str,
        path: &str,
        result: Result<T, object_store::Error>,
    ) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(operation, path, &error)),
        }
    }
}

fn cut(found: usize, length: u64) -> object_store::Error {
    generic(format!("{found} of {length} bytes came"))
}

pub(crate) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(unreachable_pub, clippy::unwrap_used)]
#[path = "../../../tests/support/s3.rs"]
pub(crate) mod s3;

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use object_store::memory::InMemory;

    use super::*;
    use crate::options::with_timeouts;
    use crate::upload::{never, upload};

    /// A store in memory.
    pub(crate) fn memory() -> Store {
        Store::over(Arc::new(InMemory::new()), Path::from("some/prefix"), "memory://some/prefix").unwrap()
    }

    /// What every store must do.
    async fn conforms(store: &Store) {
        assert_eq!(store.get("a/b").await.unwrap(), None);
        assert_eq!(store.length("a/b").await.unwrap(), None);
        assert!(store.folders("").await.unwrap().is_empty());
        assert!(store.put_new("a/b", b"one".to_vec()).await.unwrap());
        assert!(!store.put_new("a/b", b"two".to_vec()).await.unwrap());
        // As when the answer to the first time got lost.
        assert!(store.put_new("a/b", b"one".to_vec()).await.unwrap());
        assert_eq!(&store.get("a/b").await.unwrap().unwrap()[..], b"one");
        store.put("a/b", b"three".to_vec()).await.unwrap();
        assert_eq!(store.length("a/b").await.unwrap(), Some(5));
        // Two parts and a bit: the file must equal the pieces in order.
        let piece = |seed: usize| (0..store.options.part_bytes / 2 + 1).map(|i| (i * seed) as u8).collect::<Bytes>();
        let pieces: Vec<Bytes> = (1..6).map(piece).collect();
        let end = Instant::now() + store.options.patience;
        let (length, sha256) = upload(store, "c/d/e", &pieces, end, &never()).await.unwrap();
        let mut bytes = Vec::new();
        let read = store.read("c/d/e", length, Some(&mut bytes)).await.unwrap().unwrap();
        assert!(bytes == pieces.concat());
        assert_eq!((bytes.len() as u64, &read), (length, &sha256));
        assert_eq!(store.read("c/d/e", length, None).await.unwrap(), Some(sha256));
        assert_eq!(store.read("c/nothing", length, None).await.unwrap(), None);
        let (_, empty) = upload(store, "c/empty", &[], end, &never()).await.unwrap();
        assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(store.folders("").await.unwrap(), ["a", "c"]);
        assert_eq!(store.files("c").await.unwrap(), [("d/e".to_owned(), length), ("empty".to_owned(), 0)]);
        store.delete("c/d/e").await.unwrap();
        store.delete("c/d/e").await.unwrap();
        assert_eq!(store.get("c/d/e").await.unwrap(), None);
    }

    #[test]
    fn memory_conforms() {
        let store = memory();
        store.wait(conforms(&store));
    }

    #[test]
    fn a_folder_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(&Location::Folder(folder.path().join("not yet/here #1")), &StoreOptions::default()).unwrap();
        store.wait(conforms(&store));
    }

    /// A place on the S3 server that listens at `port`, with the times that `options` give.
    pub(crate) fn on_s3(port: u16, options: StoreOptions) -> Store {
        let backend = with_timeouts(super::s3::builder(port), &options).with_retry(retry(&options)).build().unwrap();
        let store = Store::over(Arc::new(backend), Path::from("some/prefix"), "s3://bucket/some/prefix").unwrap();
        Store { options, ..store }
    }

    #[test]
    fn s3_conforms() {
        let server = super::s3::S3::start();
        let store = on_s3(server.port, StoreOptions::default());
        store.wait(conforms(&store));
    }
}
