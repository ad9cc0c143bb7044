//! Files of statistics: sums over the features of images, which can be merged.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use admiral_contract::files::open_to_read;
use admiral_metrics::adm::{AdmStatistics, Mean};
use admiral_metrics::{Features, MetricError, Sums};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::given::GivenStatistics;
use crate::identity::ExtractorIdentity;

/// The key of the metadata, and the version of the file.
const KEY: &str = "admiral_statistics";
const SCHEMA_VERSION: u32 = 1;

/// The largest file that is read: the statistics of about 60 classes.
const MAX_BYTES: u64 = 1 << 31;

/// The sums over one set of images.
#[derive(Debug, Clone, PartialEq)]
pub struct SetSums {
    /// Over the pooled features.
    pub pool: Sums,
    /// Over the spatial features, if the network has them.
    pub spatial: Option<Sums>,
}

impl SetSums {
    /// Returns the sums over no image.
    #[must_use]
    pub fn new(extractor: &ExtractorIdentity) -> Self {
        Self { pool: Sums::new(extractor.pool), spatial: extractor.spatial.map(Sums::new) }
    }

    /// Adds images.
    ///
    /// # Errors
    /// [`MetricError`] if a feature is not finite, or there is another number of them.
    pub fn add(&mut self, pool: &[f32], spatial: Option<&[f32]>) -> Result<(), MetricError> {
        self.pool.add(&Features::new(pool, self.pool.width())?)?;
        if let (Some(sums), Some(values)) = (&mut self.spatial, spatial) {
            let width = sums.width();
            sums.add(&Features::new(values, width)?)?;
        }
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), MetricError> {
        self.pool.merge(&other.pool)?;
        match (&mut self.spatial, &other.spatial) {
            (Some(own), Some(other)) => own.merge(other),
            _ => Ok(()),
        }
    }

    fn tables(&self) -> impl Iterator<Item = (&'static str, &Sums)> {
        [("pool", Some(&self.pool)), ("spatial", self.spatial.as_ref())]
            .into_iter()
            .filter_map(|(name, sums)| Some((name, sums?)))
    }
}

/// The content of a file of statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct StatisticsFile {
    /// The network of the features.
    pub extractor: ExtractorIdentity,
    /// The digests of the images' pixels, one for each file that was merged.
    pub pixels: Vec<String>,
    /// The sums over all images.
    pub all: SetSums,
    /// The sums over the images of each class, if they were asked for.
    pub classes: BTreeMap<i64, SetSums>,
    /// The file that it was read from, for messages.
    name: String,
    /// The SHA-256 of the values.
    sha256: String,
}

/// The metadata of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema_version: u32,
    extractor: ExtractorIdentity,
    pixels: Vec<String>,
    num: u64,
    /// The number of images of each class.
    classes: BTreeMap<i64, u64>,
    sha256: String,
}

impl StatisticsFile {
    /// Computes the statistics of images from their features, float32, row by row; with `labels` also those of each class.
    /// `pixels` is the digest of the images' pixels.
    ///
    /// # Errors
    /// [`Error::Metric`] if a feature is not finite.
    pub fn of(
        extractor: &ExtractorIdentity,
        pixels: &str,
        (pool, spatial): (&[f32], Option<&[f32]>),
        labels: Option<&[i64]>,
    ) -> Result<Self, Error> {
        let (mut all, mut classes) = (SetSums::new(extractor), BTreeMap::new());
        all.add(pool, spatial)?;
        if let Some(labels) = labels {
            check_size(extractor, labels)?;
            for (class, rows) in rows_of_classes(labels) {
                let select = |values: &[f32], width: usize| -> Vec<f32> {
                    rows.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
                };
                let spatial = spatial.zip(extractor.spatial).map(|(values, width)| select(values, width));
                let mut sums = SetSums::new(extractor);
                sums.add(&select(pool, extractor.pool), spatial.as_deref())?;
                classes.insert(class, sums);
            }
        }
        let pixels = vec![pixels.to_owned()];
        let mut file =
            Self { extractor: extractor.clone(), pixels, all, classes, name: String::new(), sha256: String::new() };
        file.sha256 = file.digest();
        Ok(file)
    }

