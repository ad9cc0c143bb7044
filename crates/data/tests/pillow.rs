//! Compares decoding and resampling with Pillow, for many sizes, modes and encodings.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use admiral_data::{Buffers, Decoding, Draws, Filter, Pixels, decode, decode_for, resize, square};
use serde::Deserialize;

#[derive(Deserialize)]
struct Index {
    resized: Vec<Resized>,
    pictures: Vec<Picture>,
    refused: Vec<PathBuf>,
    photographs: Vec<PathBuf>,
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
            let actual = square(&colour, *size, &Draws { crop: None, flip: false }, &mut Buffers::default());
            failures.extend(difference(&format!("{what} {size}"), &actual.bytes, &read(file)));
        }
    }
    let read_nevertheless = index.refused.iter().filter(|file| decode(&read(file)).is_ok());
    failures.extend(read_nevertheless.map(|file| format!("{}: Pillow refuses it", file.display())));
    assert!(index.refused.len() >= 22, "Pillow refused too few files: {:?}", index.refused);
    assert!(index.resized.len() >= 100 && index.pictures.len() >= 50, "Pillow made too few cases");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The mean and the largest difference of two images, in units of 1/255.
fn distance(a: &Pixels, b: &Pixels) -> (f64, u8) {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    let differences = a.bytes.iter().zip(&b.bytes).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / a.bytes.len() as f64, differences.max().unwrap())
}

#[test]
fn fast_decoding_stays_near_to_exact_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let photographs = ask_pillow(folder.path()).photographs;
    let own = ["rocket.jpg", "retina.jpg"].map(|name| PathBuf::from("../../tests/images").join(name));
    let own = own.map(|file| Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    let files: Vec<Vec<u8>> = photographs
        .iter()
        .map(|file| folder.path().join(file))
        .chain(own)
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    let draws = Draws { crop: None, flip: false };
    let mut num_reduced = 0;
    let mut buffers = Buffers::default();
    for size in [32, 64, 128] {
        let distances: Vec<(f64, u8)> = files
            .iter()
            .map(|bytes| {
                let (exact, fast) =
                    (decode(bytes).unwrap(), decode_for(bytes, size, Decoding::Fast, &mut buffers).unwrap());
                assert!(fast.short_side() >= size);
                num_reduced += usize::from(fast.width < exact.width);
                distance(&square(&exact, size, &draws, &mut buffers), &square(&fast, size, &draws, &mut buffers))
            })
            .collect();
        let mean = distances.iter().map(|distance| distance.0).sum::<f64>() / distances.len() as f64;
        let most = distances.iter().map(|distance| distance.1).max().unwrap();
        println!("{size}: a mean of {mean:.2} and at most {most}, by image {distances:?}");
        // docs/data.md states the measured numbers.
        assert!(mean < 5.0 && most < 130, "{size}: {mean} and {most}");
    }
    assert_eq!(num_reduced, 3 * files.len());
}
