//! The sample grids of a run, evenly over its time, in bounded number and size.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use admiral_telemetry::{BoardEntry, ImagePlace, read_entries, read_image};

/// The largest number of series, such as the grids of one average, and of images of a series.
const MAX_SERIES: usize = 4;
const MAX_IMAGES: usize = 8;
/// The largest number of images of which the places are remembered.
const MAX_PLACES: usize = 100_000;
/// The largest image and the largest sum of all images, in bytes.
const MAX_IMAGE: usize = 4 << 20;
const MAX_TOTAL: usize = 24 << 20;
/// The start of every PNG file: its signature and the head of its first chunk.
const PNG: [u8; 16] = *b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
/// The largest width and height of an image in pixels. A small file may unpack to a large image.
const MAX_SIDE: u32 = 8192;

/// The sample grids of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pictures {
    /// The images of each series, in the order of steps: the step and the PNG file.
    pub(crate) series: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
    /// What is not shown, for people.
    pub notes: Vec<String>,
}

impl Pictures {
    /// Reads the images of a folder of event files.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn read_events(folder: &Path) -> io::Result<Self> {
        let mut places: BTreeMap<String, BTreeMap<u64, ImagePlace>> = BTreeMap::new();
        let (mut num_places, mut num_left_out) = (0, 0_u64);
        let left_out = read_entries(folder, |entry| match entry {
            BoardEntry::Restart { step } => places.values_mut().for_each(|images| _ = images.split_off(&step)),
            BoardEntry::Image(place) if num_places < MAX_PLACES => {
                num_places += 1;
                places.entry(place.tag.clone()).or_default().insert(place.step, place);
            }
            BoardEntry::Image(_) => num_left_out += 1,
            BoardEntry::Scalar { .. } => {}
        })?;
        let mut pictures = Self { notes: left_out.files, ..Self::default() };
        if num_left_out > 0 {
            pictures.notes.push(format!("the last {num_left_out} images are left out"));
        }
        places.retain(|_, images| !images.is_empty());
        if places.len() > MAX_SERIES {
            let names: Vec<&str> = places.keys().skip(MAX_SERIES).take(20).map(String::as_str).collect();
            pictures.notes.push(format!(
                "{} more series are left out: {}",
                places.len() - MAX_SERIES,
                names.join(", ")
            ));
        }
        let mut room = MAX_TOTAL;
        for (tag, images) in places.into_iter().take(MAX_SERIES) {
            let images: Vec<ImagePlace> = images.into_values().collect();
            let chosen = evenly(images.len(), MAX_IMAGES).into_iter().map(|index| &images[index]);
            let read: Vec<_> = chosen.filter_map(|place| pictures.read(place, &mut room)).collect();
            pictures.series.insert(tag, read);
        }
        Ok(pictures)
    }

    /// Returns whether there is no image, and nothing that was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.notes.is_empty()
    }

    fn read(&mut self, place: &ImagePlace, room: &mut usize) -> Option<(u64, Vec<u8>)> {
        let most = MAX_IMAGE.min(*room);
        let reason = match read_image(place) {
            Ok(png) if png.len() <= most && is_png(&png) => {
                *room -= png.len();
                return Some((place.step, png));
            }
            Ok(png) if png.len() > most => format!("its {} bytes are too many for this page", png.len()),
            Ok(_) => "it is no PNG file of a usual size".to_owned(),
            Err(error) => error.to_string(),
        };
        self.notes.push(format!("{} of step {} is left out: {reason}", place.tag, place.step));
        None
    }
}

/// Returns whether this looks like a PNG file of a usual size.
fn is_png(bytes: &[u8]) -> bool {
    let side = |from: usize| bytes.get(from..from + 4)?.try_into().ok().map(u32::from_be_bytes);
    let is_usual = |side: Option<u32>| side.is_some_and(|pixels| (1..=MAX_SIDE).contains(&pixels));
    bytes.starts_with(&PNG) && is_usual(side(16)) && is_usual(side(20))
}

/// Returns at most `most` indices of `count` things, evenly, with the first and the last.
fn evenly(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|index| index * (count - 1) / (most - 1)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use admiral_telemetry::{Grid, TensorBoard};

    use super::*;

    fn grid(value: u8) -> Grid {
        Grid { width: 1, height: 1, channels: 1, pixels: vec![value] }
    }

    #[test]
    fn images_are_taken_evenly_and_a_restart_discards_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        for (first, steps) in [(0, 0..30_u64), (20, 20..25)] {
            let board = TensorBoard::open(folder.path(), first, Duration::from_secs(60));
            steps.for_each(|step| board.image("samples", step, grid(step as u8)));
            board.scalar("loss", first, 1.0);
            assert!(board.flush(Duration::from_secs(60)));
        }
        let pictures = Pictures::read_events(folder.path()).unwrap();
        let steps: Vec<u64> = pictures.series["samples"].iter().map(|image| image.0).collect();
        assert_eq!(steps, [0, 3, 6, 10, 13, 17, 20, 24]);
        assert!(pictures.series["samples"].iter().all(|(_, png)| is_png(png)) && pictures.notes.is_empty());
    }

    #[test]
    fn what_is_no_image_is_not_shown() {
        let png = grid(0).png().unwrap();
        let mut huge = png.clone();
        huge[16..20].copy_from_slice(&1_000_000_u32.to_be_bytes());
        let checks = [&png[..], &huge, b"<svg onload=alert(1)>", &png[..20]].map(is_png);
        assert_eq!(checks, [true, false, false, false]);
    }

    #[test]
    fn too_many_series_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let board = TensorBoard::open(folder.path(), 0, Duration::from_secs(60));
        for number in 0..MAX_SERIES + 2 {
            board.image(&format!("series {number}"), 1, grid(0));
        }
        assert!(board.flush(Duration::from_secs(60)));
        let pictures = Pictures::read_events(folder.path()).unwrap();
        assert_eq!((pictures.series.len(), pictures.notes.len()), (MAX_SERIES, 1));
        assert!(pictures.notes[0].contains("series 5"), "{:?}", pictures.notes);
    }
}
