//! The bytes of a pickle: operations and what follows them.

use super::value::Value;
use crate::error::Error;

/// Bytes that are taken from the front.
pub(super) struct Operands<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Operands<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, place: 0 }
    }

    /// How many have been taken.
    pub(super) fn place(&self) -> usize {
        self.place
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let left = &self.bytes[self.place..];
        match usize::try_from(count).ok().and_then(|count| left.get(..count)) {
            Some(taken) => {
                self.place += taken.len();
                Ok(taken)
            }
            None => Error::damaged(format!(
                "its pickle ends after {} bytes, in the middle of an operation at byte {}",
                self.bytes.len(),
                self.place
            )),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    /// A little-endian number of `bytes` bytes, at most eight.
    pub(super) fn length(&mut self, bytes: u64) -> Result<u64, Error> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// The text up to the next line feed, without it.
    pub(super) fn line(&mut self) -> Result<&'a str, Error> {
        let left = &self.bytes[self.place..];
        let start = self.place;
        let Some(length) = left.iter().position(|&byte| byte == b'\n') else {
            return Error::damaged(format!("the line at byte {start} of its pickle does not end"));
        };
        self.place += length + 1;
        std::str::from_utf8(&left[..length])
            .map_err(|_| Error::Damaged(format!("the line at byte {start} of its pickle is no UTF-8")))
    }

    pub(super) fn protocol(&mut self) -> Result<(), Error> {
        match self.byte()? {
            0..=5 => Ok(()),
            version => Error::unsupported(format!("its pickle has protocol {version}; 0 to 5 are read")),
        }
    }

    /// A whole number in two's complement, whose length takes `bytes` bytes.
    pub(super) fn long(&mut self, bytes: u64) -> Result<Value, Error> {
        let length = self.length(bytes)?;
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Ok(Value::BigInt);
        }
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut eight = [fill; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(eight)))
    }

    /// A whole number or a truth value of protocol 0.
    pub(super) fn decimal(&mut self) -> Result<Value, Error> {
        let start = self.place;
        let value = match self.line()? {
            "01" => Some(Value::Bool(true)),
            "00" => Some(Value::Bool(false)),
            line => line.strip_suffix('L').unwrap_or(line).parse().ok().map(Value::Int),
        };
        value.ok_or_else(|| Error::Damaged(format!("the line at byte {start} of its pickle is no number of 64 bits")))
    }

    /// Text whose length takes `bytes` bytes.
    pub(super) fn text(&mut self, bytes: u64) -> Result<String, Error> {
        let length = self.length(bytes)?;
        let start = self.place;
        std::str::from_utf8(self.take(length)?)
            .map(str::to_owned)
            .map_err(|_| Error::Damaged(format!("the text at byte {start} of its pickle is no UTF-8")))
    }

    /// Python 2's text of protocol 0. Escapes do not occur in the names of a state dict.
    pub(super) fn quoted(&mut self) -> Result<String, Error> {
        let start = self.place;
        let line = self.line()?;
        let inner = ['\'', '"'].iter().find_map(|&quote| line.strip_prefix(quote)?.strip_suffix(quote));
        match inner {
            Some(text) if !text.contains('\\') => Ok(text.to_owned()),
            _ => Error::damaged(format!("the text at byte {start} of its pickle is not plainly quoted")),
        }
    }

    pub(super) fn memo_key(&mut self) -> Result<u64, Error> {
        let start = self.place;
        self.line()?
            .parse()
            .map_err(|_| Error::Damaged(format!("the line at byte {start} of its pickle is no place to remember")))
    }
}
