//! What a data set holds.

use std::collections::BTreeMap;

use admiral_containers::Fetched;
use admiral_data::{DataError, ImageSource, class_sizes, decode_fetched, read_header, spaced_items};
use admiral_storage::hex;
use serde::Serialize;

use crate::error::Error;
use crate::ordered::in_order;
use crate::state::Broken;

/// What a data set holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Survey {
    /// The number of images.
    pub images: u64,
    /// The classes in the order of their numbers; empty without classes.
    pub classes: Vec<ClassSize>,
    /// The SHA-256 of the names of the images in their order, and of their classes, as hexadecimal digits. Ranks compare
    /// it before the first step.
    pub order_sha256: String,
    /// The number of images that were looked at.
    pub looked_at: u64,
    /// Whether these were decoded. Otherwise only their headers were read.
    pub is_decoded: bool,
    /// The bytes of the images that were looked at.
    pub bytes: u64,
    /// The number of images of each format. `pixels` are images without a file, of a numpy or IDX file.
    pub formats: BTreeMap<&'static str, u64>,
    /// The widths in pixels; `None` if all images are broken.
    pub widths: Option<Range>,
    /// The heights in pixels.
    pub heights: Option<Range>,
    /// The broken images among them.
    pub broken: Vec<Broken>,
}

/// The size of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassSize {
    /// The name, or the number if it has none.
    pub name: String,
    /// The number of images.
    pub images: u64,
}

/// The range of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The smallest value.
    pub least: u64,
    /// The median, the lower one of two.
    pub median: u64,
    /// The largest value.
    pub most: u64,
}

impl Range {
    /// Returns the range of values; `None` without values.
    fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let (&least, &most) = (values.first()?, values.last()?);
        Some(Self { least, median: values[(values.len() - 1) / 2], most })
    }
}

impl Survey {
    /// Returns the bytes of all images, as far as those that were looked at tell.
    #[must_use]
    pub fn estimated_bytes(&self) -> u64 {
        let bytes = u128::from(self.bytes) * u128::from(self.images) / u128::from(self.looked_at.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// What was seen of one image.
struct Seen {
    format: &'static str,
    width: usize,
    height: usize,
    bytes: u64,
}

/// Looks at a source: at the headers of up to `sample` images that are evenly spaced over it, or without a sample at all
/// images, which are decoded.
///
/// # Errors
/// If the source cannot be read. Broken images are no error.
pub fn survey(source: &dyn ImageSource, sample: Option<u64>, threads: usize) -> Result<Survey, Error> {
    let images = source.num_images();
    let names = source.class_names();
    let class = |(number, images): (usize, u64)| {
        let name = names.get(number).cloned().unwrap_or_else(|| number.to_string());
        ClassSize { name, images }
    };
    let items: Vec<u64> = spaced_items(images, sample.unwrap_or(images)).collect();
    let mut survey = Survey {
        images,
        classes: class_sizes(source).into_iter().enumerate().map(class).collect(),
        order_sha256: hex(source.digest()),
        looked_at: items.len() as u64,
        is_decoded: sample.is_none(),
        bytes: 0,
        formats: BTreeMap::new(),
        widths: None,
        heights: None,
        broken: Vec::new(),
    };
    let (mut widths, mut heights) = (Vec::new(), Vec::new());
    let look = |index: u64| look(source, items[index as usize], sample.is_none());
    in_order(
        0..items.len() as u64,
        threads,
        look,
        |_| 0,
        |index, seen| {
            match seen {
                Ok(Seen { format, width, height, bytes }) => {
                    *survey.formats.entry(format).or_default() += 1;
                    survey.bytes += bytes;
                    widths.push(width as u64);
                    heights.push(height as u64);
                }
                Err(DataError::Broken { path: name, reason }) => {
                    survey.broken.push(Broken { item: items[index as usize], name, reason });
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        },
    )?;
    (survey.widths, survey.heights) = (Range::of(widths), Range::of(heights));
    Ok(survey)
}

fn look(source: &dyn ImageSource, item: u64, is_decoded: bool) -> Result<Seen, DataError> {
    let fetched = source.fetch(item)?;
    if is_decoded {
        decode_fetched(source, item, &fetched, None)?;
    }
    match &fetched {
        Fetched::Pixels { width, height, bytes, .. } => {
            Ok(Seen { format: "pixels", width: *width, height: *height, bytes: bytes.len() as u64 })
        }
        Fetched::File(bytes) => {
            let header = read_header(bytes);
            let broken = |reason| DataError::Broken { path: source.name(item), reason };
            let (format, width, height) = header.map_err(broken)?;
            Ok(Seen { format: format.ending(), width, height, bytes: bytes.len() as u64 })
        }
    }
}
