//! Features of a set of images, stored in parts, so that they are computed once: on many ranks, and after a kill only what
//! is missing.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use admiral_statistics::{ExtractorIdentity, StatisticsFile};
use admiral_storage::{Store, hex};
use bytes::Bytes;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// The number of images in a part. A part has 20 MB with the features of Inception.
pub const PART_IMAGES: u64 = 1000;

/// The version of the files.
const SCHEMA_VERSION: u32 = 1;

/// The keys of a part's metadata.
const SHA256: &str = "sha256";
const PIXELS: &str = "pixels";
const PLACE: &str = "place";

/// What the features of a set are computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSettings {
    /// The version of the files.
    pub schema_version: u32,
    /// The network.
    pub extractor: ExtractorIdentity,
    /// The [key](crate::ImageSet::key) of the images.
    pub images: String,
    /// The number of images.
    pub num: u64,
    /// Height, width and channels of the images.
    pub shape: [usize; 3],
}

impl FeatureSettings {
    /// Returns the settings for `num` images with a key and a shape.
    #[must_use]
    pub fn new(extractor: ExtractorIdentity, images: String, num: u64, shape: [usize; 3]) -> Self {
        Self { schema_version: SCHEMA_VERSION, extractor, images, num, shape }
    }
}

/// The features of consecutive images, float32, row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeatureTables {
    /// The number of images.
    pub num: u64,
    /// The pooled features.
    pub pool: Vec<f32>,
    /// The spatial features, if the network has them.
    pub spatial: Option<Vec<f32>>,
    /// The logits, if the weights have a last layer.
    pub logits: Option<Vec<f32>>,
    /// The SHA-256 of the pixels of the images, or of those of the parts they were read from.
    pub pixels: String,
}

impl FeatureTables {
    /// Returns the tables of no image.
    #[must_use]
    pub fn empty(extractor: &ExtractorIdentity) -> Self {
        let (spatial, logits) = (extractor.spatial.map(|_| Vec::new()), extractor.classes.map(|_| Vec::new()));
        Self { spatial, logits, ..Self::default() }
    }

    /// Appends other images. The digest of the pixels is left as it is.
    pub fn append(&mut self, other: Self) {
        self.num += other.num;
        self.pool.extend(other.pool);
        for (own, other) in [(&mut self.spatial, other.spatial), (&mut self.logits, other.logits)] {
            if let (Some(own), Some(other)) = (own, other) {
                own.extend(other);
            }
        }
    }

    /// Returns `num` of the images, at even distances in their order, or all if there are no more. The digest of the pixels
    /// stays that of all.
    #[must_use]
    pub fn thinned(self, num: u64, extractor: &ExtractorIdentity) -> Self {
        if num >= self.num {
            return self;
        }
        let chosen = |values: &[f32], width: usize| -> Vec<f32> {
            let rows = (0..num).map(|row| (u128::from(row) * u128::from(self.num) / u128::from(num)) as usize);
            rows.flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect()
        };
        let optional = |values: &Option<Vec<f32>>, width: Option<usize>| {
            values.as_ref().zip(width).map(|(values, width)| chosen(values, width))
        };
        Self {
            num,
            pool: chosen(&self.pool, extractor.pool),
            spatial: optional(&self.spatial, extractor.spatial),
            logits: optional(&self.logits, extractor.classes),
            pixels: self.pixels.clone(),
        }
    }

