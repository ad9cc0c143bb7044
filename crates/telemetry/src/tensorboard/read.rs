//! Reads the scalars and images of event files, which may be damaged or of another program.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use admiral_contract::files::open_regular;
use prost::Message;

use super::proto::{Event, EventContent, SessionStatus, ValueContent};
use super::record::{CHECKSUM_BYTES, LENGTH_BYTES, masked_crc32c};

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 20;
/// The largest number of files that are read.
const MAX_FILES: usize = 10_000;

/// Something in an event file.
#[derive(Debug, Clone, PartialEq)]
pub enum BoardEntry {
    /// An attempt began: entries before this one that are of this step or a later one are discarded.
    Restart {
        /// The step.
        step: u64,
    },
    /// A point of a curve.
    Scalar {
        /// The name of the curve.
        tag: String,
        /// The step.
        step: u64,
        /// The value.
        value: f32,
    },
    /// An image.
    Image(ImagePlace),
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePlace {
    /// The name of the series.
    pub tag: String,
    /// The step.
    pub step: u64,
    /// The size of its PNG file in bytes.
    pub bytes: usize,
    file: PathBuf,
    /// The byte offset of the record in the file.
    offset: u64,
    /// The index of the value in the record.
    index: usize,
}

/// What was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The files that cannot be read to their end, with the reason.
    pub files: Vec<String>,
}

/// Reads all event files of a folder, in the order in which they were written, and calls `take` for each entry. A file is
/// read up to its first damaged record. Reads one record at a time.
///
/// # Errors
/// If the folder cannot be listed.
pub fn read_entries(folder: &Path, mut take: impl FnMut(BoardEntry)) -> io::Result<LeftOut> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(super::file::PREFIX) && paths.len() < MAX_FILES {
            paths.push(path);
        }
    }
    paths.sort();
    let mut left_out = LeftOut::default();
    for path in paths {
        if let Err(error) = read_file(&path, &mut take) {
            left_out.files.push(format!("{}: {error}", path.display()));
        }
    }
    Ok(left_out)
}

