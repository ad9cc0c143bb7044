//! Finds the classes of images.

use std::sync::Arc;

use admiral_data::{ClassSource, DataConfig, DataError, ImageSource, SourceKind, open_with_any_classes};
use admiral_storage::StoreOptions;

use crate::choice::Choice;
use crate::limits::IMAGES_PER_CLASS;

/// The images, with the classes that were found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The images.
    pub source: Arc<dyn ImageSource>,
    /// Where their classes come from, with the reason.
    pub classes: Choice<ClassSource>,
}

/// Opens the images of `data`, whose `classes` are not read, and finds out whether they have classes: the labels in their
/// container, the names of their folders, or the names of their files. If an IDX file has labels, those are the classes.
///
/// # Errors
/// If the images cannot be opened.
pub fn find_classes(data: &DataConfig, stores: &StoreOptions) -> Result<Found, DataError> {
    let what = |classes| match classes {
        ClassSource::Container => "label",
        ClassSource::Folder => "folder",
        ClassSource::FileName => "file name",
        ClassSource::None => "class",
    };
    let all = [ClassSource::Container, ClassSource::Folder, ClassSource::FileName];
    // Folders have no labels.
    let candidates = if data.source == SourceKind::Folder { &all[1..] } else { &all[..] };
    let mut refused = Vec::new();
    let is_right = |classes, source: Option<&dyn ImageSource>| {
        let what = what(classes);
        let Some(source) = source else {
            let missing = if classes == ClassSource::Container { "" } else { "class in its " };
            refused.push(format!("not every image has a {missing}{what}"));
            return false;
        };
        match no_classes(source.class_names(), source.num_classes(), source.num_images()) {
            None => true,
            Some(why) => {
                refused.push(format!("by {what}, {why}"));
                false
            }
        }
    };
    let (source, classes) = open_with_any_classes(data, candidates, stores, is_right)?;
    if classes != ClassSource::None {
        let reason = format!("{} classes by {}", source.num_classes(), what(classes));
        return Ok(Found { source, classes: Choice::new(classes, reason) });
    }
    let reason = match source.num_classes() {
        0 if refused.is_empty() => "the images have no labels".into(),
        0 => refused.join("; "),
        number => format!("{number} classes by the labels of the source"),
    };
    Ok(Found { source, classes: Choice::new(ClassSource::None, reason) })
}

/// The usual names of the parts of a data set.
const SPLITS: [&str; 8] = ["train", "training", "val", "valid", "validation", "test", "testing", "eval"];

/// Folders that only divide many files have numbers of at least this many digits as names.
const SHARD_DIGITS: usize = 4;

/// Returns why the `number` names of `images` images are no classes, or `None` if they are. Labels may be numbers, without
/// names.
fn no_classes(names: &[String], number: usize, images: u64) -> Option<String> {
    let all = |test: &dyn Fn(&String) -> bool| !names.is_empty() && names.iter().all(test);
    match names {
        _ if number == 0 => Some("there are none".into()),
        [only] => Some(format!("all images would have one class, {only:?}")),
        _ if number == 1 => Some("all images would have one class".into()),
        _ if images / (number as u64) < IMAGES_PER_CLASS => {
            Some(format!("{number} names for {images} images are no classes"))
        }
        _ if all(&|name| SPLITS.contains(&name.to_lowercase().as_str())) => {
            Some("the names are parts of a data set: give one of the folders".into())
        }
        _ if all(&|name| name.len() >= SHARD_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit())) => {
            Some("the names are numbers, which only divide many files".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(files: &[&str]) -> Choice<ClassSource> {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            for number in 0..IMAGES_PER_CLASS {
                let path = root.path().join(file.replace('#', &number.to_string()));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, b"").unwrap();
            }
        }
        let path = root.path().display().to_string();
        find_classes(&DataConfig { path, ..DataConfig::default() }, &StoreOptions::default()).unwrap().classes
    }

    #[test]
    fn folders_come_before_file_names() {
        assert_eq!(found(&["cat/#.png", "dog/#.png"]), Choice::new(ClassSource::Folder, "2 classes by folder"));
        assert_eq!(found(&["cat_#.png", "dog_#.png"]), Choice::new(ClassSource::FileName, "2 classes by file name"));
        assert_eq!(found(&["all/cat_#.png", "all/dog_#.png"]).value, ClassSource::FileName);
        assert_eq!(found(&["cat/x_#.png", "dog/x_#.png"]).value, ClassSource::Folder);
    }

    #[test]
    fn names_that_are_no_classes_are_explained() {
        for (files, part) in [
            (&["#.png"][..], "not every image has a class"),
            (&["img_#.png"], "one class, \"img\""),
            (&["#/a.png", "#/b.png"], "5 names for 10 images"),
            (&["train/#.png", "test/#.png"], "parts of a data set"),
            (&["00000/#.png", "01000/#.png"], "numbers"),
        ] {
            let Choice { value, reason } = found(files);
            assert_eq!(value, ClassSource::None, "{files:?}");

            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn images_that_cannot_be_opened_are_an_error() {
        let data = DataConfig { path: "/no/such/folder".into(), ..DataConfig::default() };
        assert!(matches!(find_classes(&data, &StoreOptions::default()), Err(DataError::Unreadable { .. })));
    }
}
