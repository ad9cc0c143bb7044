//! A place that holds checkpoints, and the operations on it: those of object stores, which folders have too.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::abandoned::{Uploads, is_trial, remove_staging_files};
use super::error::chain;
use super::mortal::MortalStore;
use super::{Error, Location};
use crate::faults::FaultsConfig;

/// The bytes that a large file is read in at a time, and the reads on their way at the same time.
const READ_BYTES: u64 = 16 << 20;
const READS_IN_FLIGHT: usize = 4;

/// Manifests and the like are far smaller; a larger file is none of them, and would only fill the memory.
const LARGEST_SMALL_FILE: u64 = 256 << 20;

/// Bytes that come at least in a second before a read has failed: what bounds a read whose length decides how long it
/// may take.
const SLOWEST_READ_BYTES_PER_SECOND: u64 = 1 << 20;

/// How a place is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// The time that one request may take before it is tried again.
    pub request_timeout: Duration,
    /// The time after which nothing is tried again.
    pub patience: Duration,
    /// The size of an upload's parts.
    pub part_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        super::CheckpointConfig::default().store_options()
    }
}

/// A place that holds checkpoints. Paths are relative to it. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    location: Option<Location>,
    /// S3's unfinished uploads; none for other places.
    uploads: Option<Arc<Uploads>>,
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
    /// Opens a place to read it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where a folder does not exist, [`Error::Store`] where the place cannot be reached.
    pub fn open(location: &Location) -> Result<Self, Error> {
        Self::open_with(location, StoreOptions::default())
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(location: &Location, options: StoreOptions) -> Result<Self, Error> {
        let url = location.to_string();
        let cannot = |error: object_store::Error| Error::Store {
            operation: "open".into(),
            url: url.clone(),
            cause: chain(&error),
        };
        let (backend, prefix, uploads): (Arc<dyn ObjectStore>, Path, Option<Uploads>) = match location {
            Location::Folder(path) => {
                if !path.is_dir() {
                    return Err(Error::NotFound { url, reason: "there is no such folder".into() });
                }
                let local = LocalFileSystem::new_with_prefix(path).map_err(cannot)?.with_fsync(true);
                (Arc::new(local), Path::default(), None)
            }
            Location::S3 { bucket, prefix } => {
                let (s3, uploads) = Uploads::connect(s3_builder(bucket, options), retry(options)).map_err(cannot)?;
                (s3, Path::from(prefix.as_str()), Some(uploads))
            }
        };
        let mut store = Self::over(backend, prefix, &url)?;
        store.location = Some(location.clone());
        store.uploads = uploads.map(Arc::new);
        store.options = options;
        Ok(store)
    }

    /// Opens a place to write to it: a folder that does not exist is made.
    ///
    /// # Errors
    /// [`Error::Store`] where the folder cannot be made or the place cannot be reached.
    pub fn create(location: &Location) -> Result<Self, Error> {
        Self::create_with(location, StoreOptions::default())
    }

    /// [`create`](Self::create) with options.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(location: &Location, options: StoreOptions) -> Result<Self, Error> {
        if let Location::Folder(path) = location {
            std::fs::create_dir_all(path).map_err(|error| Error::Store {
                operation: "make the folder".into(),
                url: location.to_string(),
                cause: error.to_string(),
            })?;
        }
        Self::open_with(location, options)
    }

    /// A place under `prefix` of any object store, which messages call `url`.
    ///
    /// # Errors
    /// [`Error::Store`] where this process cannot start the threads that talk to the store.
    pub fn over(backend: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("checkpoint-store")
            .enable_all()
            .build()
            .map_err(|error| Error::Store {
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

    /// The same place with the faults that `rank` is to suffer there.
    #[must_use]
    pub fn with_faults(mut self, faults: &FaultsConfig, rank: usize) -> Self {
        self.backend = MortalStore::over(self.backend, faults, rank);
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
                let builder = s3_builder(bucket, self.options);
                match builder.get_config_value(&AmazonS3ConfigKey::Endpoint) {
                    Some(endpoint) => format!("{} (at {endpoint})", self.url("")),
                    None => self.url(""),
                }
            }
            None => self.url(""),
        }
    }

    /// The place as the user named it; none for a store that was put together by hand.
    pub(super) fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    pub(super) fn options(&self) -> StoreOptions {
        self.options
    }

    pub(super) fn backend(&self) -> &Arc<dyn ObjectStore> {
        &self.backend
    }

    /// The path in the backend.
    pub(super) fn at(&self, path: &str) -> Path {
        self.prefix.parts().chain(Path::from(path).parts()).collect()
    }

    /// Runs something that waits, on the caller's thread.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.0.as_ref().expect("taken only when the last clone is dropped").block_on(work)
    }

    /// Starts something beside the caller.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.0.as_ref().expect("taken only when the last clone is dropped").spawn(work)
    }

    pub(super) fn failed(&self, operation: &str, path: &str, error: &object_store::Error) -> Error {
        let cause = if is_silence(error) { no_answer(self.options.request_timeout) } else { chain(error) };
        Error::Store { operation: operation.to_owned(), url: self.url(path), cause }
    }

    /// Does what may be done again, up to [`TRIES`] times where that may help: a client does not repeat a request
    /// whose answer got lost, nor one whose answer was cut off. Ends what does not end by itself, as on a mount that
    /// hangs.
    async fn tried<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        operation: &str,
        path: &str,
        work: impl Fn() -> W,
    ) -> Result<Result<T, object_store::Error>, Error> {
        let first = OnceLock::new();
        let tries = async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..TRIES {
                match work().await {
                    Err(error) if is_transient(&error) => {
                        let error = self.failed(operation, path, &error);
                        tracing::warn!("{error}; trying again");
                        first.get_or_init(|| error);
                        tokio::time::sleep(pause).await;
                        pause *= 2;
                    }
                    done => return done,
                }
            }
            work().await
        };
        let time = self.time_of_small();
        tokio::time::timeout(time, tries).await.map_err(|_| {
            // What was said before there was no more time tells more than that.
            first.get().cloned().unwrap_or_else(|| Error::Store {
                operation: operation.to_owned(),
                url: self.url(path),
                cause: no_answer(time),
            })
        })
    }

    /// The time that a small operation has, its repetitions included.
    fn time_of_small(&self) -> Duration {
        (self.options.request_timeout * 4).min(self.options.patience)
    }

    /// Writes a small file in one stroke, over one that may be there.
    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let at = self.at(path);
        let payload = PutPayload::from(bytes);
        let result = self.tried("write", path, || self.backend.put(&at, payload.clone())).await?;
        result.map(drop).map_err(|error| self.failed("write", path, &error))
    }

    /// Writes a small file in one stroke unless one is there, and says whether it did.
    ///
    /// A request whose answer got lost is sent again, and then finds what it wrote itself: that counts as written.
    pub(super) async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        let at = self.at(path);
        let bytes = Bytes::from(bytes);
        let create = || PutOptions::from(PutMode::Create);
        let work = || self.backend.put_opts(&at, bytes.clone().into(), create());
        match self.tried("write", path, work).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                match self.get(path).await? {
                    Some(found) => Ok(found == bytes),
                    None => Err(Error::Store {
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
    pub(super) async fn get(&self, path: &str) -> Result<Option<Bytes>, Error> {
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
    pub(super) async fn read(
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

    async fn piece(&self, path: &str, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let at = self.at(path);
        let length = range.end - range.start;
        let time = self.time_of_small() + Duration::from_secs(length / SLOWEST_READ_BYTES_PER_SECOND);
        self.retried(path, time, || async {
            let bytes = self.backend.get_range(&at, range.clone()).await?;
            if bytes.len() as u64 == length { Ok(bytes) } else { Err(cut(bytes.len(), length)) }
        })
        .await
    }

    /// Reads until it works, the store refuses for good, or its patience ends. One try has `time`.
    async fn retried<T, F: Future<Output = Result<T, object_store::Error>>>(
        &self,
        path: &str,
        time: Duration,
        read: impl Fn() -> F,
    ) -> Result<T, object_store::Error> {
        let end = Instant::now() + self.options.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let timed = tokio::time::timeout(time, read()).await;
            match timed.unwrap_or_else(|_| Err(generic(no_answer(time)))) {
                Err(error) if is_transient(&error) && Instant::now() + pause < end => {
                    tracing::warn!("{}; trying again", self.failed("read", path, &error));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                read => return read,
            }
        }
    }

    /// The length of a file; none where there is no such file.
    pub(super) async fn length(&self, path: &str) -> Result<Option<u64>, Error> {
        let at = self.at(path);
        let meta = self.tried("look at", path, || self.backend.head(&at)).await?;
        self.unless_missing("look at", path, meta.map(|meta| meta.size))
    }

    /// Gives a file another name in the same place, over one that may be there.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from_at, to_at) = (self.at(from), self.at(to));
        let result = self.tried("rename", from, || self.backend.rename(&from_at, &to_at)).await?;
        self.unless_missing("rename", from, result).map(drop)
    }

    /// Deletes a file; one that is not there is as good as deleted.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Error> {
        let at = self.at(path);
        let result = self.tried("delete", path, || self.backend.delete(&at)).await?;
        self.unless_missing("delete", path, result).map(drop)
    }

    /// The names of the folders right under `path`, in the order of names.
    pub(super) async fn folders(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.at(path);
        let listed = self.tried("list", path, || self.backend.list_with_delimiter(Some(&at))).await?;
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// The names of the files right under `path`, in the order of names.
    pub(super) async fn files_right_under(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.at(path);
        let listed = self.tried("list", path, || self.backend.list_with_delimiter(Some(&at))).await?;
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.objects.iter().filter_map(|meta| Some(meta.location.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// The paths of all files under `path`, from there, with their lengths, in the order of names.
    pub(super) async fn files(&self, path: &str) -> Result<Vec<(String, u64)>, Error> {
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

    /// Removes what writers have left that died while they wrote: unfinished uploads, and a folder's staging files.
    /// Only whoever owns the place may call it, while nothing of its own is on its way. Gives their names.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn remove_abandoned(&self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        if let Some(Location::Folder(folder)) = &self.location {
            let files = remove_staging_files(folder).map_err(|error| Error::Store {
                operation: "clear".into(),
                url: self.url(""),
                cause: error.to_string(),
            })?;
            removed.extend(files.iter().map(|path| path.display().to_string()));
        }
        for trial in self.files_right_under("").await?.into_iter().filter(|name| is_trial(name)) {
            self.delete(&trial).await?;
            removed.push(trial);
        }
        if let Some(uploads) = &self.uploads {
            let failed = |error: object_store::Error| self.failed("list or abort unfinished uploads of", "", &error);
            for upload in uploads.list(&self.prefix).await.map_err(failed)? {
                uploads.abort(&upload).await.map_err(failed)?;
                removed.push(format!("the upload of {}", upload.path));
            }
        }
        Ok(removed)
    }

    /// Removes the folders under `path` and itself where they are empty; object stores have none.
    pub(super) fn remove_empty_folders(&self, path: &str) {
        let Some(Location::Folder(root)) = &self.location else { return };
        let folder = root.join(path);
        for inner in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            // One that is not empty stays, which is what is wanted.
            let _ = std::fs::remove_dir(inner.path());
        }
        let _ = std::fs::remove_dir(folder);
    }

    fn unless_missing<T>(
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

/// How often a small operation is tried.
const TRIES: u32 = 4;

/// The pause before something is tried a second time.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between two tries.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Whether trying again may help: not where the store has refused for a reason that stays.
pub(super) fn is_transient(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::Generic { source, .. } => !is_full(source.as_ref()),
        E::JoinError { .. } => true,
        _ => false,
    }
}

/// Whether a disk is full or a folder cannot be written: what no repetition mends within a save.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && let std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::ReadOnlyFilesystem
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::IsADirectory = error.kind()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the client has waited for an answer in vain. That a connection did not come about in time is no silence: the
/// client's words name the address then, which is what may be wrong.
fn is_silence(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return error.kind() == HttpErrorKind::Timeout && !chain(error).contains("(Connect)");
        }
        cause = error.source();
    }
    false
}

fn no_answer(time: Duration) -> String {
    format!("no answer within {} s", time.as_secs())
}

fn cut(found: usize, length: u64) -> object_store::Error {
    generic(format!("{found} of {length} bytes came"))
}

fn generic(reason: String) -> object_store::Error {
    object_store::Error::Generic { store: "checkpoint", source: reason.into() }
}

/// S3 as the environment says, with the time that a request may take.
fn s3_builder(bucket: &str, options: StoreOptions) -> AmazonS3Builder {
    timed(AmazonS3Builder::from_env().with_bucket_name(bucket), options)
}

fn timed(builder: AmazonS3Builder, options: StoreOptions) -> AmazonS3Builder {
    let seconds = |time: Duration| format!("{} seconds", time.as_secs().max(1));
    // Shorter, so that it is told which of the two did not come about.
    let connect = (options.request_timeout / 2).min(Duration::from_secs(10));
    builder
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), seconds(options.request_timeout))
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), seconds(connect))
}

