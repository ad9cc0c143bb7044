//! The same pictures in every container give the same samples in the same order.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};

#[path = "../../containers/tests/writers/mod.rs"]
mod writers;

use admiral_data::{
    Buffers, ClassSource, DataConfig, Decoding, OnBrokenImage, Pixels, SampleReader, SampleSpec, SourceKind,
    encode_jpeg, open,
};
use admiral_storage::StoreOptions;
use parquet::basic::{Compression, ZstdLevel};
use sha2::{Digest, Sha256};
use writers::{Format, Row, parquet_of, write_lmdb};

const SIZE: u32 = 12;
const CLASSES: [&str; 3] = ["bird", "cat", "dog"];

/// A picture: its path, its class, its file, and its pixels.
struct Picture {
    path: String,
    class: usize,
    file: Vec<u8>,
    /// The same as lossless WebP.
    webp: Vec<u8>,
    pixels: Vec<u8>,
}

/// Returns 30 pictures in the order of their paths.
fn pictures() -> Vec<Picture> {
    (0..30_usize)
        .map(|number| {
            let class = number / 10;
            let value = |x: u32, y: u32, channel: u32| (number as u32 * 8 + x * 3 + y * 5 + channel * 40) as u8;
            let image = image::RgbImage::from_fn(SIZE, SIZE, |x, y| image::Rgb([0, 1, 2].map(|c| value(x, y, c))));
            let [file, webp] = [image::ImageFormat::Png, image::ImageFormat::WebP].map(|format| {
                let mut file = std::io::Cursor::new(Vec::new());
                image.write_to(&mut file, format).unwrap();
                file.into_inner()
            });
            let path = format!("{}/{number:04}.png", CLASSES[class]);
            Picture { path, class, file, webp, pixels: image.into_raw() }
        })
        .collect()
}

