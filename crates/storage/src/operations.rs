//! The operations on a store. Each has a timeout and is retried.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};

use crate::classify::{Lasting, may_refuse_condition, transient};
use crate::error::{Error, unusable};
use crate::hash::hex_digest;
use crate::location::Location;
use crate::store::Store;

/// The size of one read of a large file, in bytes.
const READ_BYTES: u64 = 16 << 20;
/// The number of reads of one file at the same time.
const READS_IN_FLIGHT: usize = 4;

/// The largest file that [`Store::get`] reads, in bytes. Manifests and the like are far smaller, and a larger file would
/// only fill the memory.
pub const MAX_SMALL_FILE: u64 = 256 << 20;

/// How the names of the files of [`Store::require_new_files`] begin.
pub const PROBE: &str = "new-file-probe-";

/// The transfer rate below which a read has failed. It makes the timeout of a read depend on its length.
const MIN_BYTES_PER_SECOND: u64 = 1 << 20;

impl Store {
    /// Writes a small file atomically. Replaces an existing file.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let at = self.full_path(path);
        let payload = PutPayload::from(bytes);
        let result = self.retry_small("write", path, || self.backend().put(&at, payload.clone())).await?;
        result.map(drop).map_err(|error| self.failed("write", path, &error))
    }

    /// Writes a small file atomically unless a file exists at `path`. Returns whether it was written. Only
    /// [`checks_new_files`](Self::checks_new_files) tells whether a server really looks for an existing file.
    ///
    /// If the answer of the store gets lost, the retry finds the file that the first try wrote. This counts as written.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses for another reason, or does not answer.
    pub async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        let at = self.full_path(path);
        let bytes = Bytes::from(bytes);
        let create = || PutOptions::from(PutMode::Create);
        let work = || self.backend().put_opts(&at, bytes.clone().into(), create());
        match self.retry_small("write", path, work).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                match self.get(path).await? {
                    Some(found) => Ok(found == bytes),
                    None => Err(Error::Failed {
                        operation: "write".into(),
                        url: self.url(path),
                        cause: "the store says that the file exists, but does not find it".into(),
                    }),
                }
            }
            Err(error) => Err(self.failed("write", path, &error)),
        }
    }

    /// Writes a file at `path`, which must be free, and tries to create it a second time. Returns whether the store
    /// refuses the second try, as [`put_new`](Self::put_new) needs. Some S3 servers ignore the condition. The file stays.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the server does not know the condition, and takes the file without it; [`Error::Failed`] if
    /// the store refuses the first try or does not answer.
    pub async fn checks_new_files(&self, path: &str) -> Result<bool, Error> {
        if let Err(error) = self.put_new(path, b"first".to_vec()).await {
            return match &error {
                Error::Failed { cause, .. }
                    if may_refuse_condition(cause) && self.put(path, b"first".to_vec()).await.is_ok() =>
                {
                    let reason = format!(
                        "the server lacks the conditional creation of files, by If-None-Match, without which two runs could \
                         overwrite each other's files; use a newer version of the server or another one, or a folder \
                         instead ({cause})"
                    );
                    Err(Error::Unusable { operation: "create".into(), url: self.url(path), reason })
                }
                _ => Err(error),
            };
        }
        let is_written_twice = self.put_new(path, b"second".to_vec()).await?;
        Ok(!is_written_twice && self.get(path).await?.is_some_and(|found| &found[..] == b"first"))
    }

    /// Checks that a store that is no folder does not create a file that exists, with a file of its own that is deleted again.
    /// Folders never do.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the server overwrites it, or does not know the condition; [`Error::Failed`].
    pub async fn require_new_files(&self) -> Result<(), Error> {
        if matches!(self.location(), Some(Location::Folder(_))) {
            return Ok(());
        }
        // Other processes may check at the same time.
        let path = format!("{PROBE}{:016x}", RandomState::new().build_hasher().finish());
        let checked = self.checks_new_files(&path).await;
        let deleted = self.delete(&path).await;
        if checked? {
            // Some users may write and not delete. Readers know the name of the file.
            if let Err(error) = deleted {
                tracing::warn!("{error}; this small file stays there");
            }
            return Ok(());
        }
        let reason = "the server ignores If-None-Match and overwrites files, so that two jobs could overwrite each other's \
                      files; use a newer version of the server or another one, or a folder instead";
        Err(Error::Unusable { operation: "create new files in".into(), url: self.url(""), reason: reason.into() })
    }

    /// Reads a small file. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Failed`] if the file is too large, or the store refuses or does not answer.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let at = self.full_path(path);
        let read = self.retry_read(path, self.small_timeout(), || async {
            let found = self.backend().get(&at).await?;
            let size = found.meta.size;
            if size > MAX_SMALL_FILE {
                return Err(unusable(format!("it has {size} bytes, which is too large for a file of its kind")));
            }
            let bytes = found.bytes().await?;
            if bytes.len() as u64 == size { Ok(bytes) } else { Err(incomplete(bytes.len(), size)) }
        });
        let read = read.await;
        self.none_if_missing("read", path, read)
    }

    /// Reads the first `length` bytes of a file, and returns their SHA-256 as hexadecimal digits. Returns `None` if the
    /// file does not exist. If `into` is given, it is replaced by the bytes; otherwise only a few pieces of the file are in
    /// memory at a time.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if `into` cannot hold the bytes; [`Error::Failed`] if the file is shorter, or the store refuses
    /// or does not answer.
    pub async fn read(&self, path: &str, length: u64, mut into: Option<&mut Vec<u8>>) -> Result<Option<String>, Error> {
        if let Some(bytes) = into.as_deref_mut() {
            bytes.clear();
            let wanted = usize::try_from(length).unwrap_or(usize::MAX);
            bytes.try_reserve_exact(wanted).map_err(|error| Error::TooLarge {
                url: self.url(path),
                reason: format!("its {length} bytes do not fit into this machine's memory ({error})"),
            })?;
        }
        let starts = (0..length).step_by(READ_BYTES as usize);
        let pieces = starts.map(|start| {
            let (store, path) = (self.clone(), path.to_owned());
            async move { store.read_piece(&path, start..(start + READ_BYTES).min(length)).await }
        });
        let mut pieces = futures::stream::iter(pieces).buffered(READS_IN_FLIGHT);
        let mut hash = Sha256::new();
        while let Some(piece) = pieces.next().await {
            let Some(piece) = self.none_if_missing("read", path, piece)? else { return Ok(None) };
            hash.update(&piece);
            if let Some(bytes) = into.as_deref_mut() {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(Some(hex_digest(hash)))
    }

    /// Reads a range of bytes.
    async fn read_piece(&self, path: &str, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let timeout = self.range_timeout(&range);
        self.retry_read(path, timeout, || self.read_piece_once(path, range.clone())).await
    }

    /// Reads a range of bytes without a timeout and without retries.
    pub(crate) async fn read_piece_once(&self, path: &str, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let length = range.end - range.start;
        let bytes = self.backend().get_range(&self.full_path(path), range).await?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(incomplete(bytes.len(), length)) }
    }

    /// Returns the timeout of reading a range once.
    pub(crate) fn range_timeout(&self, range: &Range<u64>) -> Duration {
        self.small_timeout() + Duration::from_secs((range.end - range.start) / MIN_BYTES_PER_SECOND)
    }

    /// Returns the length of a file in bytes, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn length(&self, path: &str) -> Result<Option<u64>, Error> {
        let at = self.full_path(path);
        let meta = self.retry_small("look at", path, || self.backend().head(&at)).await?;
        self.none_if_missing("look at", path, meta.map(|meta| meta.size))
    }

    /// Renames a file within the store. Replaces an existing file at `to`. Does nothing if there is no file at `from`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from_at, to_at) = (self.full_path(from), self.full_path(to));
        let result = self.retry_small("rename", from, || self.backend().rename(&from_at, &to_at)).await?;
        self.none_if_missing("rename", from, result).map(drop)
    }

    /// Deletes a file. Does nothing if it does not exist.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        let at = self.full_path(path);
        let result = self.retry_small("delete", path, || self.backend().delete(&at)).await?;
        self.none_if_missing("delete", path, result).map(drop)
    }

    /// Returns the names of the folders directly under `path`, sorted.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn folders(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.full_path(path);
        let listed = self.retry_small("list", path, || self.backend().list_with_delimiter(Some(&at))).await?;
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// Returns the names of the files directly under `path`, sorted.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn files_right_under(&self, path: &str) -> Result<Vec<String>, Error> {
        let at = self.full_path(path);
        let listed = self.retry_small("list", path, || self.backend().list_with_delimiter(Some(&at))).await?;
        let listed = listed.map_err(|error| self.failed("list", path, &error))?;
        let mut names: Vec<String> =
            listed.objects.iter().filter_map(|meta| Some(meta.location.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// Returns all files under `path`, in any depth, with their lengths in bytes. Their paths are relative to `path`, and
    /// sorted.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store refuses or does not answer.
    pub async fn files(&self, path: &str) -> Result<Vec<(String, u64)>, Error> {
        let entries = self.entries(path).await?;
        Ok(entries.into_iter().map(|entry| (entry.path, entry.length)).collect())
    }

    /// Aborts the unfinished multipart uploads whose path in this store satisfies `is_ours`, and returns their paths. S3
    /// and Google Cloud Storage have such uploads; Azure deletes those without progress after a week, and a folder has only
    /// files. Uploads of running writers look the same, so only the owner of the store may call this.
    ///
    /// # Errors
    /// [`Error::Failed`] if they cannot be listed or aborted.
    pub async fn abort_unfinished_uploads(&self, is_ours: fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let Some(uploads) = self.uploads() else { return Ok(Vec::new()) };
        let failed = |error: object_store::Error| self.failed("list or abort unfinished uploads of", "", &error);
        let mut aborted = Vec::new();
        for upload in uploads.list(&self.full_path(""), is_ours).await.map_err(failed)? {
            uploads.abort(&upload).await.map_err(failed)?;
            aborted.push(upload.path.to_string());
        }
        Ok(aborted)
    }

    /// Converts the result of an operation on `path`. A file that does not exist becomes `None`.
    pub(crate) fn none_if_missing<T>(
        &self,
        operation: &str,
        path: &str,
        result: Result<T, object_store::Error>,
    ) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            // A bucket that does not exist is no missing file.
            Err(error @ object_store::Error::NotFound { .. }) if Lasting::of(&error).is_none() => Ok(None),
            Err(error) => Err(self.failed(operation, path, &error)),
        }
    }
}

