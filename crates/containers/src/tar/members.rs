//! The members of a tar file, front to back, in the formats of ustar, pax and GNU tar.
//!
//! This package walks over the headers itself, because a member or an end that the `tar` crate passes over would be an
//! image that is lost without a word: links, sparse files, and files that are cut off between two members.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, Header};

/// The size of a block, in bytes.
const BLOCK: usize = 512;

/// The most bytes of a header that holds a long name, or records of pax.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// The most bytes of zeros that GNU tar and Python's tarfile write after the last member: two blocks, filled up to a record
/// of 20 blocks.
const USUAL_END: u64 = 21 * BLOCK as u64;

/// The most bytes of zeros after the last member. Larger records are not in use, and a file with more zeros was not written
/// in full.
const MAX_END: u64 = 1 << 20;

/// What is wrong at a byte of the file.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: u64,
    pub(super) reason: String,
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its members go on, as far as it was read.
    Open,
    /// By blocks of zeros.
    Marked,
    /// After a member, without the blocks of zeros that end a tar file.
    Unmarked,
    /// By more zeros than usual.
    Long,
}

/// A member.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) name: Vec<u8>,
    pub(super) kind: HeadKind,
    /// The offset of the content.
    pub(super) offset: u64,
    /// The length of the content in bytes.
    pub(super) length: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadKind {
    File,
    /// A file whose zeros are left out.
    Sparse,
    /// Another name of the member of this name.
    HardLink(Vec<u8>),
    /// A link to this path, relative to its own folder.
    SymbolicLink(Vec<u8>),
    /// A folder, a device, or a pipe.
    Special,
    /// The type is not known, or continues a member of another file.
    Unknown(u8),
}

/// What the headers before that of a member say of it.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

/// Reads a tar file. [`Read`] gives the content of the member that [`Members::next`] has returned.
pub(super) struct Members<'a> {
    reader: &'a mut dyn Read,
    /// The offset of the next byte.
    position: u64,
    /// The bytes of the member's content that were not read.
    rest: u64,
    /// The bytes that fill up the member's last block.
    padding: u64,
    pub(super) ending: Ending,
}

impl Read for Members<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest).unwrap_or(usize::MAX).min(out.len());
        let count = self.reader.read(&mut out[..most])?;
        self.position += count as u64;
        self.rest -= count as u64;
        Ok(count)
    }
}

impl<'a> Members<'a> {
    /// Returns the members of the file whose first byte is the next of `reader` and has the offset `start`.
    pub(super) fn new(reader: &'a mut dyn Read, start: u64) -> Self {
        Self { reader, position: start, rest: 0, padding: 0, ending: Ending::Open }
    }

    /// Returns the next member. What is left of the one before is skipped.
    ///
    /// # Errors
    /// If the file is damaged, ends within a member, or has data after its end.
    pub(super) fn next(&mut self) -> Result<Option<Head>, Fault> {
        let mut extended = Extended::default();
        let mut is_extended = false;
        loop {
            self.skip()?;
            let start = self.position;
            let fault = |reason: &str| Fault { offset: start, reason: reason.into() };
            let mut block = [0; BLOCK];
            let count = self.fill(&mut block)?;
            let is_end = block[..count].iter().all(|&byte| byte == 0);
            if is_end && is_extended {
                return Err(fault("a header of an extended name or of pax has no member after it"));
            }
            if count == 0 {
                self.ending = Ending::Unmarked;
                return Ok(None);
            }
            if is_end {
                self.end(count)?;
                return Ok(None);
            }
            if count < BLOCK {
                return Err(fault("the header of a member is cut off"));
            }
            let header = Header::from_byte_slice(&block);
            if !has_right_sum(header) {
                return Err(fault("the header of a member has a wrong checksum"));
            }
            let size = header.entry_size().map_err(|_| fault("the size of a member is no number"))?;
            let kind = header.as_old().linkflag[0];
            if let b'L' | b'K' | b'x' | b'X' | b'g' = kind {
                self.begin(size);
                let content = self.extension(size, start)?;
                match kind {
                    b'L' => extended.name = Some(until_zero(content)),
                    b'K' => extended.link = Some(until_zero(content)),
                    // Records for all members after it are comments, times and owners.
                    b'g' => continue,
                    _ => extended.add_records(&content).map_err(|reason| fault(&reason))?,
                }
                is_extended = true;
                continue;
            }
            return self.member(header, kind, size, extended).map(Some);
        }
    }

