//! Writes and reads the parts of a job. Each is an npz file that NumPy reads on its own, and a marker beside it that is
//! written last. A part without its marker does not count.

use admiral_npz::Archive;
use bytes::Bytes;
use crc32fast::Hasher;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::job::Job;
use crate::layout::{MANIFEST, marker_file, part_file};
use crate::settings::{SCHEMA_VERSION, pretty, sha256_of, versioned};

/// The marker of a part: what its file contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// The schema version of this file.
    pub schema_version: u32,
    /// The SHA-256 of the `job.json` of its job. Older versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The number of the first image.
    pub first: u64,
    /// The number of images.
    pub count: u64,
    /// The length of the file in bytes.
    pub length: u64,
    /// The SHA-256 of the file as hexadecimal digits.
    pub sha256: String,
    /// The CRC-32 of the pixels.
    pub pixels_crc32: u32,
    /// The CRC-32 of the labels, if there are any.
    pub labels_crc32: Option<u32>,
}

/// The images of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The number of the first image.
    pub first: u64,
    /// The pixels, `[number, height, width, channels]`.
    pub pixels: Bytes,
    /// The labels, if there are any.
    pub labels: Option<Vec<i64>>,
}

/// Returns the checksum of bytes.
pub(crate) fn crc_of(bytes: &[u8]) -> Hasher {
    let mut hash = Hasher::new();
    hash.update(bytes);
    hash
}

/// Returns labels as they are in a file.
pub(crate) fn label_bytes(labels: &[i64]) -> Vec<u8> {
    labels.iter().flat_map(|label| label.to_le_bytes()).collect()
}

/// Makes the file of a part and its record.
fn encode(job: &Job, part: u64, pixels: &[u8], labels: Option<&[i64]>) -> (Vec<u8>, PartRecord) {
    let settings = &job.settings;
    let images = settings.images_of(part);
    let count = images.end - images.start;
    let labels = labels.map(label_bytes);
    let (pixels_crc, labels_crc) = (crc_of(pixels), labels.as_deref().map(crc_of));
    let archive = Archive::samples(count, settings.shape, pixels_crc.clone(), labels_crc.clone());
    let mut file = archive.before(0);
    file.extend_from_slice(pixels);
    if let Some(labels) = labels {
        file.extend(archive.before(1));
        file.extend(labels);
    }
    file.extend(archive.end());
    let record = PartRecord {
        schema_version: SCHEMA_VERSION,
        job: Some(job.id.clone()),
        first: images.start,
        count,
        length: file.len() as u64,
        sha256: sha256_of(&file),
        pixels_crc32: pixels_crc.finalize(),
        labels_crc32: labels_crc.map(Hasher::finalize),
    };
    (file, record)
}

impl Job {
    /// Writes and publishes a part. `pixels` is `[number, height, width, channels]`. A part that is already published with
    /// the same bytes is left as it is.
    ///
    /// # Errors
    /// [`Error::Part`] if the number of pixels or labels is wrong; [`Error::DifferentBytes`] if the part is published with
    /// other bytes, which stay; [`Error::Store`].
    pub fn write_part(&self, part: u64, pixels: &[u8], labels: Option<&[i64]>) -> Result<(), Error> {
        let images = self.settings.images_of(part);
        let count = images.end - images.start;
        let expected = (count * self.settings.image_bytes() as u64, self.settings.has_labels.then_some(count));
        let found = (pixels.len() as u64, labels.map(|labels| labels.len() as u64));
        if count == 0 || found != expected {
            let reason = format!("bytes and labels are {found:?}; of {count} images, {expected:?} are expected");
            return Err(Error::Part { part, reason });
        }
        let (file, record) = encode(self, part, pixels, labels);
        self.store.wait(self.publish_part(part, file, &record))
    }

    async fn publish_part(&self, part: u64, file: Vec<u8>, record: &PartRecord) -> Result<(), Error> {
        let (store, path, marker) = (&self.store, part_file(&self.settings, part), marker_file(&self.settings, part));
        let different = || Err(Error::DifferentBytes { url: store.url(&path) });
        if store.get(&marker).await?.is_some() {
            match self.published(part).await? {
                // The job of an older record is not known, and that of a newer one is this one.
                Some(found) => {
                    let is_same = PartRecord { job: record.job.clone(), ..found } == *record;
                    return if is_same { Ok(()) } else { different() };
                }
                // The marker is damaged, or its file is not there.
                None => store.delete(&marker).await?,
            }
        }
        if !store.put_new(&path, file.clone()).await? {
            if store.get(&marker).await?.is_some() {
                return different();
            }
            // An earlier attempt died before it published these bytes, or they are a damaged part that was withdrawn.
            store.put(&path, file).await?;
        }
        if store.put_new(&marker, pretty(record)).await? { Ok(()) } else { different() }
    }

