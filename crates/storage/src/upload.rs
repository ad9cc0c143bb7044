//! Uploads a file in parts and computes its SHA-256. An upload that fails is restarted, and one that is canceled is aborted.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::hash::hex_digest;
use crate::store::Store;

/// The number of parts of one upload that are sent at the same time.
const PARTS_IN_FLIGHT: usize = 4;

/// The timeout of aborting an upload. The next run in the same store cleans up what is left after it.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after its timeout an operation counts as hanging.
pub const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Returns whether an upload that failed `since_failure` ago should have been aborted by now. Returns true without a
/// failure, because then there is no abort to wait for.
pub fn is_abort_overdue(since_failure: Option<Duration>) -> bool {
    since_failure.is_none_or(|since| since > ABORT_TIMEOUT + ABORT_GRACE)
}

/// Becomes true when the work is canceled.
pub type Cancelled = watch::Receiver<bool>;

/// Returns a signal for work that is never canceled.
pub fn never() -> Cancelled {
    watch::channel(false).1
}

/// Returns when the work is canceled.
async fn cancelled(mut signal: Cancelled) {
    if signal.wait_for(|is_cancelled| *is_cancelled).await.is_err() {
        // The sender is gone, so that nobody can cancel the work any more.
        std::future::pending::<()>().await;
    }
}

/// Uploads a file of any size from `pieces` without copying them. The file appears when it is complete. Returns its length
/// in bytes and its SHA-256 as hexadecimal digits.
///
/// An upload that fails is retried until shortly before `deadline`, so that there is time to abort it and to report the
/// error.
///
/// # Errors
/// [`Error::Failed`] if the store refuses, the deadline passes, or `signal` cancels the upload.
pub async fn upload(
    store: &Store,
    path: &str,
    pieces: &[Bytes],
    deadline: Instant,
    signal: &Cancelled,
) -> Result<(u64, String), Error> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    let end = Instant::now() + remaining.saturating_sub(ABORT_TIMEOUT.min(remaining / 4));
    let first_error = OnceLock::new();
    let may_retry = |pause| !*signal.borrow() && Instant::now() + pause < end;
    let work = || upload_once(store, path, pieces, end, signal.clone());
    let written = store.retry_while("write", path, &first_error, may_retry, work).await;
    // The first error is more specific than that of a timeout.
    written.map_err(|error| first_error.get().cloned().unwrap_or_else(|| store.failed("write", path, &error)))
}

/// The error of an upload that exceeds its deadline.
fn deadline_error() -> object_store::Error {
    let source = "it did not finish within checkpoint.deadline_seconds".into();
    object_store::Error::Generic { store: "upload", source }
}

/// Uploads a file without retries. Aborts the upload if it fails.
async fn upload_once(
    store: &Store,
    path: &str,
    pieces: &[Bytes],
    end: Instant,
    signal: Cancelled,
) -> Result<(u64, String), object_store::Error> {
    let at = store.full_path(path);
    let started = tokio::time::timeout_at(end.into(), store.backend().put_multipart(&at)).await;
    let mut upload = started.unwrap_or_else(|_| Err(deadline_error()))?;
    let sent = tokio::select! {
        sent = send_parts(upload.as_mut(), pieces, store.options().part_bytes) => sent,
        () = tokio::time::sleep_until(end.into()) => Err(deadline_error()),
        () = cancelled(signal) => Err(object_store::Error::Generic { store: "upload", source: "it was canceled".into() }),
    };
    if sent.is_err() {
        // The user needs the error of the upload, not that of aborting it.
        let _ = tokio::time::timeout(ABORT_TIMEOUT, upload.abort()).await;
    }
    sent
}

