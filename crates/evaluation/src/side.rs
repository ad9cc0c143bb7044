//! The two sides of a comparison: images, or statistics that stand in for them, or both.

use std::path::Path;

use admiral_metrics::adm::{AdmStatistics, Mean};
use admiral_npz::{FloatArray, Npz};
use admiral_statistics::{ExtractorIdentity, GivenStatistics, StatisticsFile};
use admiral_storage::{StoreOptions, hex};
use sha2::{Digest, Sha256};

use crate::check::ImageCount;
use crate::error::Error;
use crate::images::{ImageSet, PictureShape};

/// One side of a comparison, before its features are computed.
#[derive(Debug)]
pub struct OpenedSide {
    /// The location, for messages and reports.
    pub location: String,
    /// The images, if there are any.
    pub images: Option<ImageSet>,
    /// The statistics, if a file gives them.
    pub statistics: Option<GivenStatistics>,
}

impl OpenedSide {
    /// Opens the location of images ([`ImageSet::open`]), of an npz file with the statistics `mu` and `sigma`, and perhaps
    /// `mu_s` and `sigma_s`, with or without images, or of a [`StatisticsFile`].
    ///
    /// # Errors
    /// If nothing is there, or it has another form.
    pub fn open(location: &str, pictures: PictureShape, options: &StoreOptions) -> Result<Self, Error> {
        let path = Path::new(location);
        let has_extension = |name: &str| path.extension().is_some_and(|extension| extension == name);
        if has_extension("safetensors") {
            let statistics = Some(StatisticsFile::read(path)?.given()?);
            return Ok(Self { location: location.to_owned(), images: None, statistics });
        }
        let statistics = if has_extension("npz") && !location.contains("://") { npz_statistics(path)? } else { None };
        let images = match ImageSet::open(location, pictures, options) {
            Ok(images) => Some(images),
            // Statistics alone are enough.
            Err(Error::Samples(_)) if statistics.is_some() && !has_array(path, "arr_0") => None,
            Err(error) => return Err(error),
        };
        Ok(Self { location: location.to_owned(), images, statistics })
    }

    /// Returns the number of images and their shape, if there are images.
    #[must_use]
    pub fn count(&self) -> Option<ImageCount> {
        self.images.as_ref().map(ImageSet::count)
    }

    /// Checks that given statistics are those of a network.
    ///
    /// # Errors
    /// [`Error::Refused`] if they are of another network, or have other widths.
    pub fn check_features(&self, extractor: &ExtractorIdentity) -> Result<(), Error> {
        let Some(statistics) = &self.statistics else { return Ok(()) };
        if let Some(other) = statistics.extractor.as_ref().filter(|other| *other != extractor) {
            return Err(Error::Refused(format!(
                "{}: its statistics are of features of {} (resize {}), and those of {} (resize {}) are asked for; compute \
                 them again",
                self.location,
                other.shown(),
                other.resize,
                extractor.shown(),
                extractor.resize
            )));
        }
        let widths = [
            (Some(&statistics.pool), Some(extractor.pool), "pooled"),
            (statistics.spatial.as_ref(), extractor.spatial, "spatial"),
        ];
        for (moments, width, name) in widths {
            if let (Some(moments), Some(width)) = (moments, width)
                && moments.statistics().width() != width
            {
                return Err(Error::Refused(format!(
                    "{}: its statistics are of {} {name} features, and {} gives {width}; they are of another network",
                    self.location,
                    moments.statistics().width(),
                    extractor.shown()
                )));
            }
        }
        Ok(())
    }
}

fn has_array(path: &Path, key: &str) -> bool {
    // An error is told when the images are opened.
    Npz::open(path).map_or(true, |npz| npz.keys().any(|found| found == key))
}

/// Reads the statistics of an npz file of the published form. Returns `None` if it has none.
///
/// # Errors
/// If an array has another form, or one of a pair is missing.
fn npz_statistics(path: &Path) -> Result<Option<GivenStatistics>, Error> {
    let npz = Npz::open(path)?;
    let mut hash = Sha256::new();
    let mut read = |mean: &str, covariance: &str| -> Result<Option<AdmStatistics>, Error> {
        let (first, second) = (npz.floats(mean)?, npz.floats(covariance)?);
        let (Some(first), Some(second)) = (&first, &second) else {
            if first.is_some() || second.is_some() {
                let (there, missing) = if first.is_some() { (mean, covariance) } else { (covariance, mean) };
                return Err(file_error(path, format!("it has {there} and no {missing}; both are needed")));
            }
            return Ok(None);
        };
        for array in [first, second] {
            array.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        moments(first, second)
            .map(Some)
            .map_err(|reason| file_error(path, format!("{mean} and {covariance}: {reason}")))
    };
    let pool = read("mu", "sigma")?;
    let spatial = read("mu_s", "sigma_s")?;
    Ok(pool.map(|pool| GivenStatistics {
        pool,
        spatial,
        num: None,
        extractor: None,
        pixels: None,
        sha256: hex(hash.finalize()),
    }))
}

fn moments(mean: &FloatArray, covariance: &FloatArray) -> Result<AdmStatistics, String> {
    let width = mean.values.len();
    if mean.shape.len() != 1 || covariance.shape != [width, width] {
        return Err(format!(
            "they have shapes {:?} and {:?}; a mean is [width], its covariance [width, width]",
            mean.shape, covariance.shape
        ));
    }
    let values = match mean.is_float32 {
        // They were read from float32.
        true => Mean::Float32(mean.values.iter().map(|&value| value as f32).collect()),
        false => Mean::Float64(mean.values.clone()),
    };
    AdmStatistics::given(values, &covariance.values).map_err(|error| error.to_string())
}

fn file_error(path: &Path, reason: String) -> Error {
    Error::File { file: path.display().to_string(), reason }
}
