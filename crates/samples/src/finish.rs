//! Finishes a job: assembles the parts to one npz file if that is asked for, and writes the manifest.

use std::time::{Duration, Instant};

use admiral_npz::Archive;
use admiral_storage::{PROBE, never, upload_stream};
use bytes::Bytes;
use crc32fast::Hasher;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::job::{Job, folder_of};
use crate::layout::{MANIFEST, is_assembled, part_file};
use crate::parts::{PartRecord, label_bytes};
use crate::settings::{JobSettings, SCHEMA_VERSION, pretty, versioned};
use crate::staging;

/// The number of markers that are read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// The transfer rate below which assembling has failed, in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1 << 20;

/// A file of a finished job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path in the location.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its SHA-256 as hexadecimal digits.
    pub sha256: String,
}

/// A part in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    /// The number of its first image.
    pub first: u64,
    /// The number of its images.
    pub count: u64,
    /// Its file.
    #[serde(flatten)]
    pub file: FileRecord,
}

/// The content of `manifest.json`: everything that belongs to a finished job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The schema version of this file.
    pub schema_version: u32,
    /// The settings of the job.
    pub job: JobSettings,
    /// The parts in order.
    pub parts: Vec<ManifestPart>,
    /// The files that were assembled from them.
    pub files: Vec<FileRecord>,
}

impl Job {
    /// Returns the manifest of a finished job. `None` if the job is not finished.
    ///
    /// # Errors
    /// [`Error::Schema`] if it cannot be read by this version; [`Error::Store`].
    pub fn manifest(&self) -> Result<Option<Manifest>, Error> {
        let read =
            |bytes: Bytes| versioned(&bytes).map_err(|reason| Error::Schema { url: self.store.url(MANIFEST), reason });
        self.store.wait(self.store.get(MANIFEST))?.map(read).transpose()
    }