fn tar_of<'a>(members: impl IntoIterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn zip_of<'a>(members: impl IntoIterator<Item = (String, &'a [u8])>, method: zip::CompressionMethod) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in members {
        writer.start_file(name, zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn members(pictures: &[Picture]) -> impl Iterator<Item = (String, &[u8])> {
    pictures.iter().map(|picture| (picture.path.clone(), &picture.file[..]))
}

/// Writes the pictures into each container below `root`. Returns the place and the settings of each.
fn containers(root: &Path) -> Vec<(PathBuf, SourceKind, ClassSource)> {
    let pictures = pictures();
    let write = |path: &str, content: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    };
    for picture in &pictures {
        write(&format!("tree/{}", picture.path), &picture.file);
    }
    let mut all = vec![(root.join("tree"), SourceKind::Folder, ClassSource::Folder)];
    // Shards in which pictures are in another order, and labels beside them, as numbers and as names.
    let labels: Vec<String> = (0..3).map(|class| class.to_string()).collect();
    for (folder, labels) in [("shards", labels), ("named", CLASSES.map(str::to_owned).to_vec())] {
        for shard in 0..4 {
            let of_shard = pictures.iter().rev().enumerate().filter(|(number, _)| number % 4 == shard);
            let content = tar_of(of_shard.flat_map(|(_, picture)| {
                let label = format!("{}.cls", picture.path.strip_suffix(".png").unwrap());
                [(label, labels[picture.class].as_bytes()), (picture.path.clone(), &picture.file[..])]
            }));
            write(&format!("{folder}/{shard:03}.tar"), &content);
        }
        all.push((root.join(folder), SourceKind::Tar, ClassSource::Container));
        all.push((root.join(folder).join("{000..003}.tar"), SourceKind::Auto, ClassSource::Folder));
    }
    // A plain archive, and one of archives.
    all.push((write("plain.tar", &tar_of(members(&pictures))), SourceKind::Auto, ClassSource::Folder));
    let inner: Vec<Vec<u8>> = pictures
        .chunks(10)
        .map(|of_class| tar_of(members(of_class).map(|(path, file)| (path.split('/').nth(1).unwrap().into(), file))))
        .collect();
    let outer = tar_of(CLASSES.iter().zip(&inner).rev().map(|(class, inner)| (format!("{class}.tar"), &inner[..])));
    all.push((write("nested.tar", &outer), SourceKind::Tar, ClassSource::Folder));
    // Zip files of a folder and of EDM.
    for (name, method) in [("stored", zip::CompressionMethod::Stored), ("deflated", zip::CompressionMethod::Deflated)] {
        let plain = zip_of(members(&pictures), method);
        all.push((write(&format!("{name}.zip"), &plain), SourceKind::Auto, ClassSource::Folder));
        let labels: Vec<(&str, usize)> = pictures.iter().map(|picture| (&picture.path[..], picture.class)).collect();
        let json = serde_json::to_vec(&serde_json::json!({ "labels": labels })).unwrap();
        let edm = zip_of(members(&pictures).chain([("dataset.json".into(), &json[..])]), method);
        all.push((write(&format!("edm-{name}.zip"), &edm), SourceKind::Zip, ClassSource::Container));
    }
    // Arrays.
    let hasher = |bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytes);
        hasher
    };
    let pixels = pictures.iter().flat_map(|picture| picture.pixels.clone()).collect::<Vec<u8>>();
    let labels: Vec<u8> = pictures.iter().flat_map(|picture| (picture.class as i64).to_le_bytes()).collect();
    let side = SIZE as usize;
    let archive = admiral_npz::Archive::samples(30, [side, side, 3], hasher(&pixels), Some(hasher(&labels)));
    let npz = [archive.before(0), pixels, archive.before(1), labels, archive.end()].concat();
    all.push((write("arrays.npz", &npz), SourceKind::Auto, ClassSource::Container));
    // LMDB databases as LSUN has them, in a folder and as a file.
    let entry = |picture: &Picture, is_webp: bool| {
        (picture.path.clone().into_bytes(), if is_webp { picture.webp.clone() } else { picture.file.clone() })
    };
    for is_webp in [false, true] {
        let entries: Vec<(Vec<u8>, Vec<u8>)> = pictures.iter().rev().map(|picture| entry(picture, is_webp)).collect();
        let entries: Vec<(&[u8], &[u8])> = entries.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        let folder = root.join(format!("{is_webp}_lmdb"));
        write_lmdb(&folder, &entries, &[]);
        all.push((folder.clone(), SourceKind::Auto, ClassSource::Folder));
        let file = write(&format!("{is_webp}.mdb"), &std::fs::read(folder.join("data.mdb")).unwrap());
        all.push((file, SourceKind::Lmdb, ClassSource::Folder));
    }
    // Parquet files as Hugging Face has them: with paths, and with nothing but the order of the rows.
    for (name, compression) in [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
    ] {
        for has_path in [true, false] {
            let rows: Vec<Row<'_>> = pictures
                .iter()
                .map(|picture| Row {
                    bytes: Some(&picture.file),
                    path: has_path.then_some(&picture.path[..]),
                    label: Some(picture.class as i64),
                })
                .collect();
            let format = Format { compression, class_names: &CLASSES, ..Format::default() };
            let folder = format!("parquet-{name}-{has_path}");
            for (number, rows) in rows.chunks(11).enumerate() {
                write(&format!("{folder}/train-{number:05}-of-00003.parquet"), &parquet_of(rows, &format));
            }
            all.push((root.join(&folder), SourceKind::Auto, ClassSource::Container));
            let pattern = root.join(&folder).join("train-{00000..00002}-of-00003.parquet");
            all.push((pattern, SourceKind::Parquet, ClassSource::Container));
            all.push((
                write(&format!("{folder}.parquet"), &parquet_of(&rows, &format)),
                SourceKind::Auto,
                ClassSource::Container,
            ));
        }
    }
    all
}

