//! A folder as an object store whose changes stay inside the folder: no symbolic link below it is followed when a file is
//! written, renamed or deleted.
//!
//! Reading follows links, so that a user can link checkpoints of another run into a folder and resume from them. Without
//! this guard, retention would then delete the other run's files.
//!
//! Only regular files are read: opening a pipe would wait for its other end.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};

use admiral_contract::files::{NotRegular, open_to_read};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::error::unusable;

/// The guarded folder.
#[derive(Debug, Clone)]
pub(crate) struct GuardedFolder {
    inner: LocalFileSystem,
    root: PathBuf,
}

impl GuardedFolder {
    /// Opens the folder `root`, which may be a link itself. Writes are synced to the disk.
    ///
    /// # Errors
    /// If `root` is not a folder.
    pub(crate) fn open(root: &FilePath) -> Result<Self> {
        Ok(Self { inner: LocalFileSystem::new_with_prefix(root)?.with_fsync(true), root: root.to_owned() })
    }

    /// Checks that no folder on the way to `path` is a link.
    ///
    /// # Errors
    /// [`object_store::Error::NotSupported`] with the link.
    async fn check(&self, path: &Path) -> Result<()> {
        let (root, path) = (self.root.clone(), path.clone());
        // The file system may hang, and this thread has other work.
        let found = tokio::task::spawn_blocking(move || first_link(&root, &path)).await;
        match found.map_err(|source| object_store::Error::JoinError { source })? {
            None => Ok(()),
            Some(link) => {
                let reason = format!(
                    "{} is a symbolic link, and files are not changed through links; remove the link, or put the folder \
                     itself there",
                    link.display()
                );
                Err(unusable(reason))
            }
        }
    }
}

/// Opens a file and describes it as the store does that lists it.
fn open(path: PathBuf, location: Path, options: GetOptions) -> Result<GetResult> {
    let missing = |source: std::io::Error| object_store::Error::NotFound {
        path: path.display().to_string(),
        source: Box::new(source),
    };
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => missing(source),
        // A prefix of other files is no file.
        _ if path.is_dir() => missing(source),
        _ if source.get_ref().is_some_and(|inner| inner.is::<NotRegular>()) => unusable(format!("{source}; remove it")),
        _ => object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(source) },
    };
    let file = open_to_read(&path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let modified = found.modified().map_err(failed)?;
    let micros = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros();
    let meta = ObjectMeta {
        location,
        last_modified: modified.into(),
        size: found.len(),
        // The tag that a listing has.
        e_tag: Some(format!("\"{:x}-{micros:x}-{:x}\"", found.ino(), found.len())),
        version: None,
    };
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        None => 0..meta.size,
        Some(range) => range
            .as_range(meta.size)
            .map_err(|source| object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(source) })?,
    };
    let payload = GetResultPayload::File(file, path);
    Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
}

/// Returns the first folder on the way from `root` to the file at `path` that is a link. The file itself may be one: it is
/// replaced or removed, not followed.
fn first_link(root: &FilePath, path: &Path) -> Option<PathBuf> {
    let mut at = root.to_owned();
    let mut parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    parts.pop();
    for part in parts {
        at.push(part);
        if is_link(&at) {
            return Some(at);
        }
    }
    None
}

/// Returns whether the path itself is a symbolic link.
pub(crate) fn is_link(path: &FilePath) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

impl fmt::Display for GuardedFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuardedFolder({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for GuardedFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check(location).await?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check(location).await?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (path, location) = (self.inner.path_to_filesystem(location)?, location.clone());
        let opened = tokio::task::spawn_blocking(move || open(path, location, options)).await;
        opened.map_err(|source| object_store::Error::JoinError { source })?
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let guard = self.clone();
        let checked = locations.then(move |location| {
            let guard = guard.clone();
            async move {
                let location = location?;
                guard.check(&location).await?;
                Ok(location)
            }
        });
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(to).await?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check(from).await?;
        self.check(to).await?;
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use crate::error::Error;
    use crate::location::Location;
    use crate::options::StoreOptions;
    use crate::store::Store;
    use crate::upload::{never, upload};

    #[test]
    fn files_behind_a_link_are_read_and_not_changed() {
        let root = tempfile::tempdir().unwrap();
        let (own, other) = (root.path().join("own"), root.path().join("other"));
        std::fs::create_dir_all(other.join("step/master")).unwrap();
        std::fs::create_dir(&own).unwrap();
        std::fs::write(other.join("step/manifest.json"), "theirs").unwrap();
        symlink(other.join("step"), own.join("step")).unwrap();
        let store = Store::open(&Location::Folder(own.clone()), &StoreOptions::default()).unwrap();
        store.wait(async {
            assert_eq!(&store.get("step/manifest.json").await.unwrap().unwrap()[..], b"theirs");
            let end = Instant::now() + store.options().patience;
            let errors = [
                store.delete("step/manifest.json").await.unwrap_err(),
                store.put("step/manifest.json", b"mine".to_vec()).await.unwrap_err(),
                store.put_new("step/new.json", b"mine".to_vec()).await.unwrap_err(),
                store.rename("step/manifest.json", "step/aside.json").await.unwrap_err(),
                upload(&store, "step/master/file", &["mine".into()], end, &never()).await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.to_string().contains("own/step is a symbolic link"), "{error}");
            }
        });
        assert_eq!(std::fs::read(other.join("step/manifest.json")).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(other.join("step")).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(other.join("step/master")).unwrap().count(), 0);
    }

    #[test]
    fn a_link_to_a_file_is_replaced_or_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (own, theirs) = (root.path().join("own"), root.path().join("theirs.json"));
        std::fs::create_dir(&own).unwrap();
        std::fs::write(&theirs, "theirs").unwrap();
        for name in ["latest.json", "owner.json"] {
            symlink(&theirs, own.join(name)).unwrap();
        }
        let store = Store::open(&Location::Folder(own.clone()), &StoreOptions::default()).unwrap();
        store.wait(async {
            store.put("latest.json", b"mine".to_vec()).await.unwrap();
            store.delete("owner.json").await.unwrap();
        });
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(std::fs::read(own.join("latest.json")).unwrap(), b"mine");
        assert!(!own.join("owner.json").exists());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_named_and_keeps_nobody_waiting() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: `name` ends with a zero and lives until the call returns.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        symlink(&pipe, root.path().join("link")).unwrap();
        std::fs::create_dir(root.path().join("folder")).unwrap();
        // Without a check, a read would wait until the end of the patience.
        let options = StoreOptions { patience: std::time::Duration::from_secs(2), ..StoreOptions::default() };
        let store = Store::open(&Location::Folder(root.path().to_owned()), &options).unwrap();
        for path in ["pipe", "link"] {
            let errors = store.wait(async {
                [
                    store.get(path).await.unwrap_err(),
                    store.length(path).await.unwrap_err(),
                    store.read(path, 1, None).await.unwrap_err(),
                ]
            });
            for error in errors.into_iter().chain([store.read_range(path, 0..1).unwrap_err()]) {
                let text = error.to_string();
                assert!(matches!(error, Error::Unusable { .. }), "{error:?}");
                assert!(text.contains(&format!("/{path}: it is a pipe (FIFO), not a regular file")), "{text}");
            }
        }
        assert_eq!(store.wait(store.get("folder")).unwrap(), None);
        store.wait(store.put("pipe", b"file".to_vec())).unwrap();
        assert_eq!(&store.wait(store.get("pipe")).unwrap().unwrap()[..], b"file");
    }
}
