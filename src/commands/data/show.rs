//! `admiral data show`: what a data set holds.

use std::path::{Path, PathBuf};

use admiral_contract::files::check_expanded;
use admiral_packing::{Error, Range, Survey, contact_sheet, survey};
use admiral_storage::StoreOptions;
use admiral_telemetry::write_file;
use clap::Args;

use super::super::hardware::all_cores;
use super::super::ranks::{CommandError, print_json};
use super::super::text::size;
use super::common::{failed, refused};
use super::source::SourceOptions;

/// The options of `admiral data show`.
#[derive(Debug, Clone, Args)]
pub struct ShowOptions {
    #[command(flatten)]
    source: SourceOptions,
    /// Images, evenly spaced, that are fetched and whose headers are read
    #[arg(long, default_value_t = 1000, conflicts_with = "all")]
    samples: u64,
    /// Decode every image
    #[arg(long)]
    all: bool,
    /// Draw a contact sheet: NAME.png
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Images of the contact sheet, evenly spaced
    #[arg(long, default_value_t = 64)]
    tiles: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The most images of a contact sheet.
const MAX_TILES: u64 = 4096;

/// The broken images that are named, if not all are asked for.
const NAMED: usize = 20;

/// Prints what a data set holds.
///
/// # Errors
/// When it cannot be read, or the contact sheet cannot be written, with the exit code.
pub(super) fn run(options: &ShowOptions, stores: &StoreOptions) -> Result<(), CommandError> {
    if options.samples == 0 {
        return Err(refused("--samples is 0; at least one image is looked at"));
    }
    if !(1..=MAX_TILES).contains(&options.tiles) {
        return Err(refused(format!("--tiles is {}; it is 1 to {MAX_TILES}", options.tiles)));
    }
    if let Some(sheet) = &options.sheet
        && !sheet.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"))
    {
        return Err(refused(format!("--sheet: {} does not end with .png", sheet.display())));
    }
    if let Some(sheet) = &options.sheet {
        check_expanded("--sheet", sheet).map_err(refused)?;
    }
    let threads = all_cores();
    let source = options.source.open(threads, stores)?.source;
    let sample = (!options.all).then_some(options.samples);
    let found = survey(&*source, sample, threads).map_err(failed)?;
    if let Some(path) = &options.sheet {
        write_sheet(path, contact_sheet(&*source, options.tiles)).map_err(failed)?;
    }
    if options.json {
        return print_json(&found);
    }
    print(&found);
    Ok(())
}

fn write_sheet(path: &Path, sheet: Result<Vec<u8>, Error>) -> Result<(), Error> {
    write_file(path, &sheet?).map_err(|error| Error::of_file(path, &error))
}

fn print(found: &Survey) {
    let line = |name: &str, text: String| println!("{name:<12}{text}");
    line("images", found.images.to_string());
    let how = if found.is_decoded { "decoded" } else { "only their headers" };
    line("looked at", format!("{} images, {how}", found.looked_at));
    line("classes", classes(found));
    let formats: Vec<String> = found.formats.iter().map(|(format, count)| format!("{format} {count}")).collect();
    line("formats", formats.join(", "));
    for (name, range) in [("width", found.widths), ("height", found.heights)] {
        if let Some(Range { least, median, most }) = range {
            line(name, format!("{least} to {most} pixels, median {median}"));
        }
    }
    let estimated = if found.looked_at < found.images { ", estimated" } else { "" };
    line("bytes", format!("{}{estimated}", size(found.estimated_bytes())));
    line("order", format!("{} (SHA-256 of names and classes)", found.order_sha256));
    line("broken", found.broken.len().to_string());
    let named = if found.is_decoded { found.broken.len() } else { NAMED };
    for broken in found.broken.iter().take(named) {
        println!("  {}: {}", broken.name, broken.reason);
    }
}

/// Returns the number of classes, and the smallest and the largest class.
fn classes(found: &Survey) -> String {
    let least = found.classes.iter().min_by_key(|class| class.images);
    let most = found.classes.iter().max_by_key(|class| class.images);
    let (Some(least), Some(most)) = (least, most) else { return "none".into() };
    let (smallest, largest) =
        (format!("{} ({:?})", least.images, least.name), format!("{} ({:?})", most.images, most.name));
    format!("{}, of {smallest} to {largest} images", found.classes.len())
}
