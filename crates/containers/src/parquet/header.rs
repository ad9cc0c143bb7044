//! The header of a page, a structure in the compact protocol of Thrift.
//!
//! The crate `parquet` reads such headers too, but tells neither the offsets of pages nor their lengths.

/// The most structures within each other.
const MAX_DEPTH: usize = 8;

/// The types of fields.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const INTEGERS: std::ops::RangeInclusive<u8> = 4..=6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCTURE: u8 = 12;

/// A field's value, as far as headers need them.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(i64),
    Flag(bool),
    Fields(Fields),
    Skipped,
}

/// The fields of a structure, with their numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Fields(Vec<(i64, Value)>);

impl Fields {
    /// Reads the structure at the start of `bytes`. Returns it and its length; `None` if it is malformed.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let fields = reader.fields(0)?;
        Some((fields, reader.at))
    }

    /// Returns a number.
    pub(super) fn number(&self, field: i64) -> Option<i64> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Number(value) if *number == field => Some(*value),
            _ => None,
        })
    }

    /// Returns a number that is not negative and fits into 31 bits.
    pub(super) fn size(&self, field: i64) -> Option<u32> {
        self.number(field).and_then(|value| u32::try_from(value).ok()).filter(|&value| value <= i32::MAX as u32)
    }

    /// Returns a flag.
    pub(super) fn flag(&self, field: i64) -> Option<bool> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Flag(value) if *number == field => Some(*value),
            _ => None,
        })
    }

    /// Returns a structure.
    pub(super) fn fields(&self, field: i64) -> Option<&Self> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Fields(value) if *number == field => Some(value),
            _ => None,
        })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(count).ok()?).filter(|&at| at <= self.bytes.len())?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.unsigned()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn fields(&mut self, depth: usize) -> Option<Fields> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (mut fields, mut number) = (Vec::new(), 0_i64);
        loop {
            let byte = self.byte()?;
            let (step, kind) = (byte >> 4, byte & 0x0F);
            if kind == 0 {
                return Some(Fields(fields));
            }
            number = if step == 0 { self.signed()? } else { number.checked_add(step.into())? };
            let value = match kind {
                TRUE | FALSE => Value::Flag(kind == TRUE),
                _ => self.value(kind, depth)?,
            };
            fields.push((number, value));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            // Elements of lists.
            TRUE | FALSE | BYTE => self.skip(1)?,
            kind if INTEGERS.contains(&kind) => return self.signed().map(Value::Number),
            DOUBLE => self.skip(8)?,
            BINARY => {
                let length = self.unsigned()?;
                self.skip(length)?;
            }
            LIST | SET => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 0x0F { self.unsigned()? } else { u64::from(byte >> 4) };
                // Each element has a byte, so a wrong count ends at the end of the bytes.
                for _ in 0..count {
                    self.value(byte & 0x0F, depth + 1)?;
                }
            }
            STRUCTURE => return self.fields(depth + 1).map(Value::Fields),
            _ => return None,
        }
        Some(Value::Skipped)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_header_of_a_page_is_read() {
        // That of a dictionary page with 1000 values, which pyarrow wrote.
        let bytes = *b"\x15\x04\x15\xc0\xd0\xf4\x01\x15\x80\xd2\xf4\x01\x4c\x15\xd0\x0f\x15\x00\x12\x00\x00";
        let (fields, length) = Fields::read(&[&bytes[..], b"data"].concat()).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!([1, 2, 3].map(|field| fields.size(field)), [Some(2), Some(2_004_000), Some(2_004_096)]);
        let header = fields.fields(7).unwrap();
        assert_eq!((header.size(1), header.size(2), header.flag(3)), (Some(1000), Some(0), Some(false)));
        assert_eq!(fields.fields(5), None);
        for cut in 0..bytes.len() {
            assert_eq!(Fields::read(&bytes[..cut]), None);
        }
    }

    #[test]
    fn hostile_headers_are_none() {
        // Structures without an end, a list with a huge count, a text beyond the end, a number without an end.
        assert_eq!(Fields::read(&[0x1C; 100_000]), None);
        assert_eq!(Fields::read(&[&[0x19_u8][..], &[0x19; 100_000]].concat()), None);
        assert_eq!(Fields::read(&[0x19, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), None);
        assert_eq!(Fields::read(&[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]), None);
        assert_eq!(Fields::read(&[0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), None);
    }
}
