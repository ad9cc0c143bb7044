//! Writes npz files front to back, for files that are larger than memory and for stores without seeking. The checksum of a
//! zip entry is before its data, so the checksums of all data must be known beforehand.
//!
//! The same arrays always have the same bytes: entries have a constant date and are not compressed.

use std::ops::Range;

use crc32fast::Hasher;

use crate::header;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;

/// The version of the zip format that introduced 64-bit lengths.
const VERSION: u16 = 45;

/// The ID of the extra field with 64-bit lengths and offsets.
const EXTRA_64: u16 = 1;

/// The value of a 32-bit field whose number is in the 64-bit extra field instead.
const IN_64: u32 = u32::MAX;

/// 1 January 1980, the earliest date of the format.
const DATE: u16 = 0x21;

/// Made on Unix, so that the permissions count.
const MADE_BY: u16 = (3 << 8) | VERSION;

/// A regular file that everybody may read and its owner may write.
const MODE: u32 = 0o100_644 << 16;

/// An array of an npz file.
#[derive(Debug)]
struct Member {
    name: &'static str,
    /// The header of the npy file.
    header: Vec<u8>,
    /// The length of the values in bytes.
    data_bytes: u64,
    /// The checksum of the header and the values.
    crc32: u32,
}

impl Member {
    /// `data` is the checksum of the values.
    fn new(name: &'static str, descr: &str, shape: &[u64], element_bytes: u64, data: &Hasher) -> Self {
        let header = header::encode(descr, shape);
        let mut crc = Hasher::new();
        crc.update(&header);
        crc.combine(data);
        let data_bytes = shape.iter().product::<u64>() * element_bytes;
        Self { name, header, data_bytes, crc32: crc.finalize() }
    }

    /// The length of the npy file.
    fn length(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    /// The header of the zip entry and of the npy file. The values follow.
    fn before_data(&self) -> Vec<u8> {
        let mut bytes = Fields::default();
        bytes.u32(LOCAL_HEADER);
        self.common_fields(&mut bytes, 20);
        bytes.0.extend_from_slice(self.name.as_bytes());
        bytes.u16(EXTRA_64);
        bytes.u16(16);
        bytes.u64(self.length());
        bytes.u64(self.length());
        bytes.0.extend_from_slice(&self.header);
        bytes.0
    }

    /// The fields that the local and the central header share.
    fn common_fields(&self, bytes: &mut Fields, extra_bytes: u16) {
        bytes.u16(VERSION);
        bytes.u16(0); // flags
        bytes.u16(0); // not compressed
        bytes.u16(0); // time
        bytes.u16(DATE);
        bytes.u32(self.crc32);
        bytes.u32(IN_64);
        bytes.u32(IN_64);
        bytes.u16(self.name.len() as u16);
        bytes.u16(extra_bytes);
    }
}

/// The layout of an npz file: all its bytes except the values.
#[derive(Debug)]
pub struct Archive {
    members: Vec<Member>,
}

impl Archive {
    /// The layout of a file with `num` images of `shape` (height, width, channels), and their labels if there are any.
    /// `pixels` and `labels` are the checksums of their bytes.
    #[must_use]
    pub fn samples(num: u64, shape: [usize; 3], pixels: Hasher, labels: Option<Hasher>) -> Self {
        let [height, width, channels] = shape.map(|side| side as u64);
        let mut members = vec![Member::new("arr_0.npy", "|u1", &[num, height, width, channels], 1, &pixels)];
        members.extend(labels.map(|labels| Member::new("arr_1.npy", "<i8", &[num], 8, &labels)));
        Self { members }
    }

    /// Returns the bytes before the values of array `index`: 0 for the images, 1 for the labels. They follow the values of the
    /// array before.
    ///
    /// # Panics
    /// If there is no such array.
    #[must_use]
    pub fn before(&self, index: usize) -> Vec<u8> {
        self.members[index].before_data()
    }

    /// Returns where the values of array `index` are in the file.
    ///
    /// # Panics
    /// If there is no such array.
    #[must_use]
    pub fn data(&self, index: usize) -> Range<u64> {
        let before: u64 = self.members[..index].iter().map(entry_bytes).sum();
        let end = before + entry_bytes(&self.members[index]);
        end - self.members[index].data_bytes..end
    }

    /// Returns the bytes after the values of the last array.
    #[must_use]
    pub fn end(&self) -> Vec<u8> {
        let mut bytes = Fields::default();
        let mut offset = 0;
        for member in &self.members {
            bytes.u32(CENTRAL_HEADER);
            bytes.u16(MADE_BY);
            member.common_fields(&mut bytes, 28);
            bytes.u16(0); // comment
            bytes.u16(0); // disk
            bytes.u16(0); // internal attributes
            bytes.u32(MODE);
            bytes.u32(IN_64);
            bytes.0.extend_from_slice(member.name.as_bytes());
            bytes.u16(EXTRA_64);
            bytes.u16(24);
            bytes.u64(member.length());
            bytes.u64(member.length());
            bytes.u64(offset);
            offset += entry_bytes(member);
        }
        let (directory_bytes, count) = (bytes.0.len() as u64, self.members.len() as u64);
        bytes.u32(END_64);
        bytes.u64(44); // the length of the rest of this record
        bytes.u16(MADE_BY);
        bytes.u16(VERSION);
        bytes.u32(0); // this disk
        bytes.u32(0); // the disk of the directory
        bytes.u64(count);
        bytes.u64(count);
        bytes.u64(directory_bytes);
        bytes.u64(offset);
        bytes.u32(END_64_LOCATOR);
        bytes.u32(0); // the disk of the record
        bytes.u64(offset + directory_bytes);
        bytes.u32(1); // disks
        bytes.u32(END);
        bytes.u16(0);
        bytes.u16(0);
        bytes.u16(count as u16);
        bytes.u16(count as u16);
        bytes.u32(IN_64);
        bytes.u32(IN_64);
        bytes.u16(0); // comment
        bytes.0
    }

    /// Returns the length of the file in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.members.iter().map(entry_bytes).sum::<u64>() + self.end().len() as u64
    }
}

/// Returns an npz file with vectors of float64 by their names, which end with `.npy`.
#[must_use]
pub fn npz_of(vectors: &[(&'static str, &[f64])]) -> Vec<u8> {
    let values: Vec<Vec<u8>> =
        vectors.iter().map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let members = vectors.iter().zip(&values).map(|((name, numbers), bytes)| {
        let mut hash = Hasher::new();
        hash.update(bytes);
        Member::new(name, "<f8", &[numbers.len() as u64], 8, &hash)
    });
    let archive = Archive { members: members.collect() };
    let mut file = Vec::new();
    for (index, bytes) in values.iter().enumerate() {
        file.extend(archive.before(index));
        file.extend(bytes);
    }
    file.extend(archive.end());
    file
}

/// The length of a zip entry with its header.
fn entry_bytes(member: &Member) -> u64 {
    member.before_data().len() as u64 + member.data_bytes
}

/// Collects numbers with the low byte first.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}
