//! The images of a Parquet file in the form of Hugging Face: a column `image` with the structure `bytes` and `path`,
//! and optionally a column `label`.
//!
//! The crate `parquet` reads the file's metadata, and decodes levels, dictionaries and values. The pages are read here,
//! so that the place of each image in the file is known. An image in a page without compression is a range of the file.
//! From a page that is compressed with Snappy, a part around the image is taken; of other compressions, the whole page.

mod codec;
mod columns;
mod delta;
mod header;
mod pages;
mod plain;
mod snappy;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parquet::basic::Type;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

use self::columns::Columns;
use self::pages::{Handed, Pages, Placed};
use self::snappy::Cut;
use crate::blob::Blob;
use crate::error::Error;
use crate::index::{Encoding, Found, InFile, Label};
use crate::names::without_dot;
use crate::tar::label;

pub(crate) use self::codec::Codec;

/// The bytes at the start and at the end of a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// The longest metadata that are read, in bytes.
const MAX_METADATA_BYTES: u32 = 1 << 28;

/// The most that the paths and labels of a file take, in bytes, if the file itself is shorter.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The rows that are read at a time.
const BATCH: usize = 64;

/// Finds the images. Reads the file once.
///
/// # Errors
/// If it is no Parquet file, has no column of images, or has it in a form that is not supported.
pub(crate) fn find(blob: &Arc<Blob>) -> Result<InFile, Error> {
    let path = blob.shown();
    let metadata = metadata(blob)?;
    let columns = Columns::of(&metadata).map_err(|reason| Error::malformed(&*path, reason))?;
    let mut found = Vec::new();
    let mut has_names = columns.path.is_some();
    let mut texts = Texts { left: blob.length.max(MAX_TEXT_BYTES) };
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let place = |column: usize| {
            let name = group.columns().get(column).map(|chunk| chunk.column_path().string()).unwrap_or_default();
            format!("{path}, row group {number}, column {name}")
        };
        let chunk = |column: usize| {
            let chunk = group.columns().get(column);
            chunk.ok_or_else(|| Error::malformed(place(column), "the row group lacks the column"))
        };
        // A run of equal values may state any number of rows in a few bytes.
        let limit = usize::try_from(blob.length).unwrap_or(usize::MAX).saturating_sub(found.len());
        let mut images = images(blob, chunk(columns.image)?, limit).map_err(|fault| fault.at(&place(columns.image)))?;
        let num_images = images.len();
        let check = |column: usize, num: usize| {
            if num == num_images {
                return Ok(());
            }
            let reason = format!("it has {num} rows, and that of the images has {num_images}");
            Err(Error::malformed(place(column), reason))
        };
        if Ok(num_images) != usize::try_from(group.num_rows()) {
            let reason = format!("it has {num_images} rows, and the row group states {}", group.num_rows());
            return Err(Error::malformed(place(columns.image), reason));
        }
        if let Some(column) = columns.label {
            let labels = labels(blob, chunk(column)?, limit, &mut texts).map_err(|fault| fault.at(&place(column)))?;
            check(column, labels.len())?;
            images.iter_mut().zip(labels).for_each(|(image, label)| image.label = label);
        }
        if let Some(column) = columns.path.filter(|_| has_names) {
            let paths = Values::new(blob, chunk(column)?, limit, false).and_then(|reader| paths(reader, &mut texts));
            let paths = paths.map_err(|fault| fault.at(&place(column)))?;
            check(column, paths.len())?;
            images.iter_mut().zip(paths).for_each(|(image, path)| image.name = path);
        }
        found.extend(images);
    }
    has_names &= {
        let names: HashSet<&[u8]> = found.iter().map(|found| &found.name[..]).collect();
        names.len() == found.len() && !names.contains(&b""[..])
    };
    if !has_names {
        let file = blob.name.rsplit_once('.').map_or(&blob.name[..], |(name, _)| name);
        let digits = found.len().saturating_sub(1).to_string().len();
        (0..).zip(&mut found).for_each(|(row, found)| found.name = format!("{file}/{row:0digits$}").into_bytes());
    }
    Ok(InFile { found, class_names: columns.class_names, ..InFile::default() })
}

/// Reads the metadata at the end of the file.
fn metadata(blob: &Blob) -> Result<ParquetMetaData, Error> {
    let wrong = |reason: &str| Error::malformed(blob.shown(), format!("it is no whole Parquet file: {reason}"));
    let end = blob.length.checked_sub(8).filter(|&end| end >= 4).ok_or_else(|| wrong("it is too short"))?;
    let tail = blob.read(end, 8)?;
    let (length, magic) = tail.split_at(4);
    if magic != MAGIC {
        return Err(wrong("its last bytes are not PAR1; copy it again"));
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    let start = end.checked_sub(length.into()).filter(|_| length <= MAX_METADATA_BYTES);
    let start = start.ok_or_else(|| wrong("its metadata exceed the file"))?;
    let bytes = blob.read(start, length as usize)?;
    caught(|| ParquetMetaDataReader::decode_metadata(&bytes)).map_err(|error| wrong(&error.to_string()))
}

/// Runs a part of the crate `parquet`, which panics on some damaged files.
fn caught<T>(work: impl FnOnce() -> parquet::errors::Result<T>) -> parquet::errors::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ParquetError::General("it is damaged; copy the file again".into())))
}

