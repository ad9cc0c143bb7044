//! Where features are kept.

use admiral_storage::{Location, Store, StoreOptions};

use super::error::Error;

/// Opens the folder or the store in which features are kept. A folder that does not exist is created. `field` names the
/// option or the field of the configuration in messages.
///
/// # Errors
/// [`Error::Refused`] if it cannot be a folder; those of the store.
pub fn create_work(location: &str, field: &str, stores: &StoreOptions) -> Result<Store, Error> {
    let parsed = Location::parse(location).map_err(admiral_evaluation::Error::from)?;
    if let Location::Folder(path) = &parsed
        && let Some(found) = path.ancestors().find(|path| path.exists())
        && !found.is_dir()
    {
        return Err(Error::Refused(format!(
            "{field}: {} is not a folder, and features are kept in a folder; name another",
            found.display()
        )));
    }
    Ok(Store::create(&parsed, stores).map_err(admiral_evaluation::Error::from)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_comm::ExitCode;

    use super::*;

    #[test]
    fn a_file_is_no_place_for_features() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), b"").unwrap();
        let create = |name: &str| {
            create_work(root.path().join(name).to_str().unwrap(), "--work", &StoreOptions::default()).map(|_| ())
        };
        create("new/folder").unwrap();
        create("new").unwrap();
        for name in ["file", "file/folder"] {
            let error = create(name).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Config);
            assert!(error.to_string().starts_with("--work: ") && error.to_string().contains("/file is not"), "{error}");
        }
    }
}
