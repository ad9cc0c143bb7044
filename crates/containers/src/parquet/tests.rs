#![allow(clippy::unwrap_used)]

use std::path::Path;

use admiral_storage::{Location, Store, StoreOptions};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};

use super::*;
use crate::fetched::{Fetched, unpack};
use crate::writers::{Format, Row, parquet_of};

const NAME: &str = "train-00000-of-00001.parquet";

fn find_in(folder: &Path, bytes: &[u8]) -> Result<InFile, Error> {
    std::fs::write(folder.join(NAME), bytes).unwrap();
    find(&Arc::new(Blob::local(NAME.into(), folder.join(NAME), false).unwrap()))
}

/// Bytes like those of image files, of several lengths.
fn contents() -> Vec<Vec<u8>> {
    let mut state = 7_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..40).map(|number| (0..[1, 900, 70_000, 0, 3000][number % 5]).map(|_| random()).collect()).collect()
}

/// Returns the image that an entry of the index leads to.
fn image(bytes: &[u8], found: &Found) -> Vec<u8> {
    let packed = &bytes[found.offset as usize..][..found.length as usize];
    assert_eq!(found.crc, crc32fast::hash(packed));
    match unpack(found.encoding, packed.to_vec()).unwrap() {
        Fetched::File(file) => file,
        other @ Fetched::Pixels { .. } => panic!("{other:?}"),
    }
}

#[test]
fn images_are_found_in_all_forms_of_pages() {
    let folder = tempfile::tempdir().unwrap();
    let contents = contents();
    let paths: Vec<String> = (0..40).map(|number| format!("a/{number}.jpg")).collect();
    let rows: Vec<Row<'_>> = (0..40)
        .map(|number| Row {
            bytes: Some(&contents[number]),
            path: Some(&paths[number]),
            label: Some(number as i64 % 3),
        })
        .collect();
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ];
    for compression in compressions {
        for (has_dictionary, is_v2) in [(false, false), (true, false), (false, true), (true, true)] {
            // The second version encodes texts without a dictionary by their differences, which is refused.
            if is_v2 && !has_dictionary {
                continue;
            }
            let form = format!("{compression} {has_dictionary} {is_v2}");
            let format = Format { compression, has_dictionary, is_v2, class_names: &["x", "y", "z"], row_group: 17 };
            let bytes = parquet_of(&rows, &format);
            let InFile { found, class_names, .. } = find_in(folder.path(), &bytes).unwrap();
            assert_eq!(class_names, Some(vec![b"x".to_vec(), b"y".to_vec(), b"z".to_vec()]));
            assert_eq!(found.len(), 40, "{form}");
            for (number, found) in found.iter().enumerate() {
                assert_eq!(found.name, paths[number].as_bytes());
                assert_eq!(found.label, Some(Label::Number(number as u32 % 3)));
                assert!(image(&bytes, found) == contents[number], "{form}, row {number}");
                let is_plain = compression == Compression::UNCOMPRESSED;
                assert_eq!(found.encoding == Encoding::File, is_plain, "{form}, row {number}");
                if compression == Compression::SNAPPY {
                    let length = found.length as usize;
                    assert!(length < contents[number].len() + (80 << 10), "{form}, row {number}: {length} bytes");
                }
            }
            let location = Location::parse(&folder.path().display().to_string()).unwrap();
            let store = Arc::new(Store::open(&location, &StoreOptions::default()).unwrap());
            let remote = Blob::remote(NAME.into(), store, bytes.len() as u64, String::new());
            assert_eq!(super::find(&Arc::new(remote)).unwrap().found, found, "{form}");
        }
    }
}

#[test]
fn images_without_a_path_of_their_own_are_named_by_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let names = |paths: [Option<&str>; 11]| -> Vec<String> {
        let rows: Vec<Row<'_>> = paths.iter().map(|&path| Row { bytes: Some(b"x"), path, label: None }).collect();
        let found = find_in(folder.path(), &parquet_of(&rows, &Format::default())).unwrap().found;
        assert_eq!(found[0].label, None);
        found.into_iter().map(|found| String::from_utf8(found.name).unwrap()).collect()
    };
    let expected: Vec<String> = (0..11).map(|row| format!("train-00000-of-00001/{row:02}")).collect();
    assert_eq!(names([None; 11]), expected);
    assert_eq!(names([Some("image.jpg"); 11]), expected);
    let texts: Vec<String> = (0..11).map(|row| format!("./{row}.png")).collect();
    let paths: [Option<&str>; 11] = std::array::from_fn(|row| Some(&texts[row][..]));
    assert_eq!(names(paths)[10], "10.png");
}

