//! Makes the client of a location.

use std::io::ErrorKind;
use std::sync::Arc;

use admiral_contract::files::is_wrong_place;
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
/// [`Error::Unusable`] if the folder or the client cannot be opened for another lasting reason, [`Error::Failed`] if the
/// file system fails.
pub(crate) fn connect(location: &Location, options: &StoreOptions) -> Result<Connection, Error> {
    let url = location.to_string();
    let (retries, clouds) = (|| client_retries(options), &options.clouds);
    // Parsed, not converted: a conversion would escape characters such as `~`.
    let parse = |prefix: &str| {
        Path::parse(prefix).map_err(|error| Error::Location { url: url.clone(), reason: error.to_string() })
    };
    match location {
        Location::Folder(path) => {
            match std::fs::metadata(path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(Error::NotFound { url, reason: "this is a file, and not a folder".into() }),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Err(Error::NotFound { url, reason: "there is no such folder".into() });
                }
                Err(error) => return Err(of_folder("open", &url, &error)),
            }
            let cannot = |error: object_store::Error| match io_error(&error) {
                Some(error) => of_folder("open", &url, error),
                None => Error::Failed { operation: "open".into(), url: url.clone(), cause: chain(&error) },
            };
            let backend = Arc::new(GuardedFolder::open(path).map_err(cannot)?);
            Ok(Connection { backend, prefix: Path::default(), uploads: None })
        }
        Location::S3 { bucket, prefix } => {
            let prefix = parse(prefix)?;
            let (backend, uploads) = clouds.s3(&url, |builder| {
                MultipartUploads::on_s3(with_timeouts(builder.with_bucket_name(bucket), options), retries())
            })?;
            Ok(Connection { backend, prefix, uploads: Some(uploads) })
        }
        Location::Gcs { bucket, prefix } => {
            let prefix = parse(prefix)?;
            let (backend, uploads) = clouds.gcs(&url, |builder| {
                let builder = client_timeouts(options)
                    .into_iter()
                    .fold(builder.with_bucket_name(bucket), |builder, (key, value)| {
                        builder.with_config(GoogleConfigKey::Client(key), value)
                    });
                MultipartUploads::on_gcs(builder, retries())
            })?;
            Ok(Connection { backend, prefix, uploads: Some(uploads) })
        }
        Location::Azure { container, prefix } => {
            let prefix = parse(prefix)?;
            let client = clouds.azure(&url, |builder| {
                let builder = client_timeouts(options)
                    .into_iter()
                    .fold(builder.with_container_name(container), |builder, (key, value)| {
                        builder.with_config(AzureConfigKey::Client(key), value)
                    });
                builder.with_retry(retries()).build()
            })?;
            // Azure deletes the blocks of an unfinished upload itself, after a week.
            Ok(Connection { backend: Arc::new(client), prefix, uploads: None })
        }
    }
}

/// Makes the error of a folder that cannot be opened or made.
pub(crate) fn of_folder(operation: &str, url: &str, error: &std::io::Error) -> Error {
    let (operation, url) = (operation.to_owned(), url.to_owned());
    if is_wrong_place(error) {
        return Error::Unusable {
            operation,
            url,
            reason: format!("{error}; name another place, or change its rights"),
        };
    }
    Error::Failed { operation, url, cause: error.to_string() }
}

/// Returns the error of the system that caused `error`.
fn io_error(error: &object_store::Error) -> Option<&std::io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// Sets the timeouts of a client of S3.
pub(crate) fn with_timeouts(builder: AmazonS3Builder, options: &StoreOptions) -> AmazonS3Builder {
    client_timeouts(options)
        .into_iter()
        .fold(builder, |builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value))
}
