//! Uploads a file in parts and computes its SHA-256. An upload that fails is restarted, and one that is canceled is aborted.

use std::pin::pin;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
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
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let stream = || futures::stream::iter(pieces.iter().cloned().map(Ok));
    upload_stream(store, path, length, stream, deadline, signal).await
}

/// Uploads a file of any size, of which only a few pieces are in memory at a time. `pieces` is called for each try, and
/// returns the pieces of the file from its start. `length` is that of all of them together, in bytes. Otherwise like
/// [`upload`].
///
/// # Errors
/// The error of a piece, after which nothing is tried again; the errors of [`upload`].
pub async fn upload_stream<S, E>(
    store: &Store,
    path: &str,
    length: u64,
    pieces: impl Fn() -> S,
    deadline: Instant,
    signal: &Cancelled,
) -> Result<(u64, String), E>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: From<Error>,
{
    let remaining = deadline.saturating_duration_since(Instant::now());
    let end = Instant::now() + remaining.saturating_sub(ABORT_TIMEOUT.min(remaining / 4));
    let part_bytes = enough_part_bytes(length, store.options().part_bytes);
    let (first_error, piece_error) = (OnceLock::new(), OnceLock::new());
    let may_retry = |pause| !*signal.borrow() && Instant::now() + pause < end;
    let work = || {
        let pieces = pieces().map(|piece| {
            piece.map_err(|error| {
                piece_error.get_or_init(|| error);
                object_store::Error::NotSupported { source: "its contents could not be read".into() }
            })
        });
        upload_once(store, path, pieces, part_bytes, end, signal.clone())
    };
    let written = store.retry_while("write", path, &first_error, may_retry, work).await;
    written.map_err(|error| match piece_error.into_inner() {
        Some(error) => error,
        // The first error is more specific than that of a timeout.
        None => first_error.get().cloned().unwrap_or_else(|| store.failed("write", path, &error)).into(),
    })
}

/// The error of an upload that exceeds its deadline.
fn deadline_error() -> object_store::Error {
    let source = "it did not finish before its deadline".into();
    object_store::Error::Generic { store: "upload", source }
}

/// Uploads a file without retries. Aborts the upload if it fails.
async fn upload_once(
    store: &Store,
    path: &str,
    pieces: impl Stream<Item = Result<Bytes, object_store::Error>>,
    part_bytes: usize,
    end: Instant,
    signal: Cancelled,
) -> Result<(u64, String), object_store::Error> {
    let at = store.full_path(path);
    let started = tokio::time::timeout_at(end.into(), store.backend().put_multipart(&at)).await;
    let mut upload = started.unwrap_or_else(|_| Err(deadline_error()))?;
    let sent = tokio::select! {
        sent = send_parts(upload.as_mut(), pieces, part_bytes) => sent,
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
    pieces: impl Stream<Item = Result<Bytes, object_store::Error>>,
    part_bytes: usize,
) -> Result<(u64, String), object_store::Error> {
    let (mut length, mut hash) = (0, Sha256::new());
    let mut in_flight = JoinSet::new();
    let mut parts = pin!(parts(pieces, part_bytes));
    while let Some(part) = parts.next().await.transpose()? {
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
const MAX_PARTS: u64 = 10_000;

/// Returns the size of the parts of a file of `length` bytes: `part_bytes`, or more if there would be too many parts.
fn enough_part_bytes(length: u64, part_bytes: usize) -> usize {
    part_bytes.max(usize::try_from(length.div_ceil(MAX_PARTS)).unwrap_or(usize::MAX))
}

/// Regroups pieces into parts of `part_bytes`. The last part may be smaller. Without any bytes there is one empty part,
/// because an upload needs at least one.
fn parts<E>(
    pieces: impl Stream<Item = Result<Bytes, E>>,
    part_bytes: usize,
) -> impl Stream<Item = Result<Vec<Bytes>, E>> {
    let state = (Box::pin(pieces), None, true);
    futures::stream::try_unfold(state, move |(mut pieces, mut remainder, is_first)| async move {
        let (mut part, mut space) = (Vec::new(), part_bytes);
        while space > 0 {
            let next = match remainder.take() {
                Some(piece) => Some(piece),
                None => pieces.next().await.transpose()?,
            };
            let Some(mut piece) = next else { break };
            if piece.is_empty() {
                continue;
            }
            if piece.len() > space {
                remainder = Some(piece.split_off(space));
            }
            space -= piece.len();
            part.push(piece);
        }
        let is_part = is_first || !part.is_empty();
        Ok(is_part.then_some((part, (pieces, remainder, false))))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::memory;

    fn part_contents(pieces: &[&'static [u8]], part_bytes: usize) -> Vec<Vec<u8>> {
        let pieces: Vec<Result<Bytes, Error>> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let parts = parts(futures::stream::iter(pieces), part_bytes).map(|part| part.unwrap().concat());
        futures::executor::block_on(parts.collect())
    }

    #[test]
    fn the_error_of_a_piece_ends_an_upload_and_no_file_appears() {
        let (store, tries) = (memory(), AtomicUsize::new(0));
        let broken = Error::NotFound { url: "a piece".into(), reason: "gone".into() };
        let pieces = || {
            tries.fetch_add(1, Ordering::SeqCst);
            futures::stream::iter([Ok(Bytes::from_static(b"abc")), Err(broken.clone())])
        };
        let end = Instant::now() + Duration::from_secs(60);
        let uploaded = store.wait(upload_stream(&store, "a", 6, pieces, end, &never()));
        assert_eq!((uploaded, tries.into_inner()), (Err(broken), 1));
        assert_eq!(store.wait(store.length("a")).unwrap(), None);
    }

    #[test]
    fn a_large_file_has_no_more_parts_than_s3_allows() {
        const MIB: u64 = 1 << 20;
        const PART: usize = 16 << 20;
        assert_eq!(enough_part_bytes(0, PART), PART);
        assert_eq!(enough_part_bytes(160_000 * MIB, PART), PART);
        for length in [160_000 * MIB + 1, 1_000_000 * MIB + 7] {
            let part = enough_part_bytes(length, PART);
            assert!(length.div_ceil(part as u64) <= MAX_PARTS && part > PART, "{length}");
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
