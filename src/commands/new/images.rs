//! Looks at the images for which a configuration is proposed.

use admiral_advice::limits::SAMPLE;
use admiral_advice::{Choice, Found, Pictures, find_classes, survey};
use admiral_data::{ClassSource, DataConfig, SourceKind, open};
use admiral_storage::StoreOptions;
use clap::{Args, ValueEnum};

use super::super::source_kind::source_kind;
use super::error::NewError;

/// The images, and where their classes come from.
#[derive(Debug, Clone, Args)]
pub(super) struct ImageOptions {
    /// The images: a folder, tar, zip, npz, lmdb or parquet files, an IDX file, or a URL of a store
    #[arg(long, value_name = "PICTURES")]
    data: String,
    /// The IDX file of the labels, if --data is an IDX file
    #[arg(long, value_name = "FILE")]
    labels: Option<String>,
    /// Where the classes come from; auto takes labels, folders or file names, whichever tells classes
    #[arg(long, value_enum, default_value = "auto")]
    classes: ClassChoice,
}

/// Where the classes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum ClassChoice {
    /// The labels in the container, else the folders, else the file names, if they tell classes
    Auto,
    /// The images have no classes
    None,
    /// The folder of an image
    Folder,
    /// The name of an image before the first "_"
    FileName,
    /// The labels in tar, zip, npz and parquet files
    Container,
}

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    /// The section `data` with the fields that say where images and classes are.
    pub(super) data: DataConfig,
    /// The number of classes, if there are several.
    pub(super) num_classes: Option<u64>,
    /// The reason for `data.classes` or `data.label_path`.
    pub(super) reason: String,
    /// What the images look like.
    pub(super) pictures: Pictures,
}

/// Opens the images, and decodes some.
///
/// # Errors
/// If there are none, or they cannot be read.
pub(super) fn look(options: &ImageOptions, stores: &StoreOptions) -> Result<Looked, NewError> {
    let path = absolute("--data", &options.data)?;
    let label_path = options.labels.as_deref().map(|labels| absolute("--labels", labels)).transpose()?;
    let source = kind_of(&path, label_path.is_some(), stores)?;
    let data = DataConfig { source, path, label_path, ..DataConfig::default() };
    let Found { source, classes } = match options.classes {
        ClassChoice::Auto => find_classes(&data, stores)?,
        ClassChoice::None => chosen(&DataConfig { label_path: None, ..data.clone() }, ClassSource::None, stores)?,
        ClassChoice::Folder => chosen(&data, ClassSource::Folder, stores)?,
        ClassChoice::FileName => chosen(&data, ClassSource::FileName, stores)?,
        ClassChoice::Container => chosen(&data, ClassSource::Container, stores)?,
    };
    let pictures = survey(&*source, SAMPLE)?;
    let num_classes = Some(source.num_classes() as u64).filter(|number| *number > 1);
    let Choice { value, mut reason } = classes;
    if source.num_classes() == 1 {
        reason = "all images have one class, which tells nothing".into();
    }
    let data = match num_classes {
        Some(_) => DataConfig { classes: value, ..data },
        None => DataConfig { classes: ClassSource::None, label_path: None, ..data },
    };
    // A single class is none.
    let pictures = match num_classes {
        Some(_) => pictures,
        None => Pictures { class_sizes: Vec::new(), class_names: Vec::new(), ..pictures },
    };
    Ok(Looked { data, num_classes, reason, pictures })
}

/// Opens the images with the classes that the user chose.
fn chosen(data: &DataConfig, classes: ClassSource, stores: &StoreOptions) -> Result<Found, NewError> {
    let data = DataConfig { classes, ..data.clone() };
    if let Some(mistake) = data.validate().into_iter().next() {
        return Err(NewError::Option { option: "--classes", reason: mistake.message });
    }
    let source = open(&data, 0, stores)?.train;
    let reason = format!("{} classes, from where --classes says", source.num_classes());
    let reason = if classes == ClassSource::None { "as --classes says".into() } else { reason };
    Ok(Found { source, classes: Choice::new(classes, reason) })
}

/// Returns a local path from the root, so that the configuration works from any folder. URLs stay.
fn absolute(option: &'static str, path: &str) -> Result<String, NewError> {
    if path.contains("://") {
        return Ok(path.to_owned());
    }
    let refuse = |reason: String| NewError::Option { option, reason };
    if path.trim().is_empty() {
        return Err(refuse("is empty; give the place of the images".into()));
    }
    let absolute = std::path::absolute(path).map_err(|error| refuse(format!("{path}: {error}")))?;
    absolute.into_os_string().into_string().map_err(|path| {
        refuse(format!("{}: the path is not UTF-8, which a configuration must be", path.to_string_lossy()))
    })
}

/// Returns the kind of the images: that which the names of the files tell, and for other local files IDX.
fn kind_of(path: &str, has_labels: bool, stores: &StoreOptions) -> Result<SourceKind, NewError> {
    let meta = std::fs::metadata(path).ok();
    if has_labels {
        return match meta {
            Some(meta) if meta.is_dir() => Err(NewError::Option {
                option: "--labels",
                reason: format!("names the labels of an IDX file, and {path} is a folder"),
            }),
            _ => Ok(SourceKind::Idx),
        };
    }
    if meta.as_ref().is_some_and(|meta| !meta.is_dir() && !meta.is_file()) {
        return Err(NewError::Images { option: "--data", reason: format!("{path} is neither a folder nor a file") });
    }
    Ok(source_kind(path, stores)?)
}