/// Returns a hash of two epochs of samples: their images, classes and order.
fn hash_of_samples(config: &DataConfig) -> String {
    let source = open(config, 5, &StoreOptions::default()).unwrap().train;
    assert_eq!((source.num_images(), source.num_classes()), (30, 3), "{}", config.path);
    let spec = SampleSpec {
        seed: 5,
        size: 8,
        channels: 3,
        random_crop: true,
        random_flip: true,
        decode: Decoding::Exact,
        on_broken_image: OnBrokenImage::Stop,
    };
    let reader = SampleReader::new(source, spec);
    let mut digest = Sha256::new();
    let mut buffers = Buffers::default();
    for first in (0..60).step_by(7) {
        let batch = reader.read((first..60.min(first + 7)).collect(), &mut buffers).unwrap();
        batch.images.iter().for_each(|value| digest.update(value.to_le_bytes()));
        batch.classes.iter().for_each(|class| digest.update(class.to_le_bytes()));
    }
    admiral_storage::hex(digest.finalize())
}

#[test]
fn every_container_gives_the_same_samples_in_the_same_order() {
    let root = tempfile::tempdir().unwrap();
    let mut expected = None;
    for (path, source, classes) in containers(root.path()) {
        let config = DataConfig { source, path: path.display().to_string(), classes, ..DataConfig::default() };
        // Twice: the second time, the index that was kept is read.
        for _ in 0..2 {
            let hash = hash_of_samples(&config);
            assert_eq!(expected.get_or_insert(hash.clone()), &hash, "{}", path.display());
        }
    }
}

#[test]
fn an_lmdb_of_jpeg_files_gives_the_samples_of_their_folder() {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("tree");
    let side = SIZE as usize;
    let mut entries = Vec::new();
    for (number, picture) in pictures().into_iter().enumerate() {
        let pixels = Pixels { width: side, height: side, channels: 3, bytes: picture.pixels };
        let file = encode_jpeg(&pixels, 90).unwrap();
        let path = format!("{}/{number:04}.jpg", CLASSES[picture.class]);
        std::fs::create_dir_all(tree.join(CLASSES[picture.class])).unwrap();
        std::fs::write(tree.join(&path), &file).unwrap();
        entries.push((path.into_bytes(), file));
    }
    let entries: Vec<(&[u8], &[u8])> = entries.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    let database = root.path().join("jpeg_lmdb");
    write_lmdb(&database, &entries, &[]);
    let hash = |path: &Path, source| {
        let path = path.display().to_string();
        hash_of_samples(&DataConfig { source, path, classes: ClassSource::Folder, ..DataConfig::default() })
    };
    let expected = hash(&tree, SourceKind::Folder);
    // The second time, the index that was kept is read.
    assert_eq!([(); 2].map(|()| hash(&database, SourceKind::Lmdb)), [expected.clone(), expected]);
}

#[test]
fn a_cut_or_flipped_container_is_an_error_or_gives_pixels() {
    let root = tempfile::tempdir().unwrap();
    for (path, source, classes) in containers(root.path()).into_iter().filter(|(path, ..)| path.is_file()) {
        let whole = std::fs::read(&path).unwrap();
        let config = DataConfig { source, path: path.display().to_string(), classes, ..DataConfig::default() };
        let read_all = || -> Result<(), admiral_data::DataError> {
            let source = open(&config, 5, &StoreOptions::default())?.train;
            (0..source.num_images()).try_for_each(|item| source.load(item).map(|_| ()))
        };
        read_all().unwrap();
        for length in [0, 1, 100, whole.len() / 2, whole.len() - 30] {
            std::fs::write(&path, &whole[..length]).unwrap();
            // A tar file may end after any member. A message says that it may be cut off.
            if let Err(error) = read_all() {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            } else {
                assert!(path.extension().unwrap() == "tar" && length > 100, "{} cut at {length}", path.display());
            }
        }
        for at in (0..whole.len()).step_by(whole.len() / 40) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            if let Err(error) = read_all() {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
        }
    }
}
