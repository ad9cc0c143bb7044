//! Sending a file to a store: in parts, hashed on the way, begun again where it breaks off, taken back where it is
//! given up.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::store::{Store, hexadecimal};

/// Parts on their way at the same time.
const PARTS_IN_FLIGHT: usize = 4;

/// The time that taking back an upload may take; what is left then is taken back when a run next begins here.
const TIME_TO_ABORT: Duration = Duration::from_secs(10);

/// What ends itself when its time is over, and is this much later than that, hangs where it cannot.
pub const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Whether an upload that failed this long ago should have been aborted by now. Without a failure there is nothing to wait
/// for.
pub fn is_abort_overdue(since_failure: Option<Duration>) -> bool {
    since_failure.is_none_or(|since| since > TIME_TO_ABORT + ABORT_GRACE)
}

/// Whether the work is to be given up.
pub type Cancelled = watch::Receiver<bool>;

/// For work that nobody gives up.
pub fn never() -> Cancelled {
    watch::channel(false).1
}

/// Returns when the work is to be given up.
async fn cancelled(mut signal: Cancelled) {
    if signal.wait_for(|is_cancelled| *is_cancelled).await.is_err() {
        // Whoever could give it up is gone.
        std::future::pending::<()>().await;
    }
}

/// Writes a file of any size; it appears when it is whole. Gives its length and its SHA-256. Nothing is copied: `pieces`
/// are sent as they lie. An upload that breaks off is begun again until shortly before `deadline`, so that there is time
/// to take it back and to say why.
///
/// # Errors
/// [`Error::Failed`].
pub async fn upload(
    store: &Store,
    path: &str,
    pieces: &[Bytes],
    deadline: Instant,
    signal: &Cancelled,
) -> Result<(u64, String), Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    let end = Instant::now() + left.saturating_sub(TIME_TO_ABORT.min(left / 4));
    let first = OnceLock::new();
    let goes_on = |pause| !*signal.borrow() && Instant::now() + pause < end;
    let work = || upload_once(store, path, pieces, end, signal.clone());
    let written = store.repeated("write", path, &first, goes_on, work).await;
    // What the store said before tells more than that time is up.
    written.map_err(|error| first.get().cloned().unwrap_or_else(|| store.failed("write", path, &error)))
}

fn out_of_time() -> object_store::Error {
    let source = "it is not done, and the time that checkpoint.deadline_seconds gives is over".into();
    object_store::Error::Generic { store: "upload", source }
}

async fn upload_once(
    store: &Store,
    path: &str,
    pieces: &[Bytes],
    end: Instant,
    signal: Cancelled,
) -> Result<(u64, String), object_store::Error> {
    let at = store.at(path);
    let begun = tokio::time::timeout_at(end.into(), store.backend().put_multipart(&at)).await;
    let mut upload = begun.unwrap_or_else(|_| Err(out_of_time()))?;
    let sent = tokio::select! {
        sent = send_parts(upload.as_mut(), pieces, store.options().part_bytes) => sent,
        () = tokio::time::sleep_until(end.into()) => Err(out_of_time()),
        () = cancelled(signal) => Err(object_store::Error::Generic { store: "upload", source: "it was given up".into() }),
    };
    if sent.is_err() {
        // The first error is what the user needs.
        let _ = tokio::time::timeout(TIME_TO_ABORT, upload.abort()).await;
    }
    sent
}

async fn send_parts(
    upload: &mut dyn MultipartUpload,
    pieces: &[Bytes],
    part_bytes: usize,
) -> Result<(u64, String), object_store::Error> {
    let (mut length, mut hash) = (0, Sha256::new());
    let mut on_their_way = JoinSet::new();
    for part in parts(pieces, part_bytes) {
        for piece in &part {
            length += piece.len() as u64;
            hash.update(piece);
        }
        while on_their_way.len() >= PARTS_IN_FLIGHT
            && let Some(sent) = on_their_way.join_next().await
        {
            sent.map_err(|source| object_store::Error::JoinError { source })??;
        }
        on_their_way.spawn(upload.put_part(part.into_iter().collect::<PutPayload>()));
    }
    while let Some(sent) = on_their_way.join_next().await {
        sent.map_err(|source| object_store::Error::JoinError { source })??;
    }
    upload.complete().await.map_err(begun_again)?;
    Ok((length, hexadecimal(hash)))
}

/// A completion whose answer got lost is sent again by the client, and then finds no upload: whether the file is there
/// is not known, so the upload is begun again.
fn begun_again(error: object_store::Error) -> object_store::Error {
    match error {
        gone @ object_store::Error::NotFound { .. } => {
            object_store::Error::Generic { store: "upload", source: Box::new(gone) }
        }
        error => error,
    }
}

/// The pieces cut into parts of `part_bytes`, of which the last may be smaller; one empty part where there is nothing,
/// because an upload has at least one.
fn parts(pieces: &[Bytes], part_bytes: usize) -> impl Iterator<Item = Vec<Bytes>> {
    let mut rest = pieces.iter().filter(|piece| !piece.is_empty()).cloned();
    let mut cut: Option<Bytes> = None;
    let mut is_first = true;
    std::iter::from_fn(move || {
        let mut part = Vec::new();
        let mut room = part_bytes;
        while room > 0
            && let Some(mut piece) = cut.take().or_else(|| rest.next())
        {
            if piece.len() > room {
                cut = Some(piece.split_off(room));
            }
            room -= piece.len();
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

    fn cut(pieces: &[&'static [u8]], part_bytes: usize) -> Vec<Vec<u8>> {
        let pieces: Vec<Bytes> = pieces.iter().copied().map(Bytes::from_static).collect();
        parts(&pieces, part_bytes).map(|part| part.concat()).collect()
    }

    #[test]
    fn parts_are_of_one_size_but_for_the_last() {
        assert_eq!(cut(&[b"abc", b"", b"defgh", b"i"], 4), [b"abcd".to_vec(), b"efgh".to_vec(), b"i".to_vec()]);
        assert_eq!(cut(&[b"abcd", b"efgh"], 4), [b"abcd".to_vec(), b"efgh".to_vec()]);
        assert_eq!(cut(&[b"abcdefghi"], 3).len(), 3);
    }

    #[test]
    fn what_is_given_up_has_its_time_to_be_taken_back() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert!(!is_abort_overdue(seconds(0)) && !is_abort_overdue(seconds(15)));
        assert!(is_abort_overdue(seconds(16)) && is_abort_overdue(None));
    }

    #[test]
    fn nothing_is_one_empty_part() {
        assert_eq!(cut(&[], 4), [Vec::<u8>::new()]);
    }
}
