//! Opens the images that a configuration names.

use std::path::Path;
use std::sync::Arc;

use admiral_containers::{Container, Kind, Settings};
use admiral_random::{Philox, Stream};
use admiral_storage::StoreOptions;

use super::config::{ClassSource, DataConfig, SourceKind};
use super::error::DataError;
use super::idx::Idx;
use super::indexed::Indexed;
use super::source::{ImageSource, Renumbered, Subset};

/// The images of a run.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The images for training.
    pub train: Arc<dyn ImageSource>,
    /// The images for validation, if the configuration names some or keeps a fraction for validation.
    pub validation: Option<Arc<dyn ImageSource>>,
}

/// Opens the images that the configuration names. `seed` determines which of them are kept for validation. `stores` are
/// the settings of the stores in which images may be.
///
/// # Errors
/// If the images cannot be read, or there are no images for training or for validation.
pub fn open(config: &DataConfig, seed: u64, stores: &StoreOptions) -> Result<Sources, DataError> {
    let train = open_one(config, &config.path, config.label_path.as_deref(), stores)?;
    if let Some(path) = &config.validation_path {
        let validation = open_one(config, path, config.validation_label_path.as_deref(), stores)?;
        let validation = with_classes_of(&train, validation, path)?;
        return Ok(Sources { train, validation: Some(validation) });
    }
    if config.validation_fraction == 0.0 {
        return Ok(Sources { train, validation: None });
    }
    let is_for_validation = |item: &u64| Philox::new(seed, Stream::Split, *item).uniform() < config.validation_fraction;
    let (validation, rest): (Vec<u64>, Vec<u64>) = (0..train.num_images()).partition(is_for_validation);
    let subset = |items: Vec<u64>, what: &str| {
        Subset::new(Arc::clone(&train), items).map(|subset| Arc::new(subset) as Arc<dyn ImageSource>).ok_or_else(|| {
            DataError::Empty { path: config.path.clone(), what: what.into(), field: "data.validation_fraction" }
        })
    };
    Ok(Sources {
        train: subset(rest, "image to train on")?,
        validation: Some(subset(validation, "image to validate on")?),
    })
}

/// Returns the validation images with the numbers that the training images' classes have.
fn with_classes_of(
    train: &Arc<dyn ImageSource>,
    validation: Arc<dyn ImageSource>,
    path: &str,
) -> Result<Arc<dyn ImageSource>, DataError> {
    let names = train.class_names();
    if names.is_empty() || validation.class_names().is_empty() || names == validation.class_names() {
        return Ok(validation);
    }
    match Renumbered::new(validation, names) {
        Ok(renumbered) => Ok(Arc::new(renumbered)),
        Err(unknown) => Err(DataError::Malformed {
            path: path.to_owned(),
            reason: format!(
                "the validation images have a class {unknown:?}, which the training images lack; those have {}; check \
                 `data.validation_path`",
                list_names(names)
            ),
        }),
    }
}

/// Returns the first names of a list for a message.
#[must_use]
pub fn list_names(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    shown.join(", ") + &more
}

fn open_one(
    config: &DataConfig,
    path: &str,
    labels: Option<&str>,
    stores: &StoreOptions,
) -> Result<Arc<dyn ImageSource>, DataError> {
    if path.is_empty() {
        return Err(DataError::Empty { path: "data.path".into(), what: "path".into(), field: "data.path" });
    }
    match open_container(config, path, stores)? {
        Some(container) => Ok(Arc::new(Indexed::new(container, config.classes)?)),
        None => Ok(Arc::new(Idx::open(Path::new(path), labels.map(Path::new))?)),
    }
}

/// Opens the images of `config.path` once, with the first kind of classes among `candidates` that they have and that
/// `is_right` accepts, and otherwise without. IDX files have the classes of `config.label_path`. Returns the images and the
/// kind of classes. `config.classes` is not read, and no image is kept for validation. `is_right` is also called with `None`
/// for a kind that the images do not have; its answer is then not used.
///
/// # Errors
/// If the images cannot be opened.
pub fn open_with_any_classes(
    config: &DataConfig,
    candidates: &[ClassSource],
    stores: &StoreOptions,
    mut is_right: impl FnMut(ClassSource, Option<&dyn ImageSource>) -> bool,
) -> Result<(Arc<dyn ImageSource>, ClassSource), DataError> {
    let Some(container) = open_container(config, &config.path, stores)? else {
        let idx = open_one(config, &config.path, config.label_path.as_deref(), stores)?;
        return Ok((idx, ClassSource::None));
    };
    for &classes in candidates {
        match Indexed::new(Arc::clone(&container), classes) {
            Ok(source) if is_right(classes, Some(&source)) => return Ok((Arc::new(source), classes)),
            Ok(_) => {}
            Err(DataError::NoClasses { .. }) => _ = is_right(classes, None),
            Err(error) => return Err(error),
        }
    }
    Ok((Arc::new(Indexed::new(container, ClassSource::None)?), ClassSource::None))
}