/// Why a column cannot be read.
enum Fault {
    /// The file or store fails.
    Failure(Error),
    /// What is wrong with the column, and what to do.
    Wrong(String),
}

impl Fault {
    fn at(self, place: &str) -> Error {
        match self {
            Self::Failure(error) => error,
            Self::Wrong(reason) => Error::malformed(place, reason),
        }
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Wrong(reason)
    }
}

/// Reads the values of a column in batches. `None` stands for a row without one.
struct Values<T: DataType> {
    reader: ColumnReaderImpl<T>,
    handed: Arc<Mutex<Handed>>,
    max_level: i16,
    /// The rows that may follow.
    limit: usize,
}

impl<T: DataType> Values<T> {
    fn new(blob: &Arc<Blob>, chunk: &ColumnChunkMetaData, limit: usize, are_wanted: bool) -> Result<Self, Fault> {
        if chunk.file_path().is_some() {
            return Err(Fault::Wrong("its values are in another file; write them into one".into()));
        }
        let number = |number: i64| u64::try_from(number).map_err(|_| Fault::Wrong("its offset is negative".into()));
        let first = chunk.dictionary_page_offset().filter(|&offset| offset > 0).unwrap_or(i64::MAX);
        let start = number(first.min(chunk.data_page_offset()))?;
        let end = start.saturating_add(number(chunk.compressed_size())?);
        let pages = Pages::new(blob, start..end, chunk, are_wanted)?;
        let descriptor = chunk.column_descr_ptr();
        let max_level = descriptor.max_def_level();
        let handed = pages.handed();
        Ok(Self { reader: ColumnReaderImpl::new(descriptor, Box::new(pages)), handed, max_level, limit })
    }

    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the next values, all of one page; none at the end.
    fn next(&mut self) -> Result<Vec<Option<T::T>>, Fault> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let levels_read = (self.max_level > 0).then_some(&mut levels);
        let read = caught(|| self.reader.read_records(BATCH, levels_read, None, &mut values));
        let failure = self.handed().failure.take();
        let (rows, ..) = match (read, failure) {
            (_, Some(failure)) => return Err(Fault::Failure(failure)),
            (Err(error), None) => return Err(Fault::Wrong(format!("it cannot be read: {error}"))),
            (Ok(read), None) => read,
        };
        let rows_left = self.handed().rows_left.saturating_sub(rows);
        self.handed().rows_left = rows_left;
        self.limit = self.limit.checked_sub(rows).ok_or_else(|| {
            Fault::Wrong("it has more rows than the file has bytes; the file is damaged, copy it again".to_owned())
        })?;
        if self.max_level == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(levels.into_iter().map(|level| if level == self.max_level { values.next() } else { None }).collect())
    }
}

/// Returns what `convert` makes of each value of a column. A value keeps its whole page in memory, so it is only lent.
fn values<T: DataType, V>(
    mut reader: Values<T>,
    mut convert: impl FnMut(Option<&T::T>) -> Result<V, Fault>,
) -> Result<Vec<V>, Fault> {
    let mut all = Vec::new();
    loop {
        let batch = reader.next()?;
        if batch.is_empty() {
            return Ok(all);
        }
        for value in &batch {
            all.push(convert(value.as_ref())?);
        }
    }
}

/// Bounds the memory of paths and labels. A dictionary may have a long one that is that of each row.
struct Texts {
    /// The bytes that may follow.
    left: u64,
}

impl Texts {
    /// Returns the bytes of a path or label.
    fn take<'a>(&mut self, text: &'a ByteArray) -> Result<&'a [u8], Fault> {
        self.left = self.left.checked_sub(text.len() as u64).ok_or_else(|| {
            Fault::Wrong("the paths and labels are longer than those of images can be; write shorter ones".to_owned())
        })?;
        Ok(text.data())
    }
}

/// Returns the paths of a column; an empty one for a row without a path.
fn paths(reader: Values<ByteArrayType>, texts: &mut Texts) -> Result<Vec<Vec<u8>>, Fault> {
    values(reader, |path| path.map_or(Ok(Vec::new()), |path| Ok(without_dot(texts.take(path)?).to_vec())))
}