#[test]
fn what_is_not_read_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = |bytes: &[u8]| find_in(folder.path(), bytes).unwrap_err().to_string();
    let row = Row { bytes: Some(b"x"), path: Some("a"), label: Some(0) };
    let text = error(&parquet_of(&[row, Row { bytes: None, ..row }], &Format::default()));
    assert!(text.contains("row group 0") && text.contains("row 1 has no bytes; write the images"), "{text}");
    let text = error(&parquet_of(&[Row { label: Some(-7), ..row }], &Format::default()));
    assert!(text.contains("the label -7"), "{text}");
    let format = Format { has_dictionary: false, is_v2: true, ..Format::default() };
    let text = error(&parquet_of(&[row, row], &format));
    assert!(text.contains("write the column with plain encoding"), "{text}");
    assert!(error(b"PAR1 no file").contains("last bytes are not PAR1"));
    assert!(error(b"PAR1").contains("too short"));
    let mut long = parquet_of(&[row], &Format::default());
    let end = long.len();
    long[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(error(&long).contains("metadata exceed the file"));
}

#[test]
fn a_cut_or_flipped_file_is_an_error_or_stays_within_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Row<'_>> =
        [&b"one"[..], b"two", b"three", b"two"].map(|it| Row { bytes: Some(it), path: None, label: Some(1) }).into();
    let bytes = parquet_of(&rows, &Format::default());
    for length in (0..bytes.len()).step_by(7) {
        assert!(find_in(folder.path(), &bytes[..length]).is_err(), "cut at {length}");
    }
    let mut num_errors = 0;
    for at in 0..bytes.len() {
        for bit in [at % 8, (at + 3) % 8] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            match find_in(folder.path(), &flipped) {
                Ok(InFile { found, .. }) => {
                    let is_inside = |it: &Found| it.offset + u64::from(it.length) <= bytes.len() as u64;
                    assert!(found.iter().all(is_inside), "byte {at}");
                }
                Err(_) => num_errors += 1,
            }
        }
    }
    assert!(num_errors > 100, "{num_errors}");
}

#[test]
fn a_file_of_pyarrow_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/parquet/pyarrow.parquet");
    let bytes = std::fs::read(&path).unwrap();
    let blob = Blob::local("pyarrow.parquet".into(), path, false).unwrap();
    let InFile { found, class_names, .. } = super::find(&Arc::new(blob)).unwrap();
    assert_eq!(class_names, Some(vec![b"cat".to_vec(), b"dog".to_vec()]));
    assert_eq!(found.len(), 8);
    for (number, found) in found.iter().enumerate() {
        assert_eq!(found.name, format!("{number}.png").as_bytes());
        assert_eq!(found.label, Some(Label::Number(number as u32 % 2)));
        assert_eq!(image(&bytes, found), format!("image {number} ").repeat(number + 1).as_bytes());
    }
}

#[test]
fn a_dictionary_with_a_huge_number_of_values_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let row = Row { bytes: Some(b"image"), path: None, label: None };
    let mut bytes = parquet_of(&[row; 5], &Format { compression: Compression::UNCOMPRESSED, ..Format::default() });
    // Its page begins after the magic number: the type, the two sizes, and the header of a dictionary with 1 value.
    let header = b"\x15\x04\x15\x12\x15\x12\x4c\x15\x02\x15";
    assert_eq!(&bytes[4..4 + header.len()], header);
    // 63 values do not fit into 9 bytes. More would need more bytes of the header.
    bytes[12] = 126;
    let error = find_in(folder.path(), &bytes).unwrap_err().to_string();
    assert!(error.contains("the page at byte") && error.contains("more values than it can have"), "{error}");
}

/// Returns the column `column` of the first row group.
fn chunk(blob: &Blob, column: usize) -> ColumnChunkMetaData {
    metadata(blob).unwrap().row_group(0).column(column).clone()
}

#[test]
fn the_values_of_one_page_are_held_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let contents = contents();
    let rows: Vec<Row<'_>> = contents.iter().map(|it| Row { bytes: Some(it), path: None, label: None }).collect();
    let compression = Compression::ZSTD(ZstdLevel::default());
    let format = Format { compression, has_dictionary: false, row_group: 40, ..Format::default() };
    // A page has 3 rows.
    let bytes = parquet_of(&rows, &format);
    std::fs::write(folder.path().join(NAME), &bytes).unwrap();
    let blob = Arc::new(Blob::local(NAME.into(), folder.path().join(NAME), false).unwrap());
    let Ok(mut reader) = Values::<ByteArrayType>::new(&blob, &chunk(&blob, 0), bytes.len(), true) else { panic!() };
    let mut num_rows = 0;
    while let Ok(batch) = reader.next() {
        let pages = std::mem::take(&mut reader.handed.lock().unwrap().pages);
        if batch.is_empty() {
            break;
        }
        assert_eq!(pages.len(), 1, "row {num_rows}");
        num_rows += batch.len();
    }
    assert_eq!(num_rows, rows.len());
}

