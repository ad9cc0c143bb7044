//! Timeouts, sizes and settings of a store.

use std::time::Duration;

use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};

use crate::settings::CloudSettings;

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
    /// Regions, accounts, credentials and endpoints of object stores.
    pub clouds: CloudSettings,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(1575),
            part_bytes: 16 << 20,
            clouds: CloudSettings::default(),
        }
    }
}

/// Returns the timeouts of a client.
pub(crate) fn client_timeouts(options: &StoreOptions) -> [(ClientConfigKey, String); 2] {
    let seconds = |time: Duration| format!("{} seconds", time.as_secs().max(1));
    // Shorter than the timeout of the request, so that the error shows which of the two expired.
    let connect = (options.request_timeout / 2).min(Duration::from_secs(10));
    [(ClientConfigKey::Timeout, seconds(options.request_timeout)), (ClientConfigKey::ConnectTimeout, seconds(connect))]
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