    /// Returns the member with this header, whose type is `kind`.
    fn member(&mut self, header: &Header, kind: u8, size: u64, extended: Extended) -> Result<Head, Fault> {
        if kind == b'S' && header.as_gnu().is_some_and(tar::GnuHeader::is_extended) {
            self.skip_map()?;
        }
        // Links, folders, devices and pipes have no content, although some programs write a size.
        let length = if let b'1'..=b'6' = kind { 0 } else { extended.size.unwrap_or(size) };
        let link = || extended.link.clone().or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        let kind = match kind {
            b'S' => HeadKind::Sparse,
            b'0' | b'7' | 0 if extended.is_sparse => HeadKind::Sparse,
            b'0' | b'7' | 0 => HeadKind::File,
            b'1' => HeadKind::HardLink(link()),
            b'2' => HeadKind::SymbolicLink(link()),
            b'3'..=b'6' => HeadKind::Special,
            other => HeadKind::Unknown(other),
        };
        let offset = self.position;
        self.begin(length);
        let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
        Ok(Head { name, kind, offset, length })
    }

    /// Begins the content of a member.
    fn begin(&mut self, length: u64) {
        self.rest = length;
        self.padding = (BLOCK as u64 - length % BLOCK as u64) % BLOCK as u64;
    }

    /// Reads the content of a header that extends others.
    fn extension(&mut self, size: u64, start: u64) -> Result<Vec<u8>, Fault> {
        if size > MAX_HEADER_BYTES {
            let reason =
                format!("a header of an extended name or of pax has {size} bytes; {MAX_HEADER_BYTES} are read");
            return Err(Fault { offset: start, reason });
        }
        let mut content = vec![0; size as usize];
        let count = self.fill(&mut content)?;
        self.rest -= count as u64;
        if (count as u64) < size { Err(self.cut_off()) } else { Ok(content) }
    }

    /// Skips the headers that go on with the map of a sparse member.
    fn skip_map(&mut self) -> Result<(), Fault> {
        let mut map = GnuExtSparseHeader::new();
        loop {
            if self.fill(map.as_mut_bytes())? < BLOCK {
                return Err(self.cut_off());
            }
            if !map.is_extended() {
                return Ok(());
            }
        }
    }

    /// Skips what is left of a member.
    fn skip(&mut self) -> Result<(), Fault> {
        let mut left = self.rest.saturating_add(self.padding);
        let mut buffer = vec![0; left.min(32 << 10) as usize];
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.fill(&mut buffer[..most])? {
                count if count < most => return Err(self.cut_off()),
                count => left -= count as u64,
            }
        }
        (self.rest, self.padding) = (0, 0);
        Ok(())
    }

    /// Reads the end of the file, of which the first block was read and has `count` bytes.
    fn end(&mut self, count: usize) -> Result<(), Fault> {
        let start = self.position - count as u64;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let offset = self.position;
            let count = self.fill(&mut buffer)?;
            if let Some(at) = buffer[..count].iter().position(|&byte| byte != 0) {
                let reason = format!(
                    "it goes on after its end at byte {start}: two tar files in one, which `tar --concatenate` joins, or \
                     a part of it was overwritten by zeros"
                );
                return Err(Fault { offset: offset + at as u64, reason });
            }
            let length = self.position - start;
            if length > MAX_END {
                let reason = format!("more than {MAX_END} bytes after it are zeros: the file was not written in full");
                return Err(Fault { offset: start, reason });
            }
            if count < buffer.len() {
                self.ending = if length > USUAL_END { Ending::Long } else { Ending::Marked };
                return Ok(());
            }
        }
    }

    /// Reads until `out` is full or the file ends. Returns the number of bytes.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let mut count = 0;
        while count < out.len() {
            match self.reader.read(&mut out[count..]) {
                Ok(0) => break,
                Ok(more) => {
                    count += more;
                    self.position += more as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault { offset: self.position, reason: error.to_string() }),
            }
        }
        Ok(count)
    }

    fn cut_off(&self) -> Fault {
        Fault { offset: self.position, reason: "it is cut off within a member".into() }
    }
}

impl Extended {
    /// Adds records of pax, `LENGTH NAME=VALUE\n`. Later ones count more.
    fn add_records(&mut self, mut records: &[u8]) -> Result<(), String> {
        while !records.is_empty() {
            let wrong = || "a header of pax has a record of another form than \"LENGTH NAME=VALUE\"".to_owned();
            let space = records.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
            let length = std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse().ok());
            let (record, others) = length.and_then(|length| records.split_at_checked(length)).ok_or_else(wrong)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(wrong)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" if !self.is_sparse => self.name = (!value.is_empty()).then(|| value.to_vec()),
                b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or("the size of a member in a header of pax is no number")?);
                }
                // The path of a sparse member is that of its parts.
                b"GNU.sparse.name" => (self.name, self.is_sparse) = (Some(value.to_vec()), true),
                _ if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
            records = others;
        }
        Ok(())
    }
}

/// Returns whether the checksum of a header is right: the sum of its bytes, which old programs took as signed.
fn has_right_sum(header: &Header) -> bool {
    let bytes =
        || header.as_bytes().iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|byte| i32::from(byte.cast_signed())).sum();
    header.cksum().is_ok_and(|sum| sum == unsigned || i64::from(sum) == i64::from(signed))
}

/// Returns a text up to its first zero byte.
fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|&byte| byte == 0) {
        text.truncate(end);
    }
    text
}
