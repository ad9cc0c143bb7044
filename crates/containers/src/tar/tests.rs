#![allow(clippy::unwrap_used)]
use super::*;

mod headers;

/// Returns a tar file with these members.
fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn find_in(bytes: &[u8]) -> Result<Vec<Found>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    find(&Blob::local("a.tar".into(), path, false).unwrap()).map(|of_file| of_file.found)
}

fn names(found: &[Found]) -> Vec<&str> {
    found.iter().map(|found| std::str::from_utf8(&found.name).unwrap()).collect()
}

#[test]
fn samples_have_an_image_and_a_label() {
    let bytes = tar_of(&[
        ("./x/1.cls", b"5\n"),
        ("./x/1.jpg", b"image"),
        ("x/1.json", b"{\"label\": 9}"),
        ("x/2.json", b"{\"cls\": \"cat\"}"),
        ("x/2.png", b"other"),
        ("x/2.depth.png", b"no image of its own"),
        ("x/._3.png", b"hidden"),
        ("readme.txt", b"text"),
    ]);
    let found = find_in(&bytes).unwrap();
    assert_eq!(names(&found), ["x/1.jpg", "x/2.png"]);
    assert_eq!(found[0].label, Some(Label::Number(5)));
    assert_eq!(found[1].label, Some(Label::Name(b"cat".to_vec())));
    for (found, content) in found.iter().zip([&b"image"[..], b"other"]) {
        let start = found.offset as usize;
        assert_eq!(&bytes[start..start + found.length as usize], content);
        assert_eq!(found.crc, crc32fast::hash(content));
    }
}

#[test]
fn files_with_several_dots_are_images_of_their_own() {
    let found = find_in(&tar_of(&[("photo.1.jpg", b"a"), ("photo.2.jpg", b"b")])).unwrap();
    assert_eq!(names(&found), ["photo.1.jpg", "photo.2.jpg"]);
}

#[test]
fn an_archive_of_archives_has_its_images_in_folders() {
    let (one, two) = (tar_of(&[("b_1.JPEG", b"1"), ("b_2.JPEG", b"22")]), tar_of(&[("a_1.JPEG", b"333")]));
    let bytes = tar_of(&[("n02.tar", &one), ("n01.tar", &two)]);
    let found = find_in(&bytes).unwrap();
    assert_eq!(names(&found), ["n02/b_1.JPEG", "n02/b_2.JPEG", "n01/a_1.JPEG"]);
    let content = |found: &Found| &bytes[found.offset as usize..found.offset as usize + found.length as usize];
    assert_eq!([content(&found[0]), content(&found[1]), content(&found[2])], [&b"1"[..], b"22", b"333"]);
}