/// Opens a container; `None` for an IDX file, which is none.
fn open_container(config: &DataConfig, path: &str, stores: &StoreOptions) -> Result<Option<Arc<Container>>, DataError> {
    let kind = match config.source {
        SourceKind::Idx => return Ok(None),
        SourceKind::Folder => Some(Kind::Tree),
        SourceKind::Tar => Some(Kind::Tar),
        SourceKind::Zip => Some(Kind::Zip),
        SourceKind::Npz => Some(Kind::Npz),
        SourceKind::Lmdb => Some(Kind::Lmdb),
        SourceKind::Parquet => Some(Kind::Parquet),
        SourceKind::Auto => None,
    };
    let cache = config.cache.as_ref().map(|cache| (Path::new(&cache.folder), (cache.size_gb * 1e9) as u64));
    let settings = Settings { kind, cache, threads: config.num_workers, stores };
    Ok(Some(Arc::new(Container::open(path, &settings)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A folder with one image of each class.
    fn folder(classes: &[&str]) -> (tempfile::TempDir, Arc<dyn ImageSource>) {
        let root = tempfile::tempdir().unwrap();
        for class in classes {
            std::fs::create_dir(root.path().join(class)).unwrap();
            std::fs::write(root.path().join(class).join("1.png"), b"").unwrap();
        }
        let path = root.path().display().to_string();
        let config = DataConfig { path, classes: ClassSource::Folder, ..DataConfig::default() };
        let source = open(&config, 0, &StoreOptions::default()).unwrap().train;
        (root, source)
    }

    #[test]
    fn classes_of_validation_images_are_those_of_the_same_name() {
        let (_train_folder, train) = folder(&["a", "b", "c"]);
        let (_some_folder, some) = folder(&["b", "c"]);
        let renumbered = with_classes_of(&train, some, "val").unwrap();
        assert_eq!((renumbered.num_classes(), renumbered.class(0), renumbered.class(1)), (3, Some(1), Some(2)));
        let (_other_folder, other) = folder(&["b", "c", "d"]);
        let error = with_classes_of(&train, other, "val").unwrap_err().to_string();
        assert!(error.contains("\"d\"") && error.contains("\"a\", \"b\", \"c\""), "{error}");
    }

    #[test]
    fn the_stamp_of_a_part_or_of_other_numbers_is_that_of_the_images() {
        let (_train_folder, train) = folder(&["a", "b"]);
        let (root, some) = folder(&["b"]);
        let renumbered = with_classes_of(&train, some, "val").unwrap();
        let part = Subset::new(Arc::clone(&renumbered), vec![0]).unwrap();
        let stamps = || [renumbered.stamp().unwrap(), part.stamp().unwrap()];
        let before = stamps();
        std::fs::write(root.path().join("b/1.png"), b"longer").unwrap();
        assert!(before.iter().zip(stamps()).all(|(before, after)| *before != after));
    }

    #[test]
    fn only_images_without_classes_are_opened_without_them() {
        let (root, _) = folder(&["a", "b"]);
        let path = root.path().display().to_string();
        let with = |path: String, candidates: &[ClassSource]| {
            let config = DataConfig { source: SourceKind::Auto, path, ..DataConfig::default() };
            let opened = open_with_any_classes(&config, candidates, &StoreOptions::default(), |_, it| it.is_some());
            opened.map(|(source, classes)| (source.num_classes(), classes))
        };
        let candidates = [ClassSource::Container, ClassSource::Folder];
        assert_eq!(with(path.clone(), &candidates), Ok((2, ClassSource::Folder)));
        assert_eq!(with(path.clone(), &candidates[..1]), Ok((0, ClassSource::None)));
        // Damaged labels are an error.
        for (label, word) in [(&b"65536"[..], "the largest is 65535"), (b" ", "the label is empty")] {
            let shards = tempfile::tempdir().unwrap();
            let mut builder = tar::Builder::new(std::fs::File::create(shards.path().join("0.tar")).unwrap());
            for (name, content) in [("a/1.png", &b"x"[..]), ("a/1.cls", label)] {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content).unwrap();
            }
            builder.into_inner().unwrap();
            let error = with(shards.path().display().to_string(), &candidates).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_digest_depends_on_names_and_classes_and_not_on_the_place() {
        let digest = |classes: &[&str]| folder(classes).1.digest();
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["a", "c"]));
        assert_ne!(digest(&["a", "b"]), digest(&["a"]));
    }
}
