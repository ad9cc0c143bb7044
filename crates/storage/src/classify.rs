//! Classifies the errors of the object store client: which may pass, and which are timeouts.

use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, chain};

/// Why a server refuses all requests until a setting changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// The bucket is in another region.
    Region,
    /// The server does not know the ID of the key.
    UnknownKey,
    /// The key does not belong to its ID.
    WrongKey,
    /// There is no such bucket or container.
    NoBucket,
    /// The server demands a length, which a request of this client has, and a proxy may have removed.
    NoLength,
}

impl Lasting {
    /// Returns the reason of an error. `None` if it may pass, if only a right is missing, or if credentials have expired,
    /// which others may renew.
    pub(crate) fn of(error: &object_store::Error) -> Option<Self> {
        let text = chain(error);
        let has_code = |code: &str| text.contains(&format!("<Code>{code}</Code>"));
        // The client has no types for these, only the text of the answer.
        [
            (Self::Region, text.contains("redirect without LOCATION")),
            (Self::Region, has_code("AuthorizationHeaderMalformed") || has_code("PermanentRedirect")),
            (Self::UnknownKey, has_code("InvalidAccessKeyId")),
            (Self::WrongKey, has_code("SignatureDoesNotMatch")),
            (Self::NoBucket, has_code("NoSuchBucket") || has_code("ContainerNotFound")),
            (Self::NoLength, text.contains("status code: 411")),
        ]
        .into_iter()
        .find_map(|(reason, is_so)| is_so.then_some(reason))
    }

    /// Makes the error of a request to `url`.
    pub(crate) fn into_error(self, url: String, cause: &str) -> Error {
        let variable = |name: &str, reason: String| Error::Variable { variable: name.to_owned(), reason };
        match self {
            Self::Region => variable(
                "AWS_REGION",
                format!("is not the region of the bucket, or not set; set it to that of {url} ({cause})"),
            ),
            Self::UnknownKey => variable(
                "AWS_ACCESS_KEY_ID",
                format!(
                    "or the file that gives credentials has a key that the server of {url} does not know ({cause})"
                ),
            ),
            Self::WrongKey => variable(
                "AWS_SECRET_ACCESS_KEY",
                format!(
                    "or the file that gives credentials has a value that does not belong to its key's ID, says the server \
                     of {url} ({cause})"
                ),
            ),
            Self::NoBucket => Error::Location {
                url,
                reason: format!(
                    "there is no such bucket; make it, or correct the URL, such as checkpoint.url ({cause})"
                ),
            },
            Self::NoLength => Error::Location {
                url,
                reason: format!(
                    "the server demands the length of each request, which a proxy may have removed; use another address or \
                     proxy ({cause})"
                ),
            },
        }
    }
}

/// Returns whether the cause of a failed creation may be that the server does not know its condition.
pub(crate) fn may_refuse_condition(cause: &str) -> bool {
    ["status code: 501", "status code: 400", "<Code>NotImplemented</Code>"].iter().any(|part| cause.contains(part))
}

/// Returns whether a retry may help.
pub(crate) fn is_transient(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::Generic { .. } if Lasting::of(error).is_some() => false,
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::options::StoreOptions;
    use crate::store::Store;
    use crate::testing::{answering, on_s3};

    fn impatient(port: u16) -> Store {
        let seconds = Duration::from_secs;
        on_s3(port, StoreOptions { request_timeout: seconds(2), patience: seconds(4), ..StoreOptions::default() })
    }

    fn document(code: &str) -> String {
        format!("<Error><Code>{code}</Code><Message>m</Message></Error>")
    }

    #[test]
    fn what_the_server_refuses_until_a_setting_changes_names_the_setting() {
        for (status, code, name) in [
            ("400 Bad Request", "AuthorizationHeaderMalformed", "AWS_REGION"),
            ("301 Moved Permanently", "PermanentRedirect", "AWS_REGION"),
            ("403 Forbidden", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("403 Forbidden", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            ("404 Not Found", "NoSuchBucket", "no such bucket"),
            ("411 Length Required", "MissingContentLength", "the length of each request"),
        ] {
            let num = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
            let counted = std::sync::Arc::clone(&num);
            let store = impatient(answering(move |_| {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                (status, document(code))
            }));
            let errors = store.wait(async {
                [
                    store.get("a").await.map(drop).unwrap_err(),
                    store.put("a", b"x".to_vec()).await.unwrap_err(),
                    store.put_new("a", b"x".to_vec()).await.map(drop).unwrap_err(),
                    store.folders("a").await.map(drop).unwrap_err(),
                ]
            });
            for error in errors {
                assert!(matches!(error, Error::Variable { .. } | Error::Location { .. }), "{error:?}");
                assert!(error.to_string().contains(name), "{error}");
            }
            assert_eq!(num.load(std::sync::atomic::Ordering::SeqCst), 4, "{code} was tried again");
        }
    }

    #[test]
    fn missing_rights_and_expired_credentials_may_pass() {
        for (status, code) in
            [("403 Forbidden", "AccessDenied"), ("400 Bad Request", "ExpiredToken"), ("403 Forbidden", "ExpiredToken")]
        {
            let store = impatient(answering(move |_| (status, document(code))));
            let error = store.wait(store.put("a", b"x".to_vec())).unwrap_err();
            assert!(matches!(&error, Error::Failed { cause, .. } if cause.contains(code)), "{error:?}");
        }
    }

    #[test]
    fn a_server_that_refuses_the_condition_of_new_files_is_named_as_such() {
        for (status, code) in [("501 Not Implemented", "NotImplemented"), ("400 Bad Request", "InvalidArgument")] {
            let store = impatient(answering(move |head| match head.contains("if-none-match") {
                true => (status, document(code)),
                false => ("200 OK", String::new()),
            }));
            let error = store.wait(store.checks_new_files("probe")).unwrap_err();
            assert!(matches!(&error, Error::Unusable { .. }), "{error:?}");
            assert!(error.to_string().contains("lacks the conditional creation of files"), "{error}");
            // A server that refuses all files may be back.
            let store = impatient(answering(move |_| (status, document(code))));
            let error = store.wait(store.checks_new_files("probe")).unwrap_err();
            assert!(matches!(&error, Error::Failed { .. }), "{error:?}");
        }
    }

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
