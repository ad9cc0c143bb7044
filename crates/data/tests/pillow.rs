//! Compares decoding and resampling with Pillow, for many sizes, modes and encodings.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use admiral_data::{Draws, Filter, Pixels, decode, resize, square};
use serde::Deserialize;

#[derive(Deserialize)]
struct Index {
    resized: Vec<Resized>,
    pictures: Vec<Picture>,
}

/// An array that Pillow resized. Sizes are `[width, height]`.
#[derive(Deserialize)]
struct Resized {
    filter: String,
    channels: usize,
    old: [usize; 2],
    new: [usize; 2],
    input: PathBuf,
    output: PathBuf,
}

/// A file that Pillow wrote, and the pixels that it reads from it.
#[derive(Deserialize)]
struct Picture {
    file: PathBuf,
    mode: String,
    size: [usize; 2],
    rgb: PathBuf,
    grey: PathBuf,
    squares: Vec<(usize, PathBuf)>,
}

/// Lets Pillow write its cases into `folder`.
fn ask_pillow(folder: &Path) -> Index {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = package.join("../../.deps/venv/bin/python");
    let status = Command::new(&python).arg(package.join("tests/pillow.py")).arg(folder).status();
    let status = status.unwrap_or_else(|error| panic!("{}: {error}; run ci/setup test", python.display()));
    assert!(status.success(), "tests/pillow.py failed");
    serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap()
}

/// Describes the difference of two buffers, if there is one.
fn difference(what: &str, actual: &[u8], expected: &[u8]) -> Option<String> {
    if actual.len() != expected.len() {
        return Some(format!("{what}: {} bytes, not {}", actual.len(), expected.len()));
    }
    let differ = actual.iter().zip(expected).filter(|(a, b)| a != b).count();
    let most = actual.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max();
    (differ > 0).then(|| format!("{what}: {differ} of {} bytes differ, by at most {most:?}", expected.len()))
}

#[test]
fn pixels_are_equal_to_those_of_pillow() {
    let folder = tempfile::tempdir().unwrap();
    let index = ask_pillow(folder.path());
    let read = |file: &Path| std::fs::read(folder.path().join(file)).unwrap();
    let mut failures = Vec::new();
    for case in &index.resized {
        let filter = if case.filter == "box" { Filter::Box } else { Filter::Bicubic };
        let [width, height] = case.old;
        let picture = Pixels { width, height, channels: case.channels, bytes: read(&case.input) };
        let actual = resize(&picture, case.new[0], case.new[1], filter);
        let what = format!("{} {:?} -> {:?}", case.filter, case.old, case.new);
        failures.extend(difference(&what, &actual.bytes, &read(&case.output)));
    }
    for case in &index.pictures {
        let what = format!("{} ({})", case.file.display(), case.mode);
        let decoded = match decode(&read(&case.file)) {
            Ok(decoded) => decoded,
            Err(reason) => {
                failures.push(format!("{what}: {reason}"));
                continue;
            }
        };
        let colour = decoded.clone().with_channels(3);
        assert_eq!([colour.width, colour.height], case.size, "{what}");
        failures.extend(difference(&what, &colour.bytes, &read(&case.rgb)));
        failures.extend(difference(&format!("{what} grey"), &decoded.with_channels(1).bytes, &read(&case.grey)));
        for (size, file) in &case.squares {
            let actual = square(&colour, *size, &Draws { crop: None, flip: false });
            failures.extend(difference(&format!("{what} {size}"), &actual.bytes, &read(file)));
        }
    }
    assert!(index.resized.len() >= 100 && index.pictures.len() >= 50, "Pillow made too few cases");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
