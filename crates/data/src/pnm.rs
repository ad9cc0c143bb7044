//! Decodes binary PPM and PGM files (P6 and P5 of Netpbm), the plainest form of pixels that other programs read too.

use super::limits::refusal;
use super::pixels::Pixels;

/// The most digits of a number in a header. No valid number has more.
const MAX_DIGITS: usize = 10;

/// What the header of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PnmHeader {
    pub(crate) width: usize,
    pub(crate) height: usize,
    channels: usize,
    /// The value of white.
    most: usize,
    /// The offset of the first value in bytes.
    start: usize,
}

/// Returns whether the bytes begin like a binary PPM or PGM file.
pub(crate) fn is_pnm(bytes: &[u8]) -> bool {
    matches!(bytes, [b'P', b'5' | b'6', next, ..] if next.is_ascii_whitespace() || *next == b'#')
}

/// Reads the header.
///
/// # Errors
/// If it is cut off or has invalid numbers. The error is the reason.
pub(crate) fn read_header(bytes: &[u8]) -> Result<PnmHeader, String> {
    let channels = match bytes.get(..2) {
        Some(b"P5") => 1,
        Some(b"P6") => 3,
        _ => return Err("it is neither P5 nor P6".into()),
    };
    let mut at = 2;
    let mut number = |name: &str| {
        at = skip_space(bytes, at);
        let digits = bytes[at..].iter().take(MAX_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&bytes[at..at + digits]).unwrap_or_default();
        at += digits;
        let number = text.parse::<usize>().ok().filter(|_| digits <= MAX_DIGITS);
        number.ok_or_else(|| format!("its header has no {name} at byte {}", at - digits))
    };
    let (width, height, most) = (number("width")?, number("height")?, number("value of white")?);
    if !(1..=65_535).contains(&most) {
        return Err(format!("its value of white is {most}; it is from 1 to 65535"));
    }
    // One white space ends the header. A value that looks like a white space may follow.
    if !bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        return Err("its header is cut off".into());
    }
    match refusal(width, height) {
        Some(reason) => Err(reason),
        None => Ok(PnmHeader { width, height, channels, most, start: at + 1 }),
    }
}

/// Returns the offset after white space and comments, which go from `#` to the end of their line.
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    let mut is_comment = false;
    while let Some(&byte) = bytes.get(at) {
        is_comment = if is_comment { !matches!(byte, b'\n' | b'\r') } else { byte == b'#' };
        if !is_comment && !byte.is_ascii_whitespace() {
            break;
        }
        at += 1;
    }
    at
}

/// Decodes a file. Values whose white is not 255 are scaled to 255 and rounded as by Pillow: halves to the even number.
/// What follows the pixels is ignored.
///
/// # Errors
/// If it is cut off or has an invalid header. The error is the reason.
pub(crate) fn decode_pnm(bytes: &[u8]) -> Result<Pixels, String> {
    let PnmHeader { width, height, channels, most, start } = read_header(bytes)?;
    // The product is at most 3 * 2 * the largest number of pixels.
    let values = width * height * channels;
    let value_bytes = if most > 255 { 2 } else { 1 };
    let stored = bytes.get(start..).unwrap_or_default();
    let Some(stored) = stored.get(..values * value_bytes) else {
        return Err(format!("it ends after {} of {} bytes of pixels", stored.len(), values * value_bytes));
    };
    let scale = |value: usize| (value.min(most) as f64 / most as f64 * 255.0).round_ties_even() as u8;
    let bytes = match (most, value_bytes) {
        (255, _) => stored.to_vec(),
        (_, 1) => {
            let scaled: Vec<u8> = (0..256).map(scale).collect();
            stored.iter().map(|&value| scaled[usize::from(value)]).collect()
        }
        _ => stored.as_chunks::<2>().0.iter().map(|&value| scale(u16::from_be_bytes(value).into())).collect(),
    };
    Ok(Pixels { width, height, channels, bytes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_with_comments_are_read_and_values_are_scaled() {
        let bytes = b"P5 # a comment 7\n2\t# another\n 3\n255\n\n\x01\x02\x03\x04\x05rest";
        let image = decode_pnm(bytes).unwrap();
        assert_eq!((image.width, image.height, image.channels), (2, 3, 1));
        assert_eq!(image.bytes, b"\n\x01\x02\x03\x04\x05");
        assert_eq!(decode_pnm(b"P5 3 1 2 \x00\x01\x02").unwrap().bytes, [0, 128, 255]);
        assert_eq!(decode_pnm(b"P6 1 1 65535 \x00\x00\x80\x00\xff\xff").unwrap().bytes, [0, 128, 255]);
    }

    #[test]
    fn wrong_headers_and_missing_pixels_are_errors() {
        let error = |bytes: &[u8]| decode_pnm(bytes).unwrap_err();
        assert!(error(b"P6 2 2 255 12345678901").contains("ends after 11 of 12"));
        assert!(error(b"P6 99999999999999999999 1 255 ").contains("no width at byte 3"));
        assert!(error(b"P5 60000 60000 255 ").contains("60000 x 60000"));
        assert!(error(b"P5 0 5 255 ").contains("0 x 5"));
        assert!(error(b"P5 1 1 0 ").contains("white is 0"));
        assert!(error(b"P5 1 1 65536 ").contains("white is 65536"));
        assert!(error(b"P5 1 1 255").contains("cut off"));
        assert!(error(b"P5 1 -1 255 x").contains("no height at byte 5"));
        for length in 0..12 {
            assert!(decode_pnm(&b"P5 #\n1 1 255 x"[..length]).is_err());
        }
    }
}
