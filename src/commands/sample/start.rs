//! The small images that an upsampler enlarges, if its checkpoint is the first model.

use std::path::Path;
use std::sync::Arc;

use admiral_data::{ClassSource, DataConfig, ImageSource, SourceKind};
use admiral_samples::Images;
use admiral_storage::StoreOptions;
use serde_json::{Value, json};
use tch::Tensor;

use crate::model::Task;
use crate::run_config::RunConfig;
use crate::sample::{Error, Labels, LowRes, low_res_examples};

use super::options::DrawingOptions;

/// The small images, with their classes.
#[derive(Debug, Default)]
pub(super) struct Start {
    pub(super) low_res: Option<LowRes>,
    /// The class of each small image, if they have classes.
    pub(super) classes: Option<Vec<i64>>,
    /// What they are, for the settings of a job.
    pub(super) described: Value,
}

impl Start {
    /// Opens the small images that the model in `config` enlarges. `location` is a folder of pictures, an npz file, or the
    /// output of a job. Without it, the first `examples` training images are scaled down.
    ///
    /// # Errors
    /// When the model needs small images and there are none, does not take any, or they cannot be read.
    pub(super) fn open(
        location: Option<&str>,
        config: &RunConfig,
        examples: Option<u64>,
        stores: &StoreOptions,
    ) -> Result<Self, Error> {
        let (Task::SuperResolution, Some(size)) = (config.task, config.model.small_size) else {
            return match location {
                None => Ok(Self::default()),
                Some(_) => refuse("--low-res: this model is not an upsampler; name one with --upsampler".into()),
            };
        };
        let channels = config.model.image_channels;
        match (location, examples) {
            (Some(location), _) if has_samples(location) => open_samples(location, size, channels, stores),
            (Some(location), _) => open_pictures(location, size, channels, config),
            (None, Some(count)) => {
                let source = admiral_data::open(&config.data, config.run.seed)?.train;
                let has_classes = source.num_classes() > 0;
                let (images, classes): (Tensor, Vec<i64>) = low_res_examples(config, source, count, size)?;
                let classes = has_classes.then_some(classes);
                Ok(Self { low_res: Some(LowRes::Images(images)), classes, described: json!(null) })
            }
            (None, None) => refuse(
                "this model is an upsampler: say with --low-res which images to enlarge, or sample a base model with \
                 --upsampler"
                    .into(),
            ),
        }
    }
}

impl Start {
    /// Returns the classes of the images of a grid: those of the small images, unless `--labels` says others.
    ///
    /// # Errors
    /// When the small images have no classes and need them, or have their own and others are asked for.
    pub(super) fn grid_labels(&self, labels: Labels, options: &DrawingOptions) -> Result<Labels, Error> {
        if self.low_res.is_none() || labels == Labels::None {
            return Ok(labels);
        }
        match (&self.classes, &options.labels, &options.low_res) {
            (_, Some(_), None) => {
                refuse("--labels: give it together with --low-res; training images have their own classes".into())
            }
            (Some(classes), None, _) => Ok(Labels::Cycle(classes.as_slice().into())),
            (None, None, _) => refuse(
                "--low-res: this upsampler has classes, and these images have none; say which with --labels".into(),
            ),
            (_, Some(_), Some(_)) => Ok(labels),
        }
    }
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(Error::Refused(message))
}

/// Returns whether a location has samples: an npz file, or the output of a job. All others are folders of pictures.
fn has_samples(location: &str) -> bool {
    let path = Path::new(location);
    location.contains("://") || path.extension().is_some_and(|end| end == "npz") || path.join("job.json").exists()
}

fn open_samples(location: &str, size: i64, channels: i64, stores: &StoreOptions) -> Result<Start, Error> {
    let images = Images::open(location, stores)?;
    let [height, width, depth] = images.shape();
    if [height as i64, width as i64, depth as i64] != [size, size, channels] {
        return refuse(format!(
            "--low-res: the images of {location} have {height} x {width} pixels and {depth} channels; this upsampler \
             enlarges {size} x {size} pixels and {channels} channels"
        ));
    }
    let classes = match images.labels() {
        Ok(classes) => Some(classes),
        Err(admiral_samples::Error::NoLabels { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let described = json!({"samples": images.digest()});
    Ok(Start { low_res: Some(LowRes::Samples { images, size, channels }), classes, described })
}

fn open_pictures(folder: &str, size: i64, channels: i64, config: &RunConfig) -> Result<Start, Error> {
    // A folder may lack some of the classes of training, so that its folders would be numbered differently.
    let classes = ClassSource::None;
    let data = DataConfig { source: SourceKind::Folder, path: folder.to_owned(), classes, ..DataConfig::default() };
    let source: Arc<dyn ImageSource> = admiral_data::open(&data, config.run.seed)?.train;
    let digest: String = source.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    let low_res = Some(LowRes::Pictures { source, size, channels });
    Ok(Start { low_res, classes: None, described: json!({"pictures": digest}) })
}