    /// Returns the values and the digest as bytes, for another rank.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let tables = [Some(&self.pool), self.spatial.as_ref(), self.logits.as_ref()];
        let values = tables.into_iter().flatten().flatten().flat_map(|value| value.to_le_bytes());
        values.chain(self.pixels.bytes()).collect()
    }

    /// Reads [`to_bytes`](Self::to_bytes) of `num` images. Returns `None` if the length is another one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], num: u64, extractor: &ExtractorIdentity) -> Option<Self> {
        let mut rest = bytes;
        let mut take = |width: usize| -> Option<Vec<f32>> {
            let (own, after) = rest.split_at_checked(width.checked_mul(num as usize)?.checked_mul(4)?)?;
            rest = after;
            Some(own.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
        };
        let pool = take(extractor.pool)?;
        let mut optional = |width: Option<usize>| match width {
            Some(width) => take(width).map(Some),
            None => Some(None),
        };
        let (spatial, logits) = (optional(extractor.spatial)?, optional(extractor.classes)?);
        let pixels = String::from_utf8(rest.to_vec()).ok()?;
        Some(Self { num, pool, spatial, logits, pixels })
    }

    /// Computes the statistics of the images; with `labels` also those of each class.
    ///
    /// # Errors
    /// [`Error::Metric`] if a feature is not finite.
    pub fn statistics(&self, extractor: &ExtractorIdentity, labels: Option<&[i64]>) -> Result<StatisticsFile, Error> {
        Ok(StatisticsFile::of(extractor, &self.pixels, (&self.pool, self.spatial.as_deref()), labels)?)
    }

    fn table(&self, name: &str) -> Option<&[f32]> {
        match name {
            "pool" => Some(&self.pool),
            "spatial" => self.spatial.as_deref(),
            _ => self.logits.as_deref(),
        }
    }
}

/// The stored features of a set of images.
#[derive(Debug, Clone)]
pub struct FeatureParts {
    store: Store,
    folder: String,
    settings: FeatureSettings,
}

impl FeatureParts {
    /// Returns the features that are stored for these settings in a store, which may hold those of other sets and networks.
    #[must_use]
    pub fn new(store: &Store, settings: FeatureSettings) -> Self {
        let text = serde_json::to_vec(&settings).unwrap_or_default();
        let folder = format!("features-{:.16}", hex(Sha256::digest(text)));
        Self { store: store.clone(), folder, settings }
    }

    /// Records the settings beside the parts, for people. All ranks may call it. Before the first time, it checks that the
    /// store does not create files that exist.
    ///
    /// # Errors
    /// If the store refuses, or overwrites files.
    pub fn describe(&self) -> Result<(), Error> {
        if !self.is_described()? {
            self.store.wait(self.store.require_new_files())?;
        }
        let text = serde_json::to_vec_pretty(&self.settings).unwrap_or_default();
        self.store.wait(self.store.put_new(&format!("{}/features.json", self.folder), text))?;
        Ok(())
    }

