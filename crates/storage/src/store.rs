//! The store: its location, its client, and the threads that run its operations.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::classify::{Lasting, is_lasting_http_error, is_response_timeout, no_answer};
use crate::connect::{Connection, connect, of_folder};
use crate::error::{Error, chain, reason_of};
use crate::fault_injection::{FaultyStore, InjectedFaults};
use crate::folder::is_link;
use crate::location::Location;
use crate::multipart::MultipartUploads;
use crate::options::StoreOptions;

/// A folder or a prefix in a bucket. All paths are relative to it. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    location: Option<Location>,
    /// The unfinished uploads of the bucket. `None` for a store without any that could be listed.
    uploads: Option<Arc<MultipartUploads>>,
    options: StoreOptions,
    runtime: Arc<Background>,
}

/// The threads that run the operations. Dropping it does not wait for threads that hang in a system call.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("the runtime is taken only when it is dropped")
    }
}

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
    /// [`Error::NotFound`] if a folder does not exist, [`Error::Variable`] or [`Error::Unusable`] if the settings do not
    /// allow to open it, [`Error::Failed`] if the file system fails.
    pub fn open(location: &Location, options: &StoreOptions) -> Result<Self, Error> {
        let Connection { backend, prefix, uploads } = connect(location, options)?;
        let mut store = Self::from_backend(backend, prefix, &location.to_string())?;
        store.location = Some(location.clone());
        store.uploads = uploads.map(Arc::new);
        store.options = options.clone();
        Ok(store)
    }

    /// Opens a store for writing. A folder that does not exist is created.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the folder can never be created here, [`Error::Failed`] if that fails now, and those of
    /// [`open`](Self::open).
    pub fn create(location: &Location, options: &StoreOptions) -> Result<Self, Error> {
        if let Location::Folder(path) = location {
            std::fs::create_dir_all(path)
                .map_err(|error| of_folder("make the folder", &location.to_string(), &error))?;
        }
        Self::open(location, options)
    }

    /// Makes a store from any object store and a prefix in it. Messages call it `url`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the threads that run the operations cannot be started.
    pub fn from_backend(backend: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store")
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

    /// Returns the store with injected faults.
    #[must_use]
    pub fn with_faults(mut self, faults: InjectedFaults) -> Self {
        self.backend = FaultyStore::from_backend(self.backend, faults);
        self
    }

    #[cfg(test)]
    pub(crate) fn with_options(self, options: StoreOptions) -> Self {
        Self { options, ..self }
    }

    /// Returns the URL of `path`, or of the store if `path` is empty.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        if path.is_empty() { self.url.clone() } else { format!("{}/{path}", self.url) }
    }

    /// Returns the URL of the store without ambiguity: the absolute path of a folder, or the bucket with its endpoint if
    /// the environment sets one. A container of Azure has the endpoint or the storage account.
    #[must_use]
    pub fn real_url(&self) -> String {
        let at = |server: Option<&str>| match server {
            Some(server) => format!("{} (at {server})", self.url("")),
            None => self.url(""),
        };
        match &self.location {
            Some(Location::Folder(path)) => {
                std::fs::canonicalize(path).map_or_else(|_| self.url(""), |path| path.display().to_string())
            }
            Some(Location::S3 { .. }) => at(self.options.clouds.s3_endpoint()),
            Some(Location::Gcs { .. }) => at(self.options.clouds.gcs_endpoint()),
            Some(Location::Azure { .. }) => at(self.options.clouds.azure_account()),
            None => self.url(""),
        }
    }

    /// Returns whether the folder or file at `path` is a symbolic link. Object stores have none.
    pub async fn is_link(&self, path: &str) -> bool {
        let Some(Location::Folder(root)) = &self.location else { return false };
        let path = root.join(path);
        tokio::task::spawn_blocking(move || is_link(&path)).await.unwrap_or(false)
    }

    /// Returns the location that was opened. `None` for a store that was made with [`Store::from_backend`].
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Returns the timeouts and sizes.
    #[must_use]
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub(crate) fn backend(&self) -> &Arc<dyn ObjectStore> {
        &self.backend
    }

    pub(crate) fn uploads(&self) -> Option<&MultipartUploads> {
        self.uploads.as_deref()
    }

    /// Returns the path in the backend.
    pub fn full_path(&self, path: &str) -> Path {
        self.prefix.parts().chain(Path::from(path).parts()).collect()
    }

    /// Blocks the calling thread until `work` is done. The thread must not belong to an asynchronous runtime.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.runtime().block_on(work)
    }

    /// Runs `work` in the background.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.runtime().spawn(work)
    }

    /// Makes the error of an operation on `path`.
    #[must_use]
    pub fn failed(&self, operation: &str, path: &str, error: &object_store::Error) -> Error {
        if let Some(reason) = reason_of(error) {
            let (operation, reason) = (operation.to_owned(), reason.to_owned());
            return Error::Unusable { operation, url: self.url(path), reason };
        }
        if is_lasting_http_error(error) {
            let reason = format!("{}; check the environment variables of the store and of proxies", chain(error));
            return Error::Unusable { operation: operation.to_owned(), url: self.url(path), reason };
        }
        if let Some(lasting) = Lasting::of(error) {
            return lasting.into_error(self.url(path), &chain(error));
        }
        let cause = if is_response_timeout(error) { no_answer(self.options.request_timeout) } else { chain(error) };
        Error::Failed { operation: operation.to_owned(), url: self.url(path), cause }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::CloudSettings;

    /// The error of opening a store with these variables. No request is sent.
    fn refused(url: &str, vars: &[(&str, &str)]) -> Error {
        let usual = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hush-hush"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ];
        let usual = usual.iter().filter(|(name, _)| vars.iter().all(|(other, _)| other != name));
        let vars = usual.chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = StoreOptions { clouds: CloudSettings::from_vars(vars), ..StoreOptions::default() };
        Store::open(&Location::parse(url).unwrap(), &options).map(|_| ()).unwrap_err()
    }

    #[test]
    fn settings_that_no_client_takes_are_refused_by_the_names_of_their_variables() {
        for (url, name, value) in [
            ("s3://b/x", "AWS_CONDITIONAL_PUT", "foo"),
            ("s3://b/x", "AWS_COPY_IF_NOT_EXISTS", "foo"),
            ("s3://b/x", "AWS_CHECKSUM_ALGORITHM", "foo"),
            ("s3://b/x", "AWS_SERVER_SIDE_ENCRYPTION", "foo"),
            ("s3://b/x", "AWS_PROXY_URL", "http://me:hush@["),
            ("s3://b/x", "AWS_S3_EXPRESS", "true"),
            ("az://b/x", "AZURE_STORAGE_ACCOUNT_KEY", "hush!!"),
            ("gs://b/x", "GOOGLE_SERVICE_ACCOUNT_KEY", "{\"private_key\": \"hush\"}"),
            ("gs://b/x", "GOOGLE_SERVICE_ACCOUNT_KEY", "\"hush\""),
        ] {
            let error = refused(url, &[(name, value)]);
            assert!(matches!(&error, Error::Variable { variable, .. } if variable == name), "{name}: {error:?}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_folder_that_can_never_be_made_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "whole").unwrap();
        std::os::unix::fs::symlink("loop", root.path().join("loop")).unwrap();
        for path in ["file", "file/inner", "loop/inner", &"x".repeat(300)] {
            let location = Location::Folder(root.path().join(path));
            let error = Store::create(&location, &StoreOptions::default()).map(|_| ()).unwrap_err();
            assert!(matches!(&error, Error::Unusable { url, .. } if url.contains(path)), "{error:?}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(of_folder("make the folder", "x", &full), Error::Failed { .. }));
        let read_only = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(matches!(of_folder("make the folder", "x", &read_only), Error::Unusable { .. }));
    }
}
