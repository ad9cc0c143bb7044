//! Files of NumPy, and files that are damaged or hostile.
#![allow(clippy::unwrap_used)]

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use admiral_npz::{Archive, Error, Npz, NpzImages, npz_of};
use crc32fast::Hasher;
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The pixels of 7 images of 4 x 5 pixels.
fn pixels() -> Vec<u8> {
    (0..420).map(|place| (place * 7 % 251) as u8).collect()
}

/// Writes files as NumPy does.
const WRITE: &str = r#"
import sys
import numpy as np
from pathlib import Path
folder = Path(sys.argv[1])
images = (np.arange(420) * 7 % 251).astype(np.uint8).reshape(7, 4, 5, 3)
np.savez(folder / "stored.npz", images, np.arange(7) * 100)
np.savez_compressed(folder / "compressed.npz", images, (np.arange(7) * 100).astype(np.int32))
np.savez(folder / "named.npz", images, classes=np.arange(7).astype(np.uint8))
np.savez(folder / "fortran.npz", np.asfortranarray(images))
np.savez(folder / "float.npz", images.astype(np.float32))
np.savez(folder / "flat.npz", images.reshape(-1))
np.savez(folder / "labels.npz", arr_1=np.arange(7) - 3)
np.savez(folder / "floats.npz", arr_1=np.arange(7.0))
np.savez(folder / "none.npz", images[:0])
"#;

#[test]
fn files_of_numpy_are_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv/bin/python");
    let output = Command::new(python).args(["-c", WRITE]).arg(root.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = |name: &str| root.path().join(format!("{name}.npz"));
    let labels = |name: &str, key: &str| Npz::open(&path(name)).and_then(|npz| npz.labels(key));
    let all = pixels();
    for name in ["stored", "compressed"] {
        let mut images = NpzImages::open(&path(name)).unwrap();
        assert_eq!(images.labels("arr_1").unwrap(), [0, 100, 200, 300, 400, 500, 600]);
        for range in [0..2, 2..7, 3..4, 5..7, 0..7] {
            let (start, end) = (range.start as usize * 60, range.end as usize * 60);
            assert!(images.read(range).unwrap() == all[start..end], "{name}");
        }
    }
    assert!(NpzImages::open(&path("none")).unwrap().read(0..0).unwrap().is_empty());
    assert_eq!(labels("named", "classes").unwrap(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(labels("labels", "arr_1").unwrap(), [-3, -2, -1, 0, 1, 2, 3]);
    let error = labels("named", "arr_1").unwrap_err();
    assert!(matches!(error, Error::NoLabels { found, .. } if found.contains("classes")));
    for (name, found) in [
        ("fortran", "Fortran order"),
        ("float", "<f4"),
        ("flat", "[420]"),
        ("labels", "no array arr_0"),
        ("missing", "cannot be opened"),
    ] {
        let error = NpzImages::open(&path(name)).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
    let error = labels("floats", "arr_1").unwrap_err().to_string();
    assert!(error.contains("<f8"), "{error}");
}

/// A file with the images and their labels.
fn small() -> Vec<u8> {
    let (pixels, labels) = (pixels(), [0_i64, 1, 2, 3, 4, 5, 6].map(i64::to_le_bytes).concat());
    let hash = |bytes: &[u8]| {
        let mut hash = Hasher::new();
        hash.update(bytes);
        hash
    };
    let archive = Archive::samples(7, [4, 5, 3], hash(&pixels), Some(hash(&labels)));
    [archive.before(0), pixels, archive.before(1), labels, archive.end()].concat()
}

#[test]
fn damaged_files_are_errors() {
    let whole = small();
    let read = |bytes: Vec<u8>| {
        let mut images = NpzImages::from_bytes(bytes.into(), "file")?;
        images.read(0..3)?;
        images.read(3..7)?;
        images.labels("arr_1")
    };
    assert_eq!(read(whole.clone()).unwrap().len(), 7);
    // Any byte may differ, and the file may end anywhere: there is no panic, and no changed pixel stays unnoticed.
    // After the headers of zip and npy.
    let pixels = 187..187 + 420;
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x11;
        let result = read(changed);
        assert!(result.is_err() || !pixels.contains(&place), "{place}");
        assert!(read(whole[..place].to_vec()).is_err(), "{place}");
    }
}

/// An entry of a zip archive as its directory describes it.
struct Entry {
    name: String,
    data: Vec<u8>,
    is_compressed: bool,
    length: u32,
    crc32: u32,
}

impl Entry {
    fn fields(&self) -> Vec<u8> {
        let method = if self.is_compressed { 8_u16 } else { 0 };
        let mut bytes = [[20, 0], [0; 2], method.to_le_bytes(), [0; 2], [33, 0]].concat();
        bytes.extend([self.crc32, self.data.len() as u32, self.length].iter().flat_map(|field| field.to_le_bytes()));
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }

    fn local(&self) -> Vec<u8> {
        [b"PK\x03\x04".as_slice(), &self.fields(), self.name.as_bytes(), &self.data].concat()
    }

    /// The entry of the directory for a local header at `offset`.
    fn central(&self, offset: u32) -> Vec<u8> {
        let rest = [0; 10];
        let parts = [b"PK\x01\x02\x14\x00".as_slice(), &self.fields(), &rest, &offset.to_le_bytes()];
        [parts.concat(), self.name.clone().into_bytes()].concat()
    }

    /// `npy` in compressed form; the directory says that it has `length` bytes.
    fn compressed(name: &str, npy: &[u8], length: u32) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(npy).unwrap();
        let (data, crc32) = (encoder.finish().unwrap(), crc32fast::hash(npy));
        Self { name: name.into(), data, is_compressed: true, length, crc32 }
    }
}

/// The end of an archive with a directory of `count` entries from `start` to `end`.
fn end(count: u16, start: usize, end: usize) -> Vec<u8> {
    let mut bytes = b"PK\x05\x06\0\0\0\0".to_vec();
    bytes.extend([count, count].iter().flat_map(|field| field.to_le_bytes()));
    bytes.extend([(end - start) as u32, start as u32].iter().flat_map(|field| field.to_le_bytes()));
    bytes.extend([0; 2]);
    bytes
}

/// An archive of one entry, which its directory has under `names`.
fn archive(entry: Entry, names: &[String]) -> Vec<u8> {
    let mut bytes = entry.local();
    let start = bytes.len();
    let mut entry = entry;
    for name in names {
        entry.name.clone_from(name);
        bytes.extend(entry.central(0));
    }
    let directory_end = bytes.len();
    bytes.extend(end(names.len() as u16, start, directory_end));
    bytes
}

/// The npy file of `count` zeros of float32.
fn zeros(count: usize) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0".as_slice(), &length, header.as_bytes(), &vec![0; 4 * count]].concat()
}