fn incomplete(found: usize, length: u64) -> object_store::Error {
    transient(format!("{found} of {length} bytes came"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;
    use crate::options::StoreOptions;
    use crate::testing::clouds::{Azurite, Gcs};
    use crate::testing::s3::S3;
    use crate::testing::{memory, on_s3, with_vars};
    use crate::upload::{never, upload};

    /// Checks the behavior that all stores have in common.
    async fn check_behavior(store: &Store) {
        assert_eq!(store.get("a/b").await.unwrap(), None);
        assert_eq!(store.length("a/b").await.unwrap(), None);
        assert!(store.folders("").await.unwrap().is_empty());
        assert!(store.put_new("a/b", b"one".to_vec()).await.unwrap());
        assert!(!store.put_new("a/b", b"two".to_vec()).await.unwrap());
        // As in a retry after the answer to the first try got lost.
        assert!(store.put_new("a/b", b"one".to_vec()).await.unwrap());
        assert_eq!(&store.get("a/b").await.unwrap().unwrap()[..], b"one");
        store.put("a/b", b"three".to_vec()).await.unwrap();
        assert_eq!(store.length("a/b").await.unwrap(), Some(5));
        // Two full parts and a smaller one, from pieces of another size.
        let piece = |seed: usize| (0..store.options().part_bytes / 2 + 1).map(|i| (i * seed) as u8).collect::<Bytes>();
        let pieces: Vec<Bytes> = (1..6).map(piece).collect();
        let end = Instant::now() + store.options().patience;
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
        assert_eq!(store.files_right_under("c").await.unwrap(), ["empty"]);
        let listed = store.entries("c").await.unwrap();
        assert_eq!(store.entry("c/d/e").await.unwrap().unwrap().version, listed[0].version);
        let middle = store.read_piece_once("c/d/e", 5..12).await.unwrap();
        assert!(middle == bytes[5..12]);
        store.delete("c/d/e").await.unwrap();
        store.delete("c/d/e").await.unwrap();
        assert_eq!(store.get("c/d/e").await.unwrap(), None);
    }

    #[test]
    fn a_store_in_memory_behaves_as_documented() {
        let store = memory();
        store.wait(check_behavior(&store));
    }

    #[test]
    fn a_folder_behaves_as_documented() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Folder(folder.path().join("not yet/here #1"));
        let store = Store::create(&location, &StoreOptions::default()).unwrap();
        store.wait(check_behavior(&store));
    }

    #[test]
    fn s3_behaves_as_documented() {
        let server = S3::start();
        let store = on_s3(server.port, StoreOptions::default());
        store.wait(check_behavior(&store));
    }

    /// Whether a file is one that these tests write.
    fn is_model(path: &str) -> bool {
        path.ends_with("model")
    }

    /// Checks that no upload is left, and begins and aborts one.
    async fn check_uploads(store: &Store) {
        assert!(store.checks_new_files("probe").await.unwrap());
        let mut unfinished = store.backend().put_multipart(&store.full_path("a/model")).await.unwrap();
        unfinished.put_part(vec![7; 100].into()).await.unwrap();
        let mut aborted = store.backend().put_multipart(&store.full_path("b/model")).await.unwrap();
        aborted.abort().await.unwrap();
    }

    #[test]
    fn google_cloud_storage_behaves_as_documented() {
        let server = Gcs::start();
        let store = with_vars("gs://bucket/some/prefix", server.environment());
        store.wait(check_behavior(&store));
        assert_eq!(store.real_url(), format!("gs://bucket/some/prefix (at http://127.0.0.1:{})", server.port));
        store.wait(async {
            check_uploads(&store).await;
            assert_eq!(store.abort_unfinished_uploads(|_| false).await.unwrap(), Vec::<String>::new());
            assert_eq!(store.abort_unfinished_uploads(is_model).await.unwrap(), ["some/prefix/a/model"]);
            assert_eq!(store.abort_unfinished_uploads(is_model).await.unwrap(), Vec::<String>::new());
        });
        let refused = with_vars(
            "gs://bucket/some/prefix",
            server.environment().into_iter().map(|(name, value)| (name, value.replace("token", "hush"))).collect(),
        );
        let error = refused.wait(refused.put("a", b"x".to_vec())).unwrap_err().to_string();
        assert!(error.starts_with("cannot write gs://bucket/some/prefix/a: "), "{error}");
        assert!(!error.contains("hush"), "{error}");
        let error = refused.wait(refused.abort_unfinished_uploads(is_model)).unwrap_err().to_string();
        assert!(error.contains("401") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn azure_behaves_as_documented() {
        let server = Azurite::start();
        let store = with_vars("az://bucket/some/prefix", server.environment());
        store.wait(check_behavior(&store));
        let place = format!("az://bucket/some/prefix (at http://127.0.0.1:{}/devstoreaccount1)", server.port);
        assert_eq!(store.real_url(), place);
        store.wait(async {
            check_uploads(&store).await;
            // The server keeps the blocks of an unfinished upload for a week, and shows no file.
            assert_eq!(store.abort_unfinished_uploads(is_model).await.unwrap(), Vec::<String>::new());
            assert_eq!(store.length("a/model").await.unwrap(), None);
            assert_eq!(store.files("").await.unwrap().len(), 3);
        });
        let nowhere = with_vars("az://none/x", server.environment());
        let error = nowhere.wait(nowhere.put("a", b"x".to_vec())).unwrap_err();
        assert!(matches!(&error, Error::Location { url, .. } if url == "az://none/x/a"), "{error:?}");
        assert!(error.to_string().contains("there is no such bucket"), "{error}");
    }
}
