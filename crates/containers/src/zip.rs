//! The images of a zip file. A file `dataset.json` in it gives the labels, as EDM's tools write it:
//! `{"labels": [["00000/img00000000.png", 6], ...]}`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom};

use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use serde::Deserialize;
use zip::{CompressionMethod, ZipArchive};

use crate::blob::{Blob, BlobReader, crc_of};
use crate::error::Error;
use crate::index::{Encoding, Found, Label};
use crate::left_out::LeftOut;
use crate::names::{is_hidden, is_image_name, shown, without_dot};

/// The longest `dataset.json` that is read, in bytes. That of ImageNet has about 50 MB.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// The largest factor by which deflate makes data smaller.
const MAX_DEFLATE_FACTOR: u64 = 1032;

#[derive(Deserialize)]
struct DataSet {
    labels: Option<Vec<(String, u32)>>,
}

/// Finds the images of a zip file. Reads the whole file once.
///
/// # Errors
/// If it is no zip file, or has an image in a form that is not supported.
pub(crate) fn find(blob: &Blob) -> Result<Vec<Found>, Error> {
    let reader = RefCell::new(blob.reader());
    let outcome = find_in(&reader, blob);
    match reader.into_inner().failure {
        Some(failure) => Err(failure),
        None => outcome,
    }
}

fn find_in(reader: &RefCell<BlobReader<'_>>, blob: &Blob) -> Result<Vec<Found>, Error> {
    let path = blob.shown();
    let refuse = |error: zip::result::ZipError| Error::malformed(&*path, format!("it is no whole zip file: {error}"));
    let mut archive = ZipArchive::new(Shared(reader)).map_err(refuse)?;
    check_names(blob, archive.central_directory_start(), archive.len() as u64)?;
    let labels = read_labels(&mut archive, &path)?;
    // In the order of their offsets, so that the file is read once.
    let (mut entries, mut left_out) = (Vec::new(), LeftOut::default());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(refuse)?;
        let name = without_dot(entry.name_raw());
        if !is_image_name(name) || is_hidden(name) {
            left_out.add(name);
            continue;
        }
        if entry.is_symlink() {
            let place = format!("{path}, member {} at byte {}", shown(name), entry.header_start());
            return Err(Error::malformed(place, "it is a link; pack the file to which it leads"));
        }
        if entry.is_file() {
            entries.push((entry.header_start(), index));
        }
    }
    left_out.say(&path);
    entries.sort_unstable();
    let mut found = Vec::with_capacity(entries.len());
    for (_, index) in entries {
        let mut entry = archive.by_index_raw(index).map_err(refuse)?;
        let name = without_dot(entry.name_raw()).to_vec();
        let (offset, length, whole) = (entry.data_start().unwrap_or(0), entry.compressed_size(), entry.size());
        let wrong = |reason: &str| {
            Error::malformed(format!("{path}, member {} at byte {offset}", shown(&name)), reason.to_owned())
        };
        if entry.encrypted() {
            return Err(wrong("it is encrypted; pack it without a password"));
        }
        let lengths = u32::try_from(length).ok().zip(u32::try_from(whole).ok());
        let Some((length, whole)) = lengths.filter(|_| offset.saturating_add(length) <= blob.length) else {
            return Err(wrong("its length exceeds the file, or 4 GiB"));
        };
        let encoding = match entry.compression() {
            CompressionMethod::Stored if length == whole => Encoding::File,
            CompressionMethod::Deflated if u64::from(whole) <= u64::from(length) * MAX_DEFLATE_FACTOR => {
                Encoding::Deflated { length: whole }
            }
            CompressionMethod::Stored | CompressionMethod::Deflated => {
                return Err(wrong("its lengths contradict each other"));
            }
            other => {
                return Err(wrong(&format!("it is compressed by {other:?}; pack it stored, or compressed by deflate")));
            }
        };
        // Before the content, so that a file in a store is read from front to back.
        match local_name(reader, entry.header_start()) {
            Ok(local) if without_dot(&local) == name || has_unicode_name(entry.extra_data(), &local) => {}
            Ok(local) => {
                let local = shown(&local);
                return Err(wrong(&format!("its directory leads to the content of {local}; pack it again")));
            }
            Err(error) => return Err(wrong(&format!("its header cannot be read: {error}"))),
        }
        let sums = checksums(&mut entry, length.into(), encoding);
        let Checksums { packed: crc, unpacked } =
            sums.map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
        // No bytes have the other sum, so a damaged image is broken whenever it is read.
        let crc = if unpacked == Some(entry.crc32()) { crc } else { !crc };
        let label = match &labels {
            None => None,
            Some(labels) => match labels.get(&name[..]) {
                Some(&label) => Some(Label::Number(label)),
                None => return Err(wrong("dataset.json has labels, but none for it")),
            },
        };
        found.push(Found { name, offset, length, crc, encoding, label, is_packed: false });
    }
    Ok(found)
}

