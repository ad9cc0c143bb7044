//! The classes of the images that are drawn.

use std::path::Path;
use std::sync::Arc;

use admiral_npz::Npz;
use admiral_storage::{StoreOptions, hex};
use serde_json::{Value, json};

use crate::run_config::{RunConfig, SamplingConfig};
use crate::sample::{Error, Labels, grid_labels, rows};

use super::options::{Classes, DrawingOptions};
use super::start::Start;

/// Returns the rule that gives the images of a job their classes, and its description for the settings of the job.
///
/// `start` has the small images, which bring their classes with them unless others are asked for.
///
/// # Errors
/// When the options ask for classes that the model does not have, or a file or the data cannot be read.
pub(super) fn for_job(
    options: &DrawingOptions,
    config: &RunConfig,
    num_classes: Option<i64>,
    num: u64,
    start: &Start,
    stores: &StoreOptions,
) -> Result<(Labels, Value), Error> {
    let Some(num_classes) = num_classes else {
        return match asked(options) {
            Some(option) => refuse(format!("{option}: this model is unconditional, it has no classes")),
            // They stay with their images, as in a stack.
            None => match &start.classes {
                Some(classes) if start.low_res.is_some() => table(classes.clone(), num, "--low-res"),
                _ => Ok((Labels::None, json!(null))),
            },
        };
    };
    let seed = options.seed;
    let (labels, described) = match (&options.labels, options.classes, options.labels_from.as_deref()) {
        (Some(classes), _, _) => (Labels::Cycle(classes.as_slice().into()), json!({"in_turn": classes})),
        (_, Some(Classes::Balanced), _) => (Labels::balanced(num_classes), json!("balanced")),
        (_, _, Some("data")) => as_frequent_as_in_the_data(config, seed, stores)?,
        (_, _, Some(file)) => table(Npz::open(Path::new(file))?.labels("arr_1")?, num, file)?,
        (_, None, None) if start.classes.is_some() => {
            let classes = start.classes.clone().unwrap_or_default();
            table(classes, num, if start.latents.is_some() { "--latents" } else { "--low-res" })?
        }
        (_, None, None) if start.latents.is_some() => {
            return refuse(
                "--latents: these latents have no classes, and this model needs them; say which with --labels, \
                 --classes or --labels-from"
                    .into(),
            );
        }
        (_, None, None) if start.low_res.is_some() => {
            return refuse(
                "--low-res: these images have no classes, and this upsampler needs them; say which with --labels, \
                 --classes or --labels-from"
                    .into(),
            );
        }
        (_, Some(Classes::Random) | None, None) => (Labels::Random { seed, num_classes }, json!("random")),
    };
    check_range(&labels, num_classes)?;
    Ok((labels, described))
}

/// Returns the classes of a grid, one row for each, and the number of images.
///
/// # Errors
/// When the options ask for classes that the model does not have, or for too large a grid.
pub(super) fn for_grid(
    options: &DrawingOptions,
    config: &RunConfig,
    sampling: &SamplingConfig,
    num_classes: Option<i64>,
) -> Result<(Labels, u64), Error> {
    let num_rows =
        options.labels.as_ref().map_or_else(|| sampling.grid_rows(num_classes), |labels| labels.len() as u64);
    if let Some(mistake) = sampling.check_grid(num_rows, config.model.image_size) {
        return refuse(mistake.to_string());
    }
    let Some(classes) = &options.labels else {
        return Ok(grid_labels(num_classes, sampling.samples_per_class, sampling.max_classes));
    };
    let Some(num_classes) = num_classes else {
        return refuse("--labels: this model is unconditional, it has no classes".into());
    };
    let (labels, count) = rows(classes.iter().copied(), sampling.samples_per_class);
    check_range(&labels, num_classes)?;
    Ok((labels, count))
}

/// Returns the classes of a grid of one image for each of `num` latents, which have the classes `found`.
///
/// # Errors
/// When the options ask for classes that the model does not have, or for more or fewer images.
pub(super) fn for_latents(
    options: &DrawingOptions,
    config: &RunConfig,
    sampling: &SamplingConfig,
    num_classes: Option<i64>,
    (num, found): (u64, Option<&[i64]>),
) -> Result<Labels, Error> {
    if let Some(mistake) = sampling.check_grid(num.div_ceil(sampling.samples_per_class), config.model.image_size) {
        return refuse(mistake.to_string());
    }
    let labels = match (num_classes, &options.labels, found) {
        (None, Some(_), _) => return refuse("--labels: this model is unconditional, it has no classes".into()),
        (None, None, _) => return Ok(Labels::None),
        (Some(_), Some(classes), _) => {
            let (labels, count) = rows(classes.iter().copied(), sampling.samples_per_class);
            if count != num {
                return refuse(format!(
                    "--labels: rows of {} images make {count} images, but --latents has {num} latents",
                    sampling.samples_per_class
                ));
            }
            labels
        }
        (Some(_), None, Some(classes)) => Labels::Table(classes.into()),
        (Some(_), None, None) => {
            return refuse(
                "--latents: these latents have no classes, and this model needs them; say which with --labels".into(),
            );
        }
    };
    check_range(&labels, num_classes.unwrap_or(0))?;
    Ok(labels)
}

/// Returns the option that asks for classes.
fn asked(options: &DrawingOptions) -> Option<&'static str> {
    let given = [
        (options.labels.is_some(), "--labels"),
        (options.classes.is_some(), "--classes"),
        (options.labels_from.is_some(), "--labels-from"),
    ];
    given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
}

/// Checks that a model with `num_classes` has all classes of a rule.
///
/// # Errors
/// When it lacks one.
pub(in crate::commands) fn check_range(labels: &Labels, num_classes: i64) -> Result<(), Error> {
    let Some((smallest, largest)) = labels.range() else { return refuse("--labels: names no class".into()) };
    for class in [smallest, largest] {
        if !(0..num_classes).contains(&class) {
            return refuse(format!(
                "{class} is not a class of this model, which has classes 0 to {}: check --labels, or the file with classes",
                num_classes - 1
            ));
        }
    }
    Ok(())
}

fn as_frequent_as_in_the_data(config: &RunConfig, seed: u64, stores: &StoreOptions) -> Result<(Labels, Value), Error> {
    let source = admiral_data::open(&config.data, config.run.seed, stores)?.train;
    let classes: Option<Arc<[i64]>> = (0..source.num_images()).map(|image| source.class(image)).collect();
    match classes {
        Some(classes) => {
            let digest = hex(source.digest());
            Ok((Labels::AsFrequent { seed, classes }, json!({"as_frequent_as_in": digest})))
        }
        None => refuse(format!("--labels-from data: the images in {} have no classes", config.data.path)),
    }
}

/// Returns the rule that gives the first `num` images the classes of a list, and its description. `from` names the list.
///
/// # Errors
/// When the list is too short.
pub(in crate::commands) fn table(classes: Vec<i64>, num: u64, from: &str) -> Result<(Labels, Value), Error> {
    if (classes.len() as u64) < num {
        return refuse(format!("{from} has {} classes, fewer than the {num} images", classes.len()));
    }
    let classes = &classes[..num as usize];
    let described = json!({"listed": sha256_of(classes)});
    Ok((Labels::Table(classes.into()), described))
}

/// Returns the SHA-256 of classes, as hexadecimal digits.
fn sha256_of(classes: &[i64]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    classes.iter().for_each(|class| hash.update(class.to_le_bytes()));
    hex(hash.finalize())
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(Error::Refused(message))
}
