//! The section `data` of a run's configuration.

use serde::{Deserialize, Serialize};

use admiral_config::Invalid;

use super::decoding::Decoding;

/// The kind of files that contain the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A tree of jpg, jpeg, png, gif, webp, ppm and pgm files.
    #[default]
    Folder,
    /// One IDX file of images, the format of MNIST and Fashion-MNIST, gzipped or not.
    Idx,
    /// Tar files: WebDataset shards, plain archives, archives of archives.
    Tar,
    /// Zip files, with or without the `dataset.json` of EDM.
    Zip,
    /// An npz file of images `arr_0` and labels `arr_1`.
    Npz,
    /// An LMDB database of image files, as LSUN has them.
    Lmdb,
    /// Parquet files with a column of image files, as those of Hugging Face.
    Parquet,
    /// The names of the files at `path` tell the kind.
    Auto,
}

/// The origin of the class of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassSource {
    /// The file's name before the first underscore, for example `tench` of `tench_0001.jpg`.
    FileName,
    /// The name of the folder that contains the file.
    Folder,
    /// The label in the container: `.cls` or `.json` of a WebDataset sample, `dataset.json` of a zip file, `arr_1` of an
    /// npz file, or the column `label` of a Parquet file.
    Container,
    /// The images have no classes.
    #[default]
    None,
}

/// The reaction to an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBrokenImage {
    /// End the run with a message that names the file.
    #[default]
    Stop,
    /// Use another image instead, count the broken image, and log its name once.
    Skip,
    /// As skip, and list the broken image in a file of the run.
    Quarantine,
}

/// The reaction to images that differ from those of the checkpoint from which a run resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnChangedImages {
    /// End the run with a message.
    #[default]
    Stop,
    /// Go on with the images that are there now. The order of samples changes.
    Accept,
}

/// A folder on a local disk that keeps images which were read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// The folder. All ranks of a host share it.
    pub folder: String,
    /// The most gigabytes (10^9 bytes) that it takes.
    pub size_gb: f64,
}

/// The images of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The kind of `path`: folder (a tree of image files), idx (one IDX file of images), tar, zip, npz, lmdb, parquet, or
    /// auto (told by the names of the files).
    pub source: SourceKind,
    /// The folder of image files or of containers, one file, or a pattern of files such as `train-{000..146}.tar`. A URL
    /// `s3://`, `gs://` or `az://` names the same in a store, except for IDX files.
    pub path: String,
    /// The IDX file of labels; null if the images have no labels.
    pub label_path: Option<String>,
    /// The origin of the class of an image file: file_name (before the first "_"), folder, container (the
    /// label in it), or none.
    pub classes: ClassSource,
    /// How JPEG files are decoded: exact (the pixels of Pillow), or fast (reduced while decoding, other pixels).
    pub decode: Decoding,
    /// Where images that were read are kept on a local disk, for containers and not for folders; null keeps none.
    pub cache: Option<CacheConfig>,
    /// Whether to crop at random positions and sizes instead of the center.
    pub random_crop: bool,
    /// Whether to mirror each image with probability 1/2.
    pub random_flip: bool,
    /// The reaction to an image that cannot be read: stop, skip (use another image), or quarantine (skip, and name the
    /// image in broken-images.jsonl in the run's folder).
    pub on_broken_image: OnBrokenImage,
    /// The reaction to images whose number, names or classes differ from those of the checkpoint from which the run
    /// resumes: stop, or accept (go on with the images that are there now).
    pub on_changed_images: OnChangedImages,
    /// The number of threads per rank that read images.
    pub num_workers: usize,
    /// The number of batches that are read ahead.
    pub prefetch: usize,
    /// Validation images, of the same kind as `path`; null takes `validation_fraction` of the images instead.
    pub validation_path: Option<String>,
    /// The IDX file of the validation images' labels.
    pub validation_label_path: Option<String>,
    /// The fraction of the images that is kept for validation if `validation_path` is null.
    pub validation_fraction: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: SourceKind::Folder,
            path: String::new(),
            label_path: None,
            classes: ClassSource::None,
            decode: Decoding::Exact,
            cache: None,
            random_crop: false,
            random_flip: true,
            on_broken_image: OnBrokenImage::Stop,
            on_changed_images: OnChangedImages::Stop,
            num_workers: 4,
            prefetch: 8,
            validation_path: None,
            validation_label_path: None,
            validation_fraction: 0.0,
        }
    }
}

/// More threads than any host has cores.
const MAX_WORKERS: usize = 1024;
/// More batches than any memory holds.
const MAX_PREFETCH: usize = 65_536;

impl DataConfig {
    /// Returns every invalid value. Does not look at the files.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut check = |is_valid: bool, field: &str, message: &str| {
            if !is_valid {
                mistakes.push(Invalid::new(format!("data.{field}"), message));
            }
        };
        let is_idx = self.source == SourceKind::Idx;
        check((1..=MAX_WORKERS).contains(&self.num_workers), "num_workers", "must be from 1 to 1024");
        check((1..=MAX_PREFETCH).contains(&self.prefetch), "prefetch", "must be from 1 to 65536");
        check(is_idx || self.label_path.is_none(), "label_path", "only belongs to source idx; folders have `classes`");
        check(!is_idx || self.classes == ClassSource::None, "classes", "does not belong to source idx");
        check(
            self.cache.as_ref().is_none_or(|cache| !cache.folder.is_empty() && cache.size_gb > 0.0),
            "cache",
            "needs a folder and a size_gb above 0",
        );
        check((0.0..1.0).contains(&self.validation_fraction), "validation_fraction", "must lie in [0, 1)");
        check(
            self.validation_path.is_none() || self.validation_fraction == 0.0,
            "validation_fraction",
            "must be 0 where validation_path is given",
        );
        check(
            self.validation_label_path.is_none() || (is_idx && self.validation_path.is_some()),
            "validation_label_path",
            "only belongs to source idx with a validation_path",
        );
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_values_are_reported_by_field() {
        assert_eq!(DataConfig::default().validate(), []);
        let config = DataConfig {
            label_path: Some("labels".into()),
            num_workers: 0,
            prefetch: usize::MAX,
            validation_path: Some("val".into()),
            validation_fraction: 0.5,
            ..DataConfig::default()
        };
        let fields: Vec<String> = config.validate().into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["data.num_workers", "data.prefetch", "data.label_path", "data.validation_fraction"]);
    }
}