/// Returns whether the extra fields have the Unicode name of a member (0x7075 in section 4.6.9 of the zip specification),
/// which then replaces `header_name`, the name in the member's own header.
fn has_unicode_name(extra: Option<&[u8]>, header_name: &[u8]) -> bool {
    let mut rest = extra.unwrap_or_default();
    while let [id_low, id_high, length_low, length_high, fields @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*length_low, *length_high])).min(fields.len());
        let (field, after) = fields.split_at(length);
        // A version, then the checksum of the name that is replaced.
        if u16::from_le_bytes([*id_low, *id_high]) == 0x7075
            && field.get(1..5) == Some(&crc32fast::hash(header_name).to_le_bytes()[..])
        {
            return true;
        }
        rest = after;
    }
    false
}

/// A reader that the archive shares with [`local_name`].
struct Shared<'a, 'b>(&'a RefCell<BlobReader<'b>>);

impl Read for Shared<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(out)
    }
}

impl Seek for Shared<'_, '_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.borrow_mut().seek(to)
    }
}

/// Returns the name of a member in the header before its content, which is at `start`. That in the directory may be wrong,
/// or its offset.
fn local_name(reader: &RefCell<BlobReader<'_>>, start: u64) -> io::Result<Vec<u8>> {
    let mut reader = reader.borrow_mut();
    let position = reader.stream_position()?;
    reader.seek(SeekFrom::Start(start))?;
    let mut fixed = [0; 30];
    reader.read_exact(&mut fixed)?;
    let mut name = vec![0; usize::from(u16::from_le_bytes([fixed[26], fixed[27]]))];
    reader.read_exact(&mut name)?;
    reader.seek(SeekFrom::Start(position))?;
    Ok(name)
}

/// The CRC-32 of a member.
struct Checksums {
    /// That of the bytes as they are in the file.
    packed: u32,
    /// That of the unpacked bytes. `None` if they cannot be unpacked, or have another length than the directory says.
    unpacked: Option<u32>,
}

/// Reads a member of `length` bytes.
///
/// # Errors
/// If the file cannot be read.
fn checksums(member: &mut impl Read, length: u64, encoding: Encoding) -> io::Result<Checksums> {
    let Encoding::Deflated { length: whole } = encoding else {
        let packed = crc_of(member, length)?;
        return Ok(Checksums { packed, unpacked: Some(packed) });
    };
    let mut bytes = CrcReader::new(member);
    // One byte more tells whether there are too many.
    let mut unpacked = CrcReader::new(DeflateDecoder::new(&mut bytes).take(u64::from(whole) + 1));
    let end = io::copy(&mut unpacked, &mut io::sink());
    let unpacked = end.is_ok_and(|count| count == u64::from(whole)).then(|| unpacked.crc().sum());
    io::copy(&mut bytes, &mut io::sink())?;
    Ok(Checksums { packed: bytes.crc().sum(), unpacked })
}

/// Checks whether the names of members differ, and the directory at `start` lists no more than the `num` members that were
/// read from it. The `zip` crate keeps the last of several members of one name, and believes a number that has too few digits
/// for all members.
fn check_names(blob: &Blob, start: u64, num: u64) -> Result<(), Error> {
    let path = blob.shown();
    let mut reader = blob.reader();
    let outcome = directory_names(&mut reader, start, |name, offset| {
        let place = format!("{path}, member {} at byte {offset} of its directory", shown(name));
        Error::malformed(place, "another member has the same name; names in a file must differ")
    });
    if let Some(failure) = reader.failure {
        return Err(failure);
    }
    match outcome? {
        found if found == num => Ok(()),
        found => {
            let reason =
                format!("its directory at byte {start} lists {found} members, and {num} can be read; pack it again");
            Err(Error::malformed(path, reason))
        }
    }
}

