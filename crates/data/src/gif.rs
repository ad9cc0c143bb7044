//! Decodes the first frame of a GIF as Pillow does: on a screen that is filled with the transparent color, or else with
//! color 0.
//!
//! A file has a screen with a table of colors, and blocks: extensions, images, and a trailer (GIF89a specification,
//! appendix A). An image without a table of its own uses that of the screen. Without either, its values are gray.

use super::gif_lzw::decode_frame;
use super::limits::refusal;
use super::pixels::Pixels;

/// A color of a table.
type Color = [u8; 3];

/// Where a frame is on the screen, in pixels, and the order of its rows.
#[derive(Debug, Clone, Copy)]
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    is_interlaced: bool,
}

/// What stands before the pixels of the first frame.
struct Beginning<'a> {
    /// The size of the screen, in pixels. It holds the frame.
    width: usize,
    height: usize,
    frame: Frame,
    /// The colors of the frame; `None` if its values are gray.
    colors: Option<&'a [Color]>,
    /// The value that fills the rest of the screen.
    background: u8,
    /// The compressed values and all that follows.
    values: &'a [u8],
}

/// Returns the width and the height of a GIF in pixels.
///
/// # Errors
/// If the first frame is missing.
pub(crate) fn gif_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    read_beginning(bytes).map(|beginning| (beginning.width, beginning.height))
}

/// Decodes the first frame of a GIF. The result has 1 channel if each value is its own level of gray.
///
/// # Errors
/// If the frame is missing, too large, or not complete.
pub(crate) fn decode_gif(bytes: &[u8]) -> Result<Pixels, String> {
    let Beginning { width, height, frame, colors, background, values } = read_beginning(bytes)?;
    if let Some(reason) = refusal(width, height) {
        return Err(reason);
    }
    if frame.width == 0 || frame.height == 0 {
        return Err(format!("its first frame has {} x {} pixels", frame.width, frame.height));
    }
    let frame_values = decode_frame(values, frame.width * frame.height)?;
    let mut screen = vec![background; width * height];
    for (row, values) in rows(frame).zip(frame_values.chunks_exact(frame.width)) {
        let start = (frame.top + row) * width + frame.left;
        screen[start..start + frame.width].copy_from_slice(values);
    }
    let Some(colors) = colors else { return Ok(Pixels { width, height, channels: 1, bytes: screen }) };
    // Values beyond the table are black.
    let mut table: [Color; 256] = [[0; 3]; 256];
    table[..colors.len()].copy_from_slice(colors);
    let bytes = screen.iter().flat_map(|&value| table[usize::from(value)]).collect();
    Ok(Pixels { width, height, channels: 3, bytes })
}

/// Returns the rows of a frame in the order of the file.
fn rows(frame: Frame) -> impl Iterator<Item = usize> {
    let passes: &[(usize, usize)] = if frame.is_interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
    passes.iter().flat_map(move |&(first, step)| (first..frame.height).step_by(step))
}

/// Reads the file up to the values of its first frame.
fn read_beginning(bytes: &[u8]) -> Result<Beginning<'_>, String> {
    if !bytes.starts_with(b"GIF87a") && !bytes.starts_with(b"GIF89a") {
        return Err("its version is neither GIF87a nor GIF89a".into());
    }
    let mut reader = Reader { rest: &bytes[6..] };
    read_blocks(&mut reader).ok_or("it ends before its first frame, or a control block is too short")?
}

/// Reads the screen and the blocks. Returns `None` if the file ends before.
fn read_blocks<'a>(reader: &mut Reader<'a>) -> Option<Result<Beginning<'a>, String>> {
    let (screen_width, screen_height) = (reader.number()?, reader.number()?);
    let [flags, _, _] = *reader.take(3)?.first_chunk()?;
    let screen_colors = reader.colors(flags)?;
    let mut transparent = None;
    loop {
        match reader.byte()? {
            b';' => return Some(Err("it has no frame".into())),
            b'!' => reader.extension(&mut transparent)?,
            b',' => break,
            // Pillow skips bytes between blocks.
            _ => {}
        }
    }
    let (left, top, width, height) = (reader.number()?, reader.number()?, reader.number()?, reader.number()?);
    let flags = reader.byte()?;
    let own_colors = reader.colors(flags)?;
    // A table that gives each value its own level of gray is none. Pillow then takes that of the screen, also if the frame
    // has such a table of its own.
    let is_gray = |colors: &[Color]| (0..=255).zip(colors).all(|(value, &color)| color == [value; 3]);
    let colors = [own_colors, screen_colors].into_iter().find(|colors| !is_gray(colors));
    let frame = Frame { left, top, width, height, is_interlaced: flags & 0x40 != 0 };
    Some(Ok(Beginning {
        width: screen_width.max(left + width),
        height: screen_height.max(top + height),
        frame,
        colors,
        background: transparent.unwrap_or(0),
        values: reader.rest,
    }))
}

