//! The names of the files of a job, and which parts are missing.

use std::collections::HashMap;

use crate::settings::JobSettings;

/// The description of the job, written first.
pub(crate) const JOB: &str = "job.json";

/// The list of everything that belongs to a finished job, written last.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The folder of the parts.
pub(crate) const PARTS: &str = "parts";

/// The folder of the PNG files.
pub(crate) const PNG: &str = "png";

/// Returns the name of a part without its extension, in the folder of the parts: `part-000012-of-000049`.
pub(crate) fn part_name(settings: &JobSettings, part: u64) -> String {
    format!("part-{part:06}-of-{:06}", settings.num_parts())
}

/// Returns the path of the file of a part.
pub(crate) fn part_file(settings: &JobSettings, part: u64) -> String {
    format!("{PARTS}/{}.npz", part_name(settings, part))
}

/// Returns the path of the marker of a part.
pub(crate) fn marker_file(settings: &JobSettings, part: u64) -> String {
    format!("{PARTS}/{}.json", part_name(settings, part))
}

/// Returns the numbers of the parts that are missing in a listing of the folder `parts`, ascending. A part is there if it
/// has a marker and its file has the length that follows from the settings.
#[must_use]
pub fn missing_parts(settings: &JobSettings, listing: &[(String, u64)]) -> Vec<u64> {
    let lengths: HashMap<&str, u64> = listing.iter().map(|(name, length)| (name.as_str(), *length)).collect();
    let is_missing = |part: &u64| {
        let name = part_name(settings, *part);
        let has_marker = lengths.contains_key(format!("{name}.json").as_str());
        !has_marker || lengths.get(format!("{name}.npz").as_str()) != Some(&settings.part_bytes(*part))
    };
    (0..settings.num_parts()).filter(is_missing).collect()
}

/// Returns the parts that `rank` of `world_size` ranks draws: every `world_size`-th of `missing`.
#[must_use]
pub fn parts_of_rank(missing: &[u64], rank: usize, world_size: usize) -> Vec<u64> {
    missing.iter().copied().skip(rank).step_by(world_size.max(1)).collect()
}

/// Returns whether a name in the store is that of a file that is assembled from the parts.
pub(crate) fn is_assembled(path: &str) -> bool {
    path.starts_with("samples_") && path.ends_with(".npz") && !path.contains('/')
}
