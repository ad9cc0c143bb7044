//! Reads files on file systems that may fail for a moment.

use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use admiral_contract::files::open_to_read;

use crate::limits::{MAX_IMAGE_BYTES, refusal_of_bytes};

/// The pauses between two tries, in milliseconds. Together they take about 13 s. Network file systems fail over
/// in seconds.
const WAITS: [u64; 7] = [50, 200, 500, 1000, 2000, 4000, 5000];

/// Error codes of Linux that say nothing about the file: EIO, ENOMEM, EAGAIN, ENFILE, EMFILE, ENETDOWN, ENETUNREACH,
/// ECONNABORTED, ECONNRESET, ENOBUFS, ETIMEDOUT, EHOSTDOWN, EHOSTUNREACH, ESTALE, EREMOTEIO.
const PASSING: [i32; 15] = [5, 12, 11, 23, 24, 100, 101, 103, 104, 105, 110, 112, 113, 116, 121];

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file is not there, may not be read, is no regular file, or is too large.
    Unusable(String),
    /// The file system fails, and did so at every try.
    Unavailable(io::Error),
}

/// Returns whether an error may pass without a change of the file.
pub fn may_pass(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
        || matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Tries `operation` again while its error may pass. `wait` waits between two tries.
pub fn retry<T>(mut operation: impl FnMut() -> io::Result<T>, mut wait: impl FnMut(Duration)) -> io::Result<T> {
    for pause in WAITS {
        match operation() {
            Err(error) if may_pass(&error) => wait(Duration::from_millis(pause)),
            done => return done,
        }
    }
    operation()
}

/// Reads an image file. Retries errors of the file system that may pass.
///
/// # Errors
/// If it is no regular file, is larger than an image may be, or cannot be read.
pub(crate) fn read_image(path: &Path) -> Result<Vec<u8>, ReadError> {
    let read = || {
        let file = open_to_read(path)?;
        let refuse = |length| refusal_of_bytes(length).map_or(Ok(()), |reason| Err(io::Error::other(reason)));
        refuse(file.metadata()?.len())?;
        let mut bytes = Vec::new();
        // It may grow while it is read.
        file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes)?;
        refuse(bytes.len() as u64)?;
        Ok(bytes)
    };
    retry(read, std::thread::sleep).map_err(|error| {
        let is_link = || std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        match error.kind() {
            _ if may_pass(&error) => ReadError::Unavailable(error),
            ErrorKind::NotFound if is_link() => ReadError::Unusable(format!("it is a link to nothing: {error}")),
            _ => ReadError::Unusable(error.to_string()),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ESTALE: i32 = 116;
    const ENOENT: i32 = 2;

    /// Fails `failures` times. Returns the outcome and the number of waits.
    fn run(code: i32, failures: usize) -> (io::Result<u32>, usize) {
        let (mut tries, mut waits) = (0, 0);
        let operation = || {
            tries += 1;
            if tries <= failures { Err(io::Error::from_raw_os_error(code)) } else { Ok(7) }
        };
        let outcome = retry(operation, |_| waits += 1);
        (outcome, waits)
    }

    #[test]
    fn errors_that_may_pass_are_retried_and_others_are_not() {
        let (outcome, waits) = run(ESTALE, 3);
        assert_eq!((outcome.unwrap(), waits), (7, 3));
        let (outcome, waits) = run(ESTALE, 100);
        assert!(may_pass(&outcome.unwrap_err()) && waits == WAITS.len());
        let (outcome, waits) = run(ENOENT, 1);
        assert!(!may_pass(&outcome.unwrap_err()) && waits == 0);
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.png");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reason = |path: &Path| match read_image(path).unwrap_err() {
            ReadError::Unusable(reason) => reason,
            ReadError::Unavailable(error) => panic!("{error}"),
        };
        assert!(reason(&pipe).contains("not a regular file"));
        assert!(reason(folder.path()).contains("not a regular file"));
        assert!(reason(&folder.path().join("none")).contains("No such file"));
        let link = folder.path().join("link.png");
        std::os::unix::fs::symlink("none", &link).unwrap();
        assert!(reason(&link).contains("a link to nothing"));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("link.png", &link).unwrap();
        assert!(reason(&link).contains("Too many levels of symbolic links"));
        // A file without content on the disk, which would fill the memory.
        let sparse = folder.path().join("sparse.png");
        std::fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        assert!(reason(&sparse).contains("1099511627776 bytes"));
    }
}
