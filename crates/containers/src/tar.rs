//! The images of a tar file.
//!
//! Members are grouped into samples as WebDataset does: consecutive members whose paths are equal up to the first dot of
//! the file's name belong together. The label of a sample is its member `.cls`, a number or a name, or the value of
//! `label`, `cls` or `class` in its member `.json`. A member that is a tar file itself, as in ImageNet's archive of archives,
//! is read too; its images have its name as a folder.
//!
//! If the member `.json` has a value [`PACKED_FROM`], the image was packed from another container: the value is its name,
//! and the value of `class` the name of its class, even if it looks like a number. If the first sample of the file has the
//! value [`CLASS_NAMES`], `label` is the number of the class in this list.

use std::io::Read;

use tar::{Archive, EntryType};

use crate::blob::{Blob, crc_of};
use crate::error::Error;
use crate::index::{Encoding, Found, InFile, Label};
use crate::names::{file_name, image_ending, is_hidden, is_image_name, shown, without_dot};

/// The field of a member `.json` that is the name of the image in the container from which it was packed: a text, or the
/// numbers of its bytes if it is not UTF-8.
pub const PACKED_FROM: &str = "packed_from";

/// The field of the member `.json` of the first packed image of a file that lists the names of all classes in the order of
/// their numbers.
pub const CLASS_NAMES: &str = "class_names";

/// The longest member that is read for a label, in bytes.
pub const MAX_LABEL_BYTES: u64 = 16 << 20;

/// Finds the images of a tar file. Reads the whole file once.
///
/// # Errors
/// If it is no tar file, ends too early, or a label is neither a number nor a name.
pub(crate) fn find(blob: &Blob) -> Result<InFile, Error> {
    let mut reader = blob.reader();
    let mut samples = Samples { path: blob.shown(), found: Vec::new(), class_names: None, group: Group::default() };
    let outcome = walk(&mut reader, b"", 0, true, &mut samples);
    if let Some(failure) = reader.failure {
        return Err(failure);
    }
    outcome?;
    samples.end_group();
    Ok(InFile { found: samples.found, class_names: samples.class_names })
}

