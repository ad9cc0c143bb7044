//! Timeouts, sizes and credentials of a store.

use std::str::FromStr;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};

/// The longest pause before a retry.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(15);

/// How a store is accessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The time that one request may take before it is retried.
    pub request_timeout: Duration,
    /// The time after which an operation is no longer retried.
    pub patience: Duration,
    /// The size of the parts of an upload, in bytes.
    pub part_bytes: usize,
    /// Region, credentials and endpoint of S3.
    pub s3: S3Settings,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(1575),
            part_bytes: 16 << 20,
            s3: S3Settings::default(),
        }
    }
}

/// The settings of S3 from the environment variables `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and others
/// that start with `AWS_`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Settings(Vec<(AmazonS3ConfigKey, String)>);

impl std::fmt::Debug for S3Settings {
    /// Prints the names of the settings without their values, some of which are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key.as_ref())).finish()
    }
}

impl S3Settings {
    /// Takes the settings from environment variables. Unknown variables are ignored.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let known = vars.into_iter().filter(|(name, _)| name.starts_with("AWS_")).filter_map(|(name, value)| {
            let key = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()).ok()?;
            Some((key, value))
        });
        Self(known.collect())
    }

    pub(crate) fn builder(&self) -> AmazonS3Builder {
        self.0.iter().fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(*key, value))
    }
}

/// Returns the builder of a client for `bucket`, with timeouts.
pub(crate) fn s3_builder(bucket: &str, options: &StoreOptions) -> AmazonS3Builder {
    with_timeouts(options.s3.builder().with_bucket_name(bucket), options)
}

/// Sets the timeouts of a client.
pub(crate) fn with_timeouts(builder: AmazonS3Builder, options: &StoreOptions) -> AmazonS3Builder {
    let seconds = |time: Duration| format!("{} seconds", time.as_secs().max(1));
    // Shorter than the timeout of the request, so that the error shows which of the two expired.
    let connect = (options.request_timeout / 2).min(Duration::from_secs(10));
    builder
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), seconds(options.request_timeout))
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), seconds(connect))
}

/// Returns how the client retries a request.
pub(crate) fn client_retries(options: &StoreOptions) -> RetryConfig {
    // The client checks its timeout before a pause, not after. The patience has to cover the last pause too.
    let max_backoff = MAX_PAUSE.min(options.patience / 8);
    RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff, base: 2.0 },
        max_retries: 10,
        // Shorter than the timeout of a small operation, so that the operation fails with the message of the server.
        retry_timeout: (options.request_timeout * 3).min(options.patience * 3 / 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_variables_become_settings_and_their_values_are_not_printed() {
        let vars = [("AWS_REGION", "eu-1"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_UNKNOWN", "x"), ("HOME", "/")];
        let settings = S3Settings::from_vars(vars.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let builder = settings.builder();
        assert_eq!(builder.get_config_value(&AmazonS3ConfigKey::Region).as_deref(), Some("eu-1"));
        assert_eq!(settings.0.len(), 2);
        let printed = format!("{settings:?}");
        assert!(printed.contains("region") && !printed.contains("hidden"), "{printed}");
    }
}