/// Reads the parts of a file. Each returns `None` if the file ends before.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(*self.take(2)?.first_chunk()?)))
    }

    /// Reads the table of colors of which `flags` tell. It is empty if there is none.
    fn colors(&mut self, flags: u8) -> Option<&'a [Color]> {
        if flags & 0x80 == 0 {
            return Some(&[]);
        }
        Some(self.take(3 << ((flags & 7) + 1))?.as_chunks().0)
    }

    /// Reads a block of an extension. It is empty at the end of the extension, or of the file.
    fn block(&mut self) -> &'a [u8] {
        let length = self.byte().unwrap_or(0);
        let count = usize::from(length).min(self.rest.len());
        self.take(count).unwrap_or_default()
    }

    /// Reads an extension after its first byte. Sets the transparent color if it has one.
    fn extension(&mut self, transparent: &mut Option<u8>) -> Option<()> {
        let label = self.byte()?;
        let mut block = self.block();
        match label {
            // A graphic control extension: flags, a delay of two bytes, the transparent color.
            0xF9 if !block.is_empty() => {
                let &[flags, _, _] = block.first_chunk()?;
                if flags & 1 != 0 {
                    *transparent = Some(*block.get(3)?);
                }
            }
            // A comment, which may be empty. Of other extensions, Pillow expects a block.
            0xFE if block.is_empty() => return Some(()),
            // An application extension, of which Pillow expects a second block.
            0xFF if block.starts_with(b"NETSCAPE2.0") => _ = self.block(),
            _ => {}
        }
        loop {
            block = self.block();
            if block.is_empty() {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const COLORS: [Color; 4] = [[9, 8, 7], [1, 2, 3], [40, 50, 60], [70, 80, 90]];

    /// A GIF whose frame of 2 x 1 pixels at (1, 1) has the values 1 and 2.
    fn gif(width: u8, height: u8, colors: &[Color], blocks: &[u8]) -> Vec<u8> {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend([width, 0, height, 0, if colors.is_empty() { 0 } else { 0x81 }, 3, 0]);
        bytes.extend(colors.as_flattened());
        bytes.extend(blocks);
        bytes.extend([b',', 1, 0, 1, 0, 2, 0, 1, 0, 0]);
        // Codes of 3 bits, the lowest first: clear, 1, 2, end.
        let codes: u16 = 4 | 1 << 3 | 2 << 6 | 5 << 9;
        let [low, high] = codes.to_le_bytes();
        bytes.extend([2, 2, low, high, 0, b';']);
        bytes
    }

    #[test]
    fn the_screen_around_the_first_frame_has_color_0_or_the_transparent_one() {
        let transparent = [b'!', 0xF9, 4, 1, 0, 0, 3, 0];
        for (blocks, around) in [(&[][..], 0), (&transparent[..], 3)] {
            let pixels = decode_gif(&gif(4, 3, &COLORS, blocks)).unwrap();
            let values = [around, around, around, around, around, 1, 2, around, around, around, around, around];
            assert_eq!((pixels.width, pixels.height, pixels.channels), (4, 3, 3));
            assert_eq!(pixels.bytes, values.map(|value| COLORS[value]).as_flattened());
        }
    }

    #[test]
    fn the_screen_holds_the_frame() {
        for (before, after) in [((0, 0), (3, 2)), ((0, 32), (3, 32)), ((32, 0), (32, 2)), ((40, 50), (40, 50))] {
            assert_eq!(gif_size(&gif(before.0, before.1, &COLORS, &[])), Ok(after), "{before:?}");
        }
    }

    #[test]
    fn values_are_gray_without_a_table_and_stray_bytes_are_skipped() {
        for blocks in [&[][..], &[0, 7], &[b'!', 0xF9, 5, 0, 0, 0, 3, 0, 0]] {
            let pixels = decode_gif(&gif(3, 2, &[], blocks)).unwrap();
            assert_eq!((pixels.channels, &pixels.bytes[..]), (1, &[0, 0, 0, 0, 1, 2][..]));
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let whole = gif(3, 2, &COLORS, &[b'!', 0xFE, 2, 1, 1, 0]);
        // The end of the blocks and the trailer are not needed.
        for length in 0..whole.len() - 2 {
            assert!(decode_gif(&whole[..length]).is_err(), "{length}");
        }
        assert!(decode_gif(&whole[..whole.len() - 2]).is_ok());
        assert!(decode_gif(&gif(3, 2, &COLORS, b";")).unwrap_err().contains("no frame"));
        assert!(decode_gif(&gif(3, 2, &COLORS, &[b'!', 0xF9, 3, 1, 0, 0, 0])).is_err());
    }
}
