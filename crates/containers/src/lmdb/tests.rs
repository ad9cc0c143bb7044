#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use admiral_storage::{Location, Store, StoreOptions};

use super::*;
use crate::writers::write_lmdb;

/// Values in leaf pages and in overflow pages of one and of several pages.
fn contents() -> Vec<(Vec<u8>, Vec<u8>)> {
    let length = |number: usize| [0, 1, 100, 1500, 4080, 4081, 5000, 20_000][number % 8];
    (0..300_usize).map(|number| (format!("key {number:03}").into_bytes(), vec![number as u8; length(number)])).collect()
}

fn write(folder: &Path, contents: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<(&[u8], &[u8])> = contents.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    write_lmdb(folder, &entries, &[]);
    std::fs::read(folder.join("data.mdb")).unwrap()
}

fn find_in(folder: &Path, bytes: &[u8]) -> Result<Vec<Found>, Error> {
    std::fs::write(folder.join("data.mdb"), bytes).unwrap();
    find(&Blob::local("data.mdb".into(), folder.join("data.mdb"), false).unwrap())
}

/// Returns the offset of the newer meta page, and the number of the tree's root.
fn root(bytes: &[u8]) -> (usize, usize) {
    let newer = if u64_at(bytes, 144) > u64_at(bytes, 4096 + 144) { 0 } else { 4096 };
    (newer, u64_at(bytes, newer + 128) as usize)
}

#[test]
fn values_are_found_where_the_library_has_put_them() {
    let folder = tempfile::tempdir().unwrap();
    let contents = contents();
    let bytes = write(folder.path(), &contents);
    let mut found = find_in(folder.path(), &bytes).unwrap();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(found.len(), contents.len());
    for (found, (key, value)) in found.iter().zip(&contents) {
        assert_eq!(&found.name, key);
        assert_eq!(bytes[found.offset as usize..][..found.length as usize], value[..]);
        assert_eq!(found.crc, crc32fast::hash(value));
    }
    // The same from a store.
    let location = Location::parse(&folder.path().display().to_string()).unwrap();
    let store = Arc::new(Store::open(&location, &StoreOptions::default()).unwrap());
    let mut remote = find(&Blob::remote("data.mdb".into(), store, bytes.len() as u64, String::new())).unwrap();
    remote.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(remote, found);
}

#[test]
fn the_newest_state_counts_and_an_empty_database_has_no_images() {
    let folder = tempfile::tempdir().unwrap();
    write_lmdb(folder.path(), &[(b"a", b"old"), (b"b", b"stays")], &[]);
    write_lmdb(folder.path(), &[(b"a", b"newer")], &[]);
    let bytes = std::fs::read(folder.path().join("data.mdb")).unwrap();
    let found = find_in(folder.path(), &bytes).unwrap();
    let values: Vec<&[u8]> = found.iter().map(|it| &bytes[it.offset as usize..][..it.length as usize]).collect();
    assert!(values.len() == 2 && values.contains(&&b"newer"[..]) && values.contains(&&b"stays"[..]), "{values:?}");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(find_in(empty.path(), &write(empty.path(), &[])).unwrap(), []);
}

#[test]
fn what_is_not_read_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    write_lmdb(folder.path(), &[], &[(b"a", b"x")]);
    let bytes = std::fs::read(folder.path().join("data.mdb")).unwrap();
    let error = |bytes: &[u8]| find_in(folder.path(), bytes).unwrap_err().to_string();
    assert!(error(&bytes).contains("named is a named database; copy its images"), "{}", error(&bytes));
    assert!(error(b"no database").contains("no whole LMDB database"));
    assert!(error(&[7; 10_000]).contains("its first number is 0x7070707"));
    let mut version = bytes.clone();
    version[20] = 9;
    assert!(error(&version).contains("the version 9"), "{}", error(&version));
}

