//! The screen of a GIF, which some programs write as 0 x 0 or smaller than the first frame.

/// Enlarges the screen of a GIF so that it holds the first frame, as Pillow does. Other bytes are left as they are.
pub(crate) fn enlarge_to_first_frame(bytes: &mut [u8]) {
    let Some((right, bottom)) = end_of_first_frame(bytes) else { return };
    for (place, end) in [(6, right), (8, bottom)] {
        let side = u16::from_le_bytes([bytes[place], bytes[place + 1]]);
        let side = u32::from(side).max(end).min(u32::from(u16::MAX)) as u16;
        bytes[place..place + 2].copy_from_slice(&side.to_le_bytes());
    }
}

/// Returns the right and bottom ends of the first frame; `None` if there is none.
fn end_of_first_frame(bytes: &[u8]) -> Option<(u32, u32)> {
    if !bytes.starts_with(b"GIF87a") && !bytes.starts_with(b"GIF89a") {
        return None;
    }
    let flags = *bytes.get(10)?;
    let mut place = 13 + if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    loop {
        match bytes.get(place)? {
            // An image: left, top, width, height.
            0x2C => {
                let number = |at: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
                return Some((number(place + 1)? + number(place + 5)?, number(place + 3)? + number(place + 7)?));
            }
            // An extension: a label, then blocks that begin with their length, until one of length 0.
            0x21 => {
                place += 2;
                while *bytes.get(place)? != 0 {
                    place += 1 + usize::from(bytes[place]);
                }
                place += 1;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a GIF with a screen, a table of 2 colours, an extension, and a frame at (1, 2) of 8 x 4 pixels.
    fn gif(width: u8, height: u8) -> Vec<u8> {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend([width, 0, height, 0, 0x80, 0, 0, 9, 9, 9, 8, 8, 8]);
        bytes.extend([0x21, 0xF9, 4, 1, 2, 3, 4, 0]);
        bytes.extend([0x2C, 1, 0, 2, 0, 8, 0, 4, 0, 0]);
        bytes
    }

    #[test]
    fn a_screen_is_enlarged_only_if_the_frame_does_not_fit() {
        for (before, after) in [((0, 0), (9, 6)), ((0, 32), (9, 32)), ((32, 0), (32, 6)), ((40, 50), (40, 50))] {
            let mut bytes = gif(before.0, before.1);
            enlarge_to_first_frame(&mut bytes);
            assert_eq!(bytes, gif(after.0, after.1), "{before:?}");
        }
    }

    #[test]
    fn damaged_files_are_left_as_they_are() {
        let whole = gif(0, 0);
        // The frame's size is known after 9 of its 10 bytes.
        for length in 0..whole.len() - 1 {
            let mut bytes = whole[..length].to_vec();
            enlarge_to_first_frame(&mut bytes);
            assert_eq!(bytes, whole[..length], "{length}");
        }
    }
}