#[test]
fn packed_images_have_the_names_and_classes_of_their_origin() {
    let bytes = tar_of(&[
        ("0.json", br#"{"packed_from": "b/1.2.jpg", "label": 4, "class": "7"}"#),
        ("0.ppm", b"one"),
        ("1.json", br#"{"packed_from": [255, 47, 120], "label": 5}"#),
        ("1.ppm", b"two"),
        ("2.json", br#"{"packed_from": "b/1.2.jpg"}"#),
        ("2.ppm", b"three"),
    ]);
    let found = find_in(&bytes).unwrap();
    assert_eq!(
        found.iter().map(|found| &found.name[..]).collect::<Vec<_>>(),
        [&b"b/1.2.jpg"[..], b"\xff/x", b"b/1.2.jpg"]
    );
    // A name of a class stays a name, also if it is made of digits.
    assert_eq!(found[0].label, Some(Label::Name(b"7".to_vec())));
    assert_eq!((&found[1].label, &found[2].label), (&Some(Label::Number(5)), &None));
    for (name, word) in [("3", "neither a name"), ("[256]", "neither a name"), ("\"\"", "neither a name")] {
        let json = format!("{{\"packed_from\": {name}}}");
        let error = find_in(&tar_of(&[("0.json", json.as_bytes()), ("0.ppm", b"x")])).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("0.json"), "{error}");
    }
}

#[test]
fn packed_classes_have_the_numbers_of_their_list() {
    let json = |names: &str, label: u32| {
        format!("{{\"packed_from\": \"x\", \"label\": {label}, \"class\": \"b\"{names}}}").into_bytes()
    };
    let first = json(r#", "class_names": ["b", "a"]"#, 0);
    let find_with = |second: &[u8]| {
        let members: [(&str, &[u8]); 4] =
            [("0.ppm", b"one"), ("0.json", &first), ("1.ppm", b"two"), ("1.json", second)];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, tar_of(&members)).unwrap();
        find(&Blob::local("a.tar".into(), path, false).unwrap())
    };
    let of_file = find_with(&json("", 1)).unwrap();
    assert_eq!(of_file.class_names, Some(vec![b"b".to_vec(), b"a".to_vec()]));
    let labels = of_file.found.into_iter().map(|found| found.label).collect::<Vec<_>>();
    assert_eq!(labels, [Some(Label::Number(0)), Some(Label::Number(1))]);
    for (names, word) in [(r#", "class_names": ["a"]"#, "differ"), (r#", "class_names": [1]"#, "no list")] {
        let error = find_with(&json(names, 1)).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("1.json"), "{error}");
    }
}

#[test]
fn long_names_and_names_that_are_no_utf8_are_kept() {
    let long = format!("{}/1.png", "a".repeat(300));
    let mut builder = tar::Builder::new(Vec::new());
    for name in [long.as_bytes(), b"\xff\xfe.png"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        let path = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        builder.append_data(&mut header, path, &b"x"[..]).unwrap();
    }
    let found = find_in(&builder.into_inner().unwrap()).unwrap();
    assert_eq!([&found[0].name[..], &found[1].name], [long.as_bytes(), b"\xff\xfe.png"]);
}

#[test]
fn damaged_files_are_errors_that_name_the_place() {
    let bytes = tar_of(&[("1.png", &[7; 2000]), ("2.cls", b" ")]);
    let error = |bytes: &[u8]| find_in(bytes).unwrap_err().to_string();
    assert!(error(&bytes[..1000]).contains("1.png at byte 512"), "{}", error(&bytes[..1000]));
    assert!(error(&bytes).contains("2.cls") && error(&bytes).contains("label is empty"), "{}", error(&bytes));
    let mut flipped = bytes.clone();
    flipped[130] ^= 1;
    assert!(error(&flipped).contains("no whole tar file"), "{}", error(&flipped));
    assert!(error(&[0x1F; 2000]).contains("no whole tar file"));
    assert_eq!(find_in(&[]).unwrap(), []);
    assert!(error(&tar_of(&[("1.json", b"{\"label\": -4}")])).contains("no number of a class"));
}

#[test]
fn no_bit_flip_leads_outside_of_the_file() {
    let bytes = tar_of(&[("a/1.png", b"one"), ("a/1.cls", b"3"), ("b.tar", &tar_of(&[("x.png", b"two")]))]);
    // The headers, and a part of the padding.
    for at in (0..bytes.len()).filter(|at| at % 512 < 300 || at % 97 == 0) {
        for bit in [at % 8] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            for found in find_in(&flipped).unwrap_or_default() {
                assert!(found.offset + u64::from(found.length) <= bytes.len() as u64, "byte {at}");
            }
        }
    }
}

/// Returns the error of these bytes.
fn error_of(bytes: &[u8]) -> String {
    find_in(bytes).unwrap_err().to_string()
}

/// Returns what is doubtful about these bytes, with the number of images.
fn doubt(bytes: &[u8]) -> (usize, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let InFile { found, doubt, .. } = find(&Blob::local("a.tar".into(), path, false).unwrap()).unwrap();
    (found.len(), doubt)
}

/// Returns a header with a right checksum.
fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_link_name_literal(link).unwrap();
    header.as_mut_bytes()[156] = kind;
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Returns content that is filled up to a whole block.
fn block(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Returns a header of pax with these records.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        // The length counts its own digits.
        let length = (0..1000).find(|length| format!("{length} {key}={value}\n").len() == *length).unwrap();
        content += &format!("{length} {key}={value}\n");
    }
    [header("pax", b'x', content.len() as u64, ""), block(content.as_bytes())].concat()
}

#[test]
fn members_of_one_name_in_a_sample_are_refused() {
    let error = error_of(&tar_of(&[("a.png", b"one"), ("a.png", b"two")]));
    assert!(error.contains("member a.png at byte 1536") && error.contains("at byte 512 has the same name"), "{error}");
    let error = error_of(&tar_of(&[("a.cls", b"1"), ("a.png", b"two"), ("a.cls", b"2")]));
    assert!(error.contains("member a.cls at byte 2560") && error.contains("two members .cls"), "{error}");
    let error = error_of(&tar_of(&[("a.json", b"{}"), ("a.JSON", b"{}"), ("a.png", b"two")]));
    assert!(error.contains("two members .JSON"), "{error}");
}