    /// Adds the statistics of other images.
    ///
    /// # Errors
    /// [`Error::Refused`] if they are of another network, or of the same images.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.extractor != other.extractor {
            return Err(Error::Refused(format!(
                "{} has statistics of {}, and {} of {}; only those of one network can be merged",
                self.name,
                self.extractor.shown(),
                other.name,
                other.extractor.shown()
            )));
        }
        if let Some(same) = other.pixels.iter().find(|pixels| self.pixels.contains(pixels)) {
            return Err(Error::Refused(format!(
                "{} has statistics of images that are merged already (pixels {same:.12}); each image counts once",
                other.name
            )));
        }
        if self.classes.is_empty() != other.classes.is_empty() {
            return Err(Error::Refused(format!(
                "{} has statistics of classes, and the other files do not; compute all with or all without them",
                if self.classes.is_empty() { &other.name } else { &self.name }
            )));
        }
        self.all.merge(&other.all)?;
        for (class, sums) in &other.classes {
            self.classes.entry(*class).or_insert_with(|| SetSums::new(&self.extractor)).merge(sums)?;
        }
        self.pixels.extend(other.pixels.iter().cloned());
        self.sha256 = self.digest();
        Ok(())
    }

    /// Returns the number of images.
    #[must_use]
    pub fn num(&self) -> u64 {
        self.all.pool.num()
    }

    /// Returns the bytes of the file.
    ///
    /// # Errors
    /// [`Error::File`] if they cannot be made.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let header = Header {
            schema_version: SCHEMA_VERSION,
            extractor: self.extractor.clone(),
            pixels: self.pixels.clone(),
            num: self.num(),
            classes: self.classes.iter().map(|(class, sums)| (*class, sums.pool.num())).collect(),
            sha256: self.sha256.clone(),
        };
        let refuse = |reason: String| Error::File { file: self.name.clone(), reason };
        let header = serde_json::to_string(&header).map_err(|error| refuse(error.to_string()))?;
        let tensors: Vec<(String, Vec<u8>)> = self.vectors().map(|(name, values)| (name, bytes_of(values))).collect();
        let views: Result<Vec<_>, _> = tensors
            .iter()
            .map(|(name, bytes)| TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes).map(|view| (name, view)))
            .collect();
        let metadata = HashMap::from([(KEY.to_owned(), header)]);
        let file = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        file.map_err(|error| refuse(error.to_string()))
    }

    /// Reads a local file.
    ///
    /// # Errors
    /// [`Error::File`] if it is no such file, is damaged, or is of a newer version.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let refuse = |reason: String| Error::File { file: name.clone(), reason };
        let file = open_to_read(path).map_err(|error| refuse(format!("it cannot be opened ({error})")))?;
        let mut bytes = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| refuse(format!("it cannot be read ({error})")))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(refuse(format!("it has more than {MAX_BYTES} bytes")));
        }
        Self::from_bytes(&bytes, &name)
    }

    /// Reads the bytes of a file. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, Error> {
        Self::decode(bytes, name).map_err(|reason| Error::File { file: name.to_owned(), reason })
    }

    fn decode(bytes: &[u8], name: &str) -> Result<Self, String> {
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|error| format!("it is no safetensors file ({error})"))?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let header = header.ok_or("it has no statistics; `admiral evaluate statistics` writes them")?;
        let version = serde_json::from_str::<serde_json::Value>(header).map_err(|error| error.to_string())?;
        if version["schema_version"] != SCHEMA_VERSION {
            return Err(format!(
                "it has schema version {}, and this Admiral reads {SCHEMA_VERSION}",
                version["schema_version"]
            ));
        }
        let header: Header = serde_json::from_str(header).map_err(|error| error.to_string())?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let vector = |name: String, length: usize| -> Result<Vec<f64>, String> {
            let tensor = file.tensor(&name).map_err(|error| error.to_string())?;
            if tensor.dtype() != Dtype::F64 || tensor.shape() != [length] {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                return Err(format!("{name} has type {dtype:?} and shape {shape:?}; {length} float64 are expected"));
            }
            Ok(tensor.data().as_chunks().0.iter().map(|&value| f64::from_le_bytes(value)).collect())
        };
        let sums = |prefix: &str, num: u64, width: usize| -> Result<Sums, String> {
            let next = width.checked_add(1).and_then(|next| width.checked_mul(next));
            let triangle = next.ok_or("its network has too many features")? / 2;
            let (sum, outer) = (vector(format!("{prefix}.sum"), width)?, vector(format!("{prefix}.outer"), triangle)?);
            Sums::from_parts(num, sum, outer).map_err(|error| format!("{prefix}: {error}"))
        };
        let set = |prefix: String, num: u64| -> Result<SetSums, String> {
            let spatial = header.extractor.spatial.map(|width| sums(&format!("{prefix}spatial"), num, width));
            Ok(SetSums {
                pool: sums(&format!("{prefix}pool"), num, header.extractor.pool)?,
                spatial: spatial.transpose()?,
            })
        };
        let all = set(String::new(), header.num)?;
        let classes = header.classes.iter().map(|(class, num)| Ok((*class, set(format!("class.{class}."), *num)?)));
        let classes = classes.collect::<Result<_, String>>()?;
        let (extractor, pixels, sha256) = (header.extractor.clone(), header.pixels, header.sha256);
        let file = Self { extractor, pixels, all, classes, name: name.to_owned(), sha256 };
        let sha256 = file.digest();
        if sha256 != file.sha256 {
            return Err(format!("it is damaged: its values have the SHA-256 {sha256}, and it states another"));
        }
        Ok(file)
    }

    /// Returns mean and covariance of all images.
    ///
    /// # Errors
    /// [`Error::Metric`] if there are fewer than two images, or the values are not those of features.
    pub fn given(&self) -> Result<GivenStatistics, Error> {
        let moments = |sums: &Sums| -> Result<AdmStatistics, MetricError> {
            let statistics = sums.statistics()?;
            AdmStatistics::given(Mean::Float64(statistics.mean().to_vec()), &statistics.covariance())
        };
        Ok(GivenStatistics {
            pool: moments(&self.all.pool)?,
            spatial: self.all.spatial.as_ref().map(moments).transpose()?,
            num: Some(self.num()),
            extractor: Some(self.extractor.clone()),
            pixels: match &self.pixels[..] {
                [pixels] => Some(pixels.clone()),
                _ => None,
            },
            sha256: self.sha256.clone(),
        })
    }

    /// Returns all vectors with their names, in a fixed order.
    fn vectors(&self) -> impl Iterator<Item = (String, &[f64])> {
        let classes = self.classes.iter().map(|(class, sums)| (format!("class.{class}."), sums));
        [(String::new(), &self.all)].into_iter().chain(classes).flat_map(|(prefix, sums)| {
            sums.tables().flat_map(move |(name, sums)| {
                [(format!("{prefix}{name}.sum"), sums.sum()), (format!("{prefix}{name}.outer"), sums.outer())]
            })
        })
    }

    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {:?} {}\n", self.extractor, self.pixels, self.num()));
        for (name, values) in self.vectors() {
            hash.update(format!("{name}\n"));
            hash.update(bytes_of(values));
        }
        for (class, sums) in &self.classes {
            hash.update(format!("{class} {}\n", sums.pool.num()));
        }
        format!("{:x}", hash.finalize())
    }
}