    /// Returns whether the settings are recorded here, which rank 0 does first.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn is_described(&self) -> Result<bool, Error> {
        Ok(self.store.wait(self.store.length(&format!("{}/features.json", self.folder)))?.is_some())
    }

    /// Returns what the features are computed from.
    #[must_use]
    pub fn settings(&self) -> &FeatureSettings {
        &self.settings
    }

    /// Returns the location of the parts.
    #[must_use]
    pub fn url(&self) -> String {
        self.store.url(&self.folder)
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn num_parts(&self) -> u64 {
        self.settings.num.div_ceil(PART_IMAGES)
    }

    /// Returns the images of a part.
    #[must_use]
    pub fn images_of(&self, part: u64) -> Range<u64> {
        let num = self.settings.num;
        (part * PART_IMAGES).min(num)..((part + 1) * PART_IMAGES).min(num)
    }

    /// Returns the numbers of the missing parts, ascending.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn missing(&self) -> Result<Vec<u64>, Error> {
        let there: HashSet<String> = self.store.list_files(&self.folder)?.into_iter().map(|(name, _)| name).collect();
        Ok((0..self.num_parts()).filter(|part| !there.contains(&file_name(*part))).collect())
    }

    fn path(&self, part: u64) -> String {
        format!("{}/{}", self.folder, file_name(part))
    }

    /// Writes a part and publishes it. A part that is there is kept.
    ///
    /// # Errors
    /// [`Error::Refused`] if the tables do not have the widths of the network or the number of images of the part, or a
    /// feature is not finite; [`Error::Samples`] if the store refuses.
    pub fn write(&self, part: u64, tables: &FeatureTables) -> Result<(), Error> {
        let num = self.images_of(part).end - self.images_of(part).start;
        let mut contents = Vec::new();
        for (name, width) in self.settings.extractor.tables() {
            let values = tables.table(name).unwrap_or_default();
            if values.len() as u64 != num * width as u64 || tables.num != num {
                return Err(Error::Refused(format!(
                    "part {part} of {} has {} values of {name} for {num} images; {width} of each are expected",
                    self.url(),
                    values.len()
                )));
            }
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::Refused(format!(
                    "image {} has a feature ({name}) that is not finite: look at it, and at the network's weights",
                    self.images_of(part).start + (place / width) as u64
                )));
            }
            contents.push((name, width, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()));
        }
        let mut hash = Sha256::new();
        contents.iter().for_each(|(_, _, bytes)| hash.update(bytes));
        let metadata = HashMap::from([
            (PLACE.to_owned(), self.path(part)),
            (SHA256.to_owned(), hex(hash.finalize())),
            (PIXELS.to_owned(), tables.pixels.clone()),
        ]);
        let views = contents.iter().map(|(name, width, bytes)| {
            TensorView::new(Dtype::F32, vec![num as usize, *width], bytes).map(|view| (*name, view))
        });
        let views: Result<Vec<_>, _> = views.collect();
        let file = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        let file =
            file.map_err(|error| Error::File { file: self.store.url(&self.path(part)), reason: error.to_string() })?;
        self.store.wait(self.store.put_new(&self.path(part), file))?;
        Ok(())
    }

    /// Reads a part and verifies it. A damaged one is removed.
    ///
    /// # Errors
    /// [`Error::Damaged`]; [`Error::Samples`] if the store refuses.
    pub fn read(&self, part: u64) -> Result<FeatureTables, Error> {
        let path = self.path(part);
        let bytes = self.store.wait(self.store.get(&path))?;
        let Some(bytes) = bytes else {
            return Err(Error::Damaged { url: self.store.url(&path), reason: "it is missing".into() });
        };
        let images = self.images_of(part);
        match decode(&bytes, images.end - images.start, &self.settings.extractor, &path) {
            Ok(tables) => Ok(tables),
            Err(reason) => {
                self.store.wait(self.store.delete(&path))?;
                Err(Error::Damaged { url: self.store.url(&path), reason })
            }
        }
    }

    /// Reads all parts, in order.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn read_all(&self) -> Result<FeatureTables, Error> {
        let widths = &self.settings.extractor;
        let table = |width: usize| Vec::with_capacity(self.settings.num as usize * width);
        let mut all = FeatureTables {
            num: 0,
            pool: table(widths.pool),
            spatial: widths.spatial.map(table),
            logits: widths.classes.map(table),
            pixels: String::new(),
        };
        let mut pixels = Sha256::new();
        for part in 0..self.num_parts() {
            let tables = self.read(part)?;
            pixels.update(&tables.pixels);
            all.append(tables);
        }
        all.pixels = hex(pixels.finalize());
        Ok(all)
    }
}

fn file_name(part: u64) -> String {
    format!("part-{part:06}.safetensors")
}

/// Reads the bytes of the part at `place`.
///
/// # Errors
/// What is wrong with them.
fn decode(bytes: &Bytes, num: u64, extractor: &ExtractorIdentity, place: &str) -> Result<FeatureTables, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let metadata = header.metadata().clone().unwrap_or_default();
    if metadata.get(PLACE).is_none_or(|other| other != place) {
        return Err("it was written for other images".into());
    }
    let mut hash = Sha256::new();
    let mut read = |name: &str, width: usize| -> Result<Vec<f32>, String> {
        let tensor = file.tensor(name).map_err(|error| error.to_string())?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [num as usize, width] {
            return Err(format!("{name} has type {:?} and shape {:?}", tensor.dtype(), tensor.shape()));
        }
        hash.update(tensor.data());
        Ok(tensor.data().as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
    };
    let pool = read("pool", extractor.pool)?;
    let spatial = extractor.spatial.map(|width| read("spatial", width)).transpose()?;
    let logits = extractor.classes.map(|width| read("logits", width)).transpose()?;
    if metadata.get(SHA256) != Some(&hex(hash.finalize())) {
        return Err("its SHA-256 differs".into());
    }
    let pixels = metadata.get(PIXELS).cloned().unwrap_or_default();
    Ok(FeatureTables { num, pool, spatial, logits, pixels })
}

