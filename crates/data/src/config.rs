//! The section `data` of a run's configuration.

use serde::{Deserialize, Serialize};

use admiral_config::Invalid;

/// What kind of files hold the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A tree of jpg, jpeg, png and gif files.
    #[default]
    Folder,
    /// One IDX file of images, as MNIST and Fashion-MNIST have them, gzipped or not.
    Idx,
}

/// Where the class of an image file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassSource {
    /// The file's name before the first underscore: `tench_0001.jpg`.
    FileName,
    /// The folder that holds the file.
    Folder,
    /// Nowhere: the images have no classes.
    #[default]
    None,
}

/// What to do about an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBrokenImage {
    /// End the run with a message that names the file.
    #[default]
    Stop,
    /// Take another image in its place, count it and log its name once.
    Skip,
}

/// The images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// What `path` is: folder (a tree of pictures) or idx (one IDX file of images).
    pub source: SourceKind,
    /// The folder of pictures, or the IDX file of images.
    pub path: String,
    /// The IDX file of labels; null where the images have none.
    pub label_path: Option<String>,
    /// Where the class of a picture in a folder is read: file_name (before the first "_"), folder, or none.
    pub classes: ClassSource,
    /// Crops at random places and sizes instead of the centre.
    pub random_crop: bool,
    /// Mirrors every other image at random.
    pub random_flip: bool,
    /// What to do about an image that cannot be read: stop or skip.
    pub on_broken_image: OnBrokenImage,
    /// Threads of one rank that read images.
    pub num_workers: usize,
    /// Batches that are read ahead.
    pub prefetch: usize,
    /// Validation images, of the same kind as `path`; null takes `validation_fraction` of the images instead.
    pub validation_path: Option<String>,
    /// The IDX file of the validation images' labels.
    pub validation_label_path: Option<String>,
    /// The part of the images that is kept from training for validation, where no `validation_path` is given.
    pub validation_fraction: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: SourceKind::Folder,
            path: String::new(),
            label_path: None,
            classes: ClassSource::None,
            random_crop: false,
            random_flip: true,
            on_broken_image: OnBrokenImage::Stop,
            num_workers: 4,
            prefetch: 8,
            validation_path: None,
            validation_label_path: None,
            validation_fraction: 0.0,
        }
    }
}

impl DataConfig {
    /// Everything that cannot work, whatever lies on the disk.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut check = |good: bool, field: &str, message: &str| {
            if !good {
                mistakes.push(Invalid::new(format!("data.{field}"), message));
            }
        };
        let is_idx = self.source == SourceKind::Idx;
        check(self.num_workers > 0, "num_workers", "must be at least 1");
        check(self.prefetch > 0, "prefetch", "must be at least 1");
        check(is_idx || self.label_path.is_none(), "label_path", "only belongs to source idx; folders have `classes`");
        check(!is_idx || self.classes == ClassSource::None, "classes", "only belongs to source folder");
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
    fn contradictions_are_named() {
        assert_eq!(DataConfig::default().validate(), []);
        let config = DataConfig {
            label_path: Some("labels".into()),
            num_workers: 0,
            validation_path: Some("val".into()),
            validation_fraction: 0.5,
            ..DataConfig::default()
        };
        let fields: Vec<String> = config.validate().into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["data.num_workers", "data.label_path", "data.validation_fraction"]);
    }
}
