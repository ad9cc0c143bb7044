//! Opens the images that a configuration names.

use std::path::Path;
use std::sync::Arc;

use admiral_random::{Philox, Stream};

use super::config::{DataConfig, SourceKind};
use super::error::DataError;
use super::folder::Folder;
use super::idx::Idx;
use super::source::{ImageSource, Subset};

/// The images of a run.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The images for training.
    pub train: Arc<dyn ImageSource>,
    /// The images for validation, if the configuration names some or keeps a fraction for validation.
    pub validation: Option<Arc<dyn ImageSource>>,
}

/// Opens the images that the configuration names. `seed` determines which of them are kept for validation.
///
/// # Errors
/// If the images cannot be read, or there are no images for training or for validation.
pub fn open(config: &DataConfig, seed: u64) -> Result<Sources, DataError> {
    let train = open_one(config, &config.path, config.label_path.as_deref())?;
    if let Some(path) = &config.validation_path {
        let validation = open_one(config, path, config.validation_label_path.as_deref())?;
        return Ok(Sources { train, validation: Some(validation) });
    }
    if config.validation_fraction == 0.0 {
        return Ok(Sources { train, validation: None });
    }
    let is_for_validation = |item: &u64| Philox::new(seed, Stream::Split, *item).uniform() < config.validation_fraction;
    let (validation, rest): (Vec<u64>, Vec<u64>) = (0..train.num_images()).partition(is_for_validation);
    let subset = |items: Vec<u64>, what| {
        Subset::new(Arc::clone(&train), items)
            .map(|subset| Arc::new(subset) as Arc<dyn ImageSource>)
            .ok_or_else(|| DataError::Empty { path: config.path.clone(), what, field: "data.validation_fraction" })
    };
    Ok(Sources {
        train: subset(rest, "image to train on")?,
        validation: Some(subset(validation, "image to validate on")?),
    })
}

fn open_one(config: &DataConfig, path: &str, labels: Option<&str>) -> Result<Arc<dyn ImageSource>, DataError> {
    if path.is_empty() {
        return Err(DataError::Empty { path: "data.path".into(), what: "path", field: "data.path" });
    }
    Ok(match config.source {
        SourceKind::Folder => Arc::new(Folder::open(Path::new(path), config.classes)?),
        SourceKind::Idx => Arc::new(Idx::open(Path::new(path), labels.map(Path::new))?),
    })
}
