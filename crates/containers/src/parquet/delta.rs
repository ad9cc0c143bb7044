//! The lengths of values in delta encoding.
//!
//! The crate `parquet` allocates memory for as many lengths as they state, so the number is checked before it reads
//! them.

/// Returns the offset of the end of the numbers at the start of `bytes`; `None` if they are malformed or more than
/// `most`.
pub(super) fn end(bytes: &[u8], most: u32) -> Option<usize> {
    let mut at = 0;
    let per_block = varint(bytes, &mut at)?;
    let minis = varint(bytes, &mut at).filter(|&minis| minis > 0)?;
    let total = varint(bytes, &mut at).filter(|&total| total <= most.into())?;
    varint(bytes, &mut at)?;
    let per_mini = per_block / minis;
    // The first number is in the header.
    let mut left = total.saturating_sub(1);
    while left > 0 && per_mini > 0 {
        // The least difference, and the width in bits of each part of the block.
        varint(bytes, &mut at)?;
        let widths = bytes.get(at..at.checked_add(usize::try_from(minis).ok()?)?)?;
        at += widths.len();
        for &width in widths {
            // Parts without numbers are left out.
            if left > 0 {
                let part = per_mini.checked_mul(width.into())? / 8;
                at = at.checked_add(usize::try_from(part).ok()?).filter(|&at| at <= bytes.len())?;
                left = left.saturating_sub(per_mini);
            }
        }
    }
    (left == 0).then_some(at)
}

/// Reads an integer of 7 bits in each byte.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of 128 numbers in 4 parts of 32. The header states 40 numbers, the first of which is 1. 32 differences
    /// have 3 bits each, and 7 have none.
    const NUMBERS: &[u8] = b"\x80\x01\x04\x28\x02\x00\x03\x00\x05\x05abcdefghijkl";

    #[test]
    fn the_end_of_the_numbers_is_found() {
        assert_eq!(end(NUMBERS, 40), Some(22));
        assert_eq!(end(&[NUMBERS, b"rest"].concat(), 99), Some(22));
        // One number, or none, has no block.
        assert_eq!(end(b"\x80\x01\x04\x01\x02rest", 1), Some(5));
        assert_eq!(end(b"\x80\x01\x04\x00\x02rest", 1), Some(5));
    }

    #[test]
    fn hostile_numbers_have_no_end() {
        assert_eq!(end(NUMBERS, 39), None);
        for length in 0..NUMBERS.len() {
            assert_eq!(end(&NUMBERS[..length], 40), None, "{length}");
        }
        let large = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(end(&[b"\x80\x01\x04", &large[..], b"\x02\x00\0\0\0\0"].concat(), u32::MAX), None);
        assert_eq!(end(&[&large[..], b"\x01\x28\x02\x00\x40"].concat(), 40), None);
        assert_eq!(end(&[b"\x80\x01", &large[..], b"\x28\x02\x00"].concat(), 40), None);
        assert_eq!(end(b"\x80\x01\x00\x28\x02", 40), None);
        assert_eq!(end(b"\x00\x04\x28\x02\x00\0\0\0\0", 40), None);
    }
}
