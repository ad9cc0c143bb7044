//! A place that holds checkpoints, and the operations on it: those of object stores, which folders have too.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use super::error::chain;
use super::{Error, Location};

/// The size of an upload's parts. S3 allows 10,000 of them, so a file may have 80 GB.
pub(super) const PART_BYTES: usize = 8 << 20;

/// Parts on their way at the same time, which bounds the memory of an upload.
const PARTS_IN_FLIGHT: usize = 4;

/// A place that holds checkpoints. Paths are relative to it. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    runtime: Arc<Runtime>,
}

impl Store {
    /// Opens a place to read it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where a folder does not exist, [`Error::Store`] where the place cannot be reached.
    pub fn open(location: &Location) -> Result<Self, Error> {
        let url = location.to_string();
        let cannot = |error: object_store::Error| Error::Store {
            operation: "open".into(),
            url: url.clone(),
            cause: chain(&error),
        };
        match location {
            Location::Folder(path) => {
                if !path.is_dir() {
                    return Err(Error::NotFound { url, reason: "there is no such folder".into() });
                }
                let local = LocalFileSystem::new_with_prefix(path).map_err(cannot)?.with_fsync(true);
                Self::over(Arc::new(local), Path::default(), &url)
            }
            Location::S3 { bucket, prefix } => {
                let s3 = AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(cannot)?;
                Self::over(Arc::new(s3), Path::from(prefix.as_str()), &url)
            }
        }
    }

    /// Opens a place to write to it: a folder that does not exist is made.
    ///
    /// # Errors
    /// [`Error::Store`] where the folder cannot be made or the place cannot be reached.
    pub fn create(location: &Location) -> Result<Self, Error> {
        if let Location::Folder(path) = location {
            std::fs::create_dir_all(path).map_err(|error| Error::Store {
                operation: "make the folder".into(),
                url: location.to_string(),
                cause: error.to_string(),
            })?;
        }
        Self::open(location)
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
        Ok(Self { backend, prefix, url: url.trim_end_matches('/').to_owned(), runtime: Arc::new(runtime) })
    }