#[test]
fn a_link_to_an_image_before_it_is_that_image() {
    let image = |name: &str, content: &[u8]| [header(name, b'0', content.len() as u64, ""), block(content)].concat();
    let end = vec![0; 1024];
    let bytes = [
        image("x/a.png", b"one"),
        image("x/a.pgm", b"not taken"),
        header("y/b.png", b'1', 0, "x/a.png"),
        header("y/c.png", b'2', 0, "../x/./a.png"),
        header("y/d.png", b'2', 0, "c.png"),
        // Some programs write the size of the file to which a hard link leads.
        header("y/e.png", b'1', 9, "x/a.pgm"),
        header("folder.png", b'5', 0, ""),
        header("y/readme", b'2', 0, "nothing"),
        end.clone(),
    ]
    .concat();
    let found = find_in(&bytes).unwrap();
    assert_eq!(names(&found), ["x/a.png", "y/b.png", "y/c.png", "y/d.png", "y/e.png"]);
    let contents = found.iter().map(|found| &bytes[found.offset as usize..][..found.length as usize]);
    assert_eq!(contents.collect::<Vec<_>>(), [&b"one"[..], b"one", b"one", b"one", b"not taken"]);
    assert!(found.iter().zip([&b"one"[..]; 4]).all(|(found, content)| found.crc == crc32fast::hash(content)));
    // In a tar file in another one, links are relative to the inner file.
    let inner = [image("a.png", b"one"), header("b.png", b'1', 0, "a.png"), end.clone()].concat();
    assert_eq!(names(&find_in(&tar_of(&[("n.tar", &inner)])).unwrap()), ["n/a.png", "n/b.png"]);
    // Other links would be lost images or labels.
    for (name, kind, link) in [
        ("b.png", b'1', "none.png"),
        ("b.png", b'2', "/a.png"),
        ("b.png", b'2', "../a.png"),
        ("b.cls", b'1', "a.png"),
        ("b.tar", b'1', "a.png"),
    ] {
        let error = error_of(&[image("a.png", b"one"), header(name, kind, 0, link), end.clone()].concat());
        assert!(error.contains(&format!("member {name} at byte 1536")) && error.contains("it is a link"), "{error}");
    }
}

#[test]
fn inner_files_are_read_or_refused() {
    let inner = tar_of(&[("a.png", b"one")]);
    assert_eq!(names(&find_in(&tar_of(&[("N.TAR", &inner)])).unwrap()), ["N/a.png"]);
    for name in ["n.tar.gz", "x/N.TGZ", "n.tar.zst"] {
        let error = error_of(&tar_of(&[("b.png", b"x"), (name, b"packed")]));
        assert!(error.contains(&format!("member {name} at byte 1536")) && error.contains("unpack it"), "{error}");
    }
    let error = error_of(&tar_of(&[("outer.tar", &tar_of(&[("middle.tar", &inner)]))]));
    assert!(
        error.contains("member outer/middle.tar at byte 1024") && error.contains("unpack the outermost"),
        "{error}"
    );
}

#[test]
fn whole_numbers_that_no_class_has_are_refused() {
    for label in ["-1", "4294967296", "-4294967296", "99999999999999999999999"] {
        for (ending, content) in [("cls", label.to_owned()), ("json", format!("{{\"label\": \"{label}\"}}"))] {
            let name = format!("a.{ending}");
            let error = error_of(&tar_of(&[("a.png", b"x"), (&name, content.as_bytes())]));
            assert!(error.contains(&name) && error.contains("no number of a class"), "{error}");
        }
    }
    for label in ["1.0", "-0.5"] {
        let error = error_of(&tar_of(&[("a.png", b"x"), ("a.cls", label.as_bytes())]));
        assert!(error.contains("a.cls") && error.contains("no whole number"), "{error}");
    }
    for (label, expected) in [
        ("1.0.2", Label::Name(b"1.0.2".into())),
        ("4294967295", Label::Number(u32::MAX)),
        ("+7", Label::Number(7)),
        ("-", Label::Name(b"-".into())),
    ] {
        let found = find_in(&tar_of(&[("a.png", b"x"), ("a.cls", label.as_bytes())])).unwrap();
        assert_eq!(found[0].label, Some(expected));
    }
}

#[test]
fn files_of_tar_and_python_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    std::fs::write(pictures.join("a.png"), [1; 3000]).unwrap();
    std::fs::hard_link(pictures.join("a.png"), pictures.join("b.png")).unwrap();
    std::os::unix::fs::symlink("a.png", pictures.join("c.png")).unwrap();
    let long = format!("{}.png", "d".repeat(180));
    std::fs::write(pictures.join(&long), b"x").unwrap();
    let path = folder.path().join("a.tar");
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv/bin/python");
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).current_dir(folder.path()).status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
        let InFile { found, doubt, .. } = find(&Blob::local("a.tar".into(), path.clone(), false).unwrap()).unwrap();
        let mut names: Vec<String> = found.iter().map(|found| String::from_utf8(found.name.clone()).unwrap()).collect();
        names.sort();
        let expected = ["a", "b", "c"].map(|name| format!("pictures/{name}.png")).into_iter();
        assert_eq!(names, expected.chain([format!("pictures/{long}")]).collect::<Vec<_>>(), "{arguments:?}");
        assert_eq!(doubt, None);
    };
    for format in ["gnu", "posix"] {
        run("tar", &["--sort=name", "--format", format, "-cf", "a.tar", "pictures"]);
    }
    for format in ["GNU_FORMAT", "PAX_FORMAT"] {
        let text =
            format!("import tarfile\nwith tarfile.open('a.tar', 'w', format=tarfile.{format}) as t: t.add('pictures')");
        run(python.to_str().unwrap(), &["-c", &text]);
    }
}