#[test]
fn paths_do_not_keep_their_pages() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|row| format!("{row}.png")).collect();
    let has_path = |row: usize| row % 5 != 1;
    let rows: Vec<Row<'_>> = (0..40)
        .map(|row| Row { bytes: Some(b"x"), path: has_path(row).then_some(&texts[row][..]), label: None })
        .collect();
    let expected: Vec<&[u8]> = (0..40).map(|row| if has_path(row) { texts[row].as_bytes() } else { b"" }).collect();
    for has_dictionary in [true, false] {
        let compression = Compression::ZSTD(ZstdLevel::default());
        let bytes = parquet_of(&rows, &Format { compression, has_dictionary, row_group: 40, ..Format::default() });
        std::fs::write(folder.path().join(NAME), &bytes).unwrap();
        let blob = Arc::new(Blob::local(NAME.into(), folder.path().join(NAME), false).unwrap());
        let Ok(reader) = Values::new(&blob, &chunk(&blob, 1), bytes.len(), true) else { panic!() };
        let handed = Arc::clone(&reader.handed);
        let Ok(paths) = paths(reader, &mut Texts { left: 1000 }) else { panic!() };
        assert_eq!(paths, expected);
        let pages = &handed.lock().unwrap().pages;
        assert!(pages.len() > 10);
        assert!(pages.iter().all(|page| page.whole.is_unique()));
    }
}

#[test]
fn a_long_path_that_is_that_of_many_rows_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = "a".repeat(1 << 20);
    let rows = [Row { bytes: Some(b"x"), path: Some(&path), label: None }; 66];
    let format = Format { compression: Compression::SNAPPY, row_group: 100, ..Format::default() };
    let bytes = parquet_of(&rows, &format);
    assert!(bytes.len() < 8 << 20, "{}", bytes.len());
    let error = find_in(folder.path(), &bytes).unwrap_err().to_string();
    assert!(error.contains("column image.path") && error.contains("longer than those of images can be"), "{error}");
}

#[test]
fn a_wrong_length_of_a_plain_value_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [&b"first image"[..], b"other image", b"third image"];
    let rows = rows.map(|it| Row { bytes: Some(it), path: None, label: None });
    for (has_dictionary, is_v2) in [(true, false), (true, true), (false, false)] {
        let compression = Compression::UNCOMPRESSED;
        let mut bytes = parquet_of(&rows, &Format { compression, has_dictionary, is_v2, ..Format::default() });
        let content = bytes.windows(11).position(|it| it == b"first image").unwrap();
        // Of 3 values with their lengths, 1 byte is left, which is too short for a length.
        for length in [2 * (11 + 4) + 10, 1000, u32::MAX] {
            bytes[content - 4..content].copy_from_slice(&length.to_le_bytes());
            let error = find_in(folder.path(), &bytes).unwrap_err().to_string();
            assert!(error.contains("the page at byte") && error.contains("that exceeds it"), "{error}");
        }
    }
}

#[test]
fn lengths_in_delta_encoding_are_read_only_as_many_as_the_page_has_values() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..3).map(|row| format!("folder/{row}.png")).collect();
    let rows: Vec<Row<'_>> = texts.iter().map(|it| Row { bytes: Some(b"x"), path: Some(it), label: None }).collect();
    let compression = Compression::UNCOMPRESSED;
    let mut bytes = parquet_of(&rows, &Format { compression, has_dictionary: false, is_v2: true, ..Format::default() });
    std::fs::write(folder.path().join(NAME), &bytes).unwrap();
    let names = || -> Result<Vec<Vec<u8>>, String> {
        let blob = Arc::new(Blob::local(NAME.into(), folder.path().join(NAME), false).unwrap());
        let paths = Values::new(&blob, &chunk(&blob, 1), 100, false)
            .and_then(|reader| paths(reader, &mut Texts { left: 1000 }));
        paths.map_err(|fault| fault.at("").to_string())
    };
    let expected: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    assert_eq!(names().unwrap(), expected);
    // The lengths of the repeated starts and of the rests begin with the same header: blocks of 128 numbers in 4 parts,
    // of which there are 3. More than 3 are stated instead.
    let header = b"\x80\x01\x04\x03";
    let places: Vec<usize> = (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(header)).collect();
    assert!(places.len() >= 4, "{places:?}");
    let of_paths = &places[places.len() - 2..];
    for at in of_paths {
        bytes[at + 3] = 100;
        std::fs::write(folder.path().join(NAME), &bytes).unwrap();
        assert!(names().unwrap_err().contains("has too many values or too long ones"));
        bytes[at + 3] = 3;
    }
}

#[test]
fn a_page_that_states_too_many_bytes_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let row = Row { bytes: Some(b"image"), path: None, label: None };
    let whole = parquet_of(&[row; 5], &Format { compression: Compression::UNCOMPRESSED, ..Format::default() });
    // The header of the first page: its type, its length without compression and with it.
    assert!(whole[4..].starts_with(b"\x15\x04\x15\x12\x15\x12\x4c"));
    for at in [7, 9] {
        let mut bytes = whole.clone();
        // 512 MiB and 1 byte, as a signed integer of variable length.
        bytes.splice(at..=at, *b"\x82\x80\x80\x80\x04");
        let error = find_in(folder.path(), &bytes).unwrap_err().to_string();
        assert!(error.contains("has 536870913 bytes, and at most 536870912 are read; write fewer rows"), "{error}");
    }
}
