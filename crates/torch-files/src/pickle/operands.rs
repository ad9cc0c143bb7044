//! Reads the operations of a pickle and their operands.

use super::value::Value;
use crate::error::Error;

/// The bytes of a pickle, read from the front.
pub(super) struct Operands<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Operands<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Returns the number of bytes that have been read.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.position..];
        match usize::try_from(count).ok().and_then(|count| rest.get(..count)) {
            Some(taken) => {
                self.position += taken.len();
                Ok(taken)
            }
            None => Error::damaged(format!(
                "its pickle ends after {} bytes, in the middle of an operation at byte {}",
                self.bytes.len(),
                self.position
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

    /// Reads a little-endian number of `bytes` bytes, at most eight.
    pub(super) fn length(&mut self, bytes: u64) -> Result<u64, Error> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Reads the text up to the next line feed, without the line feed.
    pub(super) fn line(&mut self) -> Result<&'a str, Error> {
        let rest = &self.bytes[self.position..];
        let start = self.position;
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Error::damaged(format!("the line at byte {start} of its pickle does not end"));
        };
        self.position += length + 1;
        std::str::from_utf8(&rest[..length])
            .map_err(|_| Error::Damaged(format!("the line at byte {start} of its pickle is no UTF-8")))
    }

    pub(super) fn protocol(&mut self) -> Result<(), Error> {
        match self.byte()? {
            0..=5 => Ok(()),
            version => Error::unsupported(format!("its pickle has protocol {version}; 0 to 5 are read")),
        }
    }

    /// Reads an integer in two's complement. It is preceded by its length, a number of `bytes` bytes.
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

    /// Reads an integer or a boolean of protocol 0.
    pub(super) fn decimal(&mut self) -> Result<Value, Error> {
        let start = self.position;
        let value = match self.line()? {
            "01" => Some(Value::Bool(true)),
            "00" => Some(Value::Bool(false)),
            line => line.strip_suffix('L').unwrap_or(line).parse().ok().map(Value::Int),
        };
        value.ok_or_else(|| Error::Damaged(format!("the line at byte {start} of its pickle is no number of 64 bits")))
    }

    /// Reads text. It is preceded by its length, a number of `bytes` bytes.
    pub(super) fn text(&mut self, bytes: u64) -> Result<String, Error> {
        let length = self.length(bytes)?;
        let start = self.position;
        std::str::from_utf8(self.take(length)?)
            .map(str::to_owned)
            .map_err(|_| Error::Damaged(format!("the text at byte {start} of its pickle is no UTF-8")))
    }

    /// Reads a Python 2 string of protocol 0. Escapes are refused, because names in a state dict have none.
    pub(super) fn quoted(&mut self) -> Result<String, Error> {
        let start = self.position;
        let line = self.line()?;
        let inner = ['\'', '"'].iter().find_map(|&quote| line.strip_prefix(quote)?.strip_suffix(quote));
        match inner {
            Some(text) if !text.contains('\\') => Ok(text.to_owned()),
            _ => Error::damaged(format!("the text at byte {start} of its pickle is not plainly quoted")),
        }
    }

    pub(super) fn memo_key(&mut self) -> Result<u64, Error> {
        let start = self.position;
        self.line()?
            .parse()
            .map_err(|_| Error::Damaged(format!("the line at byte {start} of its pickle is no position to remember")))
    }
}