#[test]
fn hostile_trees_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = write(folder.path(), &contents());
    let (meta, root) = root(&bytes);
    let page = root * 4096;
    assert_eq!(u16_at(&bytes, page + 10) & BRANCH, BRANCH);
    let node = |index: usize| page + usize::from(u16_at(&bytes, page + HEADER_BYTES + 2 * index));
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        find_in(folder.path(), &bytes).unwrap_err().to_string()
    };
    let set = |at: usize, value: &[u8]| {
        let value = value.to_vec();
        move |bytes: &mut Vec<u8>| bytes[at..at + value.len()].copy_from_slice(&value)
    };
    // The root leads to itself, two nodes to one page, and a node beyond the file and to a meta page.
    let text = error(&set(node(0), &(root as u32).to_le_bytes()));
    assert!(text.contains("two nodes lead to the page"), "{text}");
    let text = error(&set(node(0), &bytes[node(1)..][..4]));
    assert!(text.contains("two nodes lead to the page"), "{text}");
    let text = error(&set(node(0), &[0xFF; 4]));
    assert!(text.contains("no such page") && text.contains("page 4294967295 at byte"), "{text}");
    assert!(error(&set(node(0), &[0; 4])).contains("no such page"));
    assert!(error(&set(node(0) + 4, &[0xFF; 2])).contains("no such page"));
    // Counts and lengths without an end.
    assert!(error(&set(meta + 120, &[0xFF; 8])).contains("it states 18446744073709551615 keys and has 300"));
    assert!(error(&set(meta + 128, &[0xFE; 8])).contains("no such page"));
    assert!(error(&set(page + 12, &[0xFF; 2])).contains("outside of the page"));
    assert!(error(&set(page + HEADER_BYTES, &[0xFF; 2])).contains("outside of the page"));
    assert!(error(&set(node(0) + 6, &[0xFF; 2])).contains("outside of the page"));
    assert!(error(&set(page + 10, &[0x40; 2])).contains("has the flags"));
    // All nodes of a leaf page at one place.
    let leaf = u32_at(&bytes, node(0)) as usize * 4096;
    let text = error(&|bytes: &mut Vec<u8>| {
        let (first, num) = (u16_at(bytes, leaf + HEADER_BYTES), (4096 - HEADER_BYTES) / 4);
        bytes[leaf + 12..leaf + 14].copy_from_slice(&(HEADER_BYTES as u16 + 2 * num as u16).to_le_bytes());
        for place in 0..num {
            bytes[leaf + HEADER_BYTES + 2 * place..][..2].copy_from_slice(&first.max(2500).to_le_bytes());
        }
    });
    assert!(text.contains("overlap") || text.contains("outside"), "{text}");
    // A meta page whose pages are too small or no power of two.
    for size in [0_u32, 100, 4095, 1 << 30] {
        let text = error(&|bytes: &mut Vec<u8>| {
            bytes[40..44].copy_from_slice(&size.to_le_bytes());
            bytes[4096 + 40..4096 + 44].copy_from_slice(&size.to_le_bytes());
        });
        assert!(text.contains(&format!("its pages have {size} bytes")), "{text}");
    }
}

#[test]
fn a_cut_or_flipped_database_is_an_error_or_stays_within_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = write(folder.path(), &contents()[..20]);
    for length in [0, 1, 16, 151, 4096, 8192, bytes.len() / 2, bytes.len() - 4096] {
        assert!(find_in(folder.path(), &bytes[..length]).is_err(), "cut at {length}");
    }
    let mut num_errors = 0;
    // The headers, places and nodes of pages.
    for at in (0..bytes.len()).filter(|at| at % 4096 < 160 || at % 31 == 0) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        match find_in(folder.path(), &flipped) {
            Ok(found) => {
                assert!(found.iter().all(|it| it.offset + u64::from(it.length) <= bytes.len() as u64), "byte {at}");
            }
            Err(_) => num_errors += 1,
        }
    }
    assert!(num_errors > 50, "{num_errors}");
}
