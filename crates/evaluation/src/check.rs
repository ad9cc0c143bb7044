//! What images must have to be compared. It is checked before an image is drawn or a feature computed, which may take hours.

use crate::error::Error;

/// The least images on each side of a comparison of images with images: precision and recall need more than their
/// [neighbors](crate::MeasureOptions::neighbors).
const LEAST_OF_TWO: u64 = 4;

/// The least images that are compared with statistics: a covariance needs two.
const LEAST_OF_ONE: u64 = 2;

/// The least training images of an audit of copies: each has a nearest other one, which is compared with a third.
const LEAST_FOR_COPIES: u64 = 3;

/// The number and shape of images that are there, or will be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageCount {
    /// Where they are or come from, for messages.
    pub location: String,
    /// The number of images.
    pub num: u64,
    /// Height, width and channels.
    pub shape: [usize; 3],
}

/// The images that a network of features takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkInput {
    /// The channels, 1 or 3. Images with one channel are always taken.
    pub channels: usize,
    /// Height and width. `None` if the network resizes images.
    pub size: Option<usize>,
}

/// Checks that two sides can be compared by all metrics. A side without images has statistics.
///
/// # Errors
/// [`Error::Refused`] if a side has too few images, or images that the network does not take, or if sizes differ.
pub fn check_comparison(
    samples: Option<&ImageCount>,
    reference: Option<&ImageCount>,
    input: NetworkInput,
) -> Result<(), Error> {
    let (least, what) = match (samples, reference) {
        (Some(_), Some(_)) => (LEAST_OF_TWO, "precision and recall"),
        _ => (LEAST_OF_ONE, "FID"),
    };
    for images in [samples, reference].into_iter().flatten() {
        check_images(images, least, what, input)?;
    }
    match samples.zip(reference) {
        Some((samples, reference)) if samples.shape[..2] != reference.shape[..2] => Err(Error::Refused(format!(
            "{} has images of {} x {} pixels and {} of {} x {}; draw or scale them to one size (--size for folders of \
             pictures)",
            samples.location,
            samples.shape[0],
            samples.shape[1],
            reference.location,
            reference.shape[0],
            reference.shape[1]
        ))),
        _ => Ok(()),
    }
}

/// Checks that the training images nearest to samples can be found and shown beside them, and copies be told.
///
/// # Errors
/// As for [`check_comparison`]; channels must be equal too.
pub fn check_nearest(samples: &ImageCount, reference: &ImageCount, input: NetworkInput) -> Result<(), Error> {
    check_images(samples, 1, "the picture", input)?;
    check_images(reference, LEAST_FOR_COPIES, "the audit of copies", input)?;
    if samples.shape == reference.shape {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{} has images of {:?} (height, width, channels) and {} of {:?}; give both in one size (--size)",
        samples.location, samples.shape, reference.location, reference.shape
    )))
}

/// Checks that there are `least` images, which `what` needs, and that a network takes them.
///
/// # Errors
/// [`Error::Refused`].
pub fn check_images(images: &ImageCount, least: u64, what: &str, input: NetworkInput) -> Result<(), Error> {
    let ImageCount { location, num, shape: [height, width, channels] } = images;
    let refuse = |reason: String| Err(Error::Refused(format!("{location}: {reason}")));
    if *num < least {
        let images = if *num == 1 { "image" } else { "images" };
        return refuse(format!("there are only {num} {images}, and {what} needs at least {least}"));
    }
    if let Some(size) = input.size.filter(|size| [*height, *width] != [*size; 2]) {
        return refuse(format!(
            "its images have {height} x {width} pixels, and the network of the features takes {size} x {size}"
        ));
    }
    if *channels != input.channels && *channels != 1 {
        return refuse(format!(
            "its images have {channels} channels, and the network of the features takes {}; take a network for them, or \
             give the images as pictures in a folder, which are converted",
            input.channels
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn images(num: u64, shape: [usize; 3]) -> ImageCount {
        ImageCount { location: format!("{num} of {shape:?}"), num, shape }
    }

    #[test]
    fn both_sides_need_enough_images_that_the_network_takes() {
        let gray = NetworkInput { channels: 1, size: Some(8) };
        let color = NetworkInput { channels: 3, size: None };
        let check = |samples: Option<ImageCount>, reference: Option<ImageCount>, input| {
            check_comparison(samples.as_ref(), reference.as_ref(), input).map_err(|error| error.to_string())
        };
        let right = || Some(images(4, [8, 8, 1]));
        check(right(), right(), gray).unwrap();
        check(right(), right(), color).unwrap();
        check(Some(images(2, [8, 8, 3])), None, color).unwrap();
        for (wrong, input, found) in [
            (images(3, [8, 8, 1]), gray, "only 3 images"),
            (images(9, [8, 8, 3]), gray, "3 channels"),
            (images(9, [9, 9, 1]), gray, "9 x 9"),
            (images(9, [9, 9, 3]), color, "one size"),
        ] {
            for (samples, reference) in [(Some(wrong.clone()), right()), (right(), Some(wrong))] {
                let error = check(samples, reference, input).unwrap_err();
                assert!(error.contains(found), "{error}");
            }
        }
        assert!(check(None, Some(images(1, [8, 8, 1])), gray).unwrap_err().contains("only 1 image,"));
    }

    #[test]
    fn an_audit_of_copies_needs_three_training_images_of_the_same_shape() {
        let input = NetworkInput { channels: 3, size: None };
        let check = |samples: [usize; 3], num: u64| {
            let found = check_nearest(&images(1, samples), &images(num, [8, 8, 3]), input);
            found.map_err(|error| error.to_string())
        };
        check([8, 8, 3], 3).unwrap();
        assert!(check([8, 8, 3], 2).unwrap_err().contains("at least 3"));
        assert!(check([8, 8, 1], 3).unwrap_err().contains("one size"));
    }
}