/// Returns the labels of a column. -1 stands for none, as Hugging Face has it.
fn labels(
    blob: &Arc<Blob>,
    chunk: &ColumnChunkMetaData,
    limit: usize,
    texts: &mut Texts,
) -> Result<Vec<Option<Label>>, Fault> {
    let number = |number: i64| match u32::try_from(number) {
        Ok(number) => Ok(Some(Label::Number(number))),
        Err(_) if number == -1 => Ok(None),
        Err(_) => Err(Fault::Wrong(format!("the label {number} is no number of a class"))),
    };
    match chunk.column_type() {
        Type::INT32 => {
            let reader = Values::<Int32Type>::new(blob, chunk, limit, false)?;
            values(reader, |value| number(value.map_or(-1, |&value| value.into())))
        }
        Type::INT64 => {
            let reader = Values::<Int64Type>::new(blob, chunk, limit, false)?;
            values(reader, |value| number(value.copied().unwrap_or(-1)))
        }
        _ => {
            let reader = Values::<ByteArrayType>::new(blob, chunk, limit, false)?;
            values(reader, |value| value.map(|value| label(texts.take(value)?).map_err(Fault::Wrong)).transpose())
        }
    }
}

/// A page and the places at which unpacking of it may begin.
struct Page {
    placed: Placed,
    /// The offset of the elements in the compressed part.
    elements: usize,
    cuts: Vec<Cut>,
    crc: u32,
}

impl Page {
    fn new(placed: Placed) -> Self {
        let elements = match placed.codec {
            Codec::Snappy => snappy::elements(&placed.packed).map(|(elements, _)| elements),
            Codec::None | Codec::Gzip | Codec::Zstd => None,
        };
        let cuts = elements.and_then(snappy::cuts).unwrap_or_default();
        let elements = elements.map_or(0, |elements| placed.packed.len() - elements.len());
        let is_whole = matches!(placed.codec, Codec::Gzip | Codec::Zstd);
        let crc = if is_whole { crc32fast::hash(&placed.packed) } else { 0 };
        Self { placed, elements, cuts, crc }
    }

    /// Returns the place of a value in the page if it is part of its memory.
    fn place(&self, value: &[u8]) -> Option<usize> {
        let start = value.as_ptr().addr().checked_sub(self.placed.whole.as_ptr().addr())?;
        start.checked_add(value.len()).filter(|&end| end <= self.placed.whole.len()).map(|_| start)
    }

    /// Returns the image `value`, which is at `start` of the page.
    fn found(&self, start: usize, value: &[u8]) -> Option<Found> {
        let Self { placed, elements, cuts, crc } = self;
        // The offset in what is compressed.
        let start = if placed.codec == Codec::None { start } else { start.checked_sub(placed.before)? };
        let length = u32::try_from(value.len()).ok()?;
        let of = |offset, bytes: usize, crc, encoding| {
            Some(Found {
                name: Vec::new(),
                offset,
                length: u32::try_from(bytes).ok()?,
                crc,
                encoding,
                label: None,
                is_packed: false,
            })
        };
        let page = |unpacked: usize, offset: usize| {
            let (page, offset) = (u32::try_from(unpacked).ok()?, u32::try_from(offset).ok()?);
            Some(Encoding::Page { codec: placed.codec as u32, page, offset, length })
        };
        match placed.codec {
            Codec::None => {
                let offset = placed.offset - placed.before as u64 + start as u64;
                of(offset, value.len(), crc32fast::hash(value), Encoding::File)
            }
            Codec::Snappy => {
                let (first, last) = snappy::around(cuts, start..start + value.len())?;
                let range = elements + first.packed..elements + last.packed;
                let offset = placed.offset + range.start as u64;
                let encoding = page(last.unpacked - first.unpacked, start - first.unpacked)?;
                let part = placed.packed.get(range)?;
                of(offset, part.len(), crc32fast::hash(part), encoding)
            }
            Codec::Gzip | Codec::Zstd => {
                let encoding = page(placed.whole.len() - placed.before, start)?;
                of(placed.offset, placed.packed.len(), *crc, encoding)
            }
        }
    }
}

/// Returns the images of a column, without names and labels.
fn images(blob: &Arc<Blob>, chunk: &ColumnChunkMetaData, limit: usize) -> Result<Vec<Found>, Fault> {
    let mut reader = Values::<ByteArrayType>::new(blob, chunk, limit, true)?;
    let (mut all, mut pages): (Vec<Found>, Vec<Page>) = (Vec::new(), Vec::new());
    loop {
        if reader.handed().rows_left == 0 {
            // The next values are of another page, or of the dictionary.
            pages.retain(|page| page.placed.is_dictionary);
        }
        let batch: Vec<Option<ByteArray>> = reader.next()?;
        if batch.is_empty() {
            return Ok(all);
        }
        let handed = std::mem::take(&mut reader.handed().pages);
        pages.extend(handed.into_iter().map(Page::new));
        for value in batch {
            let row = all.len();
            let value = value.ok_or_else(|| {
                format!("row {row} has no bytes; write the images into the file (embed_external_files of Hugging Face)")
            })?;
            let value = value.data();
            let found = pages.iter().rev().find_map(|page| page.found(page.place(value)?, value));
            all.push(found.ok_or_else(|| {
                format!("row {row} is encoded in a way that has no place for it; write the column with plain encoding")
            })?);
        }
    }
}
