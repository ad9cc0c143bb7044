//! What differs between the buckets that keep unfinished uploads: their clients, and how a request is signed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{ClientOptions, HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{MultipartId, Result, RetryConfig};
use url::Url;

use super::listing::invalid;
use crate::tls::choose_cryptography;

/// How long a signed request is valid. Longer than any request takes.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(300);

/// The address of Google Cloud Storage, which is the client's default.
const GCS: &str = "https://storage.googleapis.com";

/// A bucket that keeps unfinished uploads.
#[derive(Debug)]
pub(super) enum Bucket {
    /// A bucket of S3.
    S3 { client: Arc<AmazonS3>, region: String },
    /// A bucket of Google Cloud Storage, whose XML interface lists uploads as S3 does.
    Gcs { client: Arc<GoogleCloudStorage>, url: Url },
}

/// A bucket, its HTTP client, and whether its requests are signed.
pub(super) struct Connected {
    pub(super) bucket: Bucket,
    pub(super) http: HttpClient,
    pub(super) is_signed: bool,
}

impl Bucket {
    /// Builds the client of a bucket of S3.
    ///
    /// # Errors
    /// If [`AmazonS3Builder::build`] fails.
    pub(super) fn on_s3(builder: AmazonS3Builder, retry: &RetryConfig) -> Result<(Arc<AmazonS3>, Connected)> {
        let is_signed = is_signed(builder.get_config_value(&AmazonS3ConfigKey::SkipSignature));
        // The client's default.
        let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".into());
        let connector = Connector::default();
        let builder = builder.with_retry(retry.clone()).with_http_connector(connector.clone());
        let client = Arc::new(builder.build()?);
        let bucket = Self::S3 { client: Arc::clone(&client), region };
        Ok((client, Connected { bucket, http: connector.take()?, is_signed }))
    }

    /// Builds the client of a bucket of Google Cloud Storage.
    ///
    /// # Errors
    /// If [`GoogleCloudStorageBuilder::build`] fails.
    pub(super) fn on_gcs(
        builder: GoogleCloudStorageBuilder,
        retry: &RetryConfig,
    ) -> Result<(Arc<GoogleCloudStorage>, Connected)> {
        let is_signed = is_signed(builder.get_config_value(&GoogleConfigKey::SkipSignature));
        let server = builder.get_config_value(&GoogleConfigKey::BaseUrl).unwrap_or_else(|| GCS.into());
        let name = builder.get_config_value(&GoogleConfigKey::Bucket).unwrap_or_default();
        let mut url = Url::parse(&server).map_err(invalid)?;
        url.path_segments_mut().map_err(|()| invalid("the URL of the server has no path"))?.pop_if_empty().push(&name);
        let connector = Connector::default();
        let builder = builder.with_retry(retry.clone()).with_http_connector(connector.clone());
        let client = Arc::new(builder.build()?);
        let bucket = Self::Gcs { client: Arc::clone(&client), url };
        Ok((client, Connected { bucket, http: connector.take()?, is_signed }))
    }

    /// Returns a request to the bucket with this query, signed by headers. A signed URL would have the session token in
    /// it, and servers and proxies log URLs.
    pub(super) async fn request(&self, query: Vec<(&str, &str)>) -> Result<HttpRequest> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        // Credentials are asked for each request, because they may have been renewed.
        match self {
            Self::S3 { client, region } => {
                // The client gives the URL of its bucket only signed. The signature is not used.
                let options = SignedUrlOptions::new().with_query(query);
                let mut url =
                    client.signed_url_opts(Method::GET, &Path::default(), SIGNATURE_LIFETIME, &options).await?;
                let unsigned: Vec<&str> =
                    url.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("X-Amz-")).collect();
                let unsigned = unsigned.join("&");
                url.set_query(Some(&unsigned));
                *request.uri_mut() = url.as_str().parse().map_err(invalid)?;
                let credential = client.credentials().get_credential().await?;
                AwsAuthorizer::new(&credential, "s3", region)
                    .try_authorize(&mut request, None)
                    .map_err(|error| invalid(error.to_string()))?;
            }
            Self::Gcs { client, url } => {
                let mut url = url.clone();
                url.query_pairs_mut().extend_pairs(query);
                *request.uri_mut() = url.as_str().parse().map_err(invalid)?;
                let credential = client.credentials().get_credential().await?;
                let value = format!("Bearer {}", credential.bearer).parse();
                request
                    .headers_mut()
                    .insert("authorization", value.map_err(|_| invalid("the token has a line break"))?);
            }
        }
        Ok(request)
    }

    /// Aborts an upload.
    ///
    /// # Errors
    /// If [`MultipartStore::abort_multipart`] fails.
    pub(super) async fn abort(&self, path: &Path, id: &MultipartId) -> Result<()> {
        match self {
            Self::S3 { client, .. } => client.abort_multipart(path, id).await,
            Self::Gcs { client, .. } => client.abort_multipart(path, id).await,
        }
    }
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::S3 { client, .. } => client.fmt(f),
            Self::Gcs { client, .. } => client.fmt(f),
        }
    }
}

/// Returns whether requests are signed, given the client's setting.
fn is_signed(skips_signature: Option<String>) -> bool {
    skips_signature
        .is_none_or(|skips| !matches!(skips.to_ascii_lowercase().as_str(), "true" | "1" | "t" | "yes" | "y" | "on"))
}

/// Makes HTTP clients and keeps the last one, which is that of the bucket. Clients for credentials are made before it.
#[derive(Debug, Default, Clone)]
struct Connector(Arc<Mutex<Option<HttpClient>>>);

impl Connector {
    fn take(&self) -> Result<HttpClient> {
        let http = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        http.ok_or_else(|| invalid("the store was built without a connection"))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        choose_cryptography();
        let client = ReqwestConnector::default().connect(options)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}
