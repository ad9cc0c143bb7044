//! A folder as an object store whose changes stay inside the folder: no symbolic link below it is followed when a file is
//! written, renamed or deleted.
//!
//! Reading follows links, so that a user can link checkpoints of another run into a folder and resume from them. Without
//! this guard, retention would then delete the other run's files.

use std::fmt;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

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
                let source = format!(
                    "{} is a symbolic link, and files are not changed through links; remove the link, or put the folder \
                     itself there",
                    link.display()
                );
                Err(object_store::Error::NotSupported { source: source.into() })
            }
        }
    }
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
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
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
}
