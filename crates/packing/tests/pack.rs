//! Packs real data sets, and trains on what was packed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use admiral_data::{
    Batch, Buffers, ClassSource, Cropping, DataConfig, Decoding, ImageSource, OnBrokenImage, Reduction, SampleReader,
    SampleSpec, SourceKind, open,
};
use admiral_packing::{Error, OnBroken, Output, Settings, StoredAs, Summary, pack};
use admiral_storage::StoreOptions;

/// A png of `width` x `height` pixels with values that depend on `seed`.
fn png(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let value = |x: u32, y: u32, c: u32| (x * 7 + y * 3 + c * 50 + seed * 11 + (x * y * seed) % 13) as u8;
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([0, 1, 2].map(|c| value(x, y, c))));
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

fn gray_png(width: u32, height: u32) -> Vec<u8> {
    let image = image::GrayImage::from_fn(width, height, |x, y| image::Luma([(x * 5 + y * y) as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Writes pictures of several sizes and formats. Their names have several dots, are no UTF-8, and would have another order
/// with other endings; their classes look like numbers.
fn write_pictures(root: &Path) {
    let photograph = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images/rocket.jpg")).unwrap();
    let names: [&[u8]; 9] = [
        b"10/a.jpg",
        b"10/a.k.jpg",
        b"10/a.b.png",
        b"7/photo.1.png",
        b"7/photo.2.png",
        b"7/photo.png",
        b"cat/\xff\xfe.png",
        b"cat/grey.png",
        b"cat/z \"quoted\".webp",
    ];
    for (number, name) in (0..).zip(names) {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = match number {
            0 => photograph.clone(),
            7 => gray_png(33, 57),
            _ => png(20 + number * 9, 70 - number * 4, number),
        };
        std::fs::write(path, bytes).unwrap();
    }
}

fn source_of(path: &Path, source: SourceKind, classes: ClassSource) -> Arc<dyn ImageSource> {
    let config = DataConfig { source, path: path.display().to_string(), classes, ..DataConfig::default() };
    open(&config, 3, &StoreOptions::default()).unwrap().train
}

fn folder_of(path: &Path) -> Arc<dyn ImageSource> {
    source_of(path, SourceKind::Folder, ClassSource::Folder)
}

/// What a run sees in 2 epochs and a half.
fn samples(source: &Arc<dyn ImageSource>, random_crop: bool) -> Batch {
    let spec = SampleSpec {
        seed: 3,
        size: 16,
        channels: 3,
        random_crop,
        random_flip: true,
        decode: Decoding::Exact,
        on_broken_image: OnBrokenImage::Stop,
    };
    let num = source.num_images() * 5 / 2;
    SampleReader::new(Arc::clone(source), spec).read((0..num).collect(), &mut Buffers::default()).unwrap()
}

const SETTINGS: Settings = Settings {
    stored_as: StoredAs::Keep,
    reduction: None,
    shard_bytes: 8 << 10,
    on_broken: OnBroken::Stop,
    threads: 3,
};

fn reduced(stored_as: StoredAs, cropping: Cropping) -> Settings {
    Settings { stored_as, reduction: Some(Reduction { size: 16, cropping }), ..SETTINGS }
}

fn packed(source: &dyn ImageSource, out: &Path, settings: &Settings) -> Result<Summary, Error> {
    let mut output = Output::open(out.to_str().unwrap(), &StoreOptions::default())?;
    pack(source, &mut output, settings, |_| {})
}

/// The files of a place by name, without the index, which has times in it.
fn files(place: &Path) -> BTreeMap<String, Vec<u8>> {
    let shards = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let state = place.join(".admiral/pack.json");
    shards
        .chain([state])
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .map(|(path, bytes)| (path.rsplit('/').next().unwrap().to_owned(), bytes))
        .collect()
}

#[test]
fn a_run_on_packed_images_sees_the_same_samples() {
    let root = tempfile::tempdir().unwrap();
    let (pictures, out) = (root.path().join("pictures"), root.path());
    write_pictures(&pictures);
    let source = folder_of(&pictures);
    let expected = [false, true].map(|random_crop| samples(&source, random_crop));
    for (number, (settings, keeps_crops)) in [
        (SETTINGS, true),
        (Settings { stored_as: StoredAs::Png, ..SETTINGS }, true),
        (reduced(StoredAs::Raw, Cropping::Center), false),
        (reduced(StoredAs::Png, Cropping::Center), false),
        (reduced(StoredAs::Raw, Cropping::None), false),
    ]
    .into_iter()
    .enumerate()
    {
        let place = out.join(format!("packed-{number}"));
        let summary = packed(&*source, &place, &settings).unwrap();
        assert_eq!((summary.images, summary.broken.len()), (9, 0));
        for classes in [ClassSource::Container, ClassSource::Folder] {
            let opened = source_of(&place, SourceKind::Auto, classes);
            assert_eq!((opened.class_names(), opened.digest()), (source.class_names(), source.digest()));
            assert_eq!(samples(&opened, false), expected[0], "{settings:?}");
            assert!(!keeps_crops || samples(&opened, true) == expected[1]);
        }
    }
    let place = out.join("lossy");
    packed(&*source, &place, &reduced(StoredAs::Jpeg(95), Cropping::Center)).unwrap();
    let opened = source_of(&place, SourceKind::Tar, ClassSource::Container);
    let found = samples(&opened, false);
    assert_eq!(
        (&found.classes, &found.noise, opened.digest()),
        (&expected[0].classes, &expected[0].noise, source.digest())
    );
    let differences = found.images.iter().zip(&expected[0].images).map(|(one, other)| (one - other).abs());
    let mean = differences.sum::<f32>() / found.images.len() as f32;
    assert!(mean > 0.0 && mean < 0.1, "{mean}");
}

#[test]
fn digits_keep_their_border() {
    let root = tempfile::tempdir().unwrap();
    let idx = |shape: &[u32], values: Vec<u8>| {
        let shape_bytes = shape.iter().flat_map(|side| side.to_be_bytes());
        [0, 0, 8, shape.len() as u8].into_iter().chain(shape_bytes).chain(values).collect::<Vec<u8>>()
    };
    let write = |name: &str, bytes| std::fs::write(root.path().join(name), bytes).unwrap();
    write("images", idx(&[5, 6, 8], (0..240).collect()));
    write("labels", idx(&[5], vec![3, 1, 0, 1, 3]));
    let path = |name: &str| root.path().join(name).display().to_string();
    let config = DataConfig {
        source: SourceKind::Idx,
        path: path("images"),
        label_path: Some(path("labels")),
        ..DataConfig::default()
    };
    let source = open(&config, 3, &StoreOptions::default()).unwrap().train;
    let place = root.path().join("packed");
    let error = packed(&*source, &place, &Settings { stored_as: StoredAs::Raw, ..SETTINGS }).unwrap_err().to_string();
    assert!(error.starts_with("--size: ") && !place.exists(), "{error}");
    packed(&*source, &place, &reduced(StoredAs::Raw, Cropping::Center)).unwrap();
    let opened = source_of(&place, SourceKind::Tar, ClassSource::Container);
    assert_eq!((opened.num_classes(), opened.class_names().len()), (4, 0));
    assert_eq!(samples(&opened, false), samples(&source, false));
}

#[test]
fn images_of_several_shards_with_the_same_name_stay_apart() {
    let root = tempfile::tempdir().unwrap();
    for shard in 0..3 {
        let mut builder = tar::Builder::new(Vec::new());
        for (number, name) in ["0.png", "1.png"].into_iter().enumerate() {
            let content = png(20, 20, 2 * shard + number as u32);
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, &content[..]).unwrap();
        }
        std::fs::write(root.path().join(format!("{shard}.tar")), builder.into_inner().unwrap()).unwrap();
    }
    let source = source_of(root.path(), SourceKind::Tar, ClassSource::None);
    let place = root.path().join("packed");
    packed(&*source, &place, &Settings { shard_bytes: 1 << 20, ..SETTINGS }).unwrap();
    let opened = source_of(&place, SourceKind::Tar, ClassSource::None);
    assert_eq!((opened.num_images(), opened.digest()), (6, source.digest()));
    assert_eq!(samples(&opened, false), samples(&source, false));
}

#[test]
fn the_bytes_of_shards_do_not_depend_on_threads() {
    let root = tempfile::tempdir().unwrap();
    write_pictures(&root.path().join("pictures"));
    let source = folder_of(&root.path().join("pictures"));
    for settings in [SETTINGS, reduced(StoredAs::Jpeg(80), Cropping::Center)] {
        let settings = Settings { shard_bytes: 6 << 10, ..settings };
        let places = [1, 4].map(|threads| {
            let place = root.path().join(format!("{threads}-{:?}", settings.reduction.is_some())).join("shards");
            packed(&*source, &place, &Settings { threads, ..settings }).unwrap();
            files(&place)
        });
        assert!(places[0].len() > 3 && places[0] == places[1]);
    }
}

#[test]
fn a_second_call_packs_nothing_and_refuses_other_options_images_and_files() {
    let root = tempfile::tempdir().unwrap();
    let (pictures, place) = (root.path().join("pictures"), root.path().join("packed"));
    write_pictures(&pictures);
    let source = folder_of(&pictures);
    let first = packed(&*source, &place, &SETTINGS).unwrap();
    let written = files(&place);
    assert_eq!(packed(&*source, &place, &SETTINGS).unwrap(), Summary { images_now: 0, ..first });
    let refused = |settings: &Settings, word: &str| {
        let error = packed(&*source, &place, settings).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(files(&place), written);
    };
    refused(&Settings { stored_as: StoredAs::Png, ..SETTINGS }, "another --format");
    refused(&reduced(StoredAs::Keep, Cropping::Center), "--size changes images");
    refused(&Settings { shard_bytes: 9, ..SETTINGS }, "another --shard-mb");
    let unlabeled = source_of(&pictures, SourceKind::Folder, ClassSource::None);
    let error = packed(&*unlabeled, &place, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("other images or classes"), "{error}");
    // Shards that have changed or are gone.
    let shard = place.join("packed-000000.tar");
    std::fs::rename(&shard, root.path().join("away")).unwrap();
    let error = packed(&*source, &place, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("packed-000000.tar: it is missing"), "{error}");
    std::fs::write(&shard, b"short").unwrap();
    let error = packed(&*source, &place, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("5 bytes"), "{error}");
    std::fs::rename(root.path().join("away"), &shard).unwrap();
    // Another file.
    std::fs::write(place.join("notes.txt"), b"").unwrap();
    let error = packed(&*source, &place, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("notes.txt"), "{error}");
    std::fs::remove_file(place.join("notes.txt")).unwrap();
    std::fs::write(place.join(".admiral/pack.json"), b"{").unwrap();
    let error = packed(&*source, &place, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("pack.json is damaged"), "{error}");
    // The folder of the images itself, and a file.
    let error = packed(&*source, &pictures, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("is no shard of this packing") && !pictures.join(".admiral").exists(), "{error}");
    let file = root.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = packed(&*source, &file, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("it is a file"), "{error}");
}

#[test]
fn broken_images_end_a_packing_or_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let (pictures, place) = (root.path().join("pictures"), root.path().join("packed"));
    write_pictures(&pictures);
    std::fs::write(pictures.join("7/photo.1.png"), &png(50, 50, 1)[..200]).unwrap();
    let source = folder_of(&pictures);
    let error = packed(&*source, &place, &SETTINGS).unwrap_err().to_string();
    assert!(error.contains("photo.1.png") && error.contains("--on-broken skip"), "{error}");
    // What was packed until then stays, and the packing continues.
    let skip = Settings { on_broken: OnBroken::Skip, ..SETTINGS };
    let summary = packed(&*source, &place, &skip).unwrap();
    assert_eq!((summary.images, summary.broken[0].item, summary.broken.len()), (8, 3, 1));
    assert!(summary.broken[0].name.contains("photo.1.png"));
    let at_once = root.path().join("at-once").join("packed");
    packed(&*source, &at_once, &skip).unwrap();
    assert_eq!(files(&place), files(&at_once));
    assert_eq!(source_of(&place, SourceKind::Tar, ClassSource::Container).class_names(), ["10", "7", "cat"]);
    // A class without images would change the numbers of the others.
    for name in ["photo.2.png", "photo.png"] {
        std::fs::write(pictures.join("7").join(name), b"broken").unwrap();
    }
    let lost = root.path().join("lost");
    packed(&*folder_of(&pictures), &lost, &skip).unwrap();
    let opened = source_of(&lost, SourceKind::Tar, ClassSource::Container);
    assert_eq!((opened.num_images(), opened.class_names()), (6, &["10", "7", "cat"].map(String::from)[..]));
    assert_eq!((opened.class(0), opened.class(5)), (Some(0), Some(2)));
}

#[test]
fn a_class_with_a_number_that_loses_its_images_keeps_its_number() {
    let root = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for class in 0..3_u32 {
        let image = if class == 2 { b"broken".to_vec() } else { png(20, 20, class) };
        for (ending, content) in [("png", image), ("cls", class.to_string().into_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, format!("{class}.{ending}"), &content[..]).unwrap();
        }
    }
    let path = root.path().join("numbers.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let source = source_of(&path, SourceKind::Tar, ClassSource::Container);
    assert_eq!((source.num_classes(), source.class_names().len()), (3, 0));
    let place = root.path().join("packed");
    let skip = Settings { on_broken: OnBroken::Skip, ..SETTINGS };
    assert_eq!(packed(&*source, &place, &skip).unwrap().images, 2);
    // The second time, the index is read.
    for _ in 0..2 {
        let opened = source_of(&place, SourceKind::Tar, ClassSource::Container);
        assert_eq!((opened.num_images(), opened.num_classes(), opened.class_names().len()), (2, 3, 0));
        assert_eq!([0, 1].map(|item| opened.class(item)), [Some(0), Some(1)]);
    }
}

#[test]
fn classes_keep_the_numbers_that_their_container_gives_them() {
    let root = tempfile::tempdir().unwrap();
    // The names are not in the order of their bytes, and "none" has no image.
    let names = r#""class_names": ["tench", "none", "goldfish"], "#;
    let mut builder = tar::Builder::new(Vec::new());
    for (number, (label, names)) in [(2, names), (0, ""), (2, "")].into_iter().enumerate() {
        let json = format!("{{{names}\"packed_from\": \"{number}\", \"label\": {label}, \"class\": \"any\"}}");
        for (ending, content) in [("png", png(20, 20, number as u32)), ("json", json.into_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, format!("{number}.{ending}"), &content[..]).unwrap();
        }
    }
    let path = root.path().join("ordered.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let source = source_of(&path, SourceKind::Tar, ClassSource::Container);
    assert_eq!(source.class_names(), ["tench", "none", "goldfish"]);
    // Each shard has one image, and lists all classes.
    let place = root.path().join("packed");
    assert_eq!(packed(&*source, &place, &Settings { shard_bytes: 1, ..SETTINGS }).unwrap().shards, 3);
    let opened = source_of(&place, SourceKind::Tar, ClassSource::Container);
    assert_eq!((opened.class_names(), opened.digest()), (source.class_names(), source.digest()));
    assert_eq!([0, 1, 2].map(|item| opened.class(item)), [Some(2), Some(0), Some(2)]);

    let folders = root.path().join("folders");
    for (number, name) in (0..).zip([&b"\xfe"[..], b"\xff", b"a"]) {
        let folder = folders.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("1.png"), png(20, 20, number)).unwrap();
    }
    let (source, place) = (folder_of(&folders), root.path().join("bytes"));
    packed(&*source, &place, &SETTINGS).unwrap();
    let opened = source_of(&place, SourceKind::Tar, ClassSource::Container);
    assert_eq!((opened.class_names(), opened.digest()), (source.class_names(), source.digest()));
}

#[test]
fn places_that_name_files_or_patterns_are_refused() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a.tar", "a.ZIP", "a.json", "a-*", "b{1,2}", "c?", "[d]", "s.tgz"] {
        for place in [format!("{}/{name}", root.path().display()), format!("s3://bucket/x/{name}")] {
            let error = Output::open(&place, &StoreOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Place { .. }), "{error}");
            assert!(error.to_string().contains("give a name without"), "{error}");
        }
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

/// The variables that tell the process of the kill test where to pack.
const KILLED: [&str; 2] = ["PACK_TEST_SOURCE", "PACK_TEST_OUT"];

#[test]
#[ignore = "the kill test starts it"]
fn packs_until_it_is_killed() {
    let [source, out] = KILLED.map(|name| std::env::var(name).unwrap());
    packed(&*folder_of(Path::new(&source)), Path::new(&out), &reduced(StoredAs::Png, Cropping::Center)).unwrap();
}

#[test]
fn a_packing_that_is_killed_continues_to_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let pictures = root.path().join("pictures");
    for number in 0..300 {
        let folder = pictures.join((number % 3).to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{number}.png")), png(60, 50, number)).unwrap();
    }
    let whole = root.path().join("whole").join("shards");
    packed(&*folder_of(&pictures), &whole, &reduced(StoredAs::Png, Cropping::Center)).unwrap();
    let place = root.path().join("killed").join("shards");
    let mut kills = 0;
    loop {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "packs_until_it_is_killed", "--ignored"])
            .envs(KILLED.into_iter().zip([&pictures, &place]))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // At another moment each time, and later and later, so that the packing ends.
        std::thread::sleep(std::time::Duration::from_millis(10 + kills * kills / 2));
        // SIGKILL.
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        assert!(kills < 300, "it makes no progress");
        let left = std::fs::read_dir(&place).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        for name in left.map(|name| name.into_string().unwrap()) {
            let is_whole = || files(&whole).get(&name) == Some(&std::fs::read(place.join(&name)).unwrap());
            assert!([".admiral", ".packing.tar.partial"].contains(&&name[..]) || is_whole(), "{name}");
        }
    }
    assert!(kills > 0 && files(&place) == files(&whole), "{kills}");
    assert!(files(&whole).len() > 5);
}
