//! The images of an LMDB database, as LSUN has them: each value is an image file, and its key is the image's name.
//!
//! The library of LMDB maps the file into memory and trusts it, so a damaged file ends the process, and a file in a store
//! cannot be read at all. Here, pages are read by their offsets. The format is that of LMDB 0.9 on machines of 64 bits with
//! little-endian numbers. A value lies in one piece, in a leaf page or in consecutive overflow pages.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{Read, Seek, SeekFrom};

use crate::blob::{Blob, BlobReader, crc_of};
use crate::error::Error;
use crate::index::{Encoding, Found};
use crate::names::shown;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;

/// The length of a page's header, and of what of a meta page is read.
const HEADER_BYTES: usize = 16;
const META_BYTES: usize = 152;
/// The length of a node's header.
const NODE_BYTES: usize = 8;

/// The sizes of pages that LMDB allows.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// The most levels of a tree. LMDB's own limit.
const MAX_DEPTH: usize = 32;

/// The number that stands for no page.
const NO_PAGE: u64 = u64::MAX;

/// The flags of a page.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;

/// The flags of a node in a leaf page.
const BIG_DATA: u16 = 0x01;
const SUB_DATABASE: u16 = 0x02;
const DUPLICATES: u16 = 0x04;

/// Finds the images of a database. Reads the pages of the tree, and then the values in the order of their offsets.
///
/// # Errors
/// If it is no database, is damaged, or has named databases or several values for a key.
pub(crate) fn find(blob: &Blob) -> Result<Vec<Found>, Error> {
    // Pages of the tree lie between those of the values, which are not read yet.
    let mut pages = blob.reader_of_blocks(if blob.is_remote() { 1 << 20 } else { 64 << 10 });
    let outcome = Tree::read(&mut pages, blob);
    let mut values = match (pages.failure, outcome) {
        (Some(failure), _) => return Err(failure),
        (None, values) => values?,
    };
    values.sort_unstable_by_key(|value| value.offset);
    // Values that share bytes would make more of a file than it has.
    if let Some((one, other)) = values.iter().zip(values.iter().skip(1)).find(|(one, other)| one.end() > other.offset) {
        let place = format!("{}, keys {} and {}", blob.shown(), shown(&one.key), shown(&other.key));
        let reason = format!("their values overlap at byte {}; the file is damaged, copy it again", other.offset);
        return Err(Error::malformed(place, reason));
    }
    let mut reader = blob.reader();
    let outcome = values.into_iter().map(|value| value.found(&mut reader, blob)).collect();
    match reader.failure {
        Some(failure) => Err(failure),
        None => outcome,
    }
}

/// What the newest meta page says.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_size: u64,
    flags: u16,
    entries: u64,
    root: u64,
    transaction: u64,
}

impl Meta {
    /// Reads a meta page. Returns what is wrong with it otherwise.
    fn parse(page: &[u8; META_BYTES]) -> Result<Self, String> {
        let magic = u32_at(page, 16);
        if magic != MAGIC {
            return Err(format!("its first number is {magic:#x}, and that of an LMDB database is {MAGIC:#x}"));
        }
        if u32_at(page, 20) != VERSION {
            let version = u32_at(page, 20);
            return Err(format!("its format has the version {version}, and {VERSION} is read; copy it with LMDB 0.9"));
        }
        let page_size = u32_at(page, 40);
        if !PAGE_SIZES.contains(&page_size) || !page_size.is_power_of_two() {
            return Err(format!("its pages have {page_size} bytes; the file is damaged"));
        }
        Ok(Self {
            page_size: page_size.into(),
            flags: u16_at(page, 92),
            entries: u64_at(page, 120),
            root: u64_at(page, 128),
            transaction: u64_at(page, 144),
        })
    }
}

/// A key and where its value is.
struct Value {
    key: Vec<u8>,
    offset: u64,
    length: u32,
    /// The length of a page of the overflow pages in which the value is; `None` if it is in a leaf page.
    overflow: Option<u64>,
}