/// Returns the number of members that a directory lists. Folders count once each. `double` is the error of a member that has
/// the name of another one, and whose entry is at an offset.
fn directory_names(
    reader: &mut BlobReader<'_>,
    start: u64,
    double: impl Fn(&[u8], u64) -> Error,
) -> Result<u64, Error> {
    const ENTRY: &[u8; 4] = b"PK\x01\x02";
    let mut names = HashSet::new();
    let mut offset = start;
    loop {
        let mut fixed = [0; 46];
        // What follows the last entry is another record, or the end of the file.
        if reader.seek(SeekFrom::Start(offset)).and_then(|_| reader.read_exact(&mut fixed)).is_err()
            || !fixed.starts_with(ENTRY)
        {
            return Ok(names.len() as u64);
        }
        let length = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
        let mut name = vec![0; length(28)];
        if reader.read_exact(&mut name).is_err() {
            return Ok(names.len() as u64);
        }
        let is_folder = name.ends_with(b"/");
        if names.contains(&name) && !is_folder {
            return Err(double(&name, offset));
        }
        names.insert(name);
        offset += (fixed.len() + length(28) + length(30) + length(32)) as u64;
    }
}

/// Returns the labels of `dataset.json` by the names of the images. `None` if there are none.
fn read_labels(archive: &mut ZipArchive<impl Read + Seek>, path: &str) -> Result<Option<HashMap<Vec<u8>, u32>>, Error> {
    let wrong = |reason: String| Error::malformed(format!("{path}, member dataset.json"), reason);
    let Some(index) = archive.index_for_name("dataset.json") else { return Ok(None) };
    let entry = archive.by_index(index).map_err(|error| wrong(error.to_string()))?;
    let mut json = Vec::new();
    entry.take(MAX_JSON_BYTES + 1).read_to_end(&mut json).map_err(|error| wrong(error.to_string()))?;
    if json.len() as u64 > MAX_JSON_BYTES {
        return Err(wrong(format!("it has more than {MAX_JSON_BYTES} bytes")));
    }
    let data: DataSet = serde_json::from_slice(&json).map_err(|error| {
        wrong(format!("it has another form than {{\"labels\": [[\"name\", number], ...]}}: {error}"))
    })?;
    Ok(data.labels.map(|labels| labels.into_iter().map(|(name, label)| (name.into_bytes(), label)).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use zip::write::SimpleFileOptions;

    use super::*;

    fn zip_of(members: &[(&str, &[u8], CompressionMethod)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, content, method) in members {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(*method)).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn find_in(bytes: &[u8]) -> Result<Vec<Found>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        std::fs::write(&path, bytes).unwrap();
        find(&Blob::local("a.zip".into(), path, false).unwrap())
    }

    const STORED: CompressionMethod = CompressionMethod::Stored;
    const DEFLATED: CompressionMethod = CompressionMethod::Deflated;

    #[test]
    fn stored_and_deflated_images_are_found_with_their_labels() {
        let json = br#"{"labels": [["00000/b.png", 6], ["a.png", 2]]}"#;
        let long = [5; 500];
        let bytes = zip_of(&[
            ("00000/b.png", b"stored", STORED),
            ("a.png", &long, DEFLATED),
            ("dataset.json", json, DEFLATED),
            ("__MACOSX/._a.png", b"", STORED),
        ]);
        let found = find_in(&bytes).unwrap();
        assert_eq!(found[0].encoding, Encoding::File);
        assert_eq!(&bytes[found[0].offset as usize..][..6], b"stored");
        assert_eq!(found[0].label, Some(Label::Number(6)));
        assert_eq!(found[1].encoding, Encoding::Deflated { length: 500 });
        let packed = &bytes[found[1].offset as usize..][..found[1].length as usize];
        assert_eq!(found[1].crc, crc32fast::hash(packed));
        let mut unpacked = Vec::new();
        flate2::read::DeflateDecoder::new(packed).read_to_end(&mut unpacked).unwrap();
        assert_eq!((unpacked, found.len()), (long.to_vec(), 2));
    }

    #[test]
    fn wrong_files_are_errors_that_name_the_member() {
        let error = |bytes: &[u8]| find_in(bytes).unwrap_err().to_string();
        assert!(error(b"no zip file").contains("no whole zip file"));
        let text = error(&zip_of(&[("a.png", b"x", STORED), ("dataset.json", br#"{"labels": []}"#, STORED)]));
        assert!(text.contains("member a.png") && text.contains("none for it"), "{text}");
        let text = error(&zip_of(&[("a.png", b"x", STORED), ("dataset.json", b"{\"labels\": 3}", STORED)]));
        assert!(text.contains("dataset.json") && text.contains("another form"), "{text}");
        let null = zip_of(&[("a.png", b"x", STORED), ("dataset.json", br#"{"labels": null}"#, STORED)]);
        assert_eq!(find_in(&null).unwrap()[0].label, None);
    }

    #[test]
    fn members_that_would_be_lost_are_refused() {
        let error = |bytes: &[u8]| find_in(bytes).unwrap_err().to_string();
        // The writer refuses equal names, so the second one is changed afterwards.
        let mut double = zip_of(&[("a.png", b"one", STORED), ("b.png", b"two", STORED)]);
        let second: Vec<usize> = (0..double.len() - 5).filter(|&at| &double[at..at + 5] == b"b.png").collect();
        second.iter().for_each(|&at| double[at] = b'a');
        let text = error(&double);
        assert!(text.contains("a.zip, member a.png at byte") && text.contains("the same name"), "{text}");
        // A number of members that is too small.
        let mut few = zip_of(&[("a.png", b"one", STORED), ("b.png", b"two", STORED)]);
        let end = few.len() - 22;
        assert_eq!(few[end + 10], 2);
        (few[end + 8], few[end + 10]) = (1, 1);
        let text = error(&few);
        assert!(text.contains("lists 2 members, and 1 can be read"), "{text}");
        // A link.
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(zip_of(&[("a.png", b"one", STORED)])));
        writer.add_symlink("b.png", "a.png", SimpleFileOptions::default()).unwrap();
        let text = error(&writer.finish().unwrap().into_inner());
        assert!(text.contains("member b.png") && text.contains("it is a link"), "{text}");
    }

    /// The offset of a member's entry in the directory.
    fn entry_of(bytes: &[u8], name: &str) -> usize {
        let place = bytes.windows(name.len()).rposition(|part| part == name.as_bytes()).unwrap();
        assert_eq!(&bytes[place - 46..place - 42], b"PK\x01\x02");
        place - 46
    }

    #[test]
    fn a_unicode_name_belongs_to_the_name_in_the_header() {
        let utf8 = "caf\u{e9}.png".as_bytes();
        let mut extra = vec![1, 0, 2, 0, 9, 9, 0x75, 0x70, 5 + utf8.len() as u8, 0, 1];
        extra.extend(crc32fast::hash(b"caf_.png").to_le_bytes());
        extra.extend(utf8);
        assert!(has_unicode_name(Some(&extra), b"caf_.png"));
        assert!(!has_unicode_name(Some(&extra), b"dog.png"));
        assert!(!has_unicode_name(Some(&extra[..12]), b"caf_.png"));
        assert!(!has_unicode_name(None, b"caf_.png"));
    }

    #[test]
    fn a_member_that_leads_to_another_ones_content_is_refused() {
        let whole = zip_of(&[("a.png", b"one", STORED), ("b.png", b"two", STORED)]);
        let [first, second] = ["a.png", "b.png"].map(|name| entry_of(&whole, name));
        let mut moved = whole.clone();
        moved.copy_within(first + 42..first + 46, second + 42);
        let text = find_in(&moved).unwrap_err().to_string();
        assert!(text.contains("member b.png") && text.contains("the content of a.png"), "{text}");
    }

    #[test]
    fn a_member_whose_checksum_is_wrong_has_no_right_bytes() {
        let content = [7; 300];
        for method in [STORED, DEFLATED] {
            let whole = zip_of(&[("a.png", &content, method)]);
            let is_sound = |bytes: &[u8]| {
                let Found { offset, length, crc, .. } = find_in(bytes).unwrap().remove(0);
                crc32fast::hash(&bytes[offset as usize..][..length as usize]) == crc
            };
            assert!(is_sound(&whole));
            let mut wrong_sum = whole.clone();
            wrong_sum[entry_of(&whole, "a.png") + 16] ^= 1;
            assert!(!is_sound(&wrong_sum), "{method:?}");
            let mut damaged = whole.clone();
            damaged[30 + 5 + 1] ^= 0x10;
            assert!(!is_sound(&damaged), "{method:?}");
        }
    }

    #[test]
    fn names_outside_of_the_file_are_names() {
        let bytes = zip_of(&[("../a.png", b"one", STORED), ("b/", b"", STORED), ("b/c.png", b"two", STORED)]);
        let names: Vec<Vec<u8>> = find_in(&bytes).unwrap().into_iter().map(|found| found.name).collect();
        assert_eq!(names, [b"../a.png".to_vec(), b"b/c.png".to_vec()]);
    }

    #[test]
    fn no_bit_flip_leads_outside_of_the_file() {
        let bytes = zip_of(&[("a.png", b"one", STORED), ("b.png", &[3; 300], DEFLATED)]);
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                for found in find_in(&flipped).unwrap_or_default() {
                    assert!(found.offset + u64::from(found.length) <= bytes.len() as u64, "byte {at}");
                }
            }
        }
    }
}
