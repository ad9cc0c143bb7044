//! The pages of a column, and where they are in the file.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use super::codec::Codec;
use super::header::Fields;
use super::{delta, plain};
use crate::blob::Blob;
use crate::error::Error;

/// The longest page, with and without compression, in bytes.
///
/// Writers such as pyarrow look at the length of a page only between batches of values, or at the end of a row group.
/// Hugging Face puts 100 images into a row group, so a page may hold 100 images of 5 MB each. One image without
/// compression of nearly the most pixels that are decoded, 178,956,970 of 3 bytes, fits too.
const MAX_PAGE_BYTES: u32 = 1 << 29;

/// The longest page that is unpacked from any number of bytes. The values of a column of paths or labels may all be
/// equal.
const MAX_SMALL_BYTES: u64 = 64 << 20;

/// The most that is unpacked of a byte of a page of images: for pages up to [`MAX_SMALL_BYTES`], and for longer ones.
/// Images are compressed themselves, so many of them shrink little. A small file then cannot fill the memory.
const MAX_FACTOR: u64 = 1032;
const MAX_LARGE_FACTOR: u64 = 16;

/// The most values of a dictionary. Each takes memory beside its bytes. Writers end a dictionary at about 1 MiB.
const MAX_DICTIONARY_VALUES: u64 = 1 << 20;

/// The most values of a page in delta encoding, and the longest page of values that repeat the start of the one before.
/// Each value of a batch takes as much as the whole page then.
const MAX_DELTA_VALUES: u32 = 1 << 20;
const MAX_DELTA_BYTES: usize = 4 << 20;

/// The longest header of a page, in bytes. It may have the least and the largest value.
const MAX_HEADER_BYTES: u64 = 1 << 16;

/// The types of pages in their headers.
const DATA_PAGE: u32 = 0;
const DICTIONARY_PAGE: u32 = 2;
const DATA_PAGE_V2: u32 = 3;

/// The fields of a page's header.
const TYPE: i64 = 1;
const UNPACKED_SIZE: i64 = 2;
const PACKED_SIZE: i64 = 3;
const DATA_HEADER: i64 = 5;
const DICTIONARY_HEADER: i64 = 7;
const DATA_HEADER_V2: i64 = 8;

/// A page that was read.
#[derive(Debug)]
pub(super) struct Placed {
    /// The offset of its compressed part in the file.
    pub(super) offset: u64,
    /// Its compressed part.
    pub(super) packed: Bytes,
    /// How that is compressed.
    pub(super) codec: Codec,
    /// The whole page without compression.
    pub(super) whole: Bytes,
    /// The length of what precedes the compressed part in `whole`.
    pub(super) before: usize,
    pub(super) is_dictionary: bool,
}

/// What the reader of pages hands to the one who made it.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// The pages that were read, if they are wanted.
    pub(super) pages: Vec<Placed>,
    /// The rows of the last page that are still to be read. No page is read before they are, so that the values of only
    /// one page are held.
    pub(super) rows_left: usize,
    /// The error of the file or store behind the last error.
    pub(super) failure: Option<Error>,
}

/// Reads the pages of a column chunk.
pub(super) struct Pages {
    blob: Arc<Blob>,
    rest: Range<u64>,
    codec: Codec,
    /// A part of the file, and its offset.
    block: Bytes,
    block_offset: u64,
    block_bytes: u64,
    are_wanted: bool,
    /// Whether the values are bytes of any length.
    are_bytes: bool,
    /// Whether pages begin with levels, which say what rows have no value.
    has_levels: bool,
    has_dictionary: bool,
    handed: Arc<Mutex<Handed>>,
}

/// The header of a page, and the place of what follows it.
struct Head {
    fields: Fields,
    content: Range<u64>,
}

impl Pages {
    /// Returns the pages in a part of the file. `are_wanted` says whether they are handed on.
    pub(super) fn new(
        blob: &Arc<Blob>,
        range: Range<u64>,
        chunk: &ColumnChunkMetaData,
        are_wanted: bool,
    ) -> std::result::Result<Self, String> {
        if range.start > range.end || range.end > blob.length {
            return Err(format!("its column from byte {} to {} lies outside of the file", range.start, range.end));
        }
        Ok(Self {
            blob: Arc::clone(blob),
            rest: range,
            codec: Codec::of(chunk.compression())?,
            block: Bytes::new(),
            block_offset: 0,
            block_bytes: if blob.is_remote() { 8 << 20 } else { 1 << 20 },
            are_wanted,
            are_bytes: chunk.column_type() == Type::BYTE_ARRAY,
            has_levels: chunk.column_descr().max_def_level() > 0,
            has_dictionary: false,
            handed: Arc::default(),
        })
    }

    /// Returns what is handed on.
    pub(super) fn handed(&self) -> Arc<Mutex<Handed>> {
        Arc::clone(&self.handed)
    }