    /// Returns the record of a part. `None` if the part is not published: the marker is missing or damaged, or the file has
    /// another length.
    async fn published(&self, part: u64) -> Result<Option<PartRecord>, Error> {
        let Some(bytes) = self.store.get(&marker_file(&self.settings, part)).await? else { return Ok(None) };
        let length = self.store.length(&part_file(&self.settings, part)).await?;
        Ok(self.valid_record(part, &bytes).ok().filter(|record| length == Some(record.length)))
    }

    /// Reads the marker of a part.
    ///
    /// # Errors
    /// What is wrong with it.
    fn valid_record(&self, part: u64, bytes: &[u8]) -> Result<PartRecord, String> {
        let record: PartRecord = versioned(bytes)?;
        if record.job.as_ref().is_some_and(|job| *job != self.id) {
            return Err("it is of another job, whose settings differ".into());
        }
        let images = self.settings.images_of(part);
        let expected = (images.start, images.end - images.start, self.settings.part_bytes(part));
        let found = (record.first, record.count, record.length);
        if found != expected || record.labels_crc32.is_some() != self.settings.has_labels {
            return Err(format!("its first image, number of images and length are {found:?} instead of {expected:?}"));
        }
        Ok(record)
    }

    /// Reads the record of a published part.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is missing or not one of this part.
    pub(crate) async fn record(&self, part: u64) -> Result<PartRecord, Error> {
        let path = marker_file(&self.settings, part);
        let damaged = |difference: String| Error::Damaged { url: self.store.url(&path), difference };
        let bytes = self.store.get(&path).await?.ok_or_else(|| damaged("it is missing".into()))?;
        self.valid_record(part, &bytes).map_err(damaged)
    }

    /// Reads a published part and verifies its bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they differ from its record; [`Error::TooLarge`]; [`Error::Store`].
    pub fn read_part(&self, part: u64) -> Result<Part, Error> {
        self.store.wait(async { self.contents(part, &self.record(part).await?).await })
    }

    pub(crate) async fn contents(&self, part: u64, record: &PartRecord) -> Result<Part, Error> {
        let path = part_file(&self.settings, part);
        let damaged = |difference: &str| Error::Damaged { url: self.store.url(&path), difference: difference.into() };
        if self.store.length(&path).await? != Some(record.length) {
            return Err(damaged("its length differs from its record"));
        }
        let mut file = Vec::new();
        let sha256 = self.store.read(&path, record.length, Some(&mut file)).await?;
        if sha256.as_ref() != Some(&record.sha256) {
            return Err(damaged("its SHA-256 differs from its record"));
        }
        let file = Bytes::from(file);
        let archive = Archive::samples(record.count, self.settings.shape, Hasher::new(), self.settings.no_labels());
        let array = |index: usize| {
            let range = archive.data(index);
            // The file is in memory and has the length of the archive.
            file.slice(range.start as usize..range.end as usize)
        };
        let (pixels, labels) = (array(0), self.settings.has_labels.then(|| array(1)));
        if crc_of(&pixels).finalize() != record.pixels_crc32
            || labels.as_ref().map(|labels| crc_of(labels).finalize()) != record.labels_crc32
        {
            return Err(damaged("its CRC-32 differs from its record"));
        }
        let value = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_le_bytes);
        let labels = labels.map(|labels| labels.chunks_exact(8).map(value).collect());
        Ok(Part { first: record.first, pixels, labels })
    }

    /// Reads the labels of all images.
    ///
    /// # Errors
    /// [`Error::NoLabels`] if the job has none; the errors of [`read_part`](Self::read_part).
    pub fn labels(&self) -> Result<Vec<i64>, Error> {
        if !self.settings.has_labels {
            let (file, key) = (self.store.url(""), "arr_1".to_owned());
            return Err(Error::NoLabels { file, key, found: "arr_0".into() });
        }
        let mut labels = Vec::new();
        for part in 0..self.settings.num_parts() {
            labels.extend(self.read_part(part)?.labels.unwrap_or_default());
        }
        Ok(labels)
    }

    /// Reads all published parts, and withdraws the damaged ones. Returns the numbers of the missing parts, which include
    /// them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn verify(&self) -> Result<Vec<u64>, Error> {
        let mut missing = self.missing()?;
        for part in
            (0..self.settings.num_parts()).filter(|part| missing.binary_search(part).is_err()).collect::<Vec<_>>()
        {
            match self.read_part(part) {
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!("{error}");
                    self.withdraw(part)?;
                    missing.push(part);
                }
                result => drop(result?),
            }
        }
        missing.sort_unstable();
        Ok(missing)
    }

    /// Makes a damaged part count as missing. The job is not finished then.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn withdraw(&self, part: u64) -> Result<(), Error> {
        self.store.wait(async {
            self.store.delete(MANIFEST).await?;
            Ok(self.store.delete(&marker_file(&self.settings, part)).await?)
        })
    }
}