#[test]
fn compressed_arrays_are_read_whole_or_not_at_all() {
    let names = ["mu.npy".to_owned()];
    let (npy, open) = (zeros(100_000), |bytes: Vec<u8>| Npz::from_bytes(bytes.into(), "file"));
    let right = Entry::compressed("mu.npy", &npy, npy.len() as u32);
    assert!(right.data.len() * 500 < npy.len());
    let stored = right.data.len() as u32;
    assert_eq!(open(archive(right, &names)).unwrap().floats("mu").unwrap().unwrap().values, vec![0.0; 100_000]);
    // It unpacks to fewer bytes, to more, or claims more than its data can hold.
    for (length, found) in
        [(npy.len() as u32 + 4, "fit together"), (npy.len() as u32 - 4, "fit together"), (stored * 1032 + 1, "longer")]
    {
        let error = open(archive(Entry::compressed("mu.npy", &npy, length), &names));
        let error = error.and_then(|npz| npz.floats("mu")).unwrap_err().to_string();
        assert!(error.contains(found), "{length}: {error}");
    }
    let cut = Entry::compressed("mu.npy", &npy[..npy.len() - 4], npy.len() as u32);
    let error = open(archive(cut, &names)).unwrap().floats("mu").unwrap_err().to_string();
    assert!(error.contains("end early"), "{error}");
}