    fn lock(&self) -> MutexGuard<'_, Handed> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a part of the chunk. Small parts come from a block that is read at once.
    fn read(&mut self, range: Range<u64>) -> Result<Bytes> {
        let end = self.block_offset + self.block.len() as u64;
        if range.start < self.block_offset || range.end > end {
            let length = (range.end - range.start).max(self.block_bytes).min(self.rest.end - range.start);
            let read = self.blob.read(range.start, length as usize).map_err(|error| {
                let text = error.to_string();
                self.lock().failure = Some(error);
                ParquetError::General(text)
            })?;
            (self.block, self.block_offset) = (read.into(), range.start);
        }
        let start = (range.start - self.block_offset) as usize;
        Ok(self.block.slice(start..start + (range.end - range.start) as usize))
    }

    /// Returns the header of the next page; `None` at the end.
    fn head(&mut self) -> Result<Option<Head>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.rest.start;
        let bytes = self.read(start..self.rest.end.min(start + MAX_HEADER_BYTES))?;
        let wrong = || ParquetError::General(format!("the header of a page at byte {start} is malformed"));
        let (fields, length) = Fields::read(&bytes).ok_or_else(wrong)?;
        let content = start + length as u64;
        let size = fields.size(PACKED_SIZE).ok_or_else(wrong)?;
        let longest = fields.size(UNPACKED_SIZE).ok_or_else(wrong)?.max(size);
        if longest > MAX_PAGE_BYTES {
            let reason = format!(
                "the page at byte {start} has {longest} bytes, and at most {MAX_PAGE_BYTES} are read; write fewer rows in \
                 a row group"
            );
            return Err(ParquetError::General(reason));
        }
        let end = content + u64::from(size);
        if end > self.rest.end {
            return Err(ParquetError::General(format!("the page at byte {start} exceeds its column")));
        }
        Ok(Some(Head { fields, content: content..end }))
    }

    /// Returns the length to which a page of `packed` bytes may be unpacked.
    fn most_unpacked(&self, packed: u64) -> u64 {
        if self.are_wanted {
            (packed * MAX_FACTOR).min((packed * MAX_LARGE_FACTOR).max(MAX_SMALL_BYTES))
        } else {
            MAX_SMALL_BYTES
        }
    }

    /// Reads a page. `None` if it has no values.
    fn page(&mut self, Head { fields, content }: Head) -> Result<Option<Page>> {
        let start = content.start;
        let wrong = |what: &str| ParquetError::General(format!("the page at byte {start} {what}"));
        let kind = fields.size(TYPE);
        let (number, is_v2) = match kind {
            Some(DATA_PAGE) => (DATA_HEADER, false),
            Some(DICTIONARY_PAGE) => (DICTIONARY_HEADER, false),
            Some(DATA_PAGE_V2) => (DATA_HEADER_V2, true),
            _ => return Ok(None),
        };
        let head = fields.fields(number).ok_or_else(|| wrong("has no header of its kind"))?;
        let size = |fields: &Fields, field| fields.size(field).ok_or_else(|| wrong("has a malformed header"));
        let num_values = size(head, 1)?;
        let is_dictionary = kind == Some(DICTIONARY_PAGE);
        if num_values == 0 && !is_dictionary {
            return Ok(None);
        }
        let encoding = |field| encoding(head.number(field)).ok_or_else(|| wrong("has an unknown encoding"));
        // The levels of a page of the second version are not compressed.
        let (levels, repetition) = if is_v2 { (size(head, 5)?, size(head, 6)?) } else { (0, 0) };
        let before = levels as usize + repetition as usize;
        let is_packed = !is_v2 || head.flag(7).unwrap_or(true);
        let codec = if is_packed { self.codec } else { Codec::None };
        let unpacked = size(&fields, UNPACKED_SIZE)?;
        let bytes = self.read(content)?;
        if before > bytes.len() || before > unpacked as usize {
            return Err(wrong("has a wrong length"));
        }
        let packed = bytes.slice(before..);
        if codec != Codec::None && u64::from(unpacked) > self.most_unpacked(bytes.len() as u64) {
            return Err(wrong("is compressed too much to be one of images; write it with snappy or none"));
        }
        let whole: Bytes = if codec == Codec::None {
            bytes.clone()
        } else {
            let values = codec.unpack(&packed, unpacked as usize - before).map_err(|reason| wrong(&reason))?;
            if before == 0 { values.into() } else { [&bytes[..before], &values].concat().into() }
        };
        let of_values = encoding(if is_v2 { 4 } else { 2 })?;
        if !is_dictionary && !self.has_dictionary && is_of_dictionary(of_values) {
            return Err(wrong("refers to a dictionary, and there is none before it"));
        }
        self.has_dictionary |= is_dictionary;
        // Memory is allocated for the values. Each of a dictionary has 4 bytes at least, and a row of a page may have
        // none.
        let most = if is_dictionary { MAX_DICTIONARY_VALUES.min(whole.len() as u64 / 4) } else { self.blob.length };
        if u64::from(num_values) > most {
            return Err(wrong("states more values than it can have"));
        }
        // A page of the first version begins with the length of its levels, in 4 bytes, and its levels.
        let (skipped, levels) = if is_v2 || is_dictionary || !self.has_levels || !self.are_bytes {
            (0, levels)
        } else {
            let levels = plain::levels(&whole).filter(|_| encoding(3).is_ok_and(|it| it == Encoding::RLE));
            (4, levels.ok_or_else(|| wrong("has malformed levels"))?)
        };
        let start_of_values = skipped + levels as usize + repetition as usize;
        let values = whole.get(start_of_values..).unwrap_or_default();
        if self.are_bytes && !is_dictionary && !has_bounded_lengths(of_values, values, num_values) {
            return Err(wrong("has too many values or too long ones; write the column with plain encoding"));
        }
        let is_plain = of_values == Encoding::PLAIN;
        let count = |most: u32| {
            plain::count(values, most)
                .map_err(|at| wrong(&format!("has a value at its byte {} that exceeds it", start_of_values + at)))
        };
        let page = if is_dictionary {
            if self.are_bytes && count(num_values)? != num_values {
                return Err(wrong("has fewer values than it states"));
            }
            let is_sorted = head.flag(3).unwrap_or(false);
            Page::DictionaryPage { buf: whole.clone(), num_values, encoding: of_values, is_sorted }
        } else if is_v2 {
            let num_nulls = size(head, 2)?;
            let num_stated = num_values.checked_sub(num_nulls).ok_or_else(|| wrong("has a malformed header"))?;
            if self.are_bytes && is_plain && count(num_stated)? != num_stated {
                return Err(wrong("has fewer values than it states"));
            }
            Page::DataPageV2 {
                buf: whole.clone(),
                num_values,
                encoding: of_values,
                num_nulls,
                num_rows: size(head, 3)?,
                def_levels_byte_len: levels,
                rep_levels_byte_len: repetition,
                is_compressed: is_packed,
                statistics: None,
            }
        } else if self.are_bytes && is_plain {
            // The first version does not state how many rows have no value. In the form of the second version, the page
            // says it, and no more values are read than it has.
            let num_nulls = num_values - count(num_values)?;
            Page::DataPageV2 {
                buf: whole.slice(skipped..),
                num_values,
                encoding: of_values,
                num_nulls,
                num_rows: num_values,
                def_levels_byte_len: levels,
                rep_levels_byte_len: 0,
                is_compressed: false,
                statistics: None,
            }
        } else {
            Page::DataPage {
                buf: whole.clone(),
                num_values,
                encoding: of_values,
                def_level_encoding: encoding(3)?,
                rep_level_encoding: encoding(4)?,
                statistics: None,
            }
        };
        if !is_dictionary {
            self.lock().rows_left = num_values as usize;
        }
        if self.are_wanted {
            let offset = start + before as u64;
            let placed = Placed { offset, packed, codec, whole, before, is_dictionary };
            self.lock().pages.push(placed);
        }
        Ok(Some(page))
    }
}