/// How a request is tried again.
fn retry(options: StoreOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: 10,
        // Less than a small operation has, so that it fails with what the server said.
        retry_timeout: (options.request_timeout * 3).min(options.patience * 3 / 4),
    }
}

pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(unreachable_pub, clippy::unwrap_used)]
#[path = "../../tests/support/s3.rs"]
pub(super) mod s3;

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::memory::InMemory;

    use super::super::upload::upload;
    use super::*;

    /// A store in memory.
    pub(in crate::checkpoint) fn memory() -> Store {
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
        let (length, sha256) = upload(
            store,
            "c/d/e",
            &pieces,
            Instant::now() + store.options.patience,
            &mut super::super::upload::never(),
        )
        .await
        .unwrap();
        let mut bytes = Vec::new();
        let read = store.read("c/d/e", length, Some(&mut bytes)).await.unwrap().unwrap();
        assert!(bytes == pieces.concat());
        assert_eq!((bytes.len() as u64, &read), (length, &sha256));
        assert_eq!(store.read("c/d/e", length, None).await.unwrap(), Some(sha256));
        assert_eq!(store.read("c/nothing", length, None).await.unwrap(), None);
        let (_, empty) =
            upload(store, "c/empty", &[], Instant::now() + store.options.patience, &mut super::super::upload::never())
                .await
                .unwrap();
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
        let store = Store::create(&Location::Folder(folder.path().join("not yet/here #1"))).unwrap();
        store.wait(conforms(&store));
    }

    #[test]
    fn s3_conforms() {
        let server = super::s3::S3::start();
        let store = on_s3(server.port, StoreOptions::default());
        store.wait(conforms(&store));
    }

    /// A place on the S3 server that listens at `port`, with the times that `options` give.
    fn on_s3(port: u16, options: StoreOptions) -> Store {
        let backend = timed(super::s3::builder(port), options).with_retry(retry(options)).build().unwrap();
        let store = Store::over(Arc::new(backend), Path::from("some/prefix"), "s3://bucket/some/prefix").unwrap();
        Store { options, ..store }
    }

    #[test]
    fn silence_is_told_in_the_same_words_whoever_lost_patience() {
        // Connections come about, and nobody reads from them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let seconds = Duration::from_secs;
        let (client, operation) = ((1, 60), (2, 3));
        for (request_timeout, patience) in [client, operation].map(|(a, b)| (seconds(a), seconds(b))) {
            let options = StoreOptions { request_timeout, patience, ..StoreOptions::default() };
            let store = on_s3(silent.local_addr().unwrap().port(), options);
            let told = store.wait(async {
                // One that the client repeats by itself, and one that it does not.
                let (length, written) = futures::join!(store.length("a"), store.put_new("a", b"x".to_vec()));
                [length.unwrap_err(), written.unwrap_err()]
            });
            for error in told {
                assert!(error.to_string().contains("no answer within"), "{error}");
            }
        }
    }

    #[test]
    fn an_address_where_no_connection_comes_about_is_named() {
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = full.local_addr().unwrap();
        // SAFETY: the descriptor is open as long as `full`.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
        // As many as the system lets wait, and more.
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).take(16).collect();
        assert!(waiting.len() < 16, "the system takes any number of connections");
        let options = StoreOptions {
            request_timeout: Duration::from_secs(2),
            patience: Duration::from_secs(4),
            ..StoreOptions::default()
        };
        let store = on_s3(address.port(), options);
        let error = store.wait(store.length("a")).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn a_full_disk_is_not_tried_again_and_a_lost_connection_is() {
        let error = |kind: std::io::ErrorKind| object_store::Error::Generic {
            store: "test",
            source: Box::new(std::io::Error::from(kind)),
        };
        assert!(!is_transient(&error(std::io::ErrorKind::StorageFull)));
        assert!(is_transient(&error(std::io::ErrorKind::ConnectionReset)));
    }
}
