//! Images: where they lie, how they are decoded and cropped, and the loader that reads ahead.

mod config;
mod crop;
mod decode;
mod error;
mod folder;
mod idx;
mod loader;
mod pixels;
mod resample;
mod source;

use std::path::Path;
use std::sync::Arc;

pub use config::{ClassSource, DataConfig, OnBrokenImage, SourceKind};
pub use crop::{Draws, RandomCrop, scale_short_side, square};
pub use decode::decode;
pub use error::DataError;
pub use folder::Folder;
pub use idx::Idx;
pub use loader::{Batch, Loader, SamplePlan, SampleReader};
pub use pixels::Pixels;
pub use resample::{Filter, resize};
pub use source::{ImageSource, Subset};

use admiral_random::{Philox, Stream};

/// The images of a run.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What is trained on.
    pub train: Arc<dyn ImageSource>,
    /// What is measured on, where the configuration names or divides off some.
    pub validation: Option<Arc<dyn ImageSource>>,
}

/// Opens the images that the configuration names. `seed` decides which of them are kept for validation.
///
/// # Errors
/// When they cannot be read, or there are none.
pub fn open(config: &DataConfig, seed: u64) -> Result<Sources, DataError> {
    let train = open_one(config, &config.path, config.label_path.as_deref())?;
    if let Some(path) = &config.validation_path {
        let validation = open_one(config, path, config.validation_label_path.as_deref())?;
        return Ok(Sources { train, validation: Some(validation) });
    }
    if config.validation_fraction == 0.0 {
        return Ok(Sources { train, validation: None });
    }
    let is_kept = |item: &u64| Philox::new(seed, Stream::Split, *item).uniform() < config.validation_fraction;
    let (kept, rest): (Vec<u64>, Vec<u64>) = (0..train.num_images()).partition(is_kept);
    let side = |items: Vec<u64>, what| {
        let subset = Subset::new(Arc::clone(&train), items);
        subset.map(|subset| Arc::new(subset) as Arc<dyn ImageSource>).ok_or_else(|| DataError::Empty {
            path: config.path.clone(),
            what,
            field: "data.validation_fraction",
        })
    };
    Ok(Sources { train: side(rest, "image to train on")?, validation: Some(side(kept, "image to validate on")?) })
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