/// Returns whether reading the values of a page in delta encoding takes a bounded memory; true of other encodings.
fn has_bounded_lengths(encoding: Encoding, values: &[u8], num_values: u32) -> bool {
    let most = num_values.min(MAX_DELTA_VALUES);
    match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => delta::end(values, most).is_some(),
        Encoding::DELTA_BYTE_ARRAY => {
            // The lengths of the starts that are repeated, and those of the rests.
            let rests = delta::end(values, most).and_then(|end| values.get(end..));
            values.len() <= MAX_DELTA_BYTES && rests.is_some_and(|rests| delta::end(rests, most).is_some())
        }
        _ => true,
    }
}

fn is_of_dictionary(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY)
}

/// Returns the encoding of a number in the format.
fn encoding(number: Option<i64>) -> Option<Encoding> {
    Some(match number? {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        _ => return None,
    })
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    /// Returns the next page; `None` at the end, and while rows of the last page are still to be read.
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        if self.lock().rows_left > 0 {
            return Ok(None);
        }
        while let Some(head) = self.head()? {
            let end = head.content.end;
            let page = self.page(head)?;
            self.rest.start = end;
            if page.is_some() {
                return Ok(page);
            }
        }
        Ok(None)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let head = self.head()?;
        Ok(head.map(|head| PageMetadata {
            num_rows: None,
            num_levels: None,
            is_dict: head.fields.size(TYPE) == Some(DICTIONARY_PAGE),
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        if let Some(head) = self.head()? {
            self.rest.start = head.content.end;
        }
        Ok(())
    }
}
