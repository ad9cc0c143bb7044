//! DALI's index beside a tar file, as `wds2idx` writes it: a first line `v1.2 NUMBER` and a line for each sample, with the
//! extension, offset, length and name of each of its members. In version 1.1, the names are missing.
//!
//! It has neither checksums nor labels, so it cannot take the place of Admiral's index. But it tells whether the tar file
//! is the one that it was made for.

use std::collections::HashSet;

use crate::blob::Blob;
use crate::error::Error;
use crate::index::Found;
use crate::names::{image_ending, shown};

/// The longest index that is read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// Checks that the index lists all images that were found in a tar file.
///
/// # Errors
/// If it cannot be read, has another form, or lacks an image.
pub(crate) fn check(index: &Blob, tar: &Blob, found: &[Found]) -> Result<(), Error> {
    let wrong = |reason: String| {
        let remedy = "remove it, or make it anew with wds2idx";
        Error::malformed(index.shown(), format!("{reason}; {remedy}"))
    };
    if index.length > MAX_BYTES {
        return Err(wrong(format!("an index has at most {MAX_BYTES} bytes")));
    }
    let bytes = index.read(0, index.length as usize)?;
    let members = String::from_utf8_lossy(&bytes);
    let members = members_of(&members).map_err(|(line, reason)| wrong(format!("line {line}: {reason}")))?;
    // That of an archive of archives lists these only.
    if !members.iter().any(|(ending, ..)| image_ending(ending.as_bytes()).is_some()) {
        return Ok(());
    }
    let places: HashSet<(u64, u64)> = members.iter().map(|&(_, offset, length)| (offset, length)).collect();
    match found.iter().find(|found| !places.contains(&(found.offset, found.length.into()))) {
        None => Ok(()),
        Some(Found { name, offset, length, .. }) => Err(wrong(format!(
            "it does not list {} of {}, {length} bytes at byte {offset}, so it belongs to another tar file, or that \
             has changed",
            shown(name),
            tar.shown()
        ))),
    }
}

/// The last part of the extension, the offset and the length of a member.
type Member<'a> = (&'a str, u64, u64);

/// Returns the members. Otherwise, the number of the line that is wrong, and why.
fn members_of(text: &str) -> Result<Vec<Member<'_>>, (usize, &'static str)> {
    let mut lines = (1..).zip(text.lines());
    let version = lines.next().and_then(|(_, line)| line.split_whitespace().next());
    let words = match version {
        Some("v1.1") => 3,
        Some("v1.2") => 4,
        _ => return Err((1, "it is no index of DALI of the version v1.1 or v1.2")),
    };
    let mut members = Vec::new();
    for (number, line) in lines {
        let line: Vec<&str> = line.split_whitespace().collect();
        let (groups, rest) = (line.chunks_exact(words), line.len() % words);
        if rest != 0 {
            return Err((number, "it has another number of words than its members need"));
        }
        for group in groups {
            let place = group[1].parse().ok().zip(group[2].parse().ok());
            let (offset, length) = place.ok_or((number, "an offset or a length is no number"))?;
            let ending = group[0].rsplit('.').next().unwrap_or(group[0]);
            members.push((ending, offset, length));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::index::Encoding;

    fn check_text(text: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            Blob::local(name.into(), folder.path().join(name), false).unwrap()
        };
        let of = |name: &str, offset, length| Found {
            name: name.into(),
            offset,
            length,
            crc: 0,
            encoding: Encoding::File,
            label: None,
            is_packed: false,
        };
        let found = [of("a/1.jpg", 512, 10), of("a/2.jpg", 2048, 20)];
        check(&write("0.idx", text), &write("0.tar", ""), &found).map_err(|error| error.to_string())
    }

    #[test]
    fn an_index_lists_the_images_of_its_tar_file() {
        check_text("v1.2 2\njpg 512 10 a/1.jpg cls 1536 1 a/1.cls\njpg 2048 20 a/2.jpg\n").unwrap();
        check_text("v1.1 2\njpg 512 10 cls 1536 1\njpg 2048 20\n").unwrap();
        check_text("v1.2 1\ntar 512 10 a.tar\n").unwrap();
        let error = check_text("v1.2 2\njpg 512 10 a/1.jpg\njpg 2049 20 a/2.jpg\n").unwrap_err();
        assert!(error.contains("0.idx") && error.contains("0.tar, 20 bytes at byte 2048"), "{error}");
        assert!(error.contains("a/2.jpg") && error.contains("wds2idx"), "{error}");
        for (text, word) in [
            ("", "line 1: it is no index"),
            ("v9 1\n", "line 1: it is no index"),
            ("v1.2 1\njpg 512 10\n", "line 2: it has another number of words"),
            ("v1.1 1\njpg x 10\n", "line 2: an offset"),
            ("v1.1 1\njpg 512 -10\n", "line 2: an offset"),
        ] {
            assert!(check_text(text).unwrap_err().contains(word), "{text}");
        }
    }
}
