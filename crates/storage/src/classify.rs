//! Classifies the errors of the object store client: which may pass, and which are timeouts.

use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::chain;

/// Returns whether a retry may help.
pub(crate) fn is_transient(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::Generic { source, .. } => !is_lasting_io_error(source.as_ref()) && !is_lasting_http_error(source.as_ref()),
        E::JoinError { .. } => true,
        _ => false,
    }
}

/// Returns whether an error is caused by a full disk, or a folder that cannot be written.
fn is_lasting_io_error(error: &(dyn std::error::Error + 'static)) -> bool {
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

/// Returns whether a request can never be sent: the client could not even build it.
pub(crate) fn is_lasting_http_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The client has no type for it. This is the text of the library that sends the requests.
        if error.to_string().starts_with("builder error") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns whether the server did not answer in time. A timeout while connecting does not count, because the client's own
/// message names the address, which may be wrong.
pub(crate) fn is_response_timeout(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return error.kind() == HttpErrorKind::Timeout && !chain(error).contains("(Connect)");
        }
        cause = error.source();
    }
    false
}

/// The message of a timeout.
pub(crate) fn no_answer(timeout: Duration) -> String {
    format!("no answer within {} s", timeout.as_secs())
}

/// A transient error that this crate detected, not the client.
pub(crate) fn transient(reason: String) -> object_store::Error {
    object_store::Error::Generic { store: "storage", source: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_transient_and_a_full_disk_is_not() {
        let error = |kind: std::io::ErrorKind| object_store::Error::Generic {
            store: "test",
            source: Box::new(std::io::Error::from(kind)),
        };
        assert!(!is_transient(&error(std::io::ErrorKind::StorageFull)));
        assert!(is_transient(&error(std::io::ErrorKind::ConnectionReset)));
    }
}
