//! Trying again what fails for a reason that may pass.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use object_store::client::{HttpError, HttpErrorKind};
use object_store::{BackoffConfig, RetryConfig};

use crate::error::{Error, chain};
use crate::options::StoreOptions;
use crate::store::Store;

/// How often a small operation is tried.
const TRIES: u32 = 4;

/// The pause before something is tried a second time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How the client tries a request again.
pub(crate) fn retry(options: &StoreOptions) -> RetryConfig {
    // The client looks at its time before a pause, not after: what is left of the patience has to hold the last one.
    let max_backoff = LONGEST_PAUSE.min(options.patience / 8);
    RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff, base: 2.0 },
        max_retries: 10,
        // Less than a small operation has, so that it fails with what the server said.
        retry_timeout: (options.request_timeout * 3).min(options.patience * 3 / 4),
    }
}

/// Whether trying again may help: not where the store has refused for a reason that stays.
fn is_transient(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::Generic { source, .. } => !is_full(source.as_ref()),
        E::JoinError { .. } => true,
        _ => false,
    }
}

/// Whether a disk is full or a folder cannot be written: what no repetition mends within a save.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && let std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::ReadOnlyFilesystem
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::IsADirectory = error.kind()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the client has waited for an answer in vain. That a connection did not come about in time is no silence: the
/// client's words name the address then, which is what may be wrong.
pub(crate) fn is_silence(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return error.kind() == HttpErrorKind::Timeout && !chain(error).contains("(Connect)");
        }
        cause = error.source();
    }
    false
}

pub(crate) fn no_answer(time: Duration) -> String {
    format!("no answer within {} s", time.as_secs())
}

/// A failure that no client told of. Trying again may help.
pub(crate) fn generic(reason: String) -> object_store::Error {
    object_store::Error::Generic { store: "storage", source: reason.into() }
}

impl Store {
    /// Does something until it works, the store refuses for good, or `goes_on` says, of the pause that would come next,
    /// that it is enough. What failed first is kept in `first`.
    pub(crate) async fn repeated<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        operation: &str,
        path: &str,
        first: &OnceLock<Error>,
        mut goes_on: impl FnMut(Duration) -> bool,
        work: impl Fn() -> W,
    ) -> Result<T, object_store::Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            match work().await {
                Err(error) if is_transient(&error) && goes_on(pause) => {
                    let error = self.failed(operation, path, &error);
                    tracing::warn!("{error}; trying again");
                    first.get_or_init(|| error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Does what may be done again, up to [`TRIES`] times where that may help: a client does not repeat a request
    /// whose answer got lost, nor one whose answer was cut off. Ends what does not end by itself, as on a mount that
    /// hangs.
    pub(crate) async fn tried<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        operation: &str,
        path: &str,
        work: impl Fn() -> W,
    ) -> Result<Result<T, object_store::Error>, Error> {
        let (first, mut more) = (OnceLock::new(), 1..TRIES);
        let tries = self.repeated(operation, path, &first, |_| more.next().is_some(), work);
        let time = self.time_of_small();
        tokio::time::timeout(time, tries).await.map_err(|_| {
            // What was said before there was no more time tells more than that.
            first.get().cloned().unwrap_or_else(|| Error::Failed {
                operation: operation.to_owned(),
                url: self.url(path),
                cause: no_answer(time),
            })
        })
    }

    /// Reads until it works, the store refuses for good, or its patience ends. One try has `time`.
    pub(crate) async fn retried<T, W: Future<Output = Result<T, object_store::Error>>>(
        &self,
        path: &str,
        time: Duration,
        read: impl Fn() -> W,
    ) -> Result<T, object_store::Error> {
        let end = Instant::now() + self.options().patience;
        let timed = || async {
            let done = tokio::time::timeout(time, read()).await;
            done.unwrap_or_else(|_| Err(generic(no_answer(time))))
        };
        self.repeated("read", path, &OnceLock::new(), |pause| Instant::now() + pause < end, timed).await
    }

    /// The time that a small operation has, its repetitions included.
    pub(crate) fn time_of_small(&self) -> Duration {
        (self.options().request_timeout * 4).min(self.options().patience)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::tests::on_s3;

    #[test]
    fn silence_is_told_in_the_same_words_whoever_lost_patience() {
        // Connections come about, and nobody reads from them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let seconds = Duration::from_secs;
        let (client, operation) = ((1, 60), (2, 3));
        for (request_timeout, patience) in [client, operation].map(|(a, b)| (seconds(a), seconds(b))) {
            let options = StoreOptions { request_timeout, patience, ..StoreOptions::default() };
            let store = on_s3(silent.local_addr().unwrap().port(), options);
            let told = store.wait(async {
                // One that the client repeats by itself, and one that it does not.
                let (length, written) = futures::join!(store.length("a"), store.put_new("a", b"x".to_vec()));
                [length.unwrap_err(), written.unwrap_err()]
            });
            for error in told {
                assert!(error.to_string().contains("no answer within"), "{error}");
            }
        }
    }

    #[test]
    fn an_address_where_no_connection_comes_about_is_named() {
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = full.local_addr().unwrap();
        // SAFETY: the descriptor is open as long as `full`.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
        // As many as the system lets wait, and more. One that is late only may be this machine's fault.
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let waiting: Vec<_> = std::iter::from_fn(|| (0..3).find_map(|_| connect())).take(16).collect();
        assert!(waiting.len() < 16, "the system takes any number of connections");
        let options = StoreOptions {
            request_timeout: Duration::from_secs(2),
            patience: Duration::from_secs(4),
            ..StoreOptions::default()
        };
        let store = on_s3(address.port(), options);
        let error = store.wait(store.length("a")).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn a_full_disk_is_not_tried_again_and_a_lost_connection_is() {
        let error = |kind: std::io::ErrorKind| object_store::Error::Generic {
            store: "test",
            source: Box::new(std::io::Error::from(kind)),
        };
        assert!(!is_transient(&error(std::io::ErrorKind::StorageFull)));
        assert!(is_transient(&error(std::io::ErrorKind::ConnectionReset)));
    }
}
