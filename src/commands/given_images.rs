//! Images that a command is given: a folder of pictures, an npz file, or the output of a sampling job, each also in a bucket.

use std::path::Path;
use std::sync::Arc;

use admiral_data::{ClassSource, DataConfig, DataError, ImageSource, SourceKind};
use admiral_samples::{Images, names_npz};
use admiral_storage::{StoreOptions, hex};
use serde_json::{Value, json};

use crate::sample::{Error, GivenImages};

use super::text::counted;

/// Images that a command is given.
#[derive(Debug)]
pub(super) struct OpenedImages {
    pub(super) images: GivenImages,
    /// The class of each image, if they have classes.
    pub(super) classes: Option<Vec<i64>>,
    /// A digest of the images, for the settings of what is made of them.
    pub(super) described: Value,
}

/// Opens the images at `location`, which is the value of `option`. Pictures are scaled and cropped to `size`; an npz file and
/// a job must have this size and these channels.
///
/// # Errors
/// When there are none, they have another form, or they cannot be read.
pub(super) fn open_images(
    option: &str,
    location: &str,
    size: i64,
    channels: i64,
    stores: &StoreOptions,
) -> Result<OpenedImages, Error> {
    if location.is_empty() {
        return Err(Error::Refused(format!("{option}: is empty; name the images")));
    }
    let pictures = || open_pictures(location, size, channels, stores);
    if names_npz(location) || Path::new(location).join("job.json").exists() {
        return open_samples(option, location, size, channels, stores);
    }
    if !location.contains("://") {
        return pictures().map_err(|error| of_pictures(option, error));
    }
    match open_samples(option, location, size, channels, stores) {
        Err(Error::Output(no_job @ admiral_samples::Error::NotFound { .. })) => {
            pictures().map_err(|error| match error {
                DataError::Empty { .. } => Error::Refused(format!("{option}: {no_job}, and no picture")),
                error => of_pictures(option, error),
            })
        }
        opened => opened,
    }
}

/// Returns the error of pictures that `option` names.
fn of_pictures(option: &str, error: DataError) -> Error {
    match error.without_fields() {
        error if error.may_pass() => error.into(),
        error => Error::Refused(format!("{option}: {error}")),
    }
}

/// Returns the images of a source, scaled and cropped to `size` around their center, with their classes.
pub(super) fn of_source(source: Arc<dyn ImageSource>, size: i64, channels: i64) -> OpenedImages {
    let digest = hex(source.digest());
    let classes = (0..source.num_images()).map(|image| source.class(image)).collect();
    let images = GivenImages::Pictures { source, size, channels };
    OpenedImages { images, classes, described: json!({"pictures": digest}) }
}

fn open_samples(
    option: &str,
    location: &str,
    size: i64,
    channels: i64,
    stores: &StoreOptions,
) -> Result<OpenedImages, Error> {
    let images = Images::open(location, stores)?;
    let [height, width, depth] = images.shape();
    if [height as i64, width as i64, depth as i64] != [size, size, channels] {
        return Err(Error::Refused(format!(
            "{option}: the images of {location} have {height} x {width} pixels and {}; this model takes {size} x \
             {size} pixels and {}",
            counted(depth as u64, "channel"),
            counted(channels as u64, "channel")
        )));
    }
    if images.num() == 0 {
        return Err(Error::Refused(format!("{option}: {location} has no images")));
    }
    let classes = match images.labels() {
        Ok(classes) => Some(classes),
        Err(admiral_samples::Error::NoLabels { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let described = json!({"samples": images.digest()});
    Ok(OpenedImages { images: GivenImages::Samples { images: Box::new(images), size, channels }, classes, described })
}

fn open_pictures(folder: &str, size: i64, channels: i64, stores: &StoreOptions) -> Result<OpenedImages, DataError> {
    // A folder may lack some of the classes of training, so that its folders would be numbered differently.
    let classes = ClassSource::None;
    let data = DataConfig { source: SourceKind::Folder, path: folder.to_owned(), classes, ..DataConfig::default() };
    // Without validation images, the seed is not used.
    Ok(of_source(admiral_data::open(&data, 0, stores)?.train, size, channels))
}
