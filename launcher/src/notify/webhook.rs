//! Posts notifications to a URL.

use std::error::Error;
use std::time::Duration;

use admiral_contract::secret::masked_output;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};

/// A webhook.
#[derive(Debug)]
pub(super) struct Webhook {
    client: Client,
    url: Url,
    /// The waiting times before further tries.
    delays: Vec<Duration>,
}

/// Why a try failed.
struct Failure {
    reason: String,
    may_pass: bool,
}

impl Webhook {
    /// Returns the webhook of a URL. A try may take `timeout`.
    ///
    /// # Errors
    /// If the URL is invalid, or the system has no root certificates.
    pub(super) fn new(url: &str, timeout: Duration, delays: Vec<Duration>) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("it is not a valid URL ({error})"))?;
        // It fails only if it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A redirect would send the notification to somebody else.
        let client = Client::builder().redirect(Policy::none()).timeout(timeout).user_agent("admiral-launch");
        let client = client.build().map_err(|error| format!("no HTTP client can be made: {}", words(error)))?;
        Ok(Self { client, url, delays })
    }

    /// Posts a JSON text. Tries again after errors that may pass.
    ///
    /// # Errors
    /// Why the last try failed, without the URL.
    pub(super) async fn post(&self, json: &[u8]) -> Result<(), String> {
        let mut tries = 1;
        let mut delays = self.delays.iter();
        loop {
            let Err(failure) = self.try_once(json).await else { return Ok(()) };
            let Some(&delay) = delays.next().filter(|_| failure.may_pass) else {
                let tried = if tries == 1 { String::new() } else { format!(", after {tries} tries") };
                return Err(failure.reason + &tried);
            };
            tokio::time::sleep(delay).await;
            tries += 1;
        }
    }

    async fn try_once(&self, json: &[u8]) -> Result<(), Failure> {
        let request = self.client.post(self.url.clone()).header("content-type", "application/json");
        let response = request.body(json.to_vec()).send().await;
        let status = response.map_err(|error| Failure { reason: words(error), may_pass: true })?.status();
        if status.is_success() {
            return Ok(());
        }
        let is_busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        Err(Failure { reason: format!("the server answered {status}"), may_pass: is_busy || status.is_server_error() })
    }
}

/// Returns an error with its causes, without the URL.
fn words(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the server did not answer in time".to_owned();
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    masked_output(&[], &text)
}
