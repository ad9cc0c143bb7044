//! Lists the broken images of a run in a file of its folder.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use admiral_comm::{Collective, CollectiveError};
use admiral_contract::{Existing, LineFile, files::open_regular};
use admiral_data::BrokenImage;

/// The name of the file, which has one JSON object a line.
const FILE: &str = "broken-images.jsonl";

/// The most images that are listed, which bounds the file. More broken images are counted by the curve `skipped_images`.
const MAX_LISTED: usize = 100_000;

/// The most bytes that are read of the list of earlier attempts.
const MAX_BYTES: u64 = 256 << 20;

/// The time that the end of a run waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// What follows from lines that cannot be written.
const LOSS: &str = "broken images are counted, but not all of them are listed";

/// The list of broken images. Rank 0 writes it in a separate thread, so that a disk that hangs does not block training.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// The names of the images that are listed, on rank 0.
    listed: BTreeSet<String>,
    /// The file; `None` on other ranks, and where the list of earlier attempts cannot be read.
    lines: Option<LineFile>,
    has_warned: bool,
}

impl Quarantine {
    /// Opens the list in a run's folder. Rank 0 reads the images of earlier attempts from it. Lines that cannot be parsed are
    /// ignored.
    pub(super) fn open(folder: &Path, rank: usize) -> Self {
        let path = folder.join(FILE);
        let open = || {
            let listed = read(&path)?;
            Ok((listed, LineFile::start(path.clone(), Existing::Append, LOSS)?))
        };
        let opened = if rank == 0 { open().map(Some) } else { Ok(None) };
        let opened = opened.unwrap_or_else(|error: io::Error| {
            tracing::warn!("{}: {error}; broken images are counted, but not listed", path.display());
            None
        });
        let (listed, lines) = opened.map_or_else(Default::default, |(listed, lines)| (listed, Some(lines)));
        Self { listed, lines, has_warned: false }
    }

    /// Adds the broken images that all ranks met. Every rank calls it with the images that it met. Returns the number of
    /// images on the list of rank 0.
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
        let mut new = Vec::new();
        for line in all.iter().flat_map(|lines| lines.split(|&byte| byte == b'\n')) {
            let Ok(image) = serde_json::from_slice::<BrokenImage>(line) else { continue };
            if self.listed.len() < MAX_LISTED && self.listed.insert(image.image) {
                new.push(line);
            }
        }
        if let Some(lines) = &self.lines {
            if !new.is_empty() {
                // One write for all of them.
                lines.append(new.join(&b'\n'));
            }
            if let Some(problem) = lines.problem().filter(|_| !self.has_warned) {
                self.has_warned = true;
                tracing::warn!("{problem}");
            }
        }
        Ok(self.listed.len())
    }

    /// Returns when the list is written, or after a moment.
    pub(super) fn finish(self) {
        let problem = self.lines.and_then(|lines| lines.finish(PATIENCE));
        if let Some(problem) = problem.filter(|_| !self.has_warned) {
            tracing::warn!("{problem}");
        }
    }
}

/// Reads the names of the images on a list, which may not exist.
fn read(path: &Path) -> io::Result<BTreeSet<String>> {
    let file = match open_regular(path, std::fs::File::options().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let images = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    Ok(images.map(|image: BrokenImage| image.image).take(MAX_LISTED).collect())
}

fn line_of(image: &BrokenImage) -> Vec<u8> {
    let mut line = serde_json::to_vec(image).unwrap_or_default();
    line.push(b'\n');
    line
}