/// Checks that a file with the statistics of each class can be read.
fn check_size(extractor: &ExtractorIdentity, labels: &[i64]) -> Result<(), Error> {
    let bytes = |width: usize| 4 * (width as u64) * (width as u64 + 3);
    let set = bytes(extractor.pool) + extractor.spatial.map_or(0, bytes);
    let classes = labels.iter().collect::<std::collections::HashSet<_>>().len() as u64;
    if (classes + 1).saturating_mul(set) < MAX_BYTES {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the statistics of {classes} classes would need {} GB, and files of at most {} GB are read; leave the classes out",
        (classes + 1).saturating_mul(set) >> 30,
        MAX_BYTES >> 30
    )))
}

fn bytes_of(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn rows_of_classes(labels: &[i64]) -> BTreeMap<i64, Vec<usize>> {
    let mut rows: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (row, label) in labels.iter().enumerate() {
        rows.entry(*label).or_default().push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::Range;

    use super::*;

    fn extractor() -> ExtractorIdentity {
        ExtractorIdentity {
            network: "test".into(),
            weights: "00".into(),
            resize: "none".into(),
            pool: 3,
            spatial: Some(2),
            classes: None,
        }
    }

    fn statistics(images: Range<u64>, labels: Option<&[i64]>) -> StatisticsFile {
        let features = |features: Range<u64>| -> Vec<f32> {
            let value = |image: u64, feature: u64| ((image * 7 + feature * 3) % 11) as f32 - 4.0;
            images.clone().flat_map(|image| features.clone().map(move |feature| value(image, feature))).collect()
        };
        let (pool, spatial) = (features(0..3), features(3..5));
        StatisticsFile::of(&extractor(), &format!("{images:?}"), (&pool, Some(&spatial)), labels).unwrap()
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_damage_is_found() {
        let labels: Vec<i64> = (0..20).map(|image| image % 3).collect();
        let file = statistics(0..20, Some(&labels));
        let bytes = file.to_bytes().unwrap();
        let read = StatisticsFile::from_bytes(&bytes, "").unwrap();
        assert_eq!(read, file);
        assert_eq!(read.classes[&1].pool.num(), 7);
        for place in [bytes.len() - 5, bytes.len() / 2, 40, 0] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(StatisticsFile::from_bytes(&changed, "").is_err(), "byte {place}");
        }
        assert!(StatisticsFile::from_bytes(&bytes[..bytes.len() - 8], "").is_err());
    }

    #[test]
    fn a_file_of_another_writer_is_read() {
        let bytes = include_bytes!("../../../fuzz/seeds/statistics/classes.safetensors");
        let file = StatisticsFile::from_bytes(bytes, "file").unwrap();
        assert_eq!(
            (file.extractor.clone(), file.num(), file.pixels.as_slice()),
            (extractor(), 6, &["ab".to_owned()][..])
        );
        assert_eq!(file.classes.keys().copied().collect::<Vec<i64>>(), [0, 1]);
        assert_eq!(file.all, statistics(0..6, None).all);
        assert_eq!(file.given().unwrap().pool.statistics().width(), 3);
    }

    #[test]
    fn widths_without_a_triangle_are_refused() {
        for width in [usize::MAX, usize::MAX - 1, 1 << 33] {
            let mut file = statistics(0..3, None);
            file.extractor.pool = width;
            let error = StatisticsFile::from_bytes(&file.to_bytes().unwrap(), "file").unwrap_err().to_string();
            assert!(error.starts_with("file: its network has too many features"), "{error}");
        }
    }

    #[test]
    fn merged_parts_are_the_whole() {
        let whole = statistics(0..30, None);
        let mut merged = statistics(0..11, None);
        merged.merge(&statistics(11..30, None)).unwrap();
        // The values are whole numbers, so that sums are exact.
        assert_eq!(merged.all, whole.all);
        let again = statistics(0..11, None);
        assert!(merged.merge(&again).unwrap_err().to_string().contains("counts once"));
        let mut other = again;
        other.extractor.weights = "01".into();
        assert!(merged.merge(&other).unwrap_err().to_string().contains("one network"));
    }
}