/// Returns the PNG file of an image. The content may be anything.
///
/// # Errors
/// If the file has changed or cannot be read.
pub fn read_image(place: &ImagePlace) -> io::Result<Vec<u8>> {
    let mut file = open_regular(&place.file, File::options().read(true))?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(place.offset))?;
    let (event, _) = read_record(&mut file, place.offset, end)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let Some(EventContent::Summary(summary)) = event.content else { return Err(damaged("it has no image")) };
    match summary.value.into_iter().nth(place.index).and_then(|value| value.content) {
        Some(ValueContent::Image(image)) => Ok(image.encoded_image_string),
        _ => Err(damaged("it has no image")),
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_file(path: &Path, take: &mut impl FnMut(BoardEntry)) -> io::Result<()> {
    let file = open_regular(path, File::options().read(true))?;
    // A file that grows is read to its present end.
    let end = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let mut offset = 0;
    while let Some((event, next)) = read_record(&mut reader, offset, end)? {
        entries_of(event, path, offset, take);
        offset = next;
    }
    Ok(())
}

fn entries_of(event: Event, path: &Path, offset: u64, take: &mut impl FnMut(BoardEntry)) {
    let step = u64::try_from(event.step).unwrap_or(0);
    let summary = match event.content {
        Some(EventContent::SessionLog(log)) if log.status == i32::from(SessionStatus::Start) => {
            return take(BoardEntry::Restart { step });
        }
        Some(EventContent::Summary(summary)) => summary,
        _ => return,
    };
    for (index, value) in summary.value.into_iter().enumerate() {
        let tag = value.tag;
        match value.content {
            Some(ValueContent::SimpleValue(value)) => take(BoardEntry::Scalar { tag, step, value }),
            Some(ValueContent::Image(image)) => {
                let bytes = image.encoded_image_string.len();
                take(BoardEntry::Image(ImagePlace { tag, step, bytes, file: path.to_owned(), offset, index }));
            }
            Some(ValueContent::Tensor(_)) | None => {}
        }
    }
}

/// Reads the record at `offset` of a file that ends at `end`. Returns it and the offset of the next; `None` at the end, and
/// for a last record that is not complete yet.
fn read_record(reader: &mut impl Read, offset: u64, end: u64) -> io::Result<Option<(Event, u64)>> {
    let overhead = (LENGTH_BYTES + 2 * CHECKSUM_BYTES) as u64;
    let left = end.saturating_sub(offset);
    if left < overhead {
        return Ok(None);
    }
    let at = |what: &str| damaged(&format!("{what} at byte {offset}"));
    let mut head = [0; LENGTH_BYTES + CHECKSUM_BYTES];
    reader.read_exact(&mut head)?;
    let (length, checksum) = head.split_at(LENGTH_BYTES);
    if checksum != masked_crc32c(length).to_le_bytes() {
        return Err(at("the length of a record is damaged"));
    }
    let length = length.try_into().map(u64::from_le_bytes).map_err(|_| at("a record has no length"))?;
    if length > MAX_RECORD {
        return Err(at(&format!("a record of {length} bytes is too long")));
    }
    if length > left - overhead {
        return Ok(None);
    }
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload)?;
    let mut checksum = [0; CHECKSUM_BYTES];
    reader.read_exact(&mut checksum)?;
    if checksum != masked_crc32c(&payload).to_le_bytes() {
        return Err(at("a record is damaged"));
    }
    let event = Event::decode(payload.as_slice()).map_err(|error| at(&format!("a record cannot be read ({error})")))?;
    Ok(Some((event, offset + overhead + length)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::{Grid, TensorBoard};

    fn written(folder: &Path, first_step: u64) {
        let board = TensorBoard::open(folder, first_step, Duration::from_secs(60));
        board.scalar("loss", first_step, 0.5);
        board.text("config", first_step, "text");
        let grid = Grid { width: 2, height: 1, channels: 1, pixels: vec![0, 255] };
        board.image("samples", first_step + 1, grid);
        assert!(board.flush(Duration::from_secs(60)));
    }

    fn read(folder: &Path) -> (Vec<BoardEntry>, LeftOut) {
        let mut entries = Vec::new();
        let left_out = read_entries(folder, |entry| entries.push(entry)).unwrap();
        (entries, left_out)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn what_was_written_is_read_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), 1);
        written(folder.path(), 5);
        let (entries, left_out) = read(folder.path());
        assert_eq!(left_out, LeftOut::default());
        assert_eq!(entries.len(), 6, "{entries:?}");
        assert_eq!([&entries[0], &entries[3]], [&BoardEntry::Restart { step: 1 }, &BoardEntry::Restart { step: 5 }]);
        assert_eq!(entries[4], BoardEntry::Scalar { tag: "loss".into(), step: 5, value: 0.5 });
        let BoardEntry::Image(place) = &entries[5] else { panic!("{entries:?}") };
        let png = read_image(place).unwrap();
        assert_eq!((place.step, place.bytes), (6, png.len()));
        assert_eq!(image::load_from_memory(&png).unwrap().to_luma8().into_raw(), [0, 255]);
    }

    #[test]
    fn damaged_files_are_read_up_to_the_damage_and_named() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), 1);
        let path = &files(folder.path())[0];
        let whole = std::fs::read(path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(path, &whole[..cut]).unwrap();
            let (entries, left_out) = read(folder.path());
            assert!(entries.len() < 3 && left_out.files.is_empty(), "a process was killed while it wrote: {cut}");
        }
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x40;
            std::fs::write(path, &bytes).unwrap();
            let (entries, left_out) = read(folder.path());
            assert!(entries.len() < 3 && left_out.files.len() == 1, "{place}");
        }
        let length = u64::MAX.to_le_bytes();
        std::fs::write(path, [&length[..], &masked_crc32c(&length).to_le_bytes(), &[0; 64]].concat()).unwrap();
        assert!(read(folder.path()).1.files[0].contains("too long"));
    }

    #[test]
    fn links_and_pipes_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let name = |number| folder.path().join(format!("{}{number}", super::super::file::PREFIX));
        std::os::unix::fs::symlink("/dev/zero", name(1)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(name(2)).status().unwrap();
        assert!(made.success());
        assert_eq!(read(folder.path()).1.files.len(), 2);
    }
}
