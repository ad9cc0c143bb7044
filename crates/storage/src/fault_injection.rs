//! Injects faults into a store: aborts the process before the n-th store operation, so that tests can crash a save
//! anywhere, and fails all operations while the storage is cut off.

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

/// A test of a path.
type PathTest = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The faults of a store.
#[derive(Clone, Default)]
pub struct InjectedFaults {
    /// The number, from 1, of the operation before which the process aborts.
    pub abort_before: Option<u64>,
    /// Returns whether an operation on this path starts the count. Earlier operations are not counted. If it is `None`,
    /// all operations are counted.
    pub starts_count: Option<PathTest>,
    /// Returns whether the storage is cut off now. All operations fail while it is.
    pub is_cut: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl InjectedFaults {
    fn is_empty(&self) -> bool {
        self.abort_before.is_none() && self.is_cut.is_none()
    }
}

/// Injects the faults before each operation of a store.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

struct State {
    faults: InjectedFaults,
    /// The number of operations counted so far.
    operations: AtomicU64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("abort_before", &self.faults.abort_before).finish_non_exhaustive()
    }
}

impl State {
    /// Counts an operation, and aborts the process if it is the configured one.
    ///
    /// # Errors
    /// If the storage is cut off.
    fn before(&self, operation: &str, path: &Path) -> Result<()> {
        if self.faults.is_cut.as_ref().is_some_and(|is_cut| is_cut()) {
            let source = std::io::Error::other("faults: the storage is cut off").into();
            return Err(object_store::Error::Generic { store: "faults", source });
        }
        let Some(abort_before) = self.faults.abort_before else { return Ok(()) };
        let starts = self.faults.starts_count.as_ref().is_none_or(|starts| starts(path.as_ref()));
        if !starts && self.operations.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        tracing::info!("faults: operation {number}: {operation} {path}");
        if number == abort_before {
            tracing::error!("faults: dying before operation {number}");
            std::process::abort();
        }
        Ok(())
    }
}

impl FaultyStore {
    /// Adds `faults` to `inner`. Returns `inner` unchanged if `faults` is empty.
    pub(crate) fn from_backend(inner: Arc<dyn ObjectStore>, faults: InjectedFaults) -> Arc<dyn ObjectStore> {
        if faults.is_empty() {
            return inner;
        }
        Arc::new(Self { inner, state: Arc::new(State { faults, operations: AtomicU64::new(0) }) })
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.state.before("put", location)?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.state.before("begin upload", location)?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FaultyUpload { inner, state: Arc::clone(&self.state), path: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.state.before(if options.head { "look at" } else { "get" }, location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.state.before("get parts of", location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let state = Arc::clone(&self.state);
        let counted = locations.map(move |location| {
            let location = location?;
            state.before("delete", &location)?;
            Ok(location)
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.state.before("list", prefix.unwrap_or(&Path::ROOT)) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.state.before("list folders of", prefix.unwrap_or(&Path::ROOT))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.state.before("copy", from)?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.state.before("rename", from)?;
        self.inner.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    state: Arc<State>,
    path: Path,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.state.before("send a part of", &self.path) {
            Ok(()) => self.inner.put_part(data),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.state.before("complete", &self.path)?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.state.before("abort", &self.path)?;
        self.inner.abort().await
    }
}
