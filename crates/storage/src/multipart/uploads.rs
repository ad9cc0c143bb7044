//! The unfinished uploads of a bucket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, ReqwestConnector,
};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{Error, MultipartId, Result, RetryConfig};

use super::listing::{invalid, parse};

/// MultipartUploads in one answer, at most: S3's own limit.
const PAGE: usize = 1000;

/// An answer longer than this is none: 1000 uploads with the longest keys, every letter escaped, take 6 MB.
const ANSWER_BYTES: usize = 16 << 20;

/// How long a signed request stays good, which is longer than any client's patience.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// An upload in parts that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The object that it would become.
    pub path: Path,
    /// The store's name for it.
    pub id: MultipartId,
    /// When it was begun, where the store says so.
    pub initiated: Option<Timestamp>,
}

/// The unfinished uploads of an S3 bucket. `object_store` begins, completes and aborts uploads, but cannot list them.
#[derive(Debug)]
pub struct MultipartUploads {
    s3: Arc<AmazonS3>,
    http: HttpClient,
    retry: RetryConfig,
    is_signed: bool,
    page: usize,
}

impl MultipartUploads {
    /// Builds the store, and this beside it, on one HTTP client and with the store's own credentials and addresses.
    ///
    /// # Errors
    /// Those of [`AmazonS3Builder::build`].
    pub fn connect(
        builder: AmazonS3Builder,
        retry: RetryConfig,
    ) -> Result<(Arc<AmazonS3>, Self)> {
        let is_signed = builder.get_config_value(&AmazonS3ConfigKey::SkipSignature).is_none_or(|skips| {
            !matches!(skips.to_ascii_lowercase().as_str(), "true" | "1" | "t" | "yes" | "y" | "on")
        });
        let connector = Connector::default();
        let s3 = Arc::new(builder.with_retry(retry.clone()).with_http_connector(connector.clone()).build()?);
        let http = connector.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let http = http.ok_or_else(|| invalid("the store was built without a connection"))?;
        Ok((Arc::clone(&s3), Self { s3, http, retry, is_signed, page: PAGE }))
    }

