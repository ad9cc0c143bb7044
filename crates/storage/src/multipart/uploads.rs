//! The unfinished multipart uploads of a bucket.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpError, HttpRequest};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{Error, MultipartId, Result, RetryConfig};

use super::bucket::{Bucket, Connected};
use super::listing::{invalid, parse};

/// The number of uploads in one answer, which S3 limits to this.
const PAGE_SIZE: usize = 1000;

/// The largest valid answer in bytes. 1000 uploads with the longest keys, every letter escaped, take 6 MB.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A multipart upload that was started and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnfinishedUpload {
    /// The path of the object that it would create.
    pub(crate) path: Path,
    /// The ID of the upload.
    pub(crate) id: MultipartId,
    /// When it was started, if the store reports it.
    pub(crate) initiated: Option<Timestamp>,
}

/// The unfinished uploads of a bucket. `object_store` can start, complete and abort uploads, but cannot list them.
#[derive(Debug)]
pub(crate) struct MultipartUploads {
    bucket: Bucket,
    http: HttpClient,
    retry: RetryConfig,
    is_signed: bool,
    page_size: usize,
}

impl MultipartUploads {
    /// Builds the client of a bucket of S3, and a `MultipartUploads` that shares its HTTP client, credentials and endpoint.
    ///
    /// # Errors
    /// If [`AmazonS3Builder::build`] fails.
    pub(crate) fn on_s3(builder: AmazonS3Builder, retry: RetryConfig) -> Result<(Arc<AmazonS3>, Self)> {
        let (client, connected) = Bucket::on_s3(builder, &retry)?;
        Ok((client, Self::new(connected, retry)))
    }

    /// Does the same for a bucket of Google Cloud Storage.
    ///
    /// # Errors
    /// If [`GoogleCloudStorageBuilder::build`] fails.
    pub(crate) fn on_gcs(
        builder: GoogleCloudStorageBuilder,
        retry: RetryConfig,
    ) -> Result<(Arc<GoogleCloudStorage>, Self)> {
        let (client, connected) = Bucket::on_gcs(builder, &retry)?;
        Ok((client, Self::new(connected, retry)))
    }

    fn new(Connected { bucket, http, is_signed }: Connected, retry: RetryConfig) -> Self {
        Self { bucket, http, retry, is_signed, page_size: PAGE_SIZE }
    }

    /// Lists the unfinished uploads under `prefix` whose path relative to it satisfies `is_ours`, in the store's order.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] or [`Error::Unauthenticated`] if this account may not list them (S3 requires
    /// `s3:ListBucketMultipartUploads`, Google Cloud Storage `storage.multipartUploads.list`), [`Error::NotImplemented`] if the store has no such listing,
    /// [`Error::NotSupported`] if requests are not signed, otherwise [`Error::Generic`] with the answer.
    pub(crate) async fn list(&self, prefix: &Path, is_ours: fn(&str) -> bool) -> Result<Vec<UnfinishedUpload>> {
        let mut found = Vec::new();
        let (mut key, mut id) = (String::new(), String::new());
        loop {
            let page = parse(&self.request_page(prefix, &key, &id).await?)?;
            found.extend(page.upload.into_iter().filter_map(|listed| {
                // Other programs may use keys that `object_store` does not produce.
                let path = Path::parse(&listed.key).ok().filter(|path| path.as_ref() == listed.key)?;
                let relative = path.prefix_match(prefix)?.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>();
                let initiated = listed.initiated.and_then(|time| time.parse().ok());
                is_ours(&relative.join("/")).then_some(UnfinishedUpload { path, id: listed.upload_id, initiated })
            }));
            if !page.is_truncated {
                return Ok(found);
            }
            let next = (page.next_key_marker.unwrap_or_default(), page.next_upload_id_marker.unwrap_or_default());
            if next == (String::new(), String::new()) || next == (key, id) {
                return Err(invalid("the list of uploads is incomplete, and does not say where it continues"));
            }
            (key, id) = next;
        }
    }

