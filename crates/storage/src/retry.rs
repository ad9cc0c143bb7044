//! Retries of operations whose failure may be transient.
//!
//! The client retries single requests. It does not retry a request whose answer got lost, or an answer that was cut off.
//! The retries here cover these too.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::classify::{is_transient, no_answer, transient};
use crate::error::Error;
use crate::options::MAX_PAUSE;
use crate::store::Store;

/// The number of times that a small operation is tried.
const TRIES: u32 = 4;

/// The pause before the first retry. Each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// Runs `work` until it succeeds, fails for good, or `may_retry` returns false for the next pause. Stores the first
    /// error in `first_error`.
    pub(crate) async fn retry_while<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        operation: &str,
        path: &str,
        first_error: &OnceLock<Error>,
        mut may_retry: impl FnMut(Duration) -> bool,
        work: impl Fn() -> W,
    ) -> Result<T, object_store::Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            match work().await {
                Err(error) if is_transient(&error) && may_retry(pause) => {
                    let error = self.failed(operation, path, &error);
                    tracing::warn!("{error}; trying again");
                    first_error.get_or_init(|| error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Runs a small, idempotent operation up to [`TRIES`] times, and within
    /// [`small_timeout`](Self::small_timeout). The timeout also ends operations that hang, for example on a dead mount.
    ///
    /// # Errors
    /// [`Error::Failed`] if the time is over. Errors of the client are in the inner result.
    pub(crate) async fn retry_small<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        operation: &str,
        path: &str,
        work: impl Fn() -> W,
    ) -> Result<Result<T, object_store::Error>, Error> {
        let (first_error, mut retries) = (OnceLock::new(), 1..TRIES);
        let tries = self.retry_while(operation, path, &first_error, |_| retries.next().is_some(), work);
        let timeout = self.small_timeout();
        tokio::time::timeout(timeout, tries).await.map_err(|_| {
            // An earlier error is more specific than the timeout.
            first_error.get().cloned().unwrap_or_else(|| Error::Failed {
                operation: operation.to_owned(),
                url: self.url(path),
                cause: no_answer(timeout),
            })
        })
    }

    /// Runs a read until it succeeds, fails for good, or the store's patience ends. Each try has `timeout`.
    pub(crate) async fn retry_read<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        path: &str,
        timeout: Duration,
        read: impl Fn() -> W,
    ) -> Result<T, object_store::Error> {
        let end = Instant::now() + self.options().patience;
        let read_in_time = || async {
            let result = tokio::time::timeout(timeout, read()).await;
            result.unwrap_or_else(|_| Err(transient(no_answer(timeout))))
        };
        self.retry_while("read", path, &OnceLock::new(), |pause| Instant::now() + pause < end, read_in_time).await
    }

    /// Returns the timeout of a small operation, which includes its retries.
    pub(crate) fn small_timeout(&self) -> Duration {
        (self.options().request_timeout * 4).min(self.options().patience)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::options::StoreOptions;
    use crate::testing::on_s3;

    #[test]
    fn the_timeouts_of_client_and_operation_have_the_same_message() {
        // Connections are accepted by the system, but nobody reads from them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let seconds = Duration::from_secs;
        let (client, operation) = ((1, 60), (2, 3));
        for (request_timeout, patience) in [client, operation].map(|(a, b)| (seconds(a), seconds(b))) {
            let options = StoreOptions { request_timeout, patience, ..StoreOptions::default() };
            let store = on_s3(silent.local_addr().unwrap().port(), options);
            let errors = store.wait(async {
                // The client retries the first request, but not the second.
                let (length, written) = futures::join!(store.length("a"), store.put_new("a", b"x".to_vec()));
                [length.unwrap_err(), written.unwrap_err()]
            });
            for error in errors {
                assert!(error.to_string().contains("no answer within"), "{error}");
            }
        }
    }

    #[test]
    fn an_address_that_accepts_no_connection_is_named() {
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = full.local_addr().unwrap();
        // SAFETY: the descriptor is open as long as `full`.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
        // Fills the queue of the system. Each connection has three tries, because a busy machine may be slow.
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let waiting: Vec<_> = std::iter::from_fn(|| (0..3).find_map(|_| connect())).take(16).collect();
        assert!(waiting.len() < 16, "the system accepts any number of connections");
        let options = StoreOptions {
            request_timeout: Duration::from_secs(2),
            patience: Duration::from_secs(4),
            ..StoreOptions::default()
        };
        let store = on_s3(address.port(), options);
        let error = store.wait(store.length("a")).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
