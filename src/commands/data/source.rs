//! A data set as an argument.

use std::path::Path;
use std::sync::Arc;

use admiral_comm::ExitCode;
use admiral_data::{ClassSource, DataConfig, DataError, ImageSource, SourceKind, open, open_with_any_classes};
use admiral_storage::StoreOptions;
use clap::Args;
use serde::de::DeserializeOwned;

use super::super::ranks::CommandError;
use super::super::source_kind::source_kind;
use super::common::refused;

/// A data set.
#[derive(Debug, Clone, Args)]
pub(super) struct SourceOptions {
    /// The images, as in data.path: a folder, a file, a pattern of files, or a URL of a store
    #[arg(value_name = "SOURCE")]
    path: String,
    /// The kind, as in data.source: auto, folder, tar, zip, npz, lmdb, parquet, idx
    #[arg(long, default_value = "auto")]
    source: String,
    /// The origin of classes, as in data.classes: folder, file_name, container or none; by default the labels of the
    /// container, if it has some
    #[arg(long)]
    classes: Option<String>,
    /// The IDX file of labels, as in data.label_path
    #[arg(long, value_name = "FILE")]
    label_path: Option<String>,
}

/// A data set that is open.
pub(super) struct OpenedSource {
    pub(super) source: Arc<dyn ImageSource>,
    /// Where its classes come from. IDX files have none of these.
    pub(super) classes: ClassSource,
}

impl SourceOptions {
    /// Opens the data set.
    ///
    /// # Errors
    /// When an option is wrong or the images cannot be opened, with the exit code.
    pub(super) fn open(&self, threads: usize, stores: &StoreOptions) -> Result<OpenedSource, CommandError> {
        let fail = |error: DataError| -> CommandError {
            let code = if error.may_pass() { ExitCode::Store } else { ExitCode::Config };
            (code, error.into())
        };
        let mut config = DataConfig {
            source: named("--source", &self.source)?,
            path: self.path.clone(),
            label_path: self.label_path.clone(),
            num_workers: threads.max(1),
            ..DataConfig::default()
        };
        if config.source == SourceKind::Auto && Path::new(&self.path).is_file() {
            config.source = source_kind(&self.path, stores).map_err(fail)?;
        }
        if let Some(classes) = &self.classes {
            config.classes = named("--classes", classes)?;
        }
        if let Some(mistake) = config.validate().first() {
            return Err(refused(format!("{}: {}", mistake.field, mistake.message)));
        }
        if self.classes.is_some() {
            let source = open(&config, 0, stores).map_err(fail)?.train;
            return Ok(OpenedSource { source, classes: config.classes });
        }
        let has_classes = |_, source: Option<&dyn ImageSource>| source.is_some();
        let opened = open_with_any_classes(&config, &[ClassSource::Container], stores, has_classes);
        let (source, classes) = opened.map_err(fail)?;
        Ok(OpenedSource { source, classes })
    }
}

/// Returns the value with a name, as in configurations.
///
/// # Errors
/// When there is none of this name, with the names that there are.
pub(super) fn named<T: DeserializeOwned>(option: &str, name: &str) -> Result<T, CommandError> {
    serde_json::from_value(name.into()).map_err(|error| refused(format!("{option}: {error}")))
}