    /// Writes the manifest, and before it, if `has_npz`, all parts as one npz file,
    /// [`samples_file`](JobSettings::samples_file). One part is read at a time. The file has the same bytes whatever number of
    /// ranks drew the parts. A finished job is left as it is. One rank calls it, after all parts are written.
    ///
    /// The file has `arr_0`, uint8 of shape `[N, height, width, channels]`, and `arr_1`, int64 of shape `[N]`, if there are
    /// labels. It is not compressed. `watch` is told the number of each part before it is read.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if parts are missing; [`Error::Damaged`] if a part is damaged, which counts as missing then;
    /// [`Error::Store`].
    pub fn finish(&self, has_npz: bool, watch: &(dyn Fn(usize) + Sync)) -> Result<Manifest, Error> {
        self.check_complete()?;
        if let Some(manifest) = self.manifest()?
            && self.has_files(&manifest)?
            && !(has_npz && manifest.files.is_empty())
        {
            return Ok(manifest);
        }
        self.remove_unfinished();
        let parts = (0..self.settings.num_parts()).map(|part| async move { (part, self.record(part).await) });
        let read = futures::stream::iter(parts).buffered(READS_IN_FLIGHT).collect::<Vec<_>>();
        let mut records = Vec::new();
        for (part, record) in self.store.wait(read) {
            records.push(self.or_withdraw(part, record)?);
        }
        let files = if has_npz { vec![self.assemble(&records, watch)?] } else { Vec::new() };
        let part = |(part, record): (u64, PartRecord)| ManifestPart {
            first: record.first,
            count: record.count,
            file: FileRecord { path: part_file(&self.settings, part), length: record.length, sha256: record.sha256 },
        };
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            job: self.settings.clone(),
            parts: (0..).zip(records).map(part).collect(),
            files,
        };
        self.store.wait(self.store.put(MANIFEST, pretty(&manifest)))?;
        Ok(manifest)
    }

    /// Returns whether the files of a manifest are there with their lengths.
    fn has_files(&self, manifest: &Manifest) -> Result<bool, Error> {
        for file in &manifest.files {
            if self.store.wait(self.store.length(&file.path))? != Some(file.length) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Withdraws a part that is damaged.
    fn or_withdraw<T>(&self, part: u64, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Err(Error::Damaged { .. })) {
            self.withdraw(part)?;
        }
        result
    }

    /// Writes the npz file with all images.
    fn assemble(&self, records: &[PartRecord], watch: &(dyn Fn(usize) + Sync)) -> Result<FileRecord, Error> {
        let path = self.settings.samples_file();
        let [height, width, channels] = self.settings.shape.map(|side| side as u64);
        let pixels =
            combined(records.iter().map(|record| (record.pixels_crc32, record.count * height * width * channels)));
        let labels = records.iter().map(|record| Some((record.labels_crc32?, record.count * 8)));
        let labels = labels.collect::<Option<Vec<_>>>().filter(|_| self.settings.has_labels).map(combined);
        let archive = Archive::samples(self.settings.num, self.settings.shape, pixels, labels);
        let length = archive.length();
        let deadline =
            Instant::now() + self.store.options().patience + Duration::from_secs(length / MIN_BYTES_PER_SECOND);
        let pieces = || self.pieces(&archive, records, watch);
        let written = self.store.wait(upload_stream(&self.store, &path, length, pieces, deadline, &never()));
        let (length, sha256) = written.or_else(|PieceError { part, error }| match part {
            Some(part) => self.or_withdraw(part, Err(error)),
            None => Err(error),
        })?;
        Ok(FileRecord { path, length, sha256 })
    }

    /// Returns the bytes of the npz file from its start. An error has the number of its part.
    fn pieces<'a>(
        &'a self,
        archive: &'a Archive,
        records: &'a [PartRecord],
        watch: &'a (dyn Fn(usize) + Sync),
    ) -> impl Stream<Item = Result<Bytes, PieceError>> + 'a {
        // The labels follow all pixels in the file.
        let start = (0, Vec::new());
        futures::stream::try_unfold(start, move |(piece, mut labels): (usize, Vec<u8>)| async move {
            let bytes = match piece.checked_sub(1) {
                None => archive.before(0).into(),
                Some(part) if part < records.len() => {
                    watch(part);
                    let part_number = part as u64;
                    let contents = self.contents(part_number, &records[part]).await;
                    let contents = contents.map_err(|error| PieceError { part: Some(part_number), error })?;
                    labels.extend(label_bytes(&contents.labels.unwrap_or_default()));
                    contents.pixels
                }
                Some(part) if part == records.len() => {
                    let before = if self.settings.has_labels { archive.before(1) } else { Vec::new() };
                    [before, std::mem::take(&mut labels), archive.end()].concat().into()
                }
                Some(_) => return Ok(None),
            };
            Ok(Some((bytes, (piece + 1, labels))))
        })
    }

    /// Removes what earlier attempts left behind when they died: unfinished uploads in a bucket, and unpublished files in a
    /// folder, which listings omit. No rank writes to the job any more. Failures are only logged.
    fn remove_unfinished(&self) {
        let url = self.store.url("");
        if let Err(error) = self.store.wait(self.store.abort_unfinished_uploads(is_assembled)) {
            tracing::warn!("{error}; unfinished uploads may take up space in {url}");
        }
        if let Err(error) = self.store.wait(self.remove_probes()) {
            tracing::warn!("{error}; small files may be left in {url}");
        }
        if let Some(folder) = folder_of(&self.store)
            && let Err(error) = staging::remove(folder)
        {
            tracing::warn!("unfinished files may take up space in {url}: {error}");
        }
    }

    /// Removes the files of processes that were killed while they checked the store.
    async fn remove_probes(&self) -> Result<(), Error> {
        for name in self.store.files_right_under("").await? {
            if name.starts_with(PROBE) {
                self.store.delete(&name).await?;
            }
        }
        Ok(())
    }
}

/// An error of assembling, and the part that it is about.
#[derive(Debug)]
struct PieceError {
    part: Option<u64>,
    error: Error,
}

impl From<admiral_storage::Error> for PieceError {
    fn from(error: admiral_storage::Error) -> Self {
        Self { part: None, error: error.into() }
    }
}

/// Returns the checksum of bytes from those of their pieces, which are pairs of checksum and length.
fn combined(pieces: impl IntoIterator<Item = (u32, u64)>) -> Hasher {
    let mut all = Hasher::new();
    for (crc32, length) in pieces {
        all.combine(&Hasher::new_with_initial_len(crc32, length));
    }
    all
}
