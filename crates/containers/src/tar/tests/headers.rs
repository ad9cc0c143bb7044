//! The headers and the end of a tar file.

use super::*;

#[test]
fn sparse_members_and_members_of_unknown_types_are_refused() {
    let end = vec![0; 1024];
    let refused = |member: Vec<u8>, word: &str| {
        let error = error_of(&[member, block(b"x"), end.clone()].concat());
        assert!(error.contains("member a.png at byte") && error.contains(word), "{error}");
    };
    refused(header("a.png", b'S', 1, ""), "sparse file");
    let parts = header("GNUSparseFile.1/a.png", b'0', 1, "");
    refused([pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "a.png")]), parts].concat(), "sparse file");
    refused([pax(&[("GNU.sparse.size", "9")]), header("a.png", b'0', 1, "")].concat(), "sparse file");
    refused(header("a.png", b'M', 1, ""), "type \"M\" is unknown");
    // They matter for images only. The map of a sparse member may take further blocks.
    let mut sparse = tar::Header::new_gnu();
    sparse.set_path("data.bin").unwrap();
    sparse.set_size(1);
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    sparse.as_gnu_mut().unwrap().set_is_extended(true);
    sparse.set_cksum();
    let image = tar_of(&[("a.png", b"one")]);
    let bytes = [sparse.as_bytes().to_vec(), vec![0; 512], block(b"x"), image].concat();
    assert_eq!(names(&find_in(&bytes).unwrap()), ["a.png"]);
}

#[test]
fn the_end_of_a_file_tells_whether_members_are_lost() {
    let whole = tar_of(&[("a.png", &[1; 500]), ("b.png", &[2; 700])]);
    assert_eq!(whole.len(), 512 * 5 + 1024);
    let marked = whole.len() - 1024;
    assert_eq!(doubt(&whole), (2, None));
    assert_eq!(doubt(&whole[..marked + 512]), (2, None));
    // Tar and Python's tarfile fill up a record of 20 blocks.
    assert_eq!(doubt(&[&whole[..], &[0; 19 * 512]].concat()), (2, None));
    // A file that ends after a member may be whole: some programs write no blocks of zeros.
    for (length, num) in [(marked, 2), (1024, 1), (0, 0)] {
        let (found, doubt) = doubt(&whole[..length]);
        assert!(found == num && doubt.unwrap().contains("lacks the blocks of zeros"), "{length}");
    }
    let zeroed = [&whole[..1024], &[0; 50_000]].concat();
    let (found, long) = doubt(&zeroed);
    assert!(found == 1 && long.unwrap().contains("more zeros than usual"));
    let error = error_of(&[&whole[..], &vec![0; 2 << 20]].concat());
    assert!(error.contains("byte 2560") && error.contains("not written in full"), "{error}");
    for rest in [&whole[..], b"text"] {
        let error = error_of(&[&whole[..], rest].concat());
        assert!(error.contains("byte 3584") && error.contains("goes on after its end at byte 2560"), "{error}");
    }
    // The same for a tar file in another one.
    let (found, inner) = doubt(&tar_of(&[("n.tar", &whole[..1024]), ("m.tar", &whole)]));
    assert!(found == 3 && inner.unwrap().starts_with("the tar file n in it lacks"));
    let error = error_of(&tar_of(&[("n.tar", &[&whole[..], &whole].concat())]));
    assert!(error.contains(&format!("byte {}", 512 + 3584)), "{error}");
    for length in [100, 1024 + 100, 1024 + 512 + 100] {
        let error = error_of(&whole[..length]);
        assert!(error.contains("cut off"), "{error}");
    }
}

#[test]
fn names_with_parents_are_read_and_hidden_ones_are_not() {
    let names_with = |name: &str| {
        let mut bytes = header("0123456789", b'0', 1, "");
        bytes[..10].fill(0);
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let mut header = tar::Header::from_byte_slice(&bytes).clone();
        header.set_cksum();
        let found = find_in(&[&header.as_bytes()[..], &block(b"x"), &[0; 1024]].concat()).unwrap();
        found.into_iter().map(|found| String::from_utf8(found.name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names_with("../a.png"), ["../a.png"]);
    assert_eq!(names_with("x/../a.png"), ["x/../a.png"]);
    assert_eq!(names_with("../.a.png"), [""; 0]);
}

#[test]
fn headers_of_extended_names_are_bounded() {
    for kind in [b'L', b'K', b'x', b'g'] {
        // A file of this length with holes takes no space on a disk.
        let error = error_of(&[tar_of(&[("a.png", b"one")])[..1024].to_vec(), header("x", kind, 4 << 30, "")].concat());
        assert!(error.contains("byte 1024") && error.contains("4294967296 bytes"), "{error}");
    }
    let end = vec![0; 1024];
    let long = format!("{}/a.png", "long".repeat(1000));
    let gnu = [header("x", b'L', long.len() as u64, ""), block(long.as_bytes())].concat();
    for extended in [gnu.clone(), pax(&[("path", "short/a.png")])] {
        let bytes = [extended.clone(), header("b.png", b'0', 1, ""), block(b"x"), end.clone()].concat();
        let found = find_in(&bytes).unwrap();
        assert!(found[0].name == long.as_bytes() || found[0].name == b"short/a.png");
        let error = error_of(&[extended, end.clone()].concat());
        assert!(error.contains("no member after it"), "{error}");
    }
    // The size in a header of pax counts, also if that of the member is 0. A name may have a line break in it.
    let bytes =
        [pax(&[("size", "600"), ("path", "x\ny.png")]), header("b.png", b'0', 0, ""), block(&[7; 600]), end].concat();
    let found = find_in(&bytes).unwrap();
    assert_eq!((&found[0].name[..], found[0].length), (&b"x\ny.png"[..], 600));
    let error = error_of(&[header("pax", b'x', 9, ""), block(b"99 path=a"), vec![0; 1024]].concat());
    assert!(error.contains("another form than"), "{error}");
}
