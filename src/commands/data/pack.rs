//! `admiral data pack`: packs images into shards.

use std::time::{Duration, Instant};

use admiral_data::{ClassSource, Cropping, Reduction};
use admiral_packing::{OnBroken, Output, Settings, StoredAs, Summary, pack};
use admiral_storage::StoreOptions;
use clap::Args;

use super::super::hardware::all_cores;
use super::super::ranks::CommandError;
use super::super::text::size;
use super::common::{failed, refused};
use super::source::SourceOptions;

/// The options of `admiral data pack`.
#[derive(Debug, Clone, Args)]
pub struct PackOptions {
    #[command(flatten)]
    source: SourceOptions,
    /// The folder or the URL of a store for the shards, which must be empty or hold a packing that was interrupted
    #[arg(long, value_name = "PLACE")]
    out: String,
    /// Scale the short side of each image to this number of pixels, as training does
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    size: Option<String>,
    /// The part that is kept with --size: center (a square), or none (the whole image)
    #[arg(long, default_value = "center")]
    crop: String,
    /// keep (copy the files), raw (PPM and PGM), png or jpeg; by default keep, and raw with --size
    #[arg(long)]
    format: Option<String>,
    /// The quality of jpeg, 1 to 100
    #[arg(long, allow_negative_numbers = true)]
    quality: Option<String>,
    /// Megabytes (10^6 bytes) of a shard
    #[arg(long, default_value = "512", allow_negative_numbers = true)]
    shard_mb: String,
    /// On a broken image: stop, or skip (leave it out, and name it at the end)
    #[arg(long, default_value = "stop")]
    on_broken: String,
    /// Threads that read, decode and encode; by default one for each core
    #[arg(long, allow_negative_numbers = true)]
    threads: Option<String>,
}

/// The quality of JPEG files without `--quality`.
const DEFAULT_QUALITY: u8 = 95;

/// The time between two lines of progress.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Packs the images and prints a summary.
///
/// # Errors
/// When the images cannot be packed, with the exit code.
pub(super) fn run(options: &PackOptions, stores: &StoreOptions) -> Result<(), CommandError> {
    let settings = options.settings()?;
    settings.check().map_err(failed)?;
    let mut output = Output::open(&options.out, stores).map_err(failed)?;
    let opened = options.source.open(settings.threads, stores)?;
    let start = Instant::now();
    let mut last = start;
    let summary = pack(&*opened.source, &mut output, &settings, |progress| {
        if last.elapsed() >= REPORT_EVERY {
            last = Instant::now();
            eprintln!("{} of {} images in {} shards", progress.images, progress.total, progress.shards);
        }
    });
    let summary = summary.map_err(failed)?;
    print(&summary, start.elapsed(), &options.out);
    print_section(opened.source.num_classes(), opened.classes, output.place());
    Ok(())
}

impl PackOptions {
    fn settings(&self) -> Result<Settings, CommandError> {
        let size = self.size.as_ref().map(|size| number("--size", size)).transpose()?;
        let cropping = match &self.crop[..] {
            "center" => Cropping::Center,
            "none" => Cropping::None,
            other => return Err(refused(format!("--crop is {other:?}; it is center or none"))),
        };
        let quality = self.quality.as_ref().map(|quality| number("--quality", quality)).transpose()?;
        let stored_as = match (self.format.as_deref(), size) {
            (Some("keep"), _) | (None, None) => StoredAs::Keep,
            (Some("raw"), _) | (None, Some(_)) => StoredAs::Raw,
            (Some("png"), _) => StoredAs::Png,
            (Some("jpeg"), _) => StoredAs::Jpeg(quality.unwrap_or(DEFAULT_QUALITY)),
            (Some(other), _) => return Err(refused(format!("--format is {other:?}; it is keep, raw, png or jpeg"))),
        };
        if quality.is_some() && !matches!(stored_as, StoredAs::Jpeg(_)) {
            return Err(refused("--quality belongs to --format jpeg"));
        }
        let megabytes: u64 = number("--shard-mb", &self.shard_mb)?;
        let on_broken = match &self.on_broken[..] {
            "stop" => OnBroken::Stop,
            "skip" => OnBroken::Skip,
            other => return Err(refused(format!("--on-broken is {other:?}; it is stop or skip"))),
        };
        Ok(Settings {
            stored_as,
            reduction: size.map(|size| Reduction { size, cropping }),
            shard_bytes: megabytes.saturating_mul(1_000_000),
            on_broken,
            threads: self.threads.as_ref().map_or(Ok(all_cores()), |threads| number("--threads", threads))?,
        })
    }
}

/// Returns the number in the value of an option.
fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, CommandError> {
    value.parse().map_err(|_| refused(format!("{option} is {value:?}; it is a whole number that is not negative")))
}

fn print(summary: &Summary, elapsed: Duration, place: &str) {
    let Summary { images, images_now, shards, bytes_in, bytes_out, .. } = *summary;
    let rate = images_now as f64 / elapsed.as_secs_f64().max(1e-9);
    let (from, to) = (size(bytes_in), size(bytes_out));
    let shards = if shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") };
    println!("{place}: {images} images of {from} in {shards} of {to}, {rate:.0} images/s");
    if !summary.broken.is_empty() {
        println!("{} broken images are left out:", summary.broken.len());
        for broken in &summary.broken {
            println!("  {}: {}", broken.name, broken.reason);
        }
    }
}

/// Prints the section of a configuration that trains on the shards.
fn print_section(num_classes: usize, classes: ClassSource, place: &str) {
    println!("\ndata:\n  source: tar\n  path: {}", serde_json::Value::from(place));
    println!("  classes: {}", if num_classes > 0 { "container" } else { "none" });
    if num_classes == 0 && classes == ClassSource::None {
        println!("  # The images keep their names, so that folder or file_name also give their classes.");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        options: PackOptions,
    }

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = [&["pack", "images", "--out", "out"], arguments].concat();
        let options = Parsed::try_parse_from(arguments).map_err(|error| error.to_string())?.options;
        options.settings().map_err(|(_, error)| error.to_string())
    }

    #[test]
    fn files_are_kept_unless_they_are_scaled() {
        let plain = settings(&[]).unwrap();
        assert_eq!((plain.stored_as, plain.reduction, plain.shard_bytes), (StoredAs::Keep, None, 512_000_000));
        let scaled = settings(&["--size", "64"]).unwrap();
        let center = Some(Reduction { size: 64, cropping: Cropping::Center });
        assert_eq!((scaled.stored_as, scaled.reduction), (StoredAs::Raw, center));
        assert_eq!(settings(&["--format", "jpeg"]).unwrap().stored_as, StoredAs::Jpeg(95));
        assert_eq!(settings(&["--format", "jpeg", "--quality", "80"]).unwrap().stored_as, StoredAs::Jpeg(80));
    }

    #[test]
    fn wrong_values_are_named() {
        for (arguments, expected) in [
            (&["--size", "-4"][..], "--size is \"-4\""),
            (&["--quality", "80"], "belongs to --format jpeg"),
            (&["--quality", "300", "--format", "jpeg"], "--quality is \"300\""),
            (&["--format", "bmp"], "keep, raw, png or jpeg"),
            (&["--crop", "left"], "center or none"),
            (&["--on-broken", "x"], "stop or skip"),
            (&["--shard-mb", "x"], "--shard-mb"),
        ] {
            let error = settings(arguments).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
