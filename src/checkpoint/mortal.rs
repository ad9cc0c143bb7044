//! A store whose process dies at one of its operations: how it is proved that no operation of a save is the one at
//! which a run must not die. It is also out of reach while the faults say so.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::layout;
use crate::faults::{self, FaultsConfig, Strike};

/// Passes operations on to a store, lets them fail where it is cut off, and ends the process before the one that the
/// configuration names.
#[derive(Debug)]
pub(super) struct MortalStore {
    inner: Arc<dyn ObjectStore>,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    dies_at: Option<u64>,
    from_step: u64,
    /// Operations so far; 0 until the first that counts.
    operations: AtomicU64,
}

impl Life {
    /// Counts an operation, if its turn to be counted has come, and does not return from the last.
    ///
    /// # Errors
    /// While the store is cut off.
    fn spend(&self, operation: &str, path: &Path) -> Result<()> {
        if faults::armed().is_some_and(Strike::storage_is_cut) {
            let source = std::io::Error::other("faults: the storage is cut off").into();
            return Err(object_store::Error::Generic { store: "faults", source });
        }
        let Some(dies_at) = self.dies_at else { return Ok(()) };
        let step = path.parts().find_map(|part| layout::step_of(part.as_ref()));
        let counts = step.is_some_and(|step| step >= self.from_step) || self.operations.load(Ordering::SeqCst) > 0;
        if !counts {
            return Ok(());
        }
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        tracing::info!("faults: operation {number}: {operation} {path}");
        if number == dies_at {
            tracing::error!("faults: dying before operation {number}");
            std::process::abort();
        }
        Ok(())
    }
}

impl MortalStore {
    /// `inner` with what `faults` do to it; `inner` itself where they do nothing to this rank.
    pub(super) fn over(inner: Arc<dyn ObjectStore>, faults: &FaultsConfig, rank: usize) -> Arc<dyn ObjectStore> {
        let dies_at = faults.die_at_store_operation.filter(|_| faults.die_rank == rank);
        if !faults.strikes_now() || (dies_at.is_none() && faults.cut_storage_seconds.is_none()) {
            return inner;
        }
        let life = Life { dies_at, from_step: faults.die_from_step, operations: AtomicU64::new(0) };
        Arc::new(Self { inner, life: Arc::new(life) })
    }
}

impl fmt::Display for MortalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MortalStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for MortalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.life.spend("put", location)?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.life.spend("begin upload", location)?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(MortalUpload { inner, life: Arc::clone(&self.life), path: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.life.spend(if options.head { "look at" } else { "get" }, location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.life.spend("get parts of", location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let life = Arc::clone(&self.life);
        let counted = locations.map(move |location| {
            let location = location?;
            life.spend("delete", &location)?;
            Ok(location)
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.life.spend("list", prefix.unwrap_or(&Path::ROOT)) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.life.spend("list folders of", prefix.unwrap_or(&Path::ROOT))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.life.spend("copy", from)?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.life.spend("rename", from)?;
        self.inner.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct MortalUpload {
    inner: Box<dyn MultipartUpload>,
    life: Arc<Life>,
    path: Path,
}

#[async_trait]
impl MultipartUpload for MortalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.life.spend("send a part of", &self.path) {
            Ok(()) => self.inner.put_part(data),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.life.spend("complete", &self.path)?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.life.spend("take back", &self.path)?;
        self.inner.abort().await
    }
}
