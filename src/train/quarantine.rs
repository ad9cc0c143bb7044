//! Lists the broken images of a run in a file of its folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use admiral_comm::{Collective, CollectiveError};
use admiral_data::BrokenImage;
use admiral_telemetry::write_file;

/// The name of the file, which has one JSON object a line.
const FILE: &str = "broken-images.jsonl";

/// The most images that are listed, which bounds the file. More broken images are counted by the curve `skipped_images`.
const MAX_LISTED: usize = 100_000;

/// The list of broken images. Rank 0 writes it.
#[derive(Debug)]
pub(super) struct Quarantine {
    path: PathBuf,
    listed: BTreeMap<String, BrokenImage>,
    is_written: bool,
    /// Whether the list of earlier attempts is known. Otherwise it must not be replaced.
    is_readable: bool,
}

impl Quarantine {
    /// Continues the list in a run's folder, which rank 0 reads. Lines of another form are dropped.
    pub(super) fn open(folder: &Path, rank: usize) -> Self {
        let path = folder.join(FILE);
        let read = if rank == 0 { std::fs::read(&path) } else { Ok(Vec::new()) };
        let (bytes, is_readable) = match read {
            Ok(bytes) => (bytes, true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Vec::new(), true),
            Err(error) => {
                tracing::warn!("{}: {error}; broken images are counted, but not listed", path.display());
                (Vec::new(), false)
            }
        };
        let images = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let listed = images.map(|image: BrokenImage| (image.image.clone(), image)).collect();
        Self { path, listed, is_written: true, is_readable }
    }

    /// Adds the broken images that all ranks met, and writes the list if it has grown. A list that cannot be written is
    /// written again at the next call. Every rank calls it with the images that it met. Returns the number of images on the
    /// list of rank 0.
    ///
    /// # Errors
    /// When the ranks cannot reach each other.
    pub(super) fn add(
        &mut self,
        met: &mut Vec<BrokenImage>,
        collective: &dyn Collective,
    ) -> Result<usize, CollectiveError> {
        let own: Vec<u8> = met.drain(..).flat_map(|image| line_of(&image)).collect();
        let all = collective.all_gather(&own)?;
        if collective.rank() != 0 {
            return Ok(0);
        }
        for line in all.iter().flat_map(|lines| lines.split(|&byte| byte == b'\n')) {
            let Ok(image) = serde_json::from_slice::<BrokenImage>(line) else { continue };
            if self.listed.len() < MAX_LISTED && !self.listed.contains_key(&image.image) {
                self.listed.insert(image.image.clone(), image);
                self.is_written = false;
            }
        }
        if !self.is_written && self.is_readable {
            let text: Vec<u8> = self.listed.values().flat_map(line_of).collect();
            match write_file(&self.path, &text) {
                Ok(()) => self.is_written = true,
                Err(error) => tracing::warn!("{}: {error}; broken images are not listed yet", self.path.display()),
            }
        }
        Ok(self.listed.len())
    }
}

fn line_of(image: &BrokenImage) -> Vec<u8> {
    let mut line = serde_json::to_vec(image).unwrap_or_default();
    line.push(b'\n');
    line
}
