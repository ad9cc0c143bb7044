//! The location of a store.

use std::fmt;
use std::path::PathBuf;

use admiral_contract::files::needs_shell;
use admiral_contract::secret::masked_text;

use crate::error::Error;

/// What to give, for messages.
const FORMS: &str = "give a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";

/// A folder of this machine, or a prefix in a bucket. A prefix is the first part of the key of every object, as given, but
/// without a slash at its end. It may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The path of a folder.
    Folder(PathBuf),
    /// `s3://bucket/prefix`, in S3 or a server with its interface.
    S3 {
        /// The name of the bucket.
        bucket: String,
        /// The first part of all keys.
        prefix: String,
    },
    /// `gs://bucket/prefix`, in Google Cloud Storage.
    Gcs {
        /// The name of the bucket.
        bucket: String,
        /// The first part of all keys.
        prefix: String,
    },
    /// `az://container/prefix`, in the Azure storage account that the environment names.
    Azure {
        /// The name of the container.
        container: String,
        /// The first part of all names of blobs.
        prefix: String,
    },
}

impl Location {
    /// Parses a location. Text without `scheme://` is the path of a folder.
    ///
    /// # Errors
    /// [`Error::Location`] if the text is empty, has another scheme than `s3`, `gs` or `az`, or names no bucket.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::Location { url: masked_text(text), reason: reason.to_owned() };
        let parts = |rest| bucket_and_prefix(rest).map_err(&refuse);
        match text.split_once("://") {
            None if text.trim().is_empty() => Err(refuse(&format!("it is empty; {FORMS}"))),
            None if needs_shell(text) => Err(refuse("it is not expanded here; write the whole path")),
            None => Ok(Self::Folder(PathBuf::from(text))),
            Some(("s3", rest)) => parts(rest).map(|(bucket, prefix)| Self::S3 { bucket, prefix }),
            Some(("gs", rest)) => parts(rest).map(|(bucket, prefix)| Self::Gcs { bucket, prefix }),
            Some(("az", rest)) => parts(rest).map(|(container, prefix)| Self::Azure { container, prefix }),
            Some(("file", _)) => Err(refuse("write the folder's path without file://")),
            Some((scheme, _)) => Err(refuse(&format!("{scheme}:// is not supported; {FORMS}"))),
        }
    }
}

/// Divides `bucket/prefix`, the part of a URL after its scheme.
///
/// # Errors
/// The reason if there is no bucket, or the text cannot be the name of one with a prefix.
fn bucket_and_prefix(rest: &str) -> Result<(String, String), &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if bucket.contains('@') {
        return Err(
            "it has a user, a password or an account in it; credentials and accounts come from environment variables \
             that start with AWS_, GOOGLE_ or AZURE_",
        );
    }
    if bucket.is_empty() {
        return Err("it names no bucket; the form is s3://bucket/prefix, gs://bucket/prefix or az://container/prefix");
    }
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("its prefix has an empty part, \".\" or \"..\"");
    }
    if rest.chars().any(char::is_control) {
        return Err("it has a control character, for example a line break");
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match self {
            Self::Folder(path) => return write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } => ("s3", bucket, prefix),
            Self::Gcs { bucket, prefix } => ("gs", bucket, prefix),
            Self::Azure { container, prefix } => ("az", container, prefix),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{bucket}{slash}{prefix}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_and_urls_are_distinguished() {
        assert_eq!(Location::parse("runs/a").unwrap(), Location::Folder("runs/a".into()));
        for (rest, name, prefix) in [("b", "b", ""), ("b/", "b", ""), ("b/x", "b", "x"), ("b/x/y/", "b", "x/y")] {
            let (bucket, container, prefix) = (name.to_owned(), name.to_owned(), prefix.to_owned());
            for (scheme, expected) in [
                ("s3", Location::S3 { bucket: bucket.clone(), prefix: prefix.clone() }),
                ("gs", Location::Gcs { bucket: bucket.clone(), prefix: prefix.clone() }),
                ("az", Location::Azure { container, prefix }),
            ] {
                let text = format!("{scheme}://{rest}");
                let location = Location::parse(&text).unwrap();
                assert_eq!(location, expected);
                assert_eq!(location.to_string(), text.trim_end_matches('/'));
            }
        }
    }

    #[test]
    fn a_password_is_refused_and_not_shown() {
        for scheme in ["s3", "gs", "az", "https"] {
            let error = Location::parse(&format!("{scheme}://me:hush@bucket/x")).unwrap_err().to_string();
            assert!(!error.contains("hush") && error.contains("@bucket/x"), "{error}");
        }
    }

    #[test]
    fn text_that_is_not_a_location_is_refused() {
        let in_buckets = ["s3", "gs", "az"].into_iter().flat_map(|scheme| {
            ["", "/x", "b/x/../y", "b/x//y", "b//x", "b/x//", "b/x\n", "b\r/x"].map(|rest| format!("{scheme}://{rest}"))
        });
        for text in ["", " ", "ftp://b/x", "file:///x"].map(str::to_owned).into_iter().chain(in_buckets) {
            let error = Location::parse(&text).unwrap_err();
            assert!(matches!(&error, Error::Location { url, .. } if *url == text), "{text}: {error:?}");
        }
    }
}
