//! How images are packed.

use admiral_data::Reduction;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The form in which images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredAs {
    /// The files as they are. Images that are no files are stored as [`Raw`](Self::Raw).
    Keep,
    /// Binary PPM, or PGM if they are grey.
    Raw,
    /// PNG.
    Png,
    /// JPEG with a colour for each pixel, of this quality from 1 to 100.
    Jpeg(u8),
}

/// The reaction to an image that cannot be read or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBroken {
    /// End with an error that names it.
    Stop,
    /// Leave it out, and report it.
    Skip,
}

/// How images are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The form in which they are stored.
    pub stored_as: StoredAs,
    /// The size at which they are stored; `None` keeps theirs.
    pub reduction: Option<Reduction>,
    /// The bytes after which a shard is full. A larger image has a shard of its own.
    pub shard_bytes: u64,
    /// The reaction to broken images.
    pub on_broken: OnBroken,
    /// The number of threads that read, decode and encode. The shards do not depend on it.
    pub threads: usize,
}

/// The largest length of a short side in pixels. Larger images are refused by the decoder.
const MAX_SIZE: usize = 13_377;

/// More threads than any host has cores.
const MAX_THREADS: usize = 1024;

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Option`] about the first wrong one.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |option, reason: String| Err(Error::Option { option, reason });
        if let Some(Reduction { size, .. }) = self.reduction
            && !(1..=MAX_SIZE).contains(&size)
        {
            return refuse("--size", format!("{size} pixels; give 1 to {MAX_SIZE}"));
        }
        match self.stored_as {
            StoredAs::Keep if self.reduction.is_some() => {
                return refuse(
                    "--format",
                    "keep copies files, and --size changes images; give raw, png or jpeg".into(),
                );
            }
            StoredAs::Jpeg(quality) if !(1..=100).contains(&quality) => {
                return refuse("--quality", format!("{quality}; give 1 to 100"));
            }
            _ => {}
        }
        if self.shard_bytes == 0 {
            return refuse("--shard-mb", "0; give at least 1".into());
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return refuse("--threads", format!("{}; give 1 to {MAX_THREADS}", self.threads));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_data::Cropping;

    use super::*;

    #[test]
    fn wrong_values_are_refused_by_option() {
        let good = Settings {
            stored_as: StoredAs::Raw,
            reduction: Some(Reduction { size: 64, cropping: Cropping::Center }),
            shard_bytes: 1,
            on_broken: OnBroken::Stop,
            threads: 1,
        };
        good.check().unwrap();
        let zero = Some(Reduction { size: 0, cropping: Cropping::None });
        for (settings, option) in [
            (Settings { reduction: zero, ..good }, "--size: 0"),
            (Settings { stored_as: StoredAs::Keep, ..good }, "--format"),
            (Settings { stored_as: StoredAs::Jpeg(0), ..good }, "--quality: 0"),
            (Settings { stored_as: StoredAs::Jpeg(101), ..good }, "--quality: 101"),
            (Settings { shard_bytes: 0, ..good }, "--shard-mb"),
            (Settings { threads: 0, ..good }, "--threads: 0"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.starts_with(option), "{error}");
        }
    }
}
