//! Images of more bytes than an image may have.
#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn an_image_of_too_many_bytes_is_damaged_and_not_read() {
    let stores = StoreOptions::default();
    let settings = Settings { kind: None, cache: None, threads: 2, stores: &stores };
    let reason = |container: &Container, item| match container.fetch(item).unwrap_err() {
        Error::Damaged { reason, .. } => reason,
        other => panic!("{other}"),
    };
    // Sparse files, which take no space on the disk: an image in a folder, in a store, and in a tar file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let text = folder.path().display().to_string();
    let store = Store::open(&admiral_storage::Location::parse(&text).unwrap(), &stores).unwrap();
    let index = tree::of_names(["a.png".to_owned()].into_iter(), &text);
    let in_store = Container { text: text.clone(), index, files: Files::Store(Arc::new(store), [0; 32]) };
    for container in [Container::open(&text, &settings).unwrap(), in_store] {
        let found = reason(&container, 0);
        assert!(found.contains("1099511627776 bytes"), "{found}");
    }
    std::fs::remove_file(path).unwrap();
    let mut header = ::tar::Header::new_gnu();
    header.set_path("a.png").unwrap();
    header.set_size(600_000_000);
    header.set_cksum();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, header.as_bytes()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(512 + 600_000_000 + 192 + 1024).unwrap();
    let found = reason(&Container::open(&text, &settings).unwrap(), 0);
    assert!(found.contains("it has 600000000 bytes"), "{found}");
    std::fs::remove_file(path).unwrap();
    // A small member of a zip file that unpacks to as much.
    let file = std::fs::File::create(folder.path().join("a.zip")).unwrap();
    let mut zip = ::zip::ZipWriter::new(file);
    let deflated = ::zip::write::SimpleFileOptions::default().compression_method(::zip::CompressionMethod::Deflated);
    zip.start_file("a.png", deflated).unwrap();
    for _ in 0..600 {
        zip.write_all(&vec![0; 1_000_000]).unwrap();
    }
    zip.finish().unwrap();
    let found = reason(&Container::open(&text, &settings).unwrap(), 0);
    assert!(found.contains("it has 600000000 bytes"), "{found}");
}
