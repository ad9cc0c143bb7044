//! What a job draws, and the file `job.json` that describes it.

use std::ops::Range;

use admiral_contract::printable_json;
use admiral_npz::Archive;
use admiral_storage::hex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Difference, Error};

/// The version of the files `job.json`, `manifest.json` and of the markers of parts.
pub const SCHEMA_VERSION: u32 = 1;

/// The largest part, in bytes. A part is written by one request, and is in memory as a whole.
pub const MAX_PART_BYTES: u64 = 128 << 20;

/// The largest number of parts, because all of them are listed.
const MAX_PARTS: u64 = 1_000_000;

/// The longest text of a value in a message, in characters.
const MAX_SHOWN: usize = 120;

/// What a job draws. Jobs with equal settings draw equal images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSettings {
    /// The number of images. Image `i` is the same for every number of images.
    pub num: u64,
    /// The number of images in a part. The last part may have fewer.
    pub part_size: u64,
    /// Height, width and channels of an image.
    pub shape: [usize; 3],
    /// Whether each image has a label.
    pub has_labels: bool,
    /// Everything else that an image depends on: the checkpoint, the sampler, the seed, the batch size. The order of the
    /// fields does not matter.
    pub settings: Map<String, Value>,
}

/// The content of `job.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    schema_version: u32,
    job: JobSettings,
}

impl JobSettings {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Settings`] with what to do.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Settings { reason });
        if self.num == 0 || self.part_size == 0 || self.shape.contains(&0) {
            return refuse(format!(
                "{} images of {:?} (height, width, channels) in parts of {}; none of these may be 0",
                self.num, self.shape, self.part_size
            ));
        }
        // A label takes 8 bytes.
        let image = self.shape.iter().try_fold(1_u64, |bytes, &side| bytes.checked_mul(side as u64));
        let all = image.and_then(|image| image.checked_add(8)?.checked_mul(self.num.max(self.part_size)));
        let (Some(image), true) = (image, all.is_some_and(|all| all < 1 << 62)) else {
            return refuse(format!("{} images of {:?} are too large", self.num, self.shape));
        };
        if image > MAX_PART_BYTES {
            return refuse(format!("an image of {image} bytes is too large; at most {MAX_PART_BYTES}"));
        }
        if self.part_size.min(self.num) * image > MAX_PART_BYTES {
            let largest = MAX_PART_BYTES / image;
            return refuse(format!(
                "a part of {} images has more than {MAX_PART_BYTES} bytes; make parts of at most {largest} images",
                self.part_size
            ));
        }
        if self.num_parts() > MAX_PARTS {
            return refuse(format!("{} parts are too many; at most {MAX_PARTS}: make larger parts", self.num_parts()));
        }
        Ok(())
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn num_parts(&self) -> u64 {
        self.num.div_ceil(self.part_size)
    }

    /// Returns the numbers of the images in a part.
    #[must_use]
    pub fn images_of(&self, part: u64) -> Range<u64> {
        let first = part.saturating_mul(self.part_size).min(self.num);
        first..first.saturating_add(self.part_size).min(self.num)
    }

    /// Returns the number of images in parts.
    #[must_use]
    pub fn images_in(&self, parts: &[u64]) -> u64 {
        parts.iter().map(|&part| self.images_of(part)).map(|images| images.end - images.start).sum()
    }

    /// Returns the bytes of one image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the length of the file of a part in bytes, which does not depend on its contents.
    pub(crate) fn part_bytes(&self, part: u64) -> u64 {
        let images = self.images_of(part);
        Archive::samples(images.end - images.start, self.shape, Default::default(), self.no_labels()).length()
    }

    /// Returns the checksum of no labels, if there are labels.
    pub(crate) fn no_labels(&self) -> Option<crc32fast::Hasher> {
        self.has_labels.then(crc32fast::Hasher::new)
    }

    /// Returns the name of the file with all samples: `samples_50000x64x64x3.npz`.
    #[must_use]
    pub fn samples_file(&self) -> String {
        let [height, width, channels] = self.shape;
        format!("samples_{}x{height}x{width}x{channels}.npz", self.num)
    }

    /// Returns the settings in which a job in a store, `there`, differs from this one. Nested settings are compared one by
    /// one.
    #[must_use]
    pub fn differences_from(&self, there: &Self) -> Vec<Difference> {
        let (there, here) = (there.leaves(), self.leaves());
        let shown = |value: Option<&Value>| value.map(|value| short(&value.to_string()));
        let names = here.keys().chain(there.keys().filter(|name| !here.contains_key(*name)));
        names
            .map(|name| (name, there.get(name), here.get(name)))
            .filter(|(_, there, here)| there != here)
            .map(|(name, there, here)| Difference { field: name.clone(), there: shown(there), here: shown(here) })
            .collect()
    }

    /// Returns all settings by their names. Those of `settings` come first.
    fn leaves(&self) -> Map<String, Value> {
        let mut leaves = Map::new();
        flatten("", &self.settings, &mut leaves);
        for (name, value) in [
            ("number of images", Value::from(self.num)),
            ("part size", self.part_size.into()),
            ("image shape", self.shape.to_vec().into()),
            ("labels", self.has_labels.into()),
        ] {
            leaves.insert(name.into(), value);
        }
        leaves
    }

    /// Returns the content of `job.json`. Equal settings with the same order have the same bytes.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        pretty(&JobFile { schema_version: SCHEMA_VERSION, job: self.clone() })
    }

    /// Reads the content of `job.json`.
    ///
    /// # Errors
    /// The reason, if it has another form, a newer version, or invalid sizes.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let file: JobFile = versioned(bytes)?;
        file.job.validate().map_err(|error| error.to_string())?;
        Ok(file.job)
    }
}

/// Returns the SHA-256 of bytes as hexadecimal digits.
pub(crate) fn sha256_of(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// Inserts the values of `map` into `leaves`. The values of a nested object have names with dots.
fn flatten(prefix: &str, map: &Map<String, Value>, leaves: &mut Map<String, Value>) {
    for (name, value) in map {
        let name = format!("{prefix}{name}");
        match value {
            Value::Object(inner) if !inner.is_empty() => flatten(&format!("{name}."), inner, leaves),
            value => {
                leaves.insert(name, value.clone());
            }
        }
    }
}

/// Returns JSON that can be printed, without the end of a long text.
fn short(json: &str) -> String {
    let start: String = json.chars().take(MAX_SHOWN).collect();
    let end = if start.len() < json.len() { "..." } else { "" };
    format!("{}{end}", printable_json(&start))
}

/// Returns indented JSON.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    // Maps with names of another type than text are the only values that JSON cannot represent.
    let mut json = serde_json::to_vec_pretty(value).unwrap_or_default();
    json.push(b'\n');
    json
}

/// Reads a file with a schema version.
///
/// # Errors
/// The reason, if it has another form or a newer version.
pub(crate) fn versioned<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct VersionOnly {
        schema_version: u64,
    }
    let VersionOnly { schema_version } = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not a file of a sampling job ({error}); use another location"))?;
    if schema_version > u64::from(SCHEMA_VERSION) {
        return Err(format!(
            "it has schema version {schema_version} and this Admiral reads up to {SCHEMA_VERSION}; use the Admiral that \
             wrote it, or a newer one"
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read ({error}); use another location"))
}