/// Returns the SHA-256 of pixels as hexadecimal digits.
#[must_use]
pub fn digest_of_pixels(pixels: &[u8]) -> String {
    hex(Sha256::digest(pixels))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_storage::{Location, StoreOptions};

    use super::*;

    fn extractor() -> ExtractorIdentity {
        ExtractorIdentity {
            network: "test".into(),
            weights: "00".into(),
            resize: "none".into(),
            pool: 2,
            spatial: None,
            classes: Some(1),
        }
    }

    fn parts(folder: &std::path::Path, num: u64) -> FeatureParts {
        let location = Location::parse(folder.to_str().unwrap()).unwrap();
        let store = Store::create(&location, &StoreOptions::default()).unwrap();
        FeatureParts::new(&store, FeatureSettings::new(extractor(), "images".into(), num, [2, 2, 1]))
    }

    fn tables(images: Range<u64>) -> FeatureTables {
        FeatureTables {
            num: images.end - images.start,
            pool: images.clone().flat_map(|image| [image as f32, 0.5]).collect(),
            spatial: None,
            logits: Some(images.clone().map(|image| -(image as f32)).collect()),
            pixels: digest_of_pixels(&images.start.to_le_bytes()),
        }
    }

    #[test]
    fn parts_are_read_in_order_and_missing_ones_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(folder.path(), 2500);
        assert!(!parts.is_described().unwrap());
        parts.describe().unwrap();
        assert!(parts.is_described().unwrap());
        assert_eq!(parts.missing().unwrap(), [0, 1, 2]);
        parts.write(1, &tables(parts.images_of(1))).unwrap();
        assert_eq!(parts.missing().unwrap(), [0, 2]);
        for part in [0, 2] {
            parts.write(part, &tables(parts.images_of(part))).unwrap();
        }
        let all = parts.read_all().unwrap();
        assert_eq!((all.pool.len(), all.logits.as_ref().unwrap().len()), (5000, 2500));
        assert_eq!((all.pool[2 * 2499], all.logits.unwrap()[2499]), (2499.0, -2499.0));
    }

    #[test]
    fn a_damaged_part_is_removed_and_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(folder.path(), 3);
        parts.write(0, &tables(0..3)).unwrap();
        let file = folder.path().join(parts.path(0));
        let whole = std::fs::read(&file).unwrap();
        for place in [whole.len() - 1, 20, 0] {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x10;
            std::fs::write(&file, bytes).unwrap();
            assert!(matches!(parts.read(0), Err(Error::Damaged { .. })), "byte {place}");
            assert_eq!(parts.missing().unwrap(), [0]);
        }
    }

    #[test]
    fn thinned_tables_have_rows_at_even_distances() {
        let thinned = tables(0..10).thinned(4, &extractor());
        assert_eq!(thinned.pool, [0.0, 0.5, 2.0, 0.5, 5.0, 0.5, 7.0, 0.5]);
        assert_eq!(tables(0..10).thinned(10, &extractor()), tables(0..10));
    }

    #[test]
    fn tables_cross_ranks_as_bytes() {
        let tables = tables(3..8);
        let bytes = tables.to_bytes();
        assert_eq!(FeatureTables::from_bytes(&bytes, 5, &extractor()), Some(tables));
        assert_eq!(FeatureTables::from_bytes(&bytes[..20], 5, &extractor()), None);
    }

    #[test]
    fn other_widths_and_features_that_are_not_finite_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(folder.path(), 3);
        let mut wrong = tables(0..3);
        wrong.logits = None;
        assert!(parts.write(0, &wrong).unwrap_err().to_string().contains("logits"));
        let mut wrong = tables(0..3);
        wrong.pool[5] = f32::NAN;
        assert!(parts.write(0, &wrong).unwrap_err().to_string().contains("image 2"));
        assert_eq!(parts.missing().unwrap(), [0]);
    }
}