    /// Lists the unfinished uploads under `prefix` whose path relative to it satisfies `is_ours`, in the store's order.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] and [`Error::Unauthenticated`] where the store does not let this account list them
    /// (S3 asks for `s3:ListBucketMultipartUploads`), [`Error::NotImplemented`] where it knows no such listing,
    /// [`Error::NotSupported`] where requests are not signed, and [`Error::Generic`] with what it answered.
    pub async fn list(&self, prefix: &Path, is_ours: fn(&str) -> bool) -> Result<Vec<UnfinishedUpload>> {
        let mut found = Vec::new();
        let (mut key, mut id) = (String::new(), String::new());
        loop {
            let page = parse(&self.page(prefix, &key, &id).await?)?;
            found.extend(page.upload.into_iter().filter_map(|listed| {
                // Other programs may use paths that this library would not write.
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
                return Err(invalid("the list of uploads says that it goes on, but not from where"));
            }
            (key, id) = next;
        }
    }

    /// Aborts an upload, so that the store forgets its parts. One that is gone is no error.
    ///
    /// # Errors
    /// Those of [`MultipartStore::abort_multipart`].
    pub async fn abort(&self, upload: &UnfinishedUpload) -> Result<()> {
        match self.s3.abort_multipart(&upload.path, &upload.id).await {
            Err(Error::NotFound { .. }) => Ok(()),
            result => result,
        }
    }

    /// The signed address of a page: that of the bucket, as the store has it, with a question.
    async fn address(&self, prefix: &Path, key: &str, id: &str) -> Result<String> {
        if !self.is_signed {
            return Err(Error::NotSupported { source: "uploads can only be listed with credentials".into() });
        }
        let folder = folder(prefix);
        let page = self.page.to_string();
        let mut query = vec![("uploads", ""), ("prefix", &folder), ("max-uploads", &page)];
        query.extend([("key-marker", key), ("upload-id-marker", id)].iter().filter(|(_, value)| !value.is_empty()));
        // Signed anew each time, because credentials may have been renewed.
        let options = SignedUrlOptions::new().with_query(query);
        Ok(self.s3.signed_url_opts(Method::GET, &Path::default(), SIGNED_FOR, &options).await?.into())
    }

    /// One answer to `GET /bucket?uploads`, tried again like every other request.
    async fn page(&self, prefix: &Path, key: &str, id: &str) -> Result<String> {
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
        Err(invalid("the store was never asked"))
    }

    async fn try_page(&self, prefix: &Path, key: &str, id: &str) -> Result<String, Failure> {
        let url = self.address(prefix, key, id).await.map_err(Failure::Final)?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().map_err(|error| Failure::Final(invalid(error)))?;
        let answer = self.http.execute(request).await?;
        let status = answer.status().as_u16();
        let (mut pieces, mut bytes) = (answer.into_body().bytes_stream(), Vec::new());
        while let Some(piece) = pieces.next().await.transpose()? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > ANSWER_BYTES {
                return Err(Failure::Final(invalid("the list of uploads has no end")));
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if status == 200 {
            return Ok(text.into_owned());
        }
        let said: String = text.chars().take(500).collect();
        let said = format!("the store answered {status} to the request for the list of uploads: {}", said.trim());
        let path = folder(prefix);
        Err(match status {
            401 => Failure::Final(Error::Unauthenticated { path, source: said.into() }),
            403 => Failure::Final(Error::PermissionDenied { path, source: said.into() }),
            501 => Failure::Final(Error::NotImplemented { operation: said, implementer: self.s3.to_string() }),
            408 | 429 | 500.. => Failure::Transient(invalid(said)),
            _ => Failure::Final(invalid(said)),
        })
    }
}

fn folder(prefix: &Path) -> String {
    if prefix.is_root() { String::new() } else { format!("{prefix}/") }
}

/// Why there is no answer, and whether to ask again. Asking for a list again does no harm.
enum Failure {
    Transient(Error),
    Final(Error),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Transient(invalid(error))
    }
}

/// Keeps the last client that it made, which is the store's: those for credentials are made before it.
#[derive(Debug, Default, Clone)]
struct Connector(Arc<Mutex<Option<HttpClient>>>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use object_store::BackoffConfig;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::store::s3::{S3, builder};

    const FILE: &str = "step-000000020/master/model-00001-of-00001.safetensors";

    /// Whether a file is of the kind that these tests write, as a checkpoint's are.
    fn is_ours(path: &str) -> bool {
        path == "latest.json" || path.ends_with("/manifest.json") || path.contains("/model-")
    }

    fn patience(max_retries: usize) -> RetryConfig {
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(1), ..BackoffConfig::default() };
        RetryConfig { backoff, max_retries, retry_timeout: Duration::from_secs(60) }
    }

    fn uploads(port: u16) -> MultipartUploads {
        MultipartUploads::connect(builder(port), patience(2)).unwrap().1
    }

    #[test]
    fn uploads_that_a_crash_left_are_found_and_aborted_and_no_others() {
        let server = S3::start();
        let runtime = Runtime::new().unwrap();
        let begin = |paths: &[&str]| {
            let paths: Vec<Path> = paths.iter().map(|path| Path::from(*path)).collect();
            runtime.block_on(async {
                // A client of its own, which is gone before it completes or aborts anything.
                let (s3, _) = MultipartUploads::connect(builder(server.port), patience(2)).unwrap();
                let id = s3.create_multipart(&paths[0]).await.unwrap();
                s3.put_part(&paths[0], &id, 0, vec![7; 100].into()).await.unwrap();
                for path in &paths[1..] {
                    s3.create_multipart(path).await.unwrap();
                }
            });
        };
        // Two under one name, as two crashes leave them.
        let own = [FILE, FILE, "latest.json", "step-000000020/manifest.json"].map(|path| format!("runs/a b#/{path}"));
        begin(&own.iter().map(String::as_str).collect::<Vec<_>>());
        let other = format!("runs/a b#2/{FILE}");
        begin(&["runs/a b#/notes", "runs/a b#/step-000000020/x/y/z", &other, "latest.json"]);

        let uploads = uploads(server.port);
        let place = Path::from("runs/a b#");
        runtime.block_on(async {
            let found = uploads.list(&place, is_ours).await.unwrap();
            let mut paths: Vec<String> = found.iter().map(|upload| upload.path.to_string()).collect();
            paths.sort();
            let mut expected = own.map(|path| Path::from(path).to_string());
            expected.sort();
            assert_eq!(paths, expected);
            assert!(found.iter().all(|upload| upload.initiated.is_some()), "{found:?}");
            for upload in &found {
                uploads.abort(upload).await.unwrap();
            }
            assert_eq!(uploads.list(&place, is_ours).await.unwrap(), []);
            // A second time, as where two ranks clear up.
            uploads.abort(&found[0]).await.unwrap();
            assert_eq!(uploads.list(&Path::from("runs/a b#2"), is_ours).await.unwrap().len(), 1);
            let at_root = uploads.list(&Path::default(), is_ours).await.unwrap();
            assert_eq!(at_root.iter().map(|upload| upload.path.as_ref()).collect::<Vec<_>>(), ["latest.json"]);
        });
    }

    #[test]
    fn a_bucket_that_is_not_there_and_requests_without_signatures_say_so() {
        let server = S3::start();
        let runtime = Runtime::new().unwrap();
        let list = |builder: AmazonS3Builder| {
            let (_, uploads) = MultipartUploads::connect(builder, patience(0)).unwrap();
            runtime.block_on(uploads.list(&Path::default(), is_ours)).unwrap_err()
        };
        let error = list(builder(server.port).with_bucket_name("none"));
        assert!(format!("{error:?}").contains("NoSuchBucket"), "{error:?}");
        let error = list(builder(server.port).with_skip_signature(true));
        assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
    }

    /// The address that is asked: that of the store, whose own builder knows the forms.
    #[test]
    fn every_form_of_address_is_that_of_the_store() {
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
            let (_, uploads) = MultipartUploads::connect(builder, patience(0)).unwrap();
            let url = runtime.block_on(uploads.address(&Path::from("p/q r"), "", "")).unwrap();
            assert!(url.starts_with(expected), "{url}");
            for part in ["&uploads=", "&prefix=p%2Fq%20r%2F", "X-Amz-Signature=", "X-Amz-Security-Token=t%2F%3D"] {
                assert!(format!("&{url}").replace('?', "&").contains(part), "{url} has {part}");
            }
        }
    }