impl Value {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Reads the value.
    fn found(self, reader: &mut BlobReader<'_>, blob: &Blob) -> Result<Found, Error> {
        let Self { key, offset, length, overflow } = self;
        let wrong = |reason: String| {
            Error::malformed(format!("{}, key {} at byte {offset}", blob.shown(), shown(&key)), reason)
        };
        let mut read = || -> std::io::Result<Result<u32, String>> {
            if let Some(page_size) = overflow {
                reader.seek(SeekFrom::Start(offset - HEADER_BYTES as u64))?;
                let mut header = [0; HEADER_BYTES];
                reader.read_exact(&mut header)?;
                let number = (offset - HEADER_BYTES as u64) / page_size;
                let room = u64::from(u32_at(&header, 12)) * page_size;
                if u64_at(&header, 0) != number
                    || u16_at(&header, 10) & OVERFLOW == 0
                    || room < HEADER_BYTES as u64 + u64::from(length)
                {
                    return Ok(Err("it does not begin with an overflow page that has room for it".into()));
                }
            }
            reader.seek(SeekFrom::Start(offset))?;
            crc_of(&mut reader.take(length.into()), length.into()).map(Ok)
        };
        let crc = match read() {
            Ok(Ok(crc)) => crc,
            Ok(Err(reason)) => return Err(wrong(format!("{reason}; the file is damaged, copy it again"))),
            Err(error) => return Err(wrong(format!("it cannot be read: {error}"))),
        };
        Ok(Found { name: key, offset, length, crc, encoding: Encoding::File, label: None, is_packed: false })
    }
}

/// The tree of a database while it is read, one level after the other.
struct Tree<'a> {
    blob: &'a Blob,
    meta: Meta,
    /// The pages that were seen. In a whole file, one node leads to each.
    seen: HashSet<u64>,
    /// The pages of the next level.
    below: Vec<u64>,
    values: Vec<Value>,
}

