//! The compression of GIF files: LZW with codes of growing length (GIF89a specification, appendix F).

/// The most bits of a code, and the codes that there are with them.
const MAX_BITS: u32 = 12;
const MAX_CODES: usize = 1 << MAX_BITS;

/// Returns the first `count` values of a frame. `bytes` begins with the number of bits of a value. What follows the values
/// is not read. As in Pillow, a block counts only if it is whole.
///
/// # Errors
/// If there are fewer values, or a code is wrong.
pub(crate) fn decode_frame(bytes: &[u8], count: usize) -> Result<Vec<u8>, String> {
    let (&bits, blocks) = bytes.split_first().ok_or("it ends before the values of its first frame")?;
    if u32::from(bits) > MAX_BITS {
        return Err(format!("its values have {bits} bits, and at most {MAX_BITS} are possible"));
    }
    let mut codes = Codes { blocks, block: &[], waiting: 0, num_waiting: 0 };
    let mut decoder = Decoder::new(bits.into());
    let few = |values: &[u8]| format!("its first frame has only {} of {count} values", values.len());
    let mut values = Vec::new();
    while values.len() < count {
        let code = codes.next(decoder.code_bits).ok_or_else(|| few(&values))?;
        if code == decoder.clear {
            decoder.reset();
        } else if code == decoder.clear + 1 {
            return Err(few(&values));
        } else if !decoder.expand(code, &mut values) {
            return Err(format!("its first frame has a wrong code after {} values", values.len()));
        }
    }
    values.truncate(count);
    Ok(values)
}

/// Reads codes from blocks, which begin with their length.
struct Codes<'a> {
    blocks: &'a [u8],
    block: &'a [u8],
    /// Bits that were read and belong to the next codes, and how many.
    waiting: u32,
    num_waiting: u32,
}

impl Codes<'_> {
    /// Returns the next code; `None` if no whole block follows.
    fn next(&mut self, bits: u32) -> Option<usize> {
        while self.num_waiting < bits {
            let (&byte, rest) = match self.block.split_first() {
                Some(first) => first,
                None => {
                    let (&length, rest) = self.blocks.split_first()?;
                    (self.block, self.blocks) = rest.split_at_checked(length.into())?;
                    self.block.split_first()?
                }
            };
            self.block = rest;
            self.waiting |= u32::from(byte) << self.num_waiting;
            self.num_waiting += 8;
        }
        let code = self.waiting & ((1 << bits) - 1);
        self.waiting >>= bits;
        self.num_waiting -= bits;
        Some(code as usize)
    }
}

/// The strings of values that codes stand for.
struct Decoder {
    /// The number of bits of a value.
    bits: u32,
    /// The code that clears the table. The next one is the end.
    clear: usize,
    /// The number of bits of the next code.
    code_bits: u32,
    /// The last value of each string, and the code of the string before it.
    strings: Vec<(u8, u16)>,
    /// The code before, and the first value of its string; `None` after the table was cleared.
    before: Option<(usize, u8)>,
}

impl Decoder {
    fn new(bits: u32) -> Self {
        let mut decoder = Self { bits, clear: 1 << bits, code_bits: 0, strings: Vec::new(), before: None };
        decoder.reset();
        decoder
    }

    fn reset(&mut self) {
        self.strings.clear();
        self.strings.resize(self.clear + 2, (0, 0));
        self.code_bits = self.bits + 1;
        self.before = None;
    }

    /// Appends the string of a code to `values`, and adds the next string to the table. Returns whether the code has one.
    fn expand(&mut self, code: usize, values: &mut Vec<u8>) -> bool {
        let Some((before, first_before)) = self.before else {
            if code > self.clear {
                return false;
            }
            values.push(code as u8);
            self.before = Some((code, code as u8));
            return true;
        };
        let next = self.strings.len();
        if code > next {
            return false;
        }
        let start = values.len();
        // The string that is added now: that of the code before, and its first value again.
        let mut place = code;
        if code == next {
            values.push(first_before);
            place = before;
        }
        while place >= self.clear {
            // A chain is not longer than the table.
            let Some(&(value, previous)) = self.strings.get(place).filter(|_| place < MAX_CODES) else { return false };
            values.push(value);
            place = previous.into();
        }
        values.push(place as u8);
        values[start..].reverse();
        if next < MAX_CODES {
            self.strings.push((place as u8, before as u16));
            if next == (1 << self.code_bits) - 1 && self.code_bits < MAX_BITS {
                self.code_bits += 1;
            }
        }
        self.before = Some((code, place as u8));
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Packs codes of 3 bits into blocks of at most 2 bytes.
    fn frame(codes: &[u32]) -> Vec<u8> {
        let packed = codes.iter().rev().fold(0_u64, |bits, &code| bits << 3 | u64::from(code)).to_le_bytes();
        let mut bytes = vec![2];
        for block in packed[..(codes.len() * 3).div_ceil(8)].chunks(2) {
            bytes.push(block.len() as u8);
            bytes.extend(block);
        }
        bytes
    }

    #[test]
    fn codes_stand_for_strings_also_for_the_one_that_is_added_now() {
        // Clear, 1, and the string 1 1 before it is in the table.
        assert_eq!(decode_frame(&frame(&[4, 1, 6]), 3), Ok(vec![1, 1, 1]));
        assert_eq!(decode_frame(&frame(&[4, 1, 6]), 2), Ok(vec![1, 1]));
        assert_eq!(decode_frame(&frame(&[1, 2, 6]), 4), Ok(vec![1, 2, 1, 2]));
        assert_eq!(decode_frame(&frame(&[1, 2, 4, 3, 1]), 4), Ok(vec![1, 2, 3, 1]));
    }

    #[test]
    fn missing_values_and_wrong_codes_are_errors() {
        assert!(decode_frame(&frame(&[4, 1, 5]), 3).unwrap_err().contains("only 1 of 3"));
        assert!(decode_frame(&frame(&[4, 1, 7]), 3).unwrap_err().contains("wrong code after 1"));
        assert!(decode_frame(&frame(&[4, 6]), 3).unwrap_err().contains("wrong code after 0"));
        let whole = frame(&[4, 1, 2, 3, 1, 2]);
        assert!(decode_frame(&whole, 5).is_ok());
        assert!(decode_frame(&whole[..whole.len() - 1], 5).is_err());
        assert!(decode_frame(&[13, 1, 0], 1).unwrap_err().contains("13 bits"));
        assert!(decode_frame(&[], 1).is_err());
    }
}
