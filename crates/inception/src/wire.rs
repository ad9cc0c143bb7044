//! The wire format of protocol buffers: fields of a message, one after the other, without copies.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// An integer, a boolean or a member of an enumeration.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes, such as a float.
    Fixed32(u32),
}

/// Iterates over the fields of a message: their numbers and values. It ends after the first error.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for place in 0..10 {
            let (&byte, rest) = self.rest.split_first().ok_or("it ends inside a number")?;
            self.rest = rest;
            // The tenth byte has the highest bit of a number of 64 bits.
            if place == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number has more than 64 bits".into())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).ok().filter(|&length| length <= self.rest.len());
        let length = length.ok_or("a field is longer than the message around it")?;
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.try_into().map(u64::from_le_bytes).unwrap_or_default()),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().map(u32::from_le_bytes).unwrap_or_default()),
            other => return Err(format!("a field has the type {other}, which no such file has")),
        };
        match key >> 3 {
            0 => Err("a field has the number 0".into()),
            number => Ok((number, value)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Returns the last value of a field that has bytes, as protocol buffers prescribe for a field that is set twice.
pub(crate) fn bytes_of(message: &[u8], number: u64) -> Result<Option<&[u8]>, String> {
    let mut found = None;
    for field in Fields::of(message) {
        if let (n, Value::Bytes(bytes)) = field?
            && n == number
        {
            found = Some(bytes);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Result<(u64, Value<'_>), String>> {
        Fields::of(bytes).collect()
    }

    #[test]
    fn each_type_is_read() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 2, b'a', b'b', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let expected =
            [(1, Value::Varint(150)), (2, Value::Bytes(b"ab")), (3, Value::Fixed32(1)), (4, Value::Fixed64(2))];
        assert_eq!(all(&bytes), expected.map(Ok));
    }

    #[test]
    fn broken_messages_end_with_an_error() {
        for (bytes, expected) in [
            (&[0x0a, 5, 1][..], "longer than the message"),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "longer than the message"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], "more than 64 bits"),
            (&[0x08], "ends inside"),
            (&[0x0b], "type 3"),
            (&[0x00, 0], "number 0"),
            (&[0x0d, 0, 0], "longer than the message"),
        ] {
            let found = all(bytes);
            assert!(matches!(&found[..], [Err(text)] if text.contains(expected)), "{found:?}");
        }
        assert_eq!(bytes_of(&[0x0a, 1, 7, 0x0a, 1, 8], 1), Ok(Some(&[8][..])));
    }
}