    /// The whole address of `path`; of the place itself where that is empty.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        if path.is_empty() { self.url.clone() } else { format!("{}/{path}", self.url) }
    }

    fn at(&self, path: &str) -> Path {
        self.prefix.parts().chain(Path::from(path).parts()).collect()
    }

    fn failed(&self, operation: &str, path: &str, error: &object_store::Error) -> Error {
        Error::Store { operation: operation.to_owned(), url: self.url(path), cause: chain(error) }
    }

    /// Writes a small file in one stroke, over one that may be there.
    pub(super) fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let result = self.runtime.block_on(self.backend.put(&self.at(path), bytes.into()));
        result.map(drop).map_err(|error| self.failed("write", path, &error))
    }

    /// Writes a small file in one stroke unless one is there, and says whether it did.
    pub(super) fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        let options = PutOptions::from(PutMode::Create);
        match self.runtime.block_on(self.backend.put_opts(&self.at(path), bytes.into(), options)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed("write", path, &error)),
        }
    }

    /// Writes a file of any size from pieces, in bounded memory; it appears when it is whole. Gives its length and
    /// its SHA-256.
    pub(super) fn stream(&self, path: &str, pieces: impl Iterator<Item = Vec<u8>>) -> Result<(u64, String), Error> {
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.backend), self.at(path), PART_BYTES)
            .with_max_concurrency(PARTS_IN_FLIGHT);
        let (mut length, mut hash) = (0, Sha256::new());
        let written = self.runtime.block_on(async {
            for piece in pieces {
                length += piece.len() as u64;
                hash.update(&piece);
                if let Err(error) = writer.put(Bytes::from(piece)).await {
                    // The first error is what the user needs; what is left of the upload is not readable anyway.
                    let _ = writer.abort().await;
                    return Err(error);
                }
            }
            writer
                .shutdown()
                .await
                .map_err(|error| object_store::Error::Generic { store: "upload", source: Box::new(error) })
        });
        written.map_err(|error| self.failed("write", path, &error))?;
        Ok((length, hexadecimal(hash)))
    }

    /// The bytes of a file and their SHA-256; none where there is no such file.
    pub(super) fn get(&self, path: &str) -> Result<Option<(Vec<u8>, String)>, Error> {
        let read = self.runtime.block_on(async {
            let mut stream = self.backend.get(&self.at(path)).await?.into_stream();
            let (mut bytes, mut hash) = (Vec::new(), Sha256::new());
            while let Some(piece) = stream.next().await.transpose()? {
                hash.update(&piece);
                bytes.extend_from_slice(&piece);
            }
            Ok((bytes, hexadecimal(hash)))
        });
        self.unless_missing("read", path, read)
    }

    /// The length of a file; none where there is no such file.
    pub(super) fn length(&self, path: &str) -> Result<Option<u64>, Error> {
        let meta = self.runtime.block_on(self.backend.head(&self.at(path)));
        self.unless_missing("look at", path, meta.map(|meta| meta.size))
    }

    /// Deletes a file.
    pub(super) fn delete(&self, path: &str) -> Result<(), Error> {
        let result = self.runtime.block_on(self.backend.delete(&self.at(path)));
        result.map_err(|error| self.failed("delete", path, &error))
    }

    /// The names of the folders right under `path`, in the order of names.
    pub(super) fn folders(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.at(path);
        let listed = self.runtime.block_on(self.backend.list_with_delimiter(Some(&at)));
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// The paths of all files under `path`, from there, in the order of names.
    pub(super) fn files(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.at(path);
        let mut names = Vec::new();
        let listed = self.runtime.block_on(async {
            let mut stream = self.backend.list(Some(&at));
            while let Some(meta) = stream.next().await.transpose()? {
                if let Some(parts) = meta.location.prefix_match(&at) {
                    names.push(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
                }
            }
            Ok(())
        });
        listed.map_err(|error: object_store::Error| self.failed("list", path, &error))?;
        names.sort();
        Ok(names)
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

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(unreachable_pub, clippy::unwrap_used)]
#[path = "../../tests/support/s3.rs"]
mod s3;

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::memory::InMemory;

    use super::*;

    /// A store in memory.
    pub(in crate::checkpoint) fn memory() -> Store {
        Store::over(Arc::new(InMemory::new()), Path::from("some/prefix"), "memory://some/prefix").unwrap()
    }

    /// What every store must do.
    fn conforms(store: &Store) {
        assert_eq!(store.get("a/b").unwrap(), None);
        assert_eq!(store.length("a/b").unwrap(), None);
        assert!(store.folders("").unwrap().is_empty());
        assert!(store.put_new("a/b", b"one".to_vec()).unwrap());
        assert!(!store.put_new("a/b", b"two".to_vec()).unwrap());
        assert_eq!(store.get("a/b").unwrap().unwrap().0, b"one");
        store.put("a/b", b"three".to_vec()).unwrap();
        assert_eq!(store.length("a/b").unwrap(), Some(5));
        // Two parts and a bit: the upload in parts, whose file must equal the pieces in order.
        let piece = |seed: usize| (0..PART_BYTES / 2 + 1).map(|i| (i * seed) as u8).collect::<Vec<u8>>();
        let (length, sha256) = store.stream("c/d/e", (1..6).map(piece)).unwrap();
        let (bytes, read) = store.get("c/d/e").unwrap().unwrap();
        assert!(bytes == (1..6).flat_map(piece).collect::<Vec<u8>>());
        assert_eq!((bytes.len() as u64, read), (length, sha256));
        let (_, empty) = store.stream("c/empty", std::iter::empty()).unwrap();
        assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(store.folders("").unwrap(), ["a", "c"]);
        assert_eq!(store.files("c").unwrap(), ["d/e", "empty"]);
        store.delete("c/d/e").unwrap();
        assert_eq!(store.get("c/d/e").unwrap(), None);
    }

    #[test]
    fn memory_conforms() {
        conforms(&memory());
    }

    #[test]
    fn a_folder_conforms() {
        let folder = tempfile::tempdir().unwrap();
        conforms(&Store::create(&Location::Folder(folder.path().join("not yet/here #1"))).unwrap());
    }

    #[test]
    fn s3_conforms() {
        let server = super::s3::S3::start();
        let backend = AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", server.port))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .with_bucket_name("bucket")
            .build()
            .unwrap();
        conforms(&Store::over(Arc::new(backend), Path::from("some/prefix"), "s3://bucket/some/prefix").unwrap());
    }
}
