//! Values of bytes in plain encoding. Each is its length in 4 bytes and its content.
//!
//! The crate `parquet` panics if a page ends within a length, so the values are counted before it reads them.

/// Returns the number of values in `bytes`, at most `most`.
///
/// # Errors
/// The offset of the first value that exceeds `bytes`.
pub(super) fn count(bytes: &[u8], most: u32) -> Result<u32, usize> {
    let mut rest = bytes;
    for number in 0..most {
        if rest.is_empty() {
            return Ok(number);
        }
        let after = rest.split_first_chunk().and_then(|(length, content)| {
            let length = u32::from_le_bytes(*length);
            content.get(length as usize..)
        });
        rest = after.ok_or(bytes.len() - rest.len())?;
    }
    Ok(most)
}

/// Returns the length of the levels at the start of a page of the first version, without the 4 bytes that state it;
/// `None` if they exceed the page.
pub(super) fn levels(page: &[u8]) -> Option<u32> {
    let (length, rest) = page.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    rest.get(..length as usize).map(|_| length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_the_first_that_exceeds_the_page() {
        let bytes = b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc";
        assert_eq!(count(bytes, 9), Ok(3));
        assert_eq!(count(bytes, 2), Ok(2));
        assert_eq!(count(b"", 1), Ok(0));
        assert_eq!(count(&bytes[..14], 3), Err(9));
        assert_eq!(count(&bytes[..8], 3), Err(5));
        assert_eq!(count(b"\xff\xff\xff\xff", 1), Err(0));
    }

    #[test]
    fn levels_that_exceed_the_page_have_no_length() {
        assert_eq!(levels(b"\x02\0\0\0ab"), Some(2));
        assert_eq!(levels(b"\x03\0\0\0ab"), None);
        assert_eq!(levels(b"\x03\0\0"), None);
    }
}