    /// Aborts an upload, so that the store deletes its parts. Does nothing if the upload is gone.
    ///
    /// # Errors
    /// If the store refuses for another reason.
    pub(crate) async fn abort(&self, upload: &UnfinishedUpload) -> Result<()> {
        match self.bucket.abort(&upload.path, &upload.id).await {
            Err(Error::NotFound { .. }) => Ok(()),
            result => result,
        }
    }

    /// Returns the request for a page.
    async fn page(&self, prefix: &Path, key: &str, id: &str) -> Result<HttpRequest> {
        if !self.is_signed {
            return Err(Error::NotSupported { source: "uploads can only be listed with credentials".into() });
        }
        let folder = folder(prefix);
        let page = self.page_size.to_string();
        let mut query = vec![("uploads", ""), ("prefix", &folder), ("max-uploads", &page)];
        query.extend([("key-marker", key), ("upload-id-marker", id)].iter().filter(|(_, value)| !value.is_empty()));
        self.bucket.request(query).await
    }

    /// Requests a page with `GET /bucket?uploads`. Retries like every other request.
    async fn request_page(&self, prefix: &Path, key: &str, id: &str) -> Result<String> {
        let start = Instant::now();
        let mut pause = self.retry.backoff.init_backoff;
        for retries_left in (0..=self.retry.max_retries).rev() {
            match self.try_page(prefix, key, id).await {
                Err(Failure::Transient(_))
                    if retries_left > 0 && start.elapsed() + pause < self.retry.retry_timeout =>
                {
                    tokio::time::sleep(pause).await;
                    pause = pause.mul_f64(self.retry.backoff.base).min(self.retry.backoff.max_backoff);
                }
                Err(Failure::Transient(error) | Failure::Final(error)) => return Err(error),
                Ok(document) => return Ok(document),
            }
        }
        Err(invalid("no request was sent"))
    }

    /// Requests a page once.
    async fn try_page(&self, prefix: &Path, key: &str, id: &str) -> Result<String, Failure> {
        let request = self.page(prefix, key, id).await.map_err(Failure::Final)?;
        let answer = self.http.execute(request).await?;
        let status = answer.status().as_u16();
        let (mut pieces, mut bytes) = (answer.into_body().bytes_stream(), Vec::new());
        while let Some(piece) = pieces.next().await.transpose()? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Final(invalid("the list of uploads is too long")));
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if status == 200 {
            return Ok(text.into_owned());
        }
        let excerpt: String = text.chars().take(500).collect();
        let message = format!("the store answered {status} to the request for the list of uploads: {}", excerpt.trim());
        let path = folder(prefix);
        Err(match status {
            401 => Failure::Final(Error::Unauthenticated { path, source: message.into() }),
            403 => Failure::Final(Error::PermissionDenied { path, source: message.into() }),
            501 => Failure::Final(Error::NotImplemented { operation: message, implementer: self.bucket.to_string() }),
            408 | 429 | 500.. => Failure::Transient(invalid(message)),
            _ => Failure::Final(invalid(message)),
        })
    }
}

/// Returns the prefix of the keys in a folder.
fn folder(prefix: &Path) -> String {
    if prefix.is_root() { String::new() } else { format!("{prefix}/") }
}

