//! Makes the client of a location.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use object_store::path::Path;
use object_store::{ObjectStore, Result};

use crate::error::{Error, chain};
use crate::folder::GuardedFolder;
use crate::location::Location;
use crate::multipart::MultipartUploads;
use crate::options::{StoreOptions, client_retries, client_timeouts};

/// A client and what it needs to work in a location.
pub(crate) struct Connection {
    pub(crate) backend: Arc<dyn ObjectStore>,
    /// The first part of the path of every file.
    pub(crate) prefix: Path,
    /// The unfinished uploads of the bucket. `None` if the store keeps none that could be listed.
    pub(crate) uploads: Option<MultipartUploads>,
}

/// Connects to a location. No request is sent.
///
/// # Errors
/// [`Error::NotFound`] if a folder does not exist, [`Error::Variable`] if an environment variable cannot be used,
/// [`Error::Failed`] if the client cannot be set up.
pub(crate) fn connect(location: &Location, options: &StoreOptions) -> Result<Connection, Error> {
    let url = location.to_string();
    let cannot =
        |error: object_store::Error| Error::Failed { operation: "open".into(), url: url.clone(), cause: chain(&error) };
    let (retries, clouds) = (client_retries(options), &options.clouds);
    // Parsed, not converted: a conversion would escape characters such as `~`.
    let parse = |prefix: &str| Path::parse(prefix).map_err(|error| cannot(error.into()));
    match location {
        Location::Folder(path) => {
            if !path.is_dir() {
                return Err(Error::NotFound { url, reason: "there is no such folder".into() });
            }
            let backend = Arc::new(GuardedFolder::open(path).map_err(cannot)?);
            Ok(Connection { backend, prefix: Path::default(), uploads: None })
        }
        Location::S3 { bucket, prefix } => {
            let builder = with_timeouts(clouds.s3()?.with_bucket_name(bucket), options);
            let (backend, uploads) = MultipartUploads::on_s3(builder, retries).map_err(cannot)?;
            Ok(Connection { backend, prefix: parse(prefix)?, uploads: Some(uploads) })
        }
        Location::Gcs { bucket, prefix } => {
            let mut builder = clouds.gcs()?.with_bucket_name(bucket);
            for (key, value) in client_timeouts(options) {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            let (backend, uploads) = MultipartUploads::on_gcs(builder, retries).map_err(cannot)?;
            Ok(Connection { backend, prefix: parse(prefix)?, uploads: Some(uploads) })
        }
        Location::Azure { container, prefix } => {
            let mut builder = clouds.azure()?.with_container_name(container);
            for (key, value) in client_timeouts(options) {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            let backend = Arc::new(builder.with_retry(retries).build().map_err(cannot)?);
            // Azure deletes the blocks of an unfinished upload itself, after a week.
            Ok(Connection { backend, prefix: parse(prefix)?, uploads: None })
        }
    }
}

/// Sets the timeouts of a client of S3.
pub(crate) fn with_timeouts(builder: AmazonS3Builder, options: &StoreOptions) -> AmazonS3Builder {
    client_timeouts(options)
        .into_iter()
        .fold(builder, |builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value))
}