#[test]
fn more_values_than_a_covariance_has_are_refused() {
    let header = zeros(0);
    let count = (1 << 26) + 1;
    let text = String::from_utf8_lossy(&header[10..]).replace("(0,)", &format!("({count},)"));
    let npy = [&header[..8], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
    // The file has only as many bytes as the claim needs to be possible.
    let mut entry = Entry::compressed("mu.npy", &npy, npy.len() as u32 + 4 * count);
    entry.data.resize(entry.length as usize / 1032 + 1, 0);
    let npz = Npz::from_bytes(archive(entry, &["mu.npy".to_owned()]).into(), "file").unwrap();
    let error = npz.floats("mu").unwrap_err().to_string();
    assert!(error.contains("at most 67108864 values"), "{error}");
}

#[test]
fn a_large_array_that_unpacks_to_hundreds_of_times_its_bytes_is_refused() {
    let npy = zeros(0);
    let open = |length: u32, ratio: u32| {
        let mut entry = Entry::compressed("arr_0.npy", &npy, length);
        entry.data.resize((length / ratio) as usize, 0);
        Npz::from_bytes(archive(entry, &["arr_0.npy".to_owned()]).into(), "file").map_err(|error| error.to_string())
    };
    let large = (1 << 30) + 1;
    let error = open(large, 1000).unwrap_err();
    assert!(error.contains("more than 200 times") && error.contains("np.savez"), "{error}");
    open(large, 199).unwrap();
    open(large - 1, 1000).unwrap();
}

#[test]
fn entries_that_overlap_are_refused() {
    let npy = zeros(100);
    let names: Vec<String> = (0..3).map(|index| format!("{index}.npy")).collect();
    let whole = Entry::compressed("0.npy", &npy, npy.len() as u32);
    assert!(Npz::from_bytes(archive(whole, &names[..1]).into(), "file").is_ok());
    let shared = Entry::compressed("0.npy", &npy, npy.len() as u32);
    let error = Npz::from_bytes(archive(shared, &names).into(), "file").unwrap_err().to_string();
    assert!(error.contains("overlap"), "{error}");
}

#[test]
fn large_directories_are_refused() {
    let npy = zeros(1);
    let entry = || Entry::compressed("0.npy", &npy, npy.len() as u32);
    let names: Vec<String> = (0..10_001).map(|index| format!("{index}.npy")).collect();
    let error = Npz::from_bytes(archive(entry(), &names).into(), "file").unwrap_err().to_string();
    assert!(error.contains("10001 entries"), "{error}");
    // Many ends, each of a directory that turns out to be damaged at its last entry.
    let mut bytes = archive(entry(), &names[..1000]);
    let start = entry().local().len();
    let directory_end = bytes.len() - 22;
    for _ in 0..1000 {
        bytes.extend(end(1001, start, directory_end));
    }
    assert!(bytes.len() < 100_000);
    let error = Npz::from_bytes(bytes.into(), "file").unwrap_err().to_string();
    assert!(error.contains("zip directory"), "{error}");
}

#[test]
fn names_cannot_control_a_terminal() {
    let error =
        Npz::from_bytes(npz_of(&[("\u{1b}[2J.npy", &[1.0])]).into(), "file").unwrap().labels("arr_1").unwrap_err();
    assert!(error.to_string().contains("\\u{1b}[2J"), "{error}");
}

/// Checks a file of more than 4 GiB: its entries, the first images, and the last one and the labels far behind.
const READ_LARGE: &str = r#"
import sys, zipfile
import numpy as np
from numpy.lib import format
file, num = sys.argv[1], int(sys.argv[2])
with zipfile.ZipFile(file) as archive:
    pixels, labels = archive.infolist()
    assert pixels.file_size > 1 << 32 and labels.header_offset > 1 << 32, (pixels, labels)
    with archive.open("arr_0.npy") as stream:
        assert format.read_magic(stream) == (1, 0)
        shape, fortran, dtype = format.read_array_header_1_0(stream)
        assert shape == (num, 64, 64, 3) and not fortran and dtype == np.uint8
        assert not any(stream.read(1 << 16))
loaded = np.load(file)
assert (loaded["arr_1"] == np.arange(num) % 1000).all()
last = np.memmap(file, np.uint8, "r", labels.header_offset - 64 * 64 * 3, 64 * 64 * 3)
assert (last == 7).all()
"#;

/// Returns the checksum of `count` times the same bytes, which have the checksum `bytes`.
fn repeated(bytes: &Hasher, count: u64) -> Hasher {
    let (mut all, mut power) = (Hasher::new(), bytes.clone());
    for bit in 0..u64::BITS - count.leading_zeros() {
        if count >> bit & 1 == 1 {
            all.combine(&power);
        }
        power.combine(&power.clone());
    }
    all
}

#[test]
fn numpy_reads_a_file_of_more_than_4_gib() {
    const NUM: u64 = 400_000;
    let hash = |bytes: &[u8]| {
        let mut hash = Hasher::new();
        hash.update(bytes);
        hash
    };
    let (black, last) = (vec![0_u8; 64 * 64 * 3], vec![7_u8; 64 * 64 * 3]);
    assert_eq!(repeated(&hash(&black), 5).finalize(), hash(&black.repeat(5)).finalize());
    let labels: Vec<u8> = (0..NUM as i64).flat_map(|image| (image % 1000).to_le_bytes()).collect();
    let mut pixels = repeated(&hash(&black), NUM - 1);
    pixels.combine(&hash(&last));
    let archive = Archive::samples(NUM, [64, 64, 3], pixels, Some(hash(&labels)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.npz");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&archive.before(0)).unwrap();
    // All images but the last are a hole, which takes no space on the disk.
    file.seek(SeekFrom::Current((NUM as i64 - 1) * black.len() as i64)).unwrap();
    for bytes in [last.clone(), archive.before(1), labels, archive.end()] {
        file.write_all(&bytes).unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), archive.length());
    assert!(file.metadata().unwrap().blocks() * 512 < 100 << 20, "the file system keeps holes as zeros");

    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv/bin/python");
    let output = Command::new(python).args(["-c", READ_LARGE]).arg(&path).arg(NUM.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut images = NpzImages::open(&path).unwrap();
    assert_eq!((images.num(), images.labels("arr_1").unwrap().len() as u64), (NUM, NUM));
    assert!(images.read(NUM - 1..NUM).unwrap() == last);
}

/// Writes arrays of Python objects as NumPy does, and pickles of other protocols. The last argument is a file that a
/// hostile pickle would make.
const WRITE_OBJECTS: &str = r#"
import io
import os
import pickle
import sys
import zipfile
import numpy as np
from pathlib import Path
folder, made = Path(sys.argv[1]), sys.argv[2]
covariance = np.arange(3000.0 * 2).reshape(3000, 2) / 7
rows = np.empty(3, object)
rows[:] = [np.arange(4, dtype=np.float32) + row for row in range(3)]
scalars = np.empty(2, object)
scalars[:] = [np.float64(0.1), np.float32(0.5)]
class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {made}",)
good = {
    "numbers": covariance.astype(object),
    "integers": np.array([1, -2, 300, 70000, -(2**40)], dtype=object),
    "rows": rows,
    "scalars": scalars,
    "one": np.array(2.5, dtype=object),
    "turned": covariance.T.astype(object),
    "bytes": np.array([np.uint8(7), np.int16(-3)], dtype=object),
}
many = np.empty(30000, object)
many[:] = [np.float64(number) for number in range(30000)]
good["many"] = many
ragged = np.empty(2, object)
ragged[:] = [np.zeros(2), np.zeros(3)]
twice = np.empty(2, object)
twice[:] = [rows, rows]
bad = {
    "hostile": np.array([Hostile()], dtype=object),
    "texts": np.array(["a", "b"], dtype=object),
    "ragged": ragged,
    "lists": np.array([[1.0], None], dtype=object),
    "booleans": np.array([True], dtype=object),
    "large": np.array([2**70], dtype=object),
    "big_endian": np.array([np.array([1.0], ">f8"), 2.0], dtype=object),
    "twice": twice,
}
np.savez(folder / "good.npz", **good)
np.savez(folder / "bad.npz", **bad)
# A release of NumPy writes one protocol, at most 4.
for protocol in range(2, 5):
    with zipfile.ZipFile(folder / f"protocol-{protocol}.npz", "w") as file:
        for name, array in good.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
            file.writestr(f"{name}.npy", header.getvalue() + pickle.dumps(array, protocol=protocol))
"#;

#[test]
fn arrays_of_objects_are_read_if_they_are_numbers_and_never_executed() {
    let root = tempfile::tempdir().unwrap();
    let made = root.path().join("made");
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv/bin/python");
    let output = Command::new(python).args(["-c", WRITE_OBJECTS]).arg(root.path()).arg(&made).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["good", "protocol-2", "protocol-3", "protocol-4"] {
        let npz = Npz::open(&root.path().join(format!("{file}.npz"))).unwrap();
        let floats = |key: &str| npz.floats(key).unwrap_or_else(|error| panic!("{file} {key}: {error}")).unwrap();
        let numbers = floats("numbers");
        assert_eq!(numbers.shape, [3000, 2], "{file}");
        assert!(numbers.values.iter().enumerate().all(|(place, &value)| value == place as f64 / 7.0), "{file}");
        assert_eq!(floats("integers").values, [1.0, -2.0, 300.0, 70000.0, -1_099_511_627_776.0]);
        let rows = floats("rows");
        assert_eq!((rows.shape, rows.values[5]), (vec![3, 4], 2.0));
        assert_eq!(floats("scalars").values, [0.1, 0.5]);
        let one = floats("one");
        assert_eq!((one.shape, one.values), (vec![], vec![2.5]));
        let turned = floats("turned");
        assert_eq!((turned.shape, turned.values[3000]), (vec![2, 3000], 1.0 / 7.0));
        assert_eq!(floats("bytes").values, [7.0, -3.0]);
        assert!(floats("many").values.iter().enumerate().all(|(place, &value)| value == place as f64), "{file}");
    }
    let bad = Npz::open(&root.path().join("bad.npz")).unwrap();
    let mut keys = 0;
    for key in bad.keys() {
        let error = bad.floats(key).unwrap_err().to_string();
        let is_form = ["ragged", "large", "big_endian", "twice"].contains(&key);
        assert!(error.contains(key) && error.contains("never executed") != is_form, "{key}: {error}");
        keys += 1;
    }
    assert_eq!(keys, 8);
    assert!(!made.exists());
}