/// A failed request, and whether to retry it. Requests for a list have no side effects.
enum Failure {
    Transient(Error),
    Final(Error),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Transient(invalid(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use object_store::BackoffConfig;
    use object_store::aws::AmazonS3ConfigKey;
    use object_store::multipart::MultipartStore;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::testing::s3::{S3, builder};

    const FILE: &str = "step-000000020/master/model-00001-of-00001.safetensors";

    /// Whether a file is one that these tests write, like those of a checkpoint.
    fn is_ours(path: &str) -> bool {
        let is_in_step = path.ends_with("/manifest.json") || path.contains("/model-");
        path == "latest.json" || path.starts_with("step-") && is_in_step
    }

    fn retries(max_retries: usize) -> RetryConfig {
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(1), ..BackoffConfig::default() };
        RetryConfig { backoff, max_retries, retry_timeout: Duration::from_secs(60) }
    }

    fn uploads(port: u16) -> MultipartUploads {
        MultipartUploads::on_s3(builder(port), retries(2)).unwrap().1
    }

    #[test]
    fn only_our_own_unfinished_uploads_are_listed_and_aborted() {
        let server = S3::start();
        let runtime = Runtime::new().unwrap();
        let begin = |paths: &[&str]| {
            let paths: Vec<Path> = paths.iter().map(|path| Path::from(*path)).collect();
            runtime.block_on(async {
                // Another client, which is dropped before it completes or aborts anything.
                let (s3, _) = MultipartUploads::on_s3(builder(server.port), retries(2)).unwrap();
                let id = s3.create_multipart(&paths[0]).await.unwrap();
                s3.put_part(&paths[0], &id, 0, vec![7; 100].into()).await.unwrap();
                for path in &paths[1..] {
                    s3.create_multipart(path).await.unwrap();
                }
            });
        };
        // Two uploads have the same path, as after two crashes.
        let own = [FILE, FILE, "latest.json", "step-000000020/manifest.json"].map(|path| format!("runs/a b#/{path}"));
        begin(&own.iter().map(String::as_str).collect::<Vec<_>>());
        let other = format!("runs/a b#2/{FILE}");
        begin(&["runs/a b#/notes", "runs/a b#/step-000000020/x/y/z", &other, "latest.json"]);

        let uploads = uploads(server.port);
        let prefix = Path::from("runs/a b#");
        runtime.block_on(async {
            let found = uploads.list(&prefix, is_ours).await.unwrap();
            let mut paths: Vec<String> = found.iter().map(|upload| upload.path.to_string()).collect();
            paths.sort();
            let mut expected = own.map(|path| Path::from(path).to_string());
            expected.sort();
            assert_eq!(paths, expected);
            assert!(found.iter().all(|upload| upload.initiated.is_some()), "{found:?}");
            for upload in &found {
                uploads.abort(upload).await.unwrap();
            }
            assert_eq!(uploads.list(&prefix, is_ours).await.unwrap(), []);
            // Aborted again, as when two ranks clean up.
            uploads.abort(&found[0]).await.unwrap();
            assert_eq!(uploads.list(&Path::from("runs/a b#2"), is_ours).await.unwrap().len(), 1);
            let at_root = uploads.list(&Path::default(), is_ours).await.unwrap();
            assert_eq!(at_root.iter().map(|upload| upload.path.as_ref()).collect::<Vec<_>>(), ["latest.json"]);
        });
    }

    #[test]
    fn a_missing_bucket_and_unsigned_requests_are_errors() {
        let server = S3::start();
        let runtime = Runtime::new().unwrap();
        let list = |builder: AmazonS3Builder| {
            let (_, uploads) = MultipartUploads::on_s3(builder, retries(0)).unwrap();
            runtime.block_on(uploads.list(&Path::default(), is_ours)).unwrap_err()
        };
        let error = list(builder(server.port).with_bucket_name("none"));
        assert!(format!("{error:?}").contains("NoSuchBucket"), "{error:?}");
        let error = list(builder(server.port).with_skip_signature(true));
        assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
    }

    #[test]
    fn the_url_of_a_page_has_the_form_that_the_builder_selects() {
        let runtime = Runtime::new().unwrap();
        let region = || AmazonS3Builder::new().with_bucket_name("b").with_region("eu-west-3");
        let cases = [
            (region(), "https://s3.eu-west-3.amazonaws.com/b/?"),
            (region().with_virtual_hosted_style_request(true), "https://b.s3.eu-west-3.amazonaws.com/?"),
            (region().with_endpoint("https://minio:9000/"), "https://minio:9000/b/?"),
            (
                region().with_endpoint("https://b.store.example").with_virtual_hosted_style_request(true),
                "https://b.store.example/?",
            ),
            (region().with_config(AmazonS3ConfigKey::S3Endpoint, "http://127.0.0.1:1"), "http://127.0.0.1:1/b/?"),
        ];
        for (builder, expected) in cases {
            let builder = builder.with_access_key_id("x").with_secret_access_key("y").with_token("t/=");
            let (_, uploads) = MultipartUploads::on_s3(builder, retries(0)).unwrap();
            let request = runtime.block_on(uploads.page(&Path::from("p/q r"), "", "")).unwrap();
            let url = request.uri().to_string();
            assert!(url.starts_with(expected), "{url}");
            for part in ["&uploads=", "&prefix=p%2Fq%20r%2F"] {
                assert!(format!("&{url}").replace('?', "&").contains(part), "{url} has {part}");
            }
            // The session token is in a header, because servers and proxies log URLs.
            assert!(!url.contains("X-Amz-") && !url.contains("t%2F%3D"), "{url}");
            let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("x-amz-security-token"), Some("t/="));
            assert!(header("authorization").is_some_and(|value| value.contains("Signature=")), "{request:?}");
        }
    }

