//! Finds uncompressed entries in a zip archive.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::format::{
    CENTRAL_HEADER, CENTRAL_HEADER_BYTES, END, END_64, END_64_BYTES, END_64_LOCATOR, END_64_LOCATOR_BYTES, END_BYTES,
    EXTRA_64, IN_64, LOCAL_HEADER, LOCAL_HEADER_BYTES,
};
use crate::error::Error;
use crate::source::Source;
use crate::storages::Extent;

/// The largest directory that is read, in bytes. PyTorch writes about 100 bytes per entry.
const MAX_DIRECTORY_BYTES: u64 = 16 << 20;

/// An entry of the archive's directory.
#[derive(Debug, Clone, Copy)]
struct Listed {
    flags: u16,
    method: u16,
    crc32: u32,
    length: u64,
    stored_length: u64,
    /// The offset of the entry's local header.
    header: u64,
}

/// The directory of an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    entries: HashMap<String, Listed>,
    /// The offset of the directory, before which all entries end.
    directory: u64,
}

impl Archive {
    pub(crate) fn open<R: Read + Seek>(source: &mut Source<R>) -> Result<Self, Error> {
        let (count, start, length) = find_directory(source)?;
        if length > MAX_DIRECTORY_BYTES {
            return Error::unsupported(format!(
                "the archive's directory has {length} bytes; more than {MAX_DIRECTORY_BYTES} are not read"
            ));
        }
        let bytes = source.bytes(start, length)?;
        let mut entries = HashMap::new();
        let mut rest = Fields(&bytes);
        for _ in 0..count {
            let (name, listed) = rest.central_header()?;
            if entries.insert(name.clone(), listed).is_some() {
                return Error::damaged(format!("the archive has two entries named {name:?}"));
            }
        }
        Ok(Self { entries, directory: start })
    }

    /// Returns the names of all entries, in no particular order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns the extent of an entry's bytes, or `None` if there is no such entry.
    pub(crate) fn entry<R: Read + Seek>(&self, source: &mut Source<R>, name: &str) -> Result<Option<Extent>, Error> {
        let Some(listed) = self.entries.get(name) else { return Ok(None) };
        if listed.flags & 1 != 0 {
            return Error::unsupported(format!("{name} is encrypted in the archive"));
        }
        if listed.method != 0 || listed.stored_length != listed.length {
            return Error::unsupported(format!(
                "{name} is compressed in the archive, which torch.save never does and which is not read: unpack it and \
                 pack it again with `zip -0 -r`"
            ));
        }
        let header = source.bytes(listed.header, LOCAL_HEADER_BYTES as u64)?;
        let mut fields = Fields(&header);
        if fields.u32()? != LOCAL_HEADER {
            return Error::damaged(format!("{name} does not begin where the archive's directory says"));
        }
        let mut fields = Fields(&header[26..]);
        let (name_length, extra_length) = (u64::from(fields.u16()?), u64::from(fields.u16()?));
        let own_name = source.bytes(listed.header + LOCAL_HEADER_BYTES as u64, name_length)?;
        if own_name != name.as_bytes() {
            return Error::damaged(format!("{name} has another name where it lies than in the archive's directory"));
        }
        let offset = listed.header + LOCAL_HEADER_BYTES as u64 + name_length + extra_length;
        match offset.checked_add(listed.length) {
            Some(end) if end <= self.directory => {
                Ok(Some(Extent { offset, length: listed.length, crc32: (listed.crc32 != 0).then_some(listed.crc32) }))
            }
            _ => Error::damaged(format!("{name} reaches into the archive's directory")),
        }
    }
}

/// Returns the number of entries, and the offset and the length of the directory.
fn find_directory<R: Read + Seek>(source: &mut Source<R>) -> Result<(u64, u64, u64), Error> {
    // A comment of up to 64 KiB may follow the end record.
    let tail_length = source.length().min((END_BYTES + usize::from(u16::MAX)) as u64);
    let tail_start = source.length() - tail_length;
    let tail = source.bytes(tail_start, tail_length)?;
    let is_end = |place: &usize| {
        let comment = tail.get(place + 20..place + 22).map(|two| usize::from(two[0]) | usize::from(two[1]) << 8);
        tail[*place..].starts_with(&END.to_le_bytes()) && comment == Some(tail.len() - place - END_BYTES)
    };
    let Some(place) = (0..=tail.len().saturating_sub(END_BYTES)).rev().filter(|_| tail.len() >= END_BYTES).find(is_end)
    else {
        return Error::damaged("it begins as a zip archive and has no such end: it was cut off");
    };
    let mut end = Fields(&tail[place + 4..]);
    let (disk, directory_disk, _, count) = (end.u16()?, end.u16()?, end.u16()?, end.u16()?);
    let (length, start) = (end.u32()?, end.u32()?);
    if (disk, directory_disk) != (0, 0) && (disk, directory_disk) != (u16::MAX, u16::MAX) {
        return Error::unsupported("the archive is divided into several files");
    }
    if count != u16::MAX && length != IN_64 && start != IN_64 {
        return Ok((count.into(), start.into(), length.into()));
    }
    let missing = || Error::Damaged("the archive's 64-bit end is missing".into());
    let locator = (tail_start + place as u64).checked_sub(END_64_LOCATOR_BYTES as u64).ok_or_else(missing)?;
    let locator = source.bytes(locator, END_64_LOCATOR_BYTES as u64)?;
    let mut fields = Fields(&locator);
    if fields.u32()? != END_64_LOCATOR {
        return Err(missing());
    }
    fields.u32()?;
    let end = source.bytes(fields.u64()?, END_64_BYTES as u64)?;
    let mut fields = Fields(&end);
    if fields.u32()? != END_64 {
        return Err(missing());
    }
    let mut fields = Fields(&end[32..]);
    let (count, length, start) = (fields.u64()?, fields.u64()?, fields.u64()?);
    Ok((count, start, length))
}

/// Reads consecutive little-endian fields.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        match self.0.split_at_checked(count) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Error::damaged("the archive's directory ends in the middle of an entry"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    fn central_header(&mut self) -> Result<(String, Listed), Error> {
        let mut fields = Self(self.take(CENTRAL_HEADER_BYTES)?);
        if fields.u32()? != CENTRAL_HEADER {
            return Error::damaged("the archive's directory holds something else than entries");
        }
        fields.take(4)?; // versions
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.take(4)?; // time and date
        let (crc32, stored, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (name_length, extra_length, comment_length) = (fields.u16()?, fields.u16()?, fields.u16()?);
        fields.take(8)?; // disk, attributes
        let header = fields.u32()?;
        let name = std::str::from_utf8(self.take(name_length.into())?)
            .map_err(|_| Error::Damaged("the name of an entry of the archive is no UTF-8".into()))?
            .to_owned();
        let mut extras = Self(self.take(extra_length.into())?);
        self.take(comment_length.into())?;
        let mut listed =
            Listed { flags, method, crc32, length: length.into(), stored_length: stored.into(), header: header.into() };
        while extras.0.len() >= 4 {
            let (kind, size) = (extras.u16()?, extras.u16()?);
            let mut extra = Self(extras.take(size.into())?);
            if kind == EXTRA_64 {
                // In this order, and only the numbers that do not fit into 32 bits.
                for (short, field) in
                    [(length, &mut listed.length), (stored, &mut listed.stored_length), (header, &mut listed.header)]
                {
                    if short == IN_64 {
                        *field = extra.u64()?;
                    }
                }
            }
        }
        Ok((name, listed))
    }
}
