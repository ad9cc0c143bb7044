//! The sizes that a webp file states, checked before anything is decoded.

/// A width and a height in pixels.
type Size = (usize, usize);

/// Returns why a webp file is refused; `None` if all its parts agree about their sizes. Other bytes are left to the decoder.
///
/// A frame may state another size than the canvas that it is for. A decoder would allocate memory for it before it notices.
pub(crate) fn contradiction(bytes: &[u8]) -> Option<String> {
    let chunks = bytes.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WEBP")?;
    let mut canvas = None;
    for (kind, content) in Chunks(chunks) {
        let wrong = match kind {
            b"VP8X" => {
                canvas = content.get(4..10).map(sides_less_one);
                None
            }
            b"ANMF" => {
                let frame = content.get(6..12).map(sides_less_one);
                // Its own chunks follow the frame's place, size, duration and flags.
                let own = Chunks(content.get(16..).unwrap_or_default());
                own.filter_map(|(kind, content)| bitstream_size(kind, content)).find(|&size| Some(size) != frame)
            }
            _ => bitstream_size(kind, content).filter(|&size| canvas.is_some_and(|canvas| canvas != size)),
        };
        if let Some((width, height)) = wrong {
            return Some(format!("it has {width} x {height} pixels, but its header states another size"));
        }
    }
    None
}

/// The kind and the content of each chunk.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, rest) = self.0.split_first_chunk::<4>()?;
        let (length, content) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        // A padding makes the length even.
        self.0 = content.get(length + length % 2..).unwrap_or_default();
        Some((kind, content.get(..length).unwrap_or(content)))
    }
}

/// Returns the size that a chunk of pixels states.
fn bitstream_size(kind: &[u8; 4], content: &[u8]) -> Option<Size> {
    match kind {
        // 3 bytes, a start code of 3 bytes, and sides of 14 bits (RFC 6386, section 9.1).
        b"VP8 " => content.get(6..10).map(|sides| (number(&sides[..2]) & 0x3FFF, number(&sides[2..]) & 0x3FFF)),
        // A signature, then sides less 1 of 14 bits.
        b"VP8L" => content.get(1..5).map(number).map(|bits| (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))),
        _ => None,
    }
}

fn sides_less_one(bytes: &[u8]) -> Size {
    (1 + number(&bytes[..3]), 1 + number(&bytes[3..]))
}

/// Returns the number of some bytes, the lowest first.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A webp file of these chunks.
    fn webp(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WEBP".to_vec();
        for (kind, content) in chunks {
            bytes.extend_from_slice(*kind);
            bytes.extend((content.len() as u32).to_le_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(2), 0);
        }
        bytes
    }

    #[test]
    fn a_frame_of_another_size_than_stated_is_refused() {
        // 300 x 3 pixels.
        let canvas = |width: u8| [0, 0, 0, 0, width, 1, 0, 2, 0, 0];
        let lossy = [0, 0, 0, 0x9D, 1, 0x2A, 0x2C, 0x41, 3, 0];
        // The sides less 1, the height shifted by 14 bits.
        let lossless = [0x2F, 0x2B, 0x81, 0, 0];
        for (kind, pixels) in [(b"VP8 ", &lossy[..]), (b"VP8L", &lossless)] {
            let still = |width| webp(&[(b"VP8X", &canvas(width)), (b"ICCP", &[1]), (kind, pixels)]);
            assert_eq!(contradiction(&still(0x2B)), None);
            assert!(contradiction(&still(0x2C)).is_some_and(|reason| reason.contains("300 x 3")));
            assert_eq!(contradiction(&webp(&[(kind, pixels)])), None);
            let moving = |width| {
                let mut frame = vec![0; 6];
                frame.extend(&canvas(width)[4..]);
                frame.extend([0; 4]);
                frame.extend(&webp(&[(b"ALPH", &[1]), (kind, pixels)])[12..]);
                webp(&[(b"VP8X", &[9; 10]), (b"ANMF", &frame)])
            };
            assert_eq!(contradiction(&moving(0x2B)), None);
            assert!(contradiction(&moving(0)).is_some_and(|reason| reason.contains("300 x 3")));
        }
    }

    #[test]
    fn short_files_are_left_to_the_decoder() {
        let whole = webp(&[(b"VP8X", &[0; 10]), (b"ANMF", &[0; 30]), (b"VP8 ", &[])]);
        for length in 0..whole.len() {
            assert_eq!(contradiction(&whole[..length]), None, "{length}");
        }
    }
}