/// Adds the members of a tar file to `samples`. Their names get `folder` in front. `start` is the offset of the file.
fn walk(
    reader: &mut dyn Read,
    folder: &[u8],
    start: u64,
    has_archives: bool,
    samples: &mut Samples,
) -> Result<(), Error> {
    let path = samples.path.clone();
    let broken = |offset: u64, error: &std::io::Error| {
        Error::malformed(
            format!("{path}, byte {offset}"),
            format!("it is no whole tar file: {error}; copy it again, or unpack it if it is compressed"),
        )
    };
    let mut archive = Archive::new(reader);
    let mut end = start;
    let entries = archive.entries().map_err(|error| broken(start, &error))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| broken(end, &error))?;
        let offset = start + entry.raw_file_position();
        let length = entry.size();
        end = offset.saturating_add(length);
        let is_file = matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous);
        let path_bytes = entry.path_bytes();
        let member = without_dot(&path_bytes);
        if !is_file || is_hidden(member) {
            continue;
        }
        let name = [folder, member].concat();
        drop(path_bytes);
        let shown_name = shown(&name);
        let fail = |error: std::io::Error| {
            let place = format!("{path}, member {shown_name} at byte {offset}");
            Error::malformed(place, format!("it cannot be read: {error}; the file may be cut off"))
        };
        if has_archives && name.ends_with(b".tar") {
            samples.end_group();
            let inner = [&name[..name.len() - 4], b"/"].concat();
            walk(&mut entry, &inner, offset, false, samples)?;
            // What follows the end of the inner file belongs to it.
            std::io::copy(&mut entry, &mut std::io::sink()).map_err(|error| broken(offset, &error))?;
            samples.end_group();
            continue;
        }
        let mut member = Member { name, offset, length, crc: 0, content: Vec::new() };
        if member.is_image() {
            member.crc = crc_of(&mut entry, length).map_err(fail)?;
            if u32::try_from(length).is_err() {
                return Err(fail(std::io::Error::other("an image has less than 4 GiB")));
            }
        } else if member.is_label() {
            if length > MAX_LABEL_BYTES {
                return Err(fail(std::io::Error::other(format!("a label has at most {MAX_LABEL_BYTES} bytes"))));
            }
            entry.read_to_end(&mut member.content).map_err(fail)?;
            if (member.content.len() as u64) < length {
                return Err(fail(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        samples.add(member)?;
    }
    Ok(())
}

struct Member {
    name: Vec<u8>,
    offset: u64,
    length: u64,
    crc: u32,
    content: Vec<u8>,
}

impl Member {
    /// Returns the path up to the first dot of the file's name, and the rest.
    fn parts(&self) -> (&[u8], &[u8]) {
        let file = file_name(&self.name);
        let folder = self.name.len() - file.len();
        match file.iter().position(|&byte| byte == b'.') {
            Some(dot) => (&self.name[..folder + dot], &file[dot + 1..]),
            None => (&self.name, b""),
        }
    }

    fn is_image(&self) -> bool {
        is_image_name(&self.name)
    }

    fn is_label(&self) -> bool {
        let ending = self.parts().1;
        ending.eq_ignore_ascii_case(b"cls") || ending.eq_ignore_ascii_case(b"json")
    }
}

/// The samples of a file.
struct Samples {
    path: String,
    found: Vec<Found>,
    /// The names of the classes in the order of their numbers, if a packed image lists them.
    class_names: Option<Vec<Vec<u8>>>,
    group: Group,
}

/// The members of a sample.
#[derive(Default)]
struct Group {
    key: Vec<u8>,
    images: Vec<Member>,
    label: Option<Label>,
    packed_from: Option<Vec<u8>>,
}

impl Samples {
    fn add(&mut self, member: Member) -> Result<(), Error> {
        if self.group.key != member.parts().0 {
            self.end_group();
            self.group.key = member.parts().0.to_vec();
        }
        if member.is_image() {
            self.group.images.push(member);
        } else if member.is_label() {
            let is_cls = member.parts().1.eq_ignore_ascii_case(b"cls");
            let described = match is_cls {
                true => described_by_cls(&member.content),
                false => described_by_json(&member.content, &mut self.class_names),
            };
            let described = described.map_err(|reason| {
                let place = format!("{}, member {} at byte {}", self.path, shown(&member.name), member.offset);
                Error::malformed(place, reason)
            })?;
            // The member .cls counts more than the member .json, whichever comes first.
            if is_cls || self.group.label.is_none() {
                self.group.label = described.label;
            }
            self.group.packed_from = self.group.packed_from.take().or(described.packed_from);
        }
        Ok(())
    }

    /// Ends the current sample. One of its images is taken: the one whose ending comes first in the list of endings, and
    /// has no other dot before it. Without such an image, the members are files of their own with dots in their names.
    fn end_group(&mut self) {
        let Group { images, label, packed_from, .. } = std::mem::take(&mut self.group);
        let rank = |member: &Member| image_ending(member.parts().1);
        let plain = (0..images.len()).filter(|&index| rank(&images[index]).is_some()).min_by_key(|&i| rank(&images[i]));
        let is_taken = |index: usize| plain.is_none_or(|plain| plain == index);
        for (_, Member { name, offset, length, crc, .. }) in
            images.into_iter().enumerate().filter(|(index, _)| is_taken(*index))
        {
            // The length was checked when the member was read.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let (is_packed, encoding) = (packed_from.is_some(), Encoding::File);
            let name = packed_from.clone().unwrap_or(name);
            self.found.push(Found { name, offset, length, crc, encoding, label: label.clone(), is_packed });
        }
    }
}

/// What a member says about the image of its sample.
#[derive(Debug, Default)]
struct Described {
    label: Option<Label>,
    packed_from: Option<Vec<u8>>,
}

/// Returns the label in a member `.cls`: a number, or a name.
fn described_by_cls(content: &[u8]) -> Result<Described, String> {
    let text = content.trim_ascii();
    if text.is_empty() {
        return Err("the label is empty; write the number or the name of a class".into());
    }
    Ok(Described { label: Some(label(text)), packed_from: None })
}

/// Returns the label of a text: a number if it is one.
pub(crate) fn label(text: &[u8]) -> Label {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map_or_else(|| Label::Name(text.to_vec()), Label::Number)
}

/// Returns the label in a member `.json`, and the name of the image from which it was packed, if it has them. Sets
/// `class_names` if it lists them.
fn described_by_json(content: &[u8], class_names: &mut Option<Vec<Vec<u8>>>) -> Result<Described, String> {
    let value: serde_json::Value =
        serde_json::from_slice(content).map_err(|error| format!("it is no JSON: {error}"))?;
    if let Some(name) = value.get(PACKED_FROM) {
        if let Some(list) = value.get(CLASS_NAMES) {
            let names = listed(list)?;
            if *class_names.get_or_insert_with(|| names.clone()) != names {
                return Err(format!("its {CLASS_NAMES} differ from those before it in the file"));
            }
        }
        let label = match (value.get("class"), value.get("label")) {
            (Some(serde_json::Value::String(name)), _) if class_names.is_none() => {
                Some(Label::Name(name.clone().into_bytes()))
            }
            (_, Some(label)) => label_of_json(label)?,
            _ => None,
        };
        return Ok(Described { label, packed_from: Some(packed_name(name)?) });
    }
    let label = ["label", "cls", "class"].iter().find_map(|key| value.get(key));
    Ok(Described { label: label.map(label_of_json).transpose()?.flatten(), packed_from: None })
}

fn label_of_json(found: &serde_json::Value) -> Result<Option<Label>, String> {
    match found {
        serde_json::Value::String(text) if !text.is_empty() => Ok(Some(label(text.as_bytes()))),
        serde_json::Value::Number(number) => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(Label::Number(number))),
            None => Err(format!("the label {number} is no number of a class")),
        },
        serde_json::Value::Null => Ok(None),
        other => Err(format!("the label {other} is neither a number nor a name")),
    }
}

/// Returns the names in the value of [`CLASS_NAMES`].
fn listed(value: &serde_json::Value) -> Result<Vec<Vec<u8>>, String> {
    let name = |value: &serde_json::Value| value.as_str().map(|name| name.as_bytes().to_vec());
    let names = value.as_array().and_then(|values| values.iter().map(name).collect());
    names.ok_or_else(|| format!("its {CLASS_NAMES} is no list of names"))
}

/// Returns the name in the value of [`PACKED_FROM`].
fn packed_name(value: &serde_json::Value) -> Result<Vec<u8>, String> {
    let byte = |value: &serde_json::Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let name = match value {
        serde_json::Value::String(name) => Some(name.clone().into_bytes()),
        serde_json::Value::Array(bytes) => bytes.iter().map(byte).collect(),
        _ => None,
    };
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| format!("its {PACKED_FROM} {value} is neither a name nor the bytes of one"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
}
