//! The location of a store.

use std::fmt;
use std::path::PathBuf;

use admiral_contract::secret::masked_text;

use crate::error::Error;

/// A folder of this machine, or a prefix in an S3 bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The path of a folder.
    Folder(PathBuf),
    /// `s3://bucket/prefix`.
    S3 {
        /// The name of the bucket.
        bucket: String,
        /// The first part of the key of every object, as given, but without a slash at its end. May be empty.
        prefix: String,
    },
}

impl Location {
    /// Parses a location. Text without `scheme://` is the path of a folder.
    ///
    /// # Errors
    /// [`Error::Location`] if the text is empty, has another scheme than `s3`, or names no bucket.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Err(Error::Location { url: masked_text(text), reason: reason.to_owned() });
        match text.split_once("://") {
            None if text.trim().is_empty() => refuse("it is empty; give a folder or s3://bucket/prefix"),
            None => Ok(Self::Folder(PathBuf::from(text))),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                if bucket.contains('@') {
                    return refuse(
                        "it has a user or password in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
                    );
                }
                if bucket.is_empty() {
                    return refuse("it names no bucket; the form is s3://bucket/prefix");
                }
                if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
                    return refuse("its prefix has an empty part, \".\" or \"..\"");
                }
                if rest.chars().any(char::is_control) {
                    return refuse("it has a control character, for example a line break");
                }
                Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            Some(("file", _)) => refuse("write the folder's path without file://"),
            Some((scheme, _)) => refuse(&format!("{scheme}:// is not supported; give a folder or s3://bucket/prefix")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_and_s3_urls_are_distinguished() {
        assert_eq!(Location::parse("runs/a").unwrap(), Location::Folder("runs/a".into()));
        for (text, bucket, prefix) in
            [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://b/x", "b", "x"), ("s3://b/x/y/", "b", "x/y")]
        {
            let location = Location::parse(text).unwrap();
            assert_eq!(location, Location::S3 { bucket: bucket.into(), prefix: prefix.into() });
            assert_eq!(location.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn a_password_is_refused_and_not_shown() {
        for text in ["s3://me:hush@bucket/x", "https://me:hush@bucket/x"] {
            let error = Location::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hush") && error.contains("@bucket/x"), "{error}");
        }
    }

    #[test]
    fn text_that_is_not_a_location_is_refused() {
        for text in [
            "",
            " ",
            "s3://",
            "s3:///x",
            "s3://b/x/../y",
            "s3://b/x//y",
            "s3://b//x",
            "s3://b/x//",
            "s3://b/x\n",
            "s3://b\r/x",
            "gs://b/x",
            "file:///x",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(matches!(&error, Error::Location { url, .. } if url == text), "{text}: {error:?}");
        }
    }
}