/// Sends the parts and completes the upload. Returns the length and the SHA-256 of the file.
async fn send_parts(
    upload: &mut dyn MultipartUpload,
    pieces: &[Bytes],
    part_bytes: usize,
) -> Result<(u64, String), object_store::Error> {
    let (mut length, mut hash) = (0, Sha256::new());
    let mut in_flight = JoinSet::new();
    let part_bytes = enough_part_bytes(pieces.iter().map(Bytes::len).sum(), part_bytes);
    for part in parts(pieces, part_bytes) {
        for piece in &part {
            length += piece.len() as u64;
            hash.update(piece);
        }
        while in_flight.len() >= PARTS_IN_FLIGHT
            && let Some(sent) = in_flight.join_next().await
        {
            sent.map_err(|source| object_store::Error::JoinError { source })??;
        }
        in_flight.spawn(upload.put_part(part.into_iter().collect::<PutPayload>()));
    }
    while let Some(sent) = in_flight.join_next().await {
        sent.map_err(|source| object_store::Error::JoinError { source })??;
    }
    upload.complete().await.map_err(retry_if_missing)?;
    Ok((length, hex_digest(hash)))
}

/// Makes a missing upload a transient error, so that the whole upload is retried. If the answer to a completion gets lost,
/// the retry of the client finds no upload, and it is not known whether the file was written.
fn retry_if_missing(error: object_store::Error) -> object_store::Error {
    match error {
        missing @ object_store::Error::NotFound { .. } => {
            object_store::Error::Generic { store: "upload", source: Box::new(missing) }
        }
        error => error,
    }
}

/// The largest number of parts of an upload, a limit of S3.
const MAX_PARTS: usize = 10_000;

/// Returns the size of the parts of a file of `length` bytes: `part_bytes`, or more if there would be too many parts.
fn enough_part_bytes(length: usize, part_bytes: usize) -> usize {
    part_bytes.max(length.div_ceil(MAX_PARTS))
}

/// Regroups pieces into parts of `part_bytes`. The last part may be smaller. Without any bytes there is one empty part,
/// because an upload needs at least one.
fn parts(pieces: &[Bytes], part_bytes: usize) -> impl Iterator<Item = Vec<Bytes>> {
    let mut rest = pieces.iter().filter(|piece| !piece.is_empty()).cloned();
    let mut remainder: Option<Bytes> = None;
    let mut is_first = true;
    std::iter::from_fn(move || {
        let mut part = Vec::new();
        let mut space = part_bytes;
        while space > 0
            && let Some(mut piece) = remainder.take().or_else(|| rest.next())
        {
            if piece.len() > space {
                remainder = Some(piece.split_off(space));
            }
            space -= piece.len();
            part.push(piece);
        }
        let is_part = is_first || !part.is_empty();
        is_first = false;
        is_part.then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part_contents(pieces: &[&'static [u8]], part_bytes: usize) -> Vec<Vec<u8>> {
        let pieces: Vec<Bytes> = pieces.iter().copied().map(Bytes::from_static).collect();
        parts(&pieces, part_bytes).map(|part| part.concat()).collect()
    }

    #[test]
    fn a_large_file_has_no_more_parts_than_s3_allows() {
        const MIB: usize = 1 << 20;
        assert_eq!(enough_part_bytes(0, 16 * MIB), 16 * MIB);
        assert_eq!(enough_part_bytes(160_000 * MIB, 16 * MIB), 16 * MIB);
        for length in [160_000 * MIB + 1, 1_000_000 * MIB + 7] {
            let part = enough_part_bytes(length, 16 * MIB);
            assert!(length.div_ceil(part) <= MAX_PARTS && part > 16 * MIB, "{length}");
        }
    }

    #[test]
    fn all_parts_but_the_last_have_the_same_size() {
        assert_eq!(
            part_contents(&[b"abc", b"", b"defgh", b"i"], 4),
            [b"abcd".to_vec(), b"efgh".to_vec(), b"i".to_vec()]
        );
        assert_eq!(part_contents(&[b"abcd", b"efgh"], 4), [b"abcd".to_vec(), b"efgh".to_vec()]);
        assert_eq!(part_contents(&[b"abcdefghi"], 3).len(), 3);
    }

    #[test]
    fn an_abort_is_overdue_after_its_timeout() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert!(!is_abort_overdue(seconds(0)) && !is_abort_overdue(seconds(15)));
        assert!(is_abort_overdue(seconds(16)) && is_abort_overdue(None));
    }

    #[test]
    fn an_empty_file_is_one_empty_part() {
        assert_eq!(part_contents(&[], 4), [Vec::<u8>::new()]);
    }
}
