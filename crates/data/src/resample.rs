//! Resampling of 8-bit images, with the same bits as Pillow. Each pass sums in fixed point with 22 fractional bits and
//! rounds to 8 bits.

use super::buffers::Buffers;
use super::passes::{horizontal, vertical};
use super::pixels::{Lines, Pixels};
use super::windows::{Filter, Windows};

/// A rectangle of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle {
    /// The left edge in pixels.
    pub x: usize,
    /// The top edge in pixels.
    pub y: usize,
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
}

/// Resizes an image to `width` x `height` pixels.
#[must_use]
pub fn resize(image: &Pixels, width: usize, height: usize, filter: Filter) -> Pixels {
    resize_part(image, width, height, filter, Rectangle { x: 0, y: 0, width, height }, &mut Buffers::default())
}

/// Returns the part `part` of the image that [`resize`] returns, without computing the rest. Takes its memory from
/// `buffers`.
///
/// # Panics
/// If the part is not inside the resized image.
#[must_use]
pub fn resize_part(
    image: &Pixels,
    width: usize,
    height: usize,
    filter: Filter,
    part: Rectangle,
    buffers: &mut Buffers,
) -> Pixels {
    let Rectangle { x, y, width: part_width, height: part_height } = part;
    assert!(x + part_width <= width && y + part_height <= height, "{part:?} is outside of {width} x {height} pixels");
    let (columns, rows) = (x..x + part_width, y..y + part_height);
    let lines = Lines::all(image);
    match (width == image.width, height == image.height) {
        (true, true) => lines.part(columns, rows),
        (false, true) => horizontal(lines.rows(rows), &Windows::new(image.width, width, columns, filter), buffers),
        (true, false) => vertical(lines.columns(columns), &Windows::new(image.height, height, rows, filter), buffers),
        _ => {
            let mut across = Windows::new(image.width, width, columns, filter);
            let mut down = Windows::new(image.height, height, rows, filter);
            if is_vertical_first(image, width, height) {
                let sources = across.sources();
                across.shift(sources.start);
                let reduced = vertical(lines.columns(sources), &down, buffers);
                let resized = horizontal(Lines::all(&reduced), &across, buffers);
                buffers.keep(reduced);
                resized
            } else {
                let sources = down.sources();
                down.shift(sources.start);
                let reduced = horizontal(lines.rows(sources), &across, buffers);
                let resized = vertical(Lines::all(&reduced), &down, buffers);
                buffers.keep(reduced);
                resized
            }
        }
    }
}

/// Returns whether the height is changed before the width. The two orders round differently.
///
/// Experiments with Pillow 13 show that it changes the height first if the height loses more than twice as many pixels
/// as the width. For the crop of training, these are images more than twice as tall as wide. Earlier versions of Pillow
/// always change the width first.
fn is_vertical_first(image: &Pixels, width: usize, height: usize) -> bool {
    let lost_width = image.width as i64 - width as i64;
    let lost_height = image.height as i64 - height as i64;
    lost_height > 0 && lost_height > 2 * lost_width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_one_value_keeps_it() {
        let flat = Pixels { width: 37, height: 23, channels: 3, bytes: vec![131; 37 * 23 * 3] };
        for (width, height) in [(18, 11), (64, 40), (37, 9)] {
            for filter in [Filter::Box, Filter::Bicubic] {
                let resized = resize(&flat, width, height, filter);
                assert_eq!(resized.bytes.len(), width * height * 3);
                assert!(resized.bytes.iter().all(|&value| value == 131));
            }
        }
    }

    #[test]
    fn halving_with_the_box_filter_gives_the_rounded_mean() {
        let image = Pixels { width: 4, height: 1, channels: 1, bytes: vec![0, 3, 10, 20] };
        assert_eq!(resize(&image, 2, 1, Filter::Box).bytes, [2, 15]);
    }

    #[test]
    fn a_part_has_the_pixels_of_the_whole() {
        let part = Rectangle { x: 5, y: 3, width: 11, height: 6 };
        for channels in [1, 3] {
            let bytes = (0..47 * 61 * channels).map(|index| (index * index % 251) as u8).collect();
            let image = Pixels { width: 47, height: 61, channels, bytes };
            for (width, height) in [(47, 61), (20, 61), (47, 30), (23, 30), (80, 90), (40, 12)] {
                for filter in [Filter::Box, Filter::Bicubic] {
                    let whole = resize(&image, width, height, filter);
                    let square = resize_part(&image, width, height, filter, part, &mut Buffers::default());
                    let expected = Lines::all(&whole).part(5..16, 3..9);
                    assert_eq!(square, expected, "{channels} {width} x {height} {filter:?}");
                }
            }
        }
    }
}