impl Tree<'_> {
    /// Returns the values of the newest state of the database.
    fn read(reader: &mut BlobReader<'_>, blob: &Blob) -> Result<Vec<Value>, Error> {
        let meta = newest_meta(reader, blob)?;
        if meta.flags & DUPLICATES != 0 {
            return Err(Error::malformed(
                blob.shown(),
                "it has several values for a key; write one image for each key",
            ));
        }
        let mut tree = Tree { blob, meta, seen: HashSet::new(), below: Vec::new(), values: Vec::new() };
        let mut level = if meta.root == NO_PAGE { Vec::new() } else { vec![meta.root] };
        let mut page = vec![0; meta.page_size as usize];
        for depth in 0.. {
            if level.is_empty() {
                break;
            }
            if depth == MAX_DEPTH {
                return Err(tree.damaged(level[0], format!("its tree has more than {MAX_DEPTH} levels")));
            }
            // In the order of the file, so that each of its blocks is read at most once for a level.
            level.sort_unstable();
            for number in level {
                tree.check(number, 1)?;
                if !tree.seen.insert(number) {
                    return Err(tree.damaged(number, "two nodes lead to the page"));
                }
                let read = reader.seek(SeekFrom::Start(number * meta.page_size));
                read.and_then(|_| reader.read_exact(&mut page)).map_err(|error| tree.damaged(number, error))?;
                tree.add(number, &page)?;
            }
            level = std::mem::take(&mut tree.below);
        }
        let (found, stated) = (tree.values.len() as u64, meta.entries);
        if found != stated {
            let reason = format!("it states {stated} keys and has {found}; the file is damaged, copy it again");
            return Err(Error::malformed(blob.shown(), reason));
        }
        Ok(tree.values)
    }

    fn damaged(&self, page: u64, reason: impl Display) -> Error {
        self.refused(page, format!("{reason}; the file is damaged, copy it again"))
    }

    fn refused(&self, page: u64, reason: String) -> Error {
        let byte = page.saturating_mul(self.meta.page_size);
        Error::malformed(format!("{}, page {page} at byte {byte}", self.blob.shown()), reason)
    }

    /// Checks that pages are whole in the file, and no meta pages.
    fn check(&self, first: u64, count: u64) -> Result<(), Error> {
        let end = first.checked_add(count).and_then(|end| end.checked_mul(self.meta.page_size));
        if first < 2 || end.is_none_or(|end| end > self.blob.length) {
            return Err(self.damaged(first, format!("the file of {} bytes has no such page", self.blob.length)));
        }
        Ok(())
    }

    /// Adds what a page has: the pages of the next level, or values.
    fn add(&mut self, number: u64, page: &[u8]) -> Result<(), Error> {
        let (stated, flags) = (u64_at(page, 0), u16_at(page, 10));
        if stated != number {
            return Err(self.damaged(number, format!("the page has the number {stated}")));
        }
        let is_leaf = match flags & (BRANCH | LEAF | OVERFLOW) {
            BRANCH => false,
            LEAF => true,
            _ => return Err(self.damaged(number, format!("a page of the tree has the flags {flags:#x}"))),
        };
        let lower = usize::from(u16_at(page, 12));
        let Some(places) = page.get(HEADER_BYTES..lower) else {
            return Err(self.damaged(number, format!("its nodes end at {lower}, outside of the page")));
        };
        let mut used = 0;
        for place in places.as_chunks::<2>().0 {
            let start = usize::from(u16::from_le_bytes(*place));
            let node = page.get(start..).and_then(|node| Node::parse(node, start >= lower));
            let node =
                node.ok_or_else(|| self.damaged(number, format!("its node at {start} is outside of the page")))?;
            // Nodes that share bytes would make more of a file than it has.
            used += NODE_BYTES + node.key.len();
            if used > page.len() {
                return Err(self.damaged(number, "its nodes overlap"));
            }
            if is_leaf {
                let value = self.value(number, start, &node)?;
                self.values.push(value);
            } else {
                self.below.push(u64::from(node.low) | u64::from(node.flags) << 32);
            }
        }
        Ok(())
    }

    /// Returns the value of a node at `start` in a leaf page.
    fn value(&self, page: u64, start: usize, node: &Node<'_>) -> Result<Value, Error> {
        let &Node { low: length, flags, key, data } = node;
        let name = shown(key);
        if flags & SUB_DATABASE != 0 {
            let reason = format!("{name} is a named database; copy its images to the unnamed one");
            return Err(self.refused(page, reason));
        }
        if flags & DUPLICATES != 0 {
            let reason = format!("the key {name} has several values; write one image for each key");
            return Err(self.refused(page, reason));
        }
        if flags & BIG_DATA != 0 {
            let first = data.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let first = first.ok_or_else(|| self.damaged(page, format!("the value of the key {name} has no page")))?;
            self.check(first, (HEADER_BYTES as u64 + u64::from(length)).div_ceil(self.meta.page_size))?;
            let offset = first * self.meta.page_size + HEADER_BYTES as u64;
            return Ok(Value { key: key.to_vec(), offset, length, overflow: Some(self.meta.page_size) });
        }
        if length as usize > data.len() {
            return Err(self.damaged(page, format!("the value of the key {name} exceeds the page")));
        }
        let offset = page * self.meta.page_size + (start + NODE_BYTES + key.len()) as u64;
        Ok(Value { key: key.to_vec(), offset, length, overflow: None })
    }
}

/// A node of a page.
#[derive(Debug, Clone, Copy)]
struct Node<'a> {
    /// The length of the value; in a branch page, the low bits of the number of a page, of which `flags` are the high bits.
    low: u32,
    flags: u16,
    key: &'a [u8],
    /// The rest of the page.
    data: &'a [u8],
}

impl<'a> Node<'a> {
    fn parse(bytes: &'a [u8], is_behind_places: bool) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(NODE_BYTES).filter(|_| is_behind_places)?;
        let (key, data) = rest.split_at_checked(usize::from(u16_at(header, 6)))?;
        Some(Self { low: u32_at(header, 0), flags: u16_at(header, 4), key, data })
    }
}

/// Returns the newer of the two meta pages. Both must be whole: with one alone, an older state would be read in silence.
fn newest_meta(reader: &mut BlobReader<'_>, blob: &Blob) -> Result<Meta, Error> {
    let mut read = |offset: u64| -> Result<Meta, String> {
        let mut page = [0; META_BYTES];
        reader.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
        reader.read_exact(&mut page).map_err(|_| "it ends before its meta page".to_owned())?;
        Meta::parse(&page)
    };
    let wrong = |reason: String| Error::malformed(blob.shown(), format!("it is no whole LMDB database: {reason}"));
    let first = read(0).map_err(wrong)?;
    let second = read(first.page_size).map_err(wrong)?;
    if second.page_size != first.page_size {
        return Err(wrong("its meta pages contradict each other; copy it again".into()));
    }
    Ok(if second.transaction > first.transaction { second } else { first })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
