//! PNG files that are damaged only after their pixels, or in the CRCs of the chunks of their pixels. Pillow opens them.

use flate2::Crc;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xAE, 0x42, 0x60, 0x82];

/// Returns the file with correct checksums of its pixel data, and with an end. `None` if it is no PNG file, or has no pixel
/// data. Whether the pixel data are complete is left to the decoder.
///
/// A chunk has its length, its kind, its content, and a CRC-32 of kind and content (PNG specification, section 5.3).
pub(crate) fn repair(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(SIGNATURE)?;
    let mut repaired = SIGNATURE.to_vec();
    let mut has_pixels = false;
    while rest.len() >= 8 {
        let declared = usize::try_from(u32::from_be_bytes(rest[..4].try_into().ok()?)).ok()?;
        let (kind, content) = (&rest[4..8], &rest[8..]);
        if kind == b"IDAT" {
            has_pixels = true;
            let content = &content[..declared.min(content.len())];
            repaired.extend((content.len() as u32).to_be_bytes());
            repaired.extend(kind);
            repaired.extend(content);
            let mut crc = Crc::new();
            crc.update(kind);
            crc.update(content);
            repaired.extend(crc.sum().to_be_bytes());
        } else if has_pixels {
            // Pillow needs nothing of what follows the pixels.
            break;
        } else {
            repaired.extend(rest.get(..declared.checked_add(12)?)?);
        }
        rest = rest.get(declared.checked_add(12)?..).unwrap_or_default();
    }
    repaired.extend(END);
    has_pixels.then_some(repaired)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode;

    fn text() -> Vec<u8> {
        std::fs::read(format!("{}/../../tests/images/text.png", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn damage_that_leaves_the_pixels_is_repaired() {
        let whole = text();
        let pixels = decode(&whole).unwrap();
        // Without the end, without the last checksum as well, and with a wrong checksum of the pixels.
        let mut wrong_sum = whole.clone();
        let place = whole.len() - 12 - 4;
        wrong_sum[place] ^= 1;
        for damaged in [&whole[..whole.len() - 12], &whole[..whole.len() - 14], &wrong_sum] {
            assert_eq!(decode(damaged), Ok(pixels.clone()));
        }
    }

    #[test]
    fn missing_pixels_and_a_damaged_header_stay_errors() {
        let whole = text();
        let mut wrong_size = whole.clone();
        wrong_size[19] ^= 1;
        for damaged in [&whole[..whole.len() / 2], &whole[..40], &wrong_size] {
            assert!(decode(damaged).is_err());
        }
        assert_eq!(repair(b"GIF89a"), None);
        assert_eq!(repair(&whole[..33]), None);
    }
}
