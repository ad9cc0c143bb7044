//! Writes an archive of uncompressed entries.

use std::io::{Seek, SeekFrom, Write};

use super::format::{
    CENTRAL_HEADER, END, END_64, END_64_BYTES, END_64_LOCATOR, EXTRA_64, IN_64, LOCAL_HEADER, LOCAL_HEADER_BYTES,
};
use crate::error::Error;

/// The alignment of the entries' data. PyTorch aligns it for memory mapping.
const ALIGNMENT: u64 = 64;

/// The ID of the extra field that PyTorch pads for alignment: "FB".
const EXTRA_PADDING: u16 = 0x4246;

/// The version of the zip format that introduced 64-bit lengths.
const VERSION: u16 = 45;

/// The flag for names in UTF-8.
const FLAGS: u16 = 1 << 11;

/// 1 January 1980, the earliest date of the format. A constant date makes files independent of the time of writing.
const DATE: u16 = 0x21;

struct Written {
    name: String,
    header: u64,
    length: u64,
    crc32: u32,
}

/// Writes a zip archive.
pub(crate) struct ArchiveWriter<W> {
    out: W,
    place: u64,
    written: Vec<Written>,
}

impl<W: Write + Seek> ArchiveWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, place: 0, written: Vec::new() }
    }

    /// Writes an entry of `length` bytes.
    ///
    /// # Errors
    /// If the pieces have another length in total, or writing fails.
    pub(crate) fn entry<P: AsRef<[u8]>>(
        &mut self,
        name: String,
        length: u64,
        pieces: impl Iterator<Item = P>,
    ) -> Result<(), Error> {
        let header = self.place;
        let crc_place = header + 14;
        self.local_header(&name, length)?;
        let (mut given, mut hash) = (0, crc32fast::Hasher::new());
        for piece in pieces {
            given += piece.as_ref().len() as u64;
            hash.update(piece.as_ref());
            self.put(piece.as_ref())?;
        }
        if given != length {
            return Err(Error::Write(format!("{name}: {given} bytes were given and it has {length}")));
        }
        // The checksum is known only after the data.
        let crc32 = hash.finalize();
        self.out.seek(SeekFrom::Start(crc_place))?;
        self.out.write_all(&crc32.to_le_bytes())?;
        self.out.seek(SeekFrom::Start(self.place))?;
        self.written.push(Written { name, header, length, crc32 });
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes)?;
        self.place += bytes.len() as u64;
        Ok(())
    }

    fn local_header(&mut self, name: &str, length: u64) -> Result<(), Error> {
        let (name_length, short) = (name_length(name)?, short(length));
        // A local header has both 64-bit lengths or none.
        let extra_64 = if short == IN_64 { fields_64(&[length, length]) } else { Vec::new() };
        let unpadded = self.place + (LOCAL_HEADER_BYTES + name.len() + extra_64.len() + 4) as u64;
        let padding = (unpadded.next_multiple_of(ALIGNMENT) - unpadded) as u16;
        let mut bytes = Vec::new();
        put_u32(&mut bytes, &[LOCAL_HEADER]);
        put_u16(&mut bytes, &[VERSION, FLAGS, 0, 0, DATE]);
        put_u32(&mut bytes, &[0, short, short]);
        put_u16(&mut bytes, &[name_length, extra_64.len() as u16 + 4 + padding]);
        bytes.extend(name.as_bytes());
        bytes.extend(extra_64);
        put_u16(&mut bytes, &[EXTRA_PADDING, padding]);
        bytes.resize(bytes.len() + usize::from(padding), b'Z');
        self.put(&bytes)
    }

    /// Writes the directory and returns the underlying writer.
    pub(crate) fn finish(mut self) -> Result<W, Error> {
        let start = self.place;
        for entry in std::mem::take(&mut self.written) {
            let Written { name, header, length, crc32 } = &entry;
            let in_64: Vec<u64> = match (short(*length), short(*header)) {
                (IN_64, IN_64) => vec![*length, *length, *header],
                (IN_64, _) => vec![*length, *length],
                (_, IN_64) => vec![*header],
                _ => Vec::new(),
            };
            let extra = if in_64.is_empty() { Vec::new() } else { fields_64(&in_64) };
            let mut bytes = Vec::new();
            put_u32(&mut bytes, &[CENTRAL_HEADER]);
            put_u16(&mut bytes, &[VERSION, VERSION, FLAGS, 0, 0, DATE]);
            put_u32(&mut bytes, &[*crc32, short(*length), short(*length)]);
            put_u16(&mut bytes, &[name_length(name)?, extra.len() as u16, 0, 0, 0]);
            put_u32(&mut bytes, &[0, short(*header)]);
            bytes.extend(name.as_bytes());
            bytes.extend(extra);
            self.put(&bytes)?;
            self.written.push(entry);
        }
        let (end, count) = (self.place, self.written.len() as u64);
        let mut bytes = Vec::new();
        put_u32(&mut bytes, &[END_64]);
        put_u64(&mut bytes, &[END_64_BYTES as u64 - 12]);
        put_u16(&mut bytes, &[VERSION, VERSION]);
        put_u32(&mut bytes, &[0, 0]);
        put_u64(&mut bytes, &[count, count, end - start, start]);
        put_u32(&mut bytes, &[END_64_LOCATOR, 0]);
        put_u64(&mut bytes, &[end]);
        put_u32(&mut bytes, &[1, END]);
        let short_count = u16::try_from(count).unwrap_or(u16::MAX);
        put_u16(&mut bytes, &[0, 0, short_count, short_count]);
        put_u32(&mut bytes, &[short(end - start), short(start)]);
        put_u16(&mut bytes, &[0]);
        self.put(&bytes)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Returns a number for a 32-bit field; [`IN_64`] if it does not fit.
fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(IN_64)
}

fn name_length(name: &str) -> Result<u16, Error> {
    u16::try_from(name.len()).map_err(|_| Error::Write(format!("the name of an entry has {} bytes", name.len())))
}

fn fields_64(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_u16(&mut bytes, &[EXTRA_64, 8 * numbers.len() as u16]);
    put_u64(&mut bytes, numbers);
    bytes
}

fn put_u16(bytes: &mut Vec<u8>, numbers: &[u16]) {
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

fn put_u32(bytes: &mut Vec<u8>, numbers: &[u32]) {
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

fn put_u64(bytes: &mut Vec<u8>, numbers: &[u64]) {
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}
