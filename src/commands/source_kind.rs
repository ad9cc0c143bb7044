//! The kind of images at a place that the user does not name.

use std::path::Path;

use admiral_containers::Container;
use admiral_data::{DataError, SourceKind};
use admiral_storage::StoreOptions;
use serde_json::Value;

/// Returns the kind of the images at `path`: that which the names of the files tell, and for other local files IDX.
///
/// # Errors
/// If the place cannot be listed.
pub(super) fn source_kind(path: &str, stores: &StoreOptions) -> Result<SourceKind, DataError> {
    match Container::kind_at(path, stores) {
        // A kind without a name in the configuration is told by the names of the files again.
        Ok(kind) => Ok(serde_json::from_value(Value::from(kind.name())).unwrap_or(SourceKind::Auto)),
        Err(_) if Path::new(path).is_file() => Ok(SourceKind::Idx),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_without_a_known_ending_is_an_idx_file() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, b"").unwrap();
            source_kind(&path.display().to_string(), &StoreOptions::default()).unwrap()
        };
        assert_eq!(kind("train-images-idx3-ubyte.gz"), SourceKind::Idx);
        assert_eq!((kind("a.parquet"), kind("a.tar")), (SourceKind::Parquet, SourceKind::Tar));
        let none = folder.path().join("none").display().to_string();
        assert!(source_kind(&none, &StoreOptions::default()).is_err());
    }
}
