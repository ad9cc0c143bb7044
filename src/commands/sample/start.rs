//! What images start from besides noise: the small images that an upsampler enlarges, if its checkpoint is the first model,
//! or latents.

use admiral_samples::Latents;
use admiral_storage::StoreOptions;
use serde_json::Value;
use tch::Tensor;

use crate::model::Task;
use crate::run_config::RunConfig;
use crate::sample::{Error, GivenImages, Labels, low_res_examples};

use super::super::given_images::{OpenedImages, open_images};
use super::options::DrawingOptions;

/// What images start from, with their classes.
#[derive(Debug, Default)]
pub(super) struct Start {
    pub(super) latents: Option<Latents>,
    pub(super) low_res: Option<GivenImages>,
    /// The class of each latent or small image, if they have classes.
    pub(super) classes: Option<Vec<i64>>,
    /// What the small images are, for the settings of a job.
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
            (Some(location), _) => {
                let OpenedImages { images, classes, described } =
                    open_images("--low-res", location, size, channels, stores)?;
                Ok(Self { low_res: Some(images), classes, described, ..Self::default() })
            }
            (None, Some(count)) => {
                let source = admiral_data::open(&config.data, config.run.seed, stores)?.train;
                let has_classes = source.num_classes() > 0;
                let (images, classes): (Tensor, Vec<i64>) = low_res_examples(config, source, count, size)?;
                let classes = has_classes.then_some(classes);
                Ok(Self { low_res: Some(GivenImages::Images(images)), classes, ..Self::default() })
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
    /// Returns the start from latents, if there are any. `num` is the number of images, or `None` for one of each latent.
    ///
    /// # Errors
    /// When there are fewer latents than images.
    pub(super) fn or_latents(self, latents: Option<&Latents>, num: Option<u64>) -> Result<Self, Error> {
        let Some(latents) = latents else { return Ok(self) };
        match num {
            Some(num) if num > latents.num() => {
                refuse(format!("--num: is {num}, but --latents has {} latents; ask for at most as many", latents.num()))
            }
            _ => Ok(Self {
                latents: Some(latents.clone()),
                classes: latents.labels().map(<[i64]>::to_vec),
                ..Self::default()
            }),
        }
    }

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