    /// Starts a server that sends `answers` and returns the request lines. Needed for lists of several pages, which the S3
    /// server of the tests does not support.
    fn scripted(answers: &'static [(u16, &'static str)]) -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = std::thread::spawn(move || {
            let answer = |(status, body): &(u16, &str)| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let lines: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
                lines[0].clone()
            };
            answers.iter().map(answer).collect()
        });
        (port, requests)
    }

    #[test]
    fn all_pages_of_a_list_are_requested() {
        const BUSY: &str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        let (port, requests) = scripted(&[
            (
                200,
                "<ListMultipartUploadsResult><Upload><Key>p/latest.json</Key><UploadId>1+/</UploadId></Upload>\
                 <NextKeyMarker>p/latest.json</NextKeyMarker><NextUploadIdMarker>1+/</NextUploadIdMarker>\
                 <IsTruncated>true</IsTruncated></ListMultipartUploadsResult>",
            ),
            (503, BUSY),
            (
                200,
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>p/latest.json</Key>\
                 <UploadId>2</UploadId></Upload></ListMultipartUploadsResult>",
            ),
        ]);
        let mut uploads = uploads(port);
        uploads.page_size = 1;
        let found = Runtime::new().unwrap().block_on(uploads.list(&Path::from("p"), is_ours)).unwrap();
        assert_eq!(found.iter().map(|upload| upload.id.as_str()).collect::<Vec<_>>(), ["1+/", "2"]);
        let requests = requests.join().unwrap();
        assert!(requests[0].contains("max-uploads=1") && !requests[0].contains("marker="), "{requests:?}");
        for request in &requests[1..] {
            assert!(request.contains("&key-marker=p%2Flatest.json&"), "{request}");
            assert!(request.contains("&upload-id-marker=1%2B%2F "), "{request}");
        }
    }

    #[test]
    fn invalid_answers_are_errors_with_their_text() {
        const SAME: &str = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
                             </ListMultipartUploadsResult>";
        let cases: [(&'static [(u16, &'static str)], &str); 5] = [
            (&[(403, "<Error><Code>AccessDenied</Code></Error>")], "PermissionDenied"),
            (&[(501, "<Error><Code>NotImplemented</Code></Error>")], "NotImplemented"),
            (&[(500, ""), (502, "bad"), (503, "SlowDown")], "SlowDown"),
            (&[(200, "<Error><Code>InternalError</Code><Message>We failed.</Message></Error>")], "InternalError: We"),
            // The second page refers to itself.
            (&[(200, SAME), (200, SAME)], "where it continues"),
        ];
        for (answers, expected) in cases {
            let (port, requests) = scripted(answers);
            let error = Runtime::new().unwrap().block_on(uploads(port).list(&Path::default(), is_ours)).unwrap_err();
            assert!(format!("{error:?}").contains(expected), "{expected}: {error:?}");
            assert_eq!(requests.join().unwrap().len(), answers.len());
        }
    }
}