    /// Answers like S3, which the tests' server is not able to: it gives all uploads in one page.
    fn scripted(answers: &'static [(u16, &'static str)]) -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = std::thread::spawn(move || {
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
        (port, asked)
    }

    #[test]
    fn a_list_of_several_pages_is_asked_for_to_its_end() {
        const BUSY: &str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        let (port, asked) = scripted(&[
            (
                200,
                "<ListMultipartUploadsResult><UnfinishedUpload><Key>p/latest.json</Key><UploadId>1+/</UploadId></UnfinishedUpload>\
                 <NextKeyMarker>p/latest.json</NextKeyMarker><NextUploadIdMarker>1+/</NextUploadIdMarker>\
                 <IsTruncated>true</IsTruncated></ListMultipartUploadsResult>",
            ),
            (503, BUSY),
            (
                200,
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><UnfinishedUpload><Key>p/latest.json</Key>\
                 <UploadId>2</UploadId></UnfinishedUpload></ListMultipartUploadsResult>",
            ),
        ]);
        let mut uploads = uploads(port);
        uploads.page = 1;
        let found = Runtime::new().unwrap().block_on(uploads.list(&Path::from("p"), is_ours)).unwrap();
        assert_eq!(found.iter().map(|upload| upload.id.as_str()).collect::<Vec<_>>(), ["1+/", "2"]);
        let asked = asked.join().unwrap();
        assert!(asked[0].contains("max-uploads=1") && !asked[0].contains("marker="), "{asked:?}");
        for asked in &asked[1..] {
            assert!(asked.contains("&key-marker=p%2Flatest.json&"), "{asked}");
            assert!(asked.contains("&upload-id-marker=1%2B%2F&"), "{asked}");
        }
    }

    #[test]
    fn answers_that_are_no_list_are_errors_that_say_what_came() {
        const AGAIN: &str = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
                             </ListMultipartUploadsResult>";
        let cases: [(&'static [(u16, &'static str)], &str); 5] = [
            (&[(403, "<Error><Code>AccessDenied</Code></Error>")], "PermissionDenied"),
            (&[(501, "<Error><Code>NotImplemented</Code></Error>")], "NotImplemented"),
            (&[(500, ""), (502, "bad"), (503, "SlowDown")], "SlowDown"),
            (&[(200, "<Error><Code>InternalError</Code><Message>We failed.</Message></Error>")], "InternalError: We"),
            // The second page leads to itself.
            (&[(200, AGAIN), (200, AGAIN)], "not from where"),
        ];
        for (answers, expected) in cases {
            let (port, asked) = scripted(answers);
            let error = Runtime::new().unwrap().block_on(uploads(port).list(&Path::default(), is_ours)).unwrap_err();
            assert!(format!("{error:?}").contains(expected), "{expected}: {error:?}");
            assert_eq!(asked.join().unwrap().len(), answers.len());
        }
    }
}
