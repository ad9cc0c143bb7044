//! The errors of reading images.

/// An error of reading images. A run ends with the exit code for an invalid configuration or invalid data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("{path}: {reason}; check `{field}`")]
    Unreadable {
        /// The file or folder.
        path: String,
        /// The error of the operating system.
        reason: String,
        /// The configuration field that names it.
        field: &'static str,
    },
    /// The file system does not deliver a file, although it was asked several times. The file itself may be whole.
    #[error("{path} cannot be read now: {reason}; the file system fails, and not the file")]
    Unavailable {
        /// The file or folder.
        path: String,
        /// The error of the operating system.
        reason: String,
    },
    /// A file or folder contains no images, or a subset of the images is empty.
    #[error("{path} holds no {what}; check `{field}`")]
    Empty {
        /// The file or folder.
        path: String,
        /// The missing content, for example `image`.
        what: String,
        /// The configuration field that names it.
        field: &'static str,
    },
    /// The store of the images refuses or does not answer.
    #[error(transparent)]
    Storage(#[from] admiral_storage::Error),
    /// The content of a file does not match its name, its header or the configuration.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// The reason.
        reason: String,
    },
    /// The images have no classes of the kind that is asked for.
    #[error("{path}: {reason}")]
    NoClasses {
        /// An image without a class.
        path: String,
        /// What it lacks, and what to do.
        reason: String,
    },
    /// An image cannot be decoded.
    #[error("{path} cannot be decoded: {reason}; repair or remove it, or set `data.on_broken_image: skip`")]
    Broken {
        /// The image.
        path: String,
        /// The message of the decoder.
        reason: String,
    },
    /// Too many images in a row cannot be decoded.
    #[error("{attempts} images one after another cannot be decoded, the last of them {path}: {reason}")]
    AllBroken {
        /// The number of images that were tried.
        attempts: u64,
        /// The last of them.
        path: String,
        /// The message of the decoder about the last of them.
        reason: String,
    },
    /// The run was asked to stop, and the next images do not come.
    #[error("asked to stop while images cannot be read: leaving without a checkpoint of the last steps")]
    Cancelled,
    /// The threads that read images have ended early, or cannot be started.
    #[error("the loader has ended: {0}")]
    Ended(String),
}

impl DataError {
    /// Returns whether the file system or the store fails, and not the image. The image may be read at another time.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Storage(admiral_storage::Error::Failed { .. }))
    }

    /// Returns the error for images that no configuration names: its message has no fields of one.
    #[must_use]
    pub fn without_fields(self) -> Self {
        match self {
            Self::Unreadable { path, reason, .. } => Self::Malformed { path, reason },
            Self::Empty { path, what, .. } => Self::Malformed { path, reason: format!("it holds no {what}") },
            Self::Broken { path, reason } => {
                Self::Malformed { path, reason: format!("it cannot be decoded: {reason}; repair or remove it") }
            }
            other => other,
        }
    }
}

impl From<admiral_containers::Error> for DataError {
    fn from(error: admiral_containers::Error) -> Self {
        use admiral_containers::Error;
        match error {
            Error::Unreadable { path, reason } => Self::Unreadable { path, reason, field: "data.path" },
            Error::Unavailable { path, reason } => Self::Unavailable { path, reason },
            Error::Storage(error) => Self::Storage(error),
            Error::Empty { path, what } => Self::Empty { path, what, field: "data.path" },
            Error::Malformed { path, reason } => Self::Malformed { path, reason },
            Error::Damaged { path, reason } => Self::Broken { path, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_images_that_an_option_names_have_no_fields() {
        let (path, reason) = (|| "birds".to_owned(), || "wrong".to_owned());
        for (error, message) in [
            (DataError::Unreadable { path: path(), reason: reason(), field: "data.path" }, "birds: wrong"),
            (DataError::Empty { path: path(), what: "image".into(), field: "data.path" }, "birds: it holds no image"),
            (
                DataError::Broken { path: path(), reason: reason() },
                "birds: it cannot be decoded: wrong; repair or remove it",
            ),
        ] {
            assert_eq!(error.without_fields().to_string(), message);
        }
        let passing = DataError::Unavailable { path: path(), reason: reason() };
        assert!(passing.without_fields().may_pass());
    }
}
