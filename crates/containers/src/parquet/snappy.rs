//! A decoder of Snappy that unpacks a range in the middle of a page without the rest of the page.
//!
//! Compressed data are a list of elements: literal bytes, and copies of bytes that were unpacked before. The writers of
//! Snappy compress blocks of 64 KiB on their own, and image files hardly have copies at all. So there are many elements
//! from which on all copies stay within what follows, and unpacking may begin at these. Pages of images often have many
//! megabytes; a part of one has little more than the image.

/// The largest factor by which Snappy makes data smaller: 3 bytes for a copy of 64.
const MAX_FACTOR: usize = 22;

/// An element of compressed data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Element {
    /// The bytes at these places of the input.
    Literal { start: usize, end: usize },
    /// `length` bytes that were unpacked `distance` bytes before.
    Copy { distance: usize, length: usize },
}

/// Returns the element at a place and the place of the next one. `None` if it is malformed.
fn element(bytes: &[u8], at: usize) -> Option<(Element, usize)> {
    let tag = *bytes.get(at)?;
    let number = |at: usize, count: usize| -> Option<usize> {
        let bytes = bytes.get(at..at.checked_add(count)?)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    };
    let high = usize::from(tag >> 2);
    let (distance, length, next) = match tag & 3 {
        0 => {
            let extra = high.saturating_sub(59);
            let length = if extra == 0 { high } else { number(at + 1, extra)? };
            let start = at + 1 + extra;
            let end = start.checked_add(length)?.checked_add(1).filter(|&end| end <= bytes.len())?;
            return Some((Element::Literal { start, end }, end));
        }
        1 => (usize::from(tag >> 5) << 8 | number(at + 1, 1)?, (high & 7) + 4, at + 2),
        2 => (number(at + 1, 2)?, high + 1, at + 3),
        _ => (number(at + 1, 4)?, high + 1, at + 5),
    };
    Some((Element::Copy { distance, length }, next))
}

/// Returns the elements of compressed data and the length of what they hold.
pub(super) fn elements(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let mut length = 0;
    for (place, &byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte < 0x80 {
            return Some((&bytes[place + 1..], length));
        }
    }
    None
}

/// Unpacks elements, which must hold `length` bytes. `None` if they do not.
pub(super) fn unpack(elements: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(length.min(elements.len().saturating_mul(MAX_FACTOR)));
    let mut at = 0;
    while at < elements.len() {
        let (found, next) = element(elements, at)?;
        match found {
            Element::Literal { start, end } => unpacked.extend_from_slice(&elements[start..end]),
            Element::Copy { distance, length } => {
                let from = unpacked.len().checked_sub(distance).filter(|_| distance > 0)?;
                if distance >= length {
                    unpacked.extend_from_within(from..from + length);
                } else {
                    (from..from + length).for_each(|place| unpacked.push(unpacked[place]));
                }
            }
        }
        if unpacked.len() > length {
            return None;
        }
        at = next;
    }
    (unpacked.len() == length).then_some(unpacked)
}

/// A place at which unpacking may begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    /// The offset in the elements.
    pub(super) packed: usize,
    /// The offset in what they hold.
    pub(super) unpacked: usize,
}

/// Returns the places from which on no copy reaches back before them, in their order, and the end. `None` if the elements
/// are malformed.
pub(super) fn cuts(elements: &[u8]) -> Option<Vec<Cut>> {
    let mut places = Vec::new();
    let mut end = Cut { packed: 0, unpacked: 0 };
    while end.packed < elements.len() {
        let (found, next) = element(elements, end.packed)?;
        let (reach, length) = match found {
            Element::Literal { start, end: stop } => (end.unpacked, stop - start),
            Element::Copy { distance, length } => (end.unpacked.checked_sub(distance)?, length),
        };
        places.push((end, reach));
        end = Cut { packed: next, unpacked: end.unpacked.checked_add(length)? };
    }
    let mut cuts = vec![end];
    let mut lowest = usize::MAX;
    for (place, reach) in places.into_iter().rev() {
        lowest = lowest.min(reach);
        if lowest >= place.unpacked {
            cuts.push(place);
        }
    }
    cuts.reverse();
    Some(cuts)
}

/// Returns the nearest cuts that enclose a range of unpacked bytes.
pub(super) fn around(cuts: &[Cut], range: std::ops::Range<usize>) -> Option<(Cut, Cut)> {
    let first = cuts.partition_point(|cut| cut.unpacked <= range.start).checked_sub(1)?;
    let last = cuts.partition_point(|cut| cut.unpacked < range.end);
    Some((*cuts.get(first)?, *cuts.get(last)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Bytes without repetitions in `0..half`, and with many in the rest.
    fn mixed(num: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..num).map(|place| if place < num / 2 || place % 100 < 3 { random() } else { (place % 10) as u8 }).collect()
    }

    #[test]
    fn any_part_is_unpacked_from_the_cuts_around_it() {
        let whole = mixed(500_000);
        let packed = snap::raw::Encoder::new().compress_vec(&whole).unwrap();
        let (elements, length) = elements(&packed).unwrap();
        assert_eq!(length, whole.len());
        assert_eq!(unpack(elements, length).unwrap(), whole);
        let cuts = cuts(elements).unwrap();
        for range in [0..1, 0..500_000, 70_000..90_000, 249_000..251_000, 400_000..400_010, 499_999..500_000] {
            let (first, last) = around(&cuts, range.clone()).unwrap();
            let part = unpack(&elements[first.packed..last.packed], last.unpacked - first.unpacked).unwrap();
            assert_eq!(part[range.start - first.unpacked..][..range.len()], whole[range.clone()], "{range:?}");
            assert!(part.len() < range.len() + (130 << 10), "{range:?} needs {} bytes", part.len());
        }
    }

    #[test]
    fn malformed_data_are_none() {
        let packed = snap::raw::Encoder::new().compress_vec(&mixed(3000)).unwrap();
        let (elements, length) = elements(&packed).unwrap();
        assert_eq!(unpack(elements, length - 1), None);
        assert_eq!(unpack(elements, length + 1), None);
        assert_eq!(unpack(&elements[..elements.len() - 1], length), None);
        // A copy of what is not there, a copy of nothing, and a literal beyond the end.
        for bytes in [&[0x05, 1][..], &[0x00, 7, 0x01, 0], &[0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 1]] {
            assert_eq!(unpack(bytes, 5), None, "{bytes:?}");
        }
        assert_eq!(super::elements(&[0x80; 9]), None);
    }
}
